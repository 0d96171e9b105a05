"""Requests a second through uvicorn, as wrk asks for them: one worker and two.

All servers run at once and each round asks one after the other; the most of a round counts. The
Cookie header of each is of the same 1.5 KB session.

    python -m benchmarks.served          needs wrk (Debian has it)
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks import fresh_path
from benchmarks.peers import App, Contender, User, starlette_session, workos
from tests.processes import free_port, listens, start

SIZE: Final = 1500
ROUNDS: Final = 3
SECONDS: Final = 2
CONNECTIONS: Final = 32
_NAME: Final = "BENCHMARK_CONTENDER"


def _bare(user: User) -> Contender:
    return fresh_path.bare(), fresh_path.ours(user)[1]


def _no_op(user: User) -> Contender:
    return fresh_path.no_op(), fresh_path.ours(user)[1]


CONTENDERS: Final[dict[str, Callable[[User], Contender]]] = {
    "bare route": _bare,
    "no-op dependency": _no_op,
    "limit, by hand": fresh_path.limit,
    "fastapi_ideal_auth": fresh_path.ours,
    "fastapi_ideal_auth, each time a cookie not seen before": fresh_path.first_seen,
    "workos (unsealed, not verified)": workos,
    "Starlette's session (signed only)": starlette_session,
}


def app() -> App:
    """What uvicorn serves: the contender that the environment names."""
    return CONTENDERS[os.environ[_NAME]](fresh_path.user_of(SIZE))[0]


@contextmanager
def serving(name: str, workers: int) -> Iterator[int]:
    """The port on which a contender is served."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.served:app"]
    command += ["--port", str(port), "--workers", str(workers)]
    command += ["--no-access-log", "--log-level", "error"]
    with start(command, ready=lambda _: listens(port), env=os.environ | {_NAME: name}):
        yield port


def asked(port: int, cookie: str) -> float:
    """Requests a second."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-H", f"Cookie: {cookie}"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, text=True
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    found = re.search(r"Requests/sec:\s*([0-9.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def measure(workers: int) -> tuple[dict[str, float], dict[str, str]]:
    """Requests a second by contender; and why others are none."""
    user = fresh_path.user_of(SIZE)
    cookies: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name, make in CONTENDERS.items():
        try:
            cookies[name] = make(user)[1]
        except ImportError as error:
            absent[name] = f"not installed ({error.name})"
    best = dict.fromkeys(cookies, 0.0)
    with ExitStack() as stack:
        ports = {name: stack.enter_context(serving(name, workers)) for name in cookies}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                best[name] = max(best[name], asked(port, cookies[name]))
    return best, absent


def main() -> None:
    if shutil.which("wrk") is None:
        print("Not measured: wrk is not installed (Debian: apt install wrk).")
        return
    print("| workers | | requests a second | of the bare route's | of the limit's |")
    print("|---:|---|---:|---:|---:|")
    notes: dict[str, str] = {}
    for workers in (1, 2):
        best, absent = measure(workers)
        notes |= absent
        base, by_hand = best["bare route"], best["limit, by hand"]
        for name, rate in best.items():
            shares = f"{rate / base:.2f} | {rate / by_hand:.2f}"
            print(f"| {workers} | {name} | {rate:,.0f} | {shares} |")
    for name, why in notes.items():
        print(f"\nNot measured: {name}: {why}")


if __name__ == "__main__":
    main()
