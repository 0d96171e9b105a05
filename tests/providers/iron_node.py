"""The real npm packages that seal ``Fe26.2``, in one node process; see iron/seals.mjs.

``node_iron`` is a fixture, one a test run: `NodeIron.seals` and its like ask for many things at
once, since a process that is asked a thousand times in turn spends its time on waiting.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from .harness import installed, require_node

HERE = Path(__file__).resolve().parent / "iron"
IRON_SESSION_8 = "iron-session-8"
IRON_SESSION_9 = "iron-session-9"
HAPI_IRON = "@hapi/iron"
SESSIONS = (IRON_SESSION_8, IRON_SESSION_9)
PACKAGES = (*SESSIONS, HAPI_IRON)

Password = str | Mapping[str, str]
Task = dict[str, Any]


class Refused(Exception):
    """A package refused what it was asked."""


@dataclass(frozen=True, slots=True)
class NodeIron:
    """The process. Every method asks once and waits for all of its answers."""

    process: subprocess.Popen[str]

    def ask(self, tasks: Iterable[Task]) -> list[Any]:
        """What each task is answered; `Refused` is an answer too."""
        lines = [json.dumps(task) + "\n" for task in tasks]
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None

        def write() -> None:
            stdin.writelines(lines)
            stdin.flush()

        writer = Thread(target=write)  # or both sides wait with their pipes full
        writer.start()
        answers = [json.loads(stdout.readline()) for _ in lines]
        writer.join()
        return [each["ok"] if "ok" in each else Refused(each["refused"]) for each in answers]

    def seal(self, package: str, data: object, password: Password, ttl: float = 1209600) -> str:
        (sealed,) = self.seals(package, [data], password, ttl)
        return sealed

    def seals(
        self, package: str, data: Iterable[object], password: Password, ttl: float = 1209600
    ) -> list[str]:
        shared = {"do": "seal", "with": package, "password": password, "ttl": ttl}
        return self._good(shared | {"data": each} for each in data)

    def unseal(self, package: str, text: str, password: Password) -> Any:
        """Raises `Refused`; iron-session answers an empty object instead."""
        return self._good([{"do": "unseal", "with": package, "password": password, "text": text}])[
            0
        ]

    def unseals(self, package: str, texts: Iterable[str], password: Password) -> list[Any]:
        shared = {"do": "unseal", "with": package, "password": password}
        return self._good(shared | {"text": each} for each in texts)

    def save(
        self,
        package: str,
        data: object,
        password: Password,
        *,
        cookie: str = "",
        writing: Password | None = None,
        **options: Any,
    ) -> list[str]:
        """The Set-Cookie lines with which a session of ``data`` answers a request's cookie."""
        task = {"do": "save", "with": package, "password": password, "data": data}
        task |= {"options": options, "cookie": cookie, "writing": writing}
        lines: list[str] = self._good([task])[0]
        return lines

    def read(self, package: str, cookie: str, password: Password, **options: Any) -> Any:
        """The session that a Cookie header carries; an empty object for none."""
        task = {"do": "read", "with": package, "password": password, "cookie": cookie}
        return self._good([task | {"options": options}])[0]

    def _good(self, tasks: Iterable[Task]) -> list[Any]:
        answers = self.ask(tasks)
        for each in answers:
            if isinstance(each, Refused):
                raise each
        return answers


@contextmanager
def running() -> Iterator[NodeIron]:
    """The process, until the block ends; skips, with the reason, where none can be had."""
    env = {**os.environ, "HARNESS_ROOT": str(installed(HERE, "iron"))}
    with subprocess.Popen(
        [require_node(), HERE / "seals.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=env,
        start_new_session=True,
    ) as process:
        yield NodeIron(process)
        assert process.stdin is not None
        process.stdin.close()  # the end of its input ends it
        process.wait(10)


@pytest.fixture(scope="session")
def node_iron() -> Iterator[NodeIron]:
    """One process for the whole test run; it keeps nothing from one task to the next."""
    with running() as node:
        yield node
