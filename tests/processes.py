"""Starts the real programs the tests need and ends every one of them; knows none of them by heart.

A child leads a session of its own, so that its whole process group can be ended by one id. Should
the test run itself be killed, a small watchdog ends the group in its stead.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NoReturn

import httpx
import pytest
import uvicorn as uvicorn_server
from fastapi import FastAPI

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")

# Reads one line from the test run. A line means "the group is gone"; the end of the file means
# that the test run is.
WATCHDOG = 'read -r _ && exit; kill -TERM -"$1"; sleep 2; kill -KILL -"$1"'


def missing(reason: str) -> NoReturn:
    """Skip for want of a real component; fail where FASTAPI_IDEAL_AUTH_REQUIRE_REAL=1."""
    if os.environ.get("FASTAPI_IDEAL_AUTH_REQUIRE_REAL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_program(*names: str) -> str:
    """Return the path of the first of ``names`` on PATH, or end the test as `missing` does."""
    for name in names:
        path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/sbin")
        if path is not None:
            return path
    missing(f"not installed: {' or '.join(names)}")


def require_chromium() -> str:
    """Return the path of a Chromium or Chrome."""
    return require_program(*CHROMIUM_NAMES)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class NotReady(Exception):
    """A program ended or stayed silent before it was ready; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running child, its process group and what both have written so far."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def output(self) -> str:
        """Everything written to standard output and standard error until now."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal (SIGSTOP, SIGCONT, SIGKILL …) to the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


Ready = re.Pattern[str] | Callable[[Process], object]


@contextmanager
def start(
    cmd: Sequence[str | Path],
    *,
    ready: Ready,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 20.0,
) -> Iterator[Process]:
    """Run ``cmd`` until the block ends.

    ``ready``
        A pattern to look for in the output, or a function that says so (anything true).
    ``env``
        Variables set beside those of the test run.
    ``timeout``
        Seconds it may take to become ready; then `NotReady`, with its output.
    """
    with (
        TemporaryDirectory(prefix="fastapi_ideal_auth-") as directory,
        (Path(directory) / "output").open("wb") as log,
    ):
        process = _spawn(cmd, log, env, cwd)
        with _ended(process):
            _await_ready(process, ready, timeout)
            yield process


def _spawn(
    cmd: Sequence[str | Path],
    log: IO[bytes],
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> Process:
    child = subprocess.Popen(
        [str(part) for part in cmd],
        # A pipe that stays open as long as the test run: some programs leave when it closes.
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )
    return Process(child, Path(log.name))


@contextmanager
def _ended(process: Process) -> Iterator[None]:
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "watchdog", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        _end(process)
        watchdog.communicate(b"gone\n")


def _end(process: Process, grace: float = 5.0) -> None:
    """SIGTERM, then SIGKILL to whatever of the group is left after ``grace`` seconds."""
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGCONT)  # a stopped process cannot obey
    with suppress(subprocess.TimeoutExpired):
        process.child.wait(grace)
    process.signal(signal.SIGKILL)
    process.child.wait()
    if process.child.stdin is not None:
        process.child.stdin.close()


def _await_ready(process: Process, ready: Ready, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not _is_ready(process, ready):
        if not process.alive:
            raise _not_ready(process, f"ended with status {process.child.returncode}")
        if time.monotonic() > deadline:
            raise _not_ready(process, f"was not ready within {timeout:g} s")
        time.sleep(0.02)


def _is_ready(process: Process, ready: Ready) -> bool:
    if isinstance(ready, re.Pattern):
        return ready.search(process.output()) is not None
    return bool(ready(process))


def _not_ready(process: Process, what: str) -> NotReady:
    return NotReady(f"{process.child.args!r} {what}:\n{process.output()}")


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens on a loopback port."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def listens(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def answers(url: str) -> bool:
    """Whether a GET is answered at all, with whatever status."""
    with suppress(httpx.TransportError):
        httpx.get(url, timeout=2, trust_env=False)
        return True
    return False


# uvicorn logs it once a worker, whether or not the application has a lifespan.
WORKER_READY = "Application startup complete."


@contextmanager
def uvicorn(
    app: str,
    port: int | None = None,
    *,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    options: Sequence[str] = (),
    timeout: float = 20.0,
) -> Iterator[Server]:
    """Serve ``"module:attribute"`` until the block ends; every worker is ready when it begins."""
    port = port or free_port()
    cmd = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)]

    def ready(process: Process) -> bool:
        up = process.output().count(WORKER_READY)
        return up >= workers and answers(f"http://127.0.0.1:{port}/")

    cmd += ["--workers", str(workers), *options]
    with start(cmd, ready=ready, env=env, cwd=cwd, timeout=timeout) as process:
        yield Server(process, port)


@contextmanager
def in_thread(app: FastAPI) -> Iterator[int]:
    """Serve ``app`` from a thread of this process, for tests that look into it; yields the port."""
    port = free_port()
    config = uvicorn_server.Config(app, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn_server.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join(5)


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis with nothing in it, which writes nothing to disk."""
    port = free_port()
    cmd = [require_program("redis-server"), "--bind", "127.0.0.1", "--port", str(port)]
    cmd += ["--save", "", "--appendonly", "no"]
    with start(cmd, ready=lambda _: listens(port)) as process:
        yield Server(process, port)
