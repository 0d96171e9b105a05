"""How many instructions the fresh path takes, by callgrind: figures without the machine's mood.

What the library adds to a bare route, over what the hand-written limit adds, counted in one run.
Both go through the same interpreter, OpenSSL and Pydantic, so the quotient changes little from one
Python to the next, and says nothing of how fast any of them is.

    python -m benchmarks.instructions            print the counts (needs valgrind)
    python -m benchmarks.instructions --keep     and keep them, for the test that guards them
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks import fresh_path

FILE: Final = Path(__file__).parent / "instructions.json"

SIZES: Final = (500, 1500, 3500)
CONTENDERS: Final = ("bare", "limit", "library", "first")
"""``first``: the library with a cookie that it has not seen before."""
WARM_UP: Final = 60
"""Requests until the interpreter has specialised its code."""
REQUESTS: Final = 50
TOLERANCE: Final = 0.1

MARK: Final = "PyNumber_InPlaceMatrixMultiply"
"""What ``@=`` calls, and nothing else: callgrind counts between its call and its return."""


class Counted:
    """``counted @= requests`` serves them, and callgrind counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, app: fresh_path.App, cookie: str) -> None:
        self._loop, self._app, self._cookie = loop, app, cookie

    def serve(self, requests: int) -> None:
        self._loop.run_until_complete(self._serve(requests))

    def __imatmul__(self, requests: int) -> Counted:
        self.serve(requests)
        return self

    async def _serve(self, requests: int) -> None:
        statuses: set[int] = set()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.add(message["status"])

        for _ in range(requests):
            await self._app(fresh_path.scope_of(self._cookie), fresh_path._receive, send)
        assert statuses == {200}


def serve() -> None:
    """What runs under callgrind: for each size, each contender once."""
    loop = asyncio.new_event_loop()
    counted: list[Counted] = []
    for size in SIZES:
        user = fresh_path.user_of(size)
        by_hand, hand_cookie = fresh_path.limit(user)
        library, cookie = fresh_path.ours(user)
        first, its_cookie = fresh_path.first_seen(user)
        contenders = (
            (fresh_path.bare(), cookie),
            (by_hand, hand_cookie),
            (library, cookie),
            (first, its_cookie),
        )
        counted += [Counted(loop, app, header) for app, header in contenders]
    for each in counted:
        each.serve(WARM_UP)
    gc.collect()
    gc.freeze()
    gc.disable()  # or a collection falls into whichever count it likes
    for each in counted:
        each @= REQUESTS
    loop.close()


def count() -> dict[str, dict[str, int]]:
    """Instructions a request, by the token's size and by contender."""
    with TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        subprocess.run(
            [
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                f"--callgrind-out-file={out}",
                f"--toggle-collect={MARK}",
                f"--dump-after={MARK}",
                sys.executable,
                "-m",
                "benchmarks.instructions",
                "--serve",
            ],
            check=True,
            cwd=FILE.parents[1],
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        wanted = [(size, contender) for size in SIZES for contender in CONTENDERS]
        dumps = [Path(f"{out}.{n}") for n in range(1, len(wanted) + 1)]
        found: dict[str, dict[str, int]] = {str(size): {} for size in SIZES}
        for (size, contender), dump in zip(wanted, dumps, strict=True):
            found[str(size)][contender] = _total(dump.read_text()) // REQUESTS
        return found


def _total(dump: str) -> int:
    match = re.search(r"^summary: (\d+)$", dump, re.MULTILINE)
    assert match, "callgrind wrote no summary"
    return int(match[1])


def quotients(counts: dict[str, dict[str, int]]) -> dict[str, float]:
    """What the library adds to a bare route, over what the limit adds."""
    return {
        f"{size} {name}": (found[name] - found["bare"]) / (found["limit"] - found["bare"])
        for size, found in counts.items()
        for name in ("library", "first")
    }


def grown(
    counts: dict[str, dict[str, int]], kept: dict[str, dict[str, int]]
) -> dict[str, tuple[float, float]]:
    """Where the library takes over a tenth more than was kept: what was, and is."""
    before, now = quotients(kept), quotients(counts)
    return {
        each: (before[each], now[each])
        for each in before
        if now[each] > before[each] * (1 + TOLERANCE)
    }


def report() -> dict[str, dict[str, int]]:
    """Count, and print the table."""
    if shutil.which("valgrind") is None:
        print("Not counted: valgrind is not installed (Debian: apt install valgrind).")
        return {}
    counts = count()
    print("instructions a request, added to a bare route\n")
    print("| access token | cookie | limit, by hand | fastapi_ideal_auth | × the limit |")
    print("|---:|---|---:|---:|---:|")
    for each, quotient in quotients(counts).items():
        size, name = each.split()
        found = counts[size]
        by_hand, library = (found[which] - found["bare"] for which in ("limit", name))
        cookie = "seen before" if name == "library" else "not seen before"
        print(f"| {size} characters | {cookie} | {by_hand:,} | {library:,} | {quotient:.2f} |")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument("--keep", action="store_true", help=f"write them to {FILE.name}")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve()
        return
    counts = report()
    if asked.keep and counts:
        FILE.write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()
