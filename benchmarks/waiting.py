"""What waiting for somebody else's refresh costs: the latency of requests over the provider's own.

Many requests of one due session at once, in process, on one worker and on four that meet in a store
(one file, one Redis; each worker has a store object of its own, as four processes have). The figure
is the time over the provider's answer: its median and its 99th percentile, in milliseconds, the
minimum over rounds. Redis is measured where ``redis-server`` is installed.

    python -m benchmarks.waiting
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from benchmarks.fresh_path import SECRET, User, scope_of
from fastapi_ideal_auth import IdealAuth, MemoryStore, RedisStore, RefreshStore, SQLiteStore
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.testing import RotatingProvider
from tests.processes import redis_server

LATENCY = 0.1
ROUNDS = 15


def worker(provider: RotatingProvider, store: RefreshStore) -> tuple[IdealAuth[User], FastAPI]:
    auth = IdealAuth(User, secret=SECRET, provider=provider, store=store)
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    async def index(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, bool]:
        return {"ok": True}

    return auth, app


def due_cookie(auth: IdealAuth[User], provider: RotatingProvider) -> str:
    now = time.time()
    user = provider.user(User, clock=lambda: now - provider.expires_in - 1, id="1")
    generation = begin(user, now=now - 300, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    return lines[0].split(";")[0]


async def one(app: FastAPI, cookie: str) -> float:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    began = time.perf_counter()
    await app(scope_of(cookie), receive, send)
    assert statuses == [200]
    return time.perf_counter() - began


async def measure(
    store: Callable[[], RefreshStore], requests: int, workers: int
) -> tuple[float, float]:
    provider = RotatingProvider(latency=LATENCY)
    served = [worker(provider, store()) for _ in range(workers)]
    best = (float("inf"), float("inf"))
    for _ in range(ROUNDS):
        cookie = due_cookie(served[0][0], provider)
        calls = provider.calls
        took = sorted(
            await asyncio.gather(*(one(served[n % workers][1], cookie) for n in range(requests)))
        )
        assert provider.calls == calls + 1
        over = [(seconds - LATENCY) * 1e3 for seconds in took]
        best = min(best[0], over[len(over) // 2]), min(best[1], over[int(len(over) * 0.99)])
    for auth, _ in served:
        await auth.aclose()
    return best


@contextmanager
def stores() -> Iterator[dict[str, Callable[[], RefreshStore]]]:
    """What gives each worker its store, by name."""
    memory = MemoryStore()
    with TemporaryDirectory() as directory:
        file = Path(directory) / "refresh.sqlite3"
        found: dict[str, Callable[[], RefreshStore]] = {
            "MemoryStore": lambda: memory,
            "SQLiteStore": lambda: SQLiteStore(file),
        }
        if shutil.which("redis-server") is None:
            yield found
            return
        with redis_server() as server:
            url = f"redis://127.0.0.1:{server.port}/0"
            yield {**found, "RedisStore": lambda: RedisStore(url)}


async def main() -> None:
    print("milliseconds over the provider's own 100, in process\n")
    print("| store | workers | requests at once | median | p99 |")
    print("|---|---:|---:|---:|---:|")
    with stores() as found:
        for workers in (1, 4):
            for requests in (8, 50, 200):
                for name, store in found.items():
                    median, p99 = await measure(store, requests, workers)
                    print(f"| {name} | {workers} | {requests} | {median:.1f} | {p99:.1f} |")


if __name__ == "__main__":
    asyncio.run(main())
