"""How cost grows: with the session, with the sessions in the store, with the secrets in the ring.

With workers it does not: they share nothing while tokens are fresh; `served` has two of them.

    python -m benchmarks.growth
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from redis import Redis

from benchmarks.fresh_path import bare, cookie_of, fastest, first_seen, ours, user_of
from benchmarks.peers import SECRET, Contender, User, protected
from benchmarks.waiting import stores
from fastapi_ideal_auth import IdealAuth, MemoryStore, RedisStore, RefreshStore, SQLiteStore
from fastapi_ideal_auth.record import Record
from fastapi_ideal_auth.sealers import NativeFormat
from fastapi_ideal_auth.stores import unchanged

SIZES: Final = (500, 1000, 2000, 4000, 8000)
LIVE: Final = (10_000, 100_000, 1_000_000)
SECRETS: Final = (1, 2, 5, 20)
ROUNDS: Final = 15
CHANGES: Final = 200


async def by_size() -> None:
    print("µs added to a bare route, by the size of the access token\n")
    print("| characters | cookie seen before | not seen before |")
    print("|---:|---:|---:|")
    for size in SIZES:
        user = user_of(size)
        library = ours(user)
        contenders = {"bare": (bare(), library[1]), "seen": library, "first": first_seen(user)}
        best = await fastest(contenders, ROUNDS)
        cells = [f"{best[name] - best['bare']:.1f}" for name in ("seen", "first")]
        print(f"| {size:,} | {' | '.join(cells)} |")


async def by_secrets() -> None:
    print("\nµs added to a bare route by a cookie that the last secret of the ring sealed\n")
    print("| secrets | not seen before |")
    print("|---:|---:|")
    user = user_of(1500)
    contenders: dict[str, Contender] = {"bare": (bare(), ours(user)[1])}
    for count in SECRETS:
        *others, last = (f"{n}{SECRET}" for n in range(count))
        sealing = IdealAuth(User, secret=last, store=MemoryStore())
        opening = IdealAuth(User, secret=[*others, last], store=MemoryStore())
        contenders[str(count)] = _forgetful(opening, cookie_of(sealing, user))
    best = await fastest(contenders, ROUNDS)
    for count in SECRETS:
        print(f"| {count} | {best[str(count)] - best['bare']:.1f} |")


def _forgetful(auth: IdealAuth[User], cookie: str) -> Contender:
    from fastapi import FastAPI

    app = FastAPI()
    auth.install(app)
    inner = protected(auth.fresh_user, app)
    (remembered,) = auth._formats
    assert isinstance(remembered, NativeFormat)

    async def forgetful(scope: Any, receive: Any, send: Any) -> None:
        remembered._seen.clear()
        await inner(scope, receive, send)

    return forgetful, cookie


# -- live sessions --------------------------------------------------------------------------------


def _record(now: float) -> Record:
    return Record(expires_at=int(now) + 600_000, gen=2, sealed=bytes(1000))


async def _fill(store: RefreshStore, records: range, now: float) -> None:
    """Put records there past the store's own door: a million changes one by one take minutes."""
    record = _record(now)
    match store:
        case MemoryStore():
            for n in records:
                store._records[f"k{n}"] = record
        case SQLiteStore():
            await store.apply("first", unchanged, now=now)
            data, until = record.to_bytes(), record.expires_at
            with sqlite3.connect(str(store.path)) as db:
                rows = ((f"k{n}", data, until) for n in records)
                db.executemany("INSERT INTO record (key, value, expires_at) VALUES (?, ?, ?)", rows)
            db.close()
        case RedisStore():
            with Redis.from_url(store._url or "") as client:
                for start in range(records.start, records.stop, 10_000):
                    pipe = client.pipeline(transaction=False)
                    for n in range(start, min(start + 10_000, records.stop)):
                        pipe.set(store._name(f"k{n}"), record.to_bytes(), px=600_000_000)
                    pipe.execute()
        case _:
            raise TypeError(store)


async def _change(store: RefreshStore, live: int, now: float) -> float:
    """µs for one change of a record among so many."""
    took: list[float] = []
    for n in range(CHANGES):
        record = Record(expires_at=int(now) + 600_000, gen=n, sealed=bytes(1000))
        began = time.perf_counter()
        await store.apply(f"k{n * 7919 % live}", lambda _, new=record: new, now=now)
        took.append(time.perf_counter() - began)
    return sorted(took)[CHANGES // 4] * 1e6


async def by_live_sessions(found: dict[str, Callable[[], RefreshStore]]) -> None:
    print("\nµs for one change of a record (the lower quartile), by the sessions in the store\n")
    names = "".join(f" {live:,} |" for live in LIVE)
    print(f"| store |{names}")
    print("|---|" + "---:|" * len(LIVE))
    now = time.time()
    for name, make in found.items():
        store = make()
        cells, filled = "", 0
        for live in LIVE:
            await _fill(store, range(filled, live), now)
            filled = live
            cells += f" {await _change(store, live, now):.0f} |"
        await store.aclose()
        print(f"| {name} |{cells}")


async def main() -> None:
    await by_size()
    await by_secrets()
    with stores() as found:
        await by_live_sessions(found)


if __name__ == "__main__":
    asyncio.run(main())
