"""RedisStore: the store contract on a real server, and what a server far away can do to us."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis as blocking_redis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis, RedisCluster
from redis.cluster import READ_COMMANDS
from redis.crc import key_slot

from fastapi_ideal_auth import (
    ConfigurationError,
    MemoryStore,
    RedisStore,
    RefreshStore,
    StoreUnavailable,
)
from fastapi_ideal_auth import record as rec
from fastapi_ideal_auth.record import Change, Record
from fastapi_ideal_auth.stores import redis as redis_store

from .processes import Server, free_port, listens, redis_server, require_program, start
from .support import app_of
from .test_rotation import DUE, EXPIRED, Cluster, token
from .test_stores import NOW, RECORD, StoreContract


@contextmanager
def started(
    program: str, *options: str, port: int | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    port = port or free_port()
    cmd = [require_program(program), "--bind", "127.0.0.1", "--port", str(port), *options]
    cmd += ["--save", "", "--appendonly", "no"]
    with start(cmd, ready=lambda _: listens(port), cwd=cwd) as process:
        yield Server(process, port)


VALKEY = shutil.which("valkey-server")


@pytest.fixture(scope="module", params=["redis", "valkey"] if VALKEY else ["redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with redis_server() if request.param == "redis" else started("valkey-server") as server:
        yield server


@pytest.mark.skipif(not VALKEY, reason="no valkey-server here (Debian 12 has none): Redis only")
async def test_the_same_tests_run_on_valkey(server: Server) -> None:
    async with Redis(port=server.port) as admin:
        assert {"redis_version", "valkey_version"} & (await admin.info("server")).keys()


def url(server: Server, options: str = "") -> str:
    return f"redis://127.0.0.1:{server.port}/0{options}"


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Redis]:
    """The person at the server, whose connection has the name ``admin``."""
    async with Redis(port=server.port, client_name="admin") as admin:
        await admin.flushall()
        await admin.script_flush()
        yield admin


@asynccontextmanager
async def store_at(server: Server, options: str = "", **settings: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(url(server, options), **settings)
    yield store
    await store.aclose()


@pytest.fixture
async def store(server: Server, admin: Redis) -> AsyncIterator[RedisStore]:
    async with store_at(server) as store:
        yield store


def unchanged(record: Record | None) -> Record | None:
    return record


def one_more(record: Record | None) -> Record:
    base = record or replace(RECORD, gen=0)
    return replace(base, gen=base.gen + 1)


def lease(owner: str, now: float, seconds: float = 30) -> Change:
    return partial(
        rec.leased,
        gen=0,
        presented=0,
        owner=owner,
        at=now,
        now=now,
        until=now + seconds,
        expires_at=int(now) + 1000,
        strict=False,
    )


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def store(self, server: Server, admin: Redis) -> AsyncIterator[RefreshStore]:
        async with store_at(server) as store:
            yield store

    async def size(self, store: RefreshStore) -> int:
        assert isinstance(store, RedisStore)
        line = await store._line()
        size = await line.client.execute_command("DBSIZE")
        assert isinstance(size, int)
        return size

    async def test_live_records_outlive_a_sweep_and_stale_ones_do_not(
        self, store: RefreshStore, admin: Redis
    ) -> None:
        # Here the server sweeps, in its own time: this record has a tenth of a second.
        await store.apply("stale", lambda _: replace(RECORD, expires_at=1_000), now=999.9)
        for n in range(600):
            await store.apply(f"k{n}", lambda _: RECORD, now=NOW)
        await asyncio.sleep(0.1)
        assert await admin.exists("ideal_auth:v1:{stale}") == 0
        assert await admin.dbsize() == 600


# -- what is in the server ------------------------------------------------------------------------


async def test_one_key_a_session_in_one_slot_that_expires_with_it(
    store: RedisStore, admin: Redis
) -> None:
    sids = [rec.key_of(bytes([n])) for n in range(20)]
    for key in sids:
        await store.apply(key, lease("a", NOW), now=NOW)
        publish = partial(rec.published, owner="a", gen=1, sealed=b"s", expires_at=int(NOW) + 2000)
        await store.apply(key, publish, now=NOW)
        await store.apply(key, partial(rec.ended, expires_at=int(NOW) + 3000), now=NOW)
    names = [name.decode() for name in await admin.keys()]
    assert sorted(names) == sorted(f"ideal_auth:v1:{{{key}}}" for key in sids)
    for key in sids:
        # The hash tag alone decides the slot, and it is the session's.
        assert key_slot(store._name(key).encode()) == key_slot(key.encode())
        assert 2990_000 < await admin.pttl(store._name(key)) <= 3000_000
    assert len({key_slot(name.encode()) for name in names}) > 10  # sessions spread


async def test_a_record_that_was_deleted_leaves_nothing(store: RedisStore, admin: Redis) -> None:
    await store.apply("k", lambda _: RECORD, now=NOW)
    await store.apply("k", lambda _: None, now=NOW)
    assert await admin.keys() == []


async def test_a_record_for_ever_goes_after_ten_years(store: RedisStore, admin: Redis) -> None:
    await store.apply("k", lambda _: replace(RECORD, expires_at=2**62), now=NOW)
    assert 0 < await admin.ttl("ideal_auth:v1:{k}") <= 10 * 365 * 86_400


async def test_what_changes_nothing_is_one_get(store: RedisStore, admin: Redis) -> None:
    await store.apply("k", lambda _: RECORD, now=NOW)
    await admin.config_resetstat()
    await store.apply("k", unchanged, now=NOW)
    await store.apply("missing", unchanged, now=NOW)
    stats = await admin.info("commandstats")
    assert stats["cmdstat_get"]["calls"] == 2
    assert not {"cmdstat_eval", "cmdstat_evalsha", "cmdstat_publish"} & stats.keys()


async def test_a_server_that_forgot_the_script_gets_it_again(
    store: RedisStore, admin: Redis
) -> None:
    for n in range(1, 4):
        assert (await store.apply("k", one_more, now=NOW)).after == replace(RECORD, gen=n)
        await admin.script_flush()


async def test_a_user_who_may_not_publish_may_write(
    server: Server, store: RedisStore, admin: Redis
) -> None:
    await admin.execute_command(
        "ACL", "SETUSER", "quiet", "on", ">pass-of-the-tests", "resetchannels",
        "~ideal_auth:*", "+get", "+set", "+del", "+eval", "+evalsha", "+time", "+publish",
    )  # fmt: skip
    quiet = RedisStore(f"redis://quiet:pass-of-the-tests@127.0.0.1:{server.port}")
    await quiet.apply("k", one_more, now=NOW)
    await quiet.wait("k", timeout=0.01)
    assert (await store.apply("k", one_more, now=NOW)).after == replace(RECORD, gen=2)
    assert (await quiet.apply("k", unchanged, now=NOW)).after == replace(RECORD, gen=2)
    await quiet.aclose()


# -- several clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-30, 30])
async def test_two_hosts_whose_clocks_are_30_seconds_apart_agree_on_a_lease(
    server: Server, store: RedisStore, ahead: int
) -> None:
    async with store_at(server) as other:
        await store.apply("k", lease("here", NOW, seconds=20), now=NOW)
        there = NOW + ahead
        found = (await other.apply("k", lease("there", there), now=there)).after
        assert found is not None
        assert found.lease == "here"
        assert found.lease_until == pytest.approx(there + 20, abs=0.5)
        # 21 seconds later it has ended, on either.
        taken = (await other.apply("k", lease("there", there + 21), now=there + 21)).after
        assert taken is not None
        assert taken.lease == "there"
        seen = (await store.apply("k", unchanged, now=NOW + 21)).after
        assert seen is not None
        assert seen.lease_until == pytest.approx(NOW + 21 + 30, abs=0.5)


async def test_cool_offs_and_presentations_are_moved_too_and_the_end_of_the_session_is_not(
    server: Server, store: RedisStore
) -> None:
    failed = replace(RECORD, retry_at=NOW + 5, seen=3, seen_at=NOW - 60.0)
    await store.apply("k", lambda _: failed, now=NOW)
    async with store_at(server) as other:
        found = (await other.apply("k", unchanged, now=NOW + 30)).after
    assert found is not None
    assert found.retry_at == pytest.approx(NOW + 35, abs=0.5)
    assert found.seen_at == pytest.approx(NOW - 30, abs=0.5)
    assert replace(found, retry_at=failed.retry_at, seen_at=failed.seen_at) == failed


async def test_a_settable_clock_ends_a_lease(store: RedisStore) -> None:
    """The server's clock is looked at once a minute: a test's clock may run ahead meanwhile."""
    await store.apply("k", lease("a", NOW), now=NOW)
    for now, owner in ((NOW + 29, "a"), (NOW + 31, "b")):
        found = (await store.apply("k", lease("b", now), now=now)).after
        assert found is not None
        assert found.lease == owner


moments = st.integers(0, 100_000).map(lambda ms: NOW + ms / 1000)
lives = st.integers(200, 100_000).map(lambda seconds: int(NOW) + seconds)
owners = st.sampled_from("ab")
gens = st.integers(0, 3)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        partial,
        st.just(rec.leased),
        gen=gens,
        presented=gens,
        owner=owners,
        at=moments,
        now=moments,
        until=moments,
        expires_at=lives,
        strict=st.booleans(),
    ),
    st.builds(
        partial,
        st.just(rec.published),
        owner=owners,
        gen=gens,
        sealed=st.binary(),
        expires_at=lives,
    ),
    st.builds(partial, st.just(rec.rejected), owner=owners, gen=gens, expires_at=lives),
    st.builds(partial, st.just(rec.released), owner=owners, retry_at=moments),
    st.builds(partial, st.just(rec.acknowledged), gen=gens, at=moments),
    st.builds(partial, st.just(rec.extended), expires_at=lives),
    st.builds(partial, st.just(rec.ended), expires_at=lives),
    st.just(lambda _: None),
)


@given(steps=st.lists(st.tuples(moments, changes), max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_sequence_of_changes_comes_out_as_in_memory(
    store: RedisStore, steps: list[tuple[float, Change]]
) -> None:
    memory, key = MemoryStore(), uuid4().hex
    for now, change in steps:
        expected = await memory.apply(key, change, now=now)
        assert await store.apply(key, change, now=now) == expected


# -- several clients, loops, processes ------------------------------------------------------------


COUNT_TO_100 = """
import asyncio, dataclasses, sys
from fastapi_ideal_auth import RedisStore

async def main(url, now):
    store = RedisStore(url)
    for _ in range(100):
        await store.apply("k", lambda r: dataclasses.replace(r, gen=r.gen + 1), now=now)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def test_four_processes_lose_no_change(server: Server, store: RedisStore) -> None:
    await store.apply("k", lambda _: replace(RECORD, gen=0), now=NOW)
    command = (sys.executable, "-W", "error", "-c", COUNT_TO_100, url(server), str(NOW))
    workers = [await asyncio.create_subprocess_exec(*command) for _ in range(4)]
    assert [await worker.wait() for worker in workers] == [0, 0, 0, 0]
    assert (await store.apply("k", unchanged, now=NOW)).after == replace(RECORD, gen=400)


async def test_four_event_loops_share_one_store(store: RedisStore) -> None:
    async def run() -> None:
        await asyncio.gather(*(store.apply("k", one_more, now=NOW) for _ in range(50)))

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, run()) for _ in range(4)))
    assert (await store.apply("k", unchanged, now=NOW)).after == replace(RECORD, gen=200)


async def connections(admin: Redis) -> list[dict[str, str]]:
    return [c for c in await admin.client_list() if c["name"] != "admin"]


async def test_an_event_loop_that_ends_leaves_no_connection_lifespan_or_not(
    server: Server, admin: Redis
) -> None:
    store = RedisStore(url(server))

    async def request() -> None:
        waiting = asyncio.create_task(store.wait("k", timeout=5))
        await store.apply("k", one_more, now=NOW)
        await asyncio.sleep(0.05)
        assert await connections(admin_there) != []
        waiting.cancel()

    def run() -> None:
        async def main() -> None:
            nonlocal admin_there
            async with Redis(port=server.port, client_name="admin") as admin_there:
                await request()

        asyncio.run(main())

    admin_there = admin
    for _ in range(3):
        await asyncio.to_thread(run)
    await eventually(lambda: connections(admin), [])
    assert store._lines == {}


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Any, within: float = 3) -> None:
    give_up = time.monotonic() + within
    while (found := await look()) != wanted and time.monotonic() < give_up:
        await asyncio.sleep(0.02)
    assert found == wanted


async def test_closing_closes_every_connection_and_the_listener(
    store: RedisStore, admin: Redis
) -> None:
    waiting = asyncio.create_task(store.wait("k", timeout=5))
    await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(5)))
    assert len(await connections(admin)) > 1
    await store.aclose()
    await waiting
    await eventually(lambda: connections(admin), [])


async def test_a_full_pool_waits_rather_than_fails(server: Server, admin: Redis) -> None:
    async with store_at(server, "?max_connections=2") as store:
        await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(300)))
        assert len(await connections(admin)) == 2
    assert await admin.dbsize() == 300


def named(key: str) -> Change:
    """One more, of a record that must be this key's own."""

    def change(record: Record | None) -> Record:
        base = record or replace(RECORD, gen=0, sealed=key.encode())
        assert base.sealed == key.encode(), "another's record"
        return replace(base, gen=base.gen + 1)

    return change


GIVEN: dict[str, dict[str, Any]] = {
    "a client": {},
    "one connection": {"single_connection_client": True},
    "decoded": {"decode_responses": True, "protocol": 3},
}


@pytest.mark.parametrize("kind", ["own", "own, two connections", *GIVEN])
async def test_calls_that_are_cancelled_in_the_middle_mix_up_no_answers(
    server: Server, admin: Redis, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        given = GIVEN.get(kind)
        if given is not None:
            client = await stack.enter_async_context(Redis(port=server.port, **given))
            store = RedisStore(client)
        else:
            store = RedisStore(url(server, "" if kind == "own" else "?max_connections=2"))
        stack.push_async_callback(store.aclose)
        await cancelled_at_random(store)


async def cancelled_at_random(store: RedisStore) -> None:
    chance = random.Random(20260801)
    keys = [f"k{n}" for n in range(40)]
    for _ in range(25):
        tasks = []
        for key in chance.choices(keys, k=60):
            tasks.append(asyncio.create_task(store.apply(key, named(key), now=NOW)))
        for task in chance.sample(tasks, 30):
            await asyncio.sleep(chance.random() / 3000)
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, tuple | asyncio.CancelledError), outcome
    for key in keys:
        await store.apply(key, named(key), now=NOW)


# -- waking ---------------------------------------------------------------------------------------


class Waiter:
    """Looks and waits until the record is there, as the rotation does."""

    def __init__(self, store: RefreshStore, key: str) -> None:
        self.looks = 0
        self.woken_at = 0.0
        self.task = asyncio.create_task(self._wait(store, key))

    async def _wait(self, store: RefreshStore, key: str) -> None:
        while (await store.apply(key, unchanged, now=NOW)).after is None:
            self.looks += 1
            await store.wait(key, timeout=30)
        self.woken_at = time.monotonic()


async def subscribers(admin: Redis) -> int:
    return len(await admin.client_list(_type="pubsub"))


async def test_waiters_are_woken_by_notification_over_one_connection(
    server: Server, store: RedisStore, admin: Redis
) -> None:
    waiters = [Waiter(store, f"k{n % 10}") for n in range(20)]
    await eventually(lambda: subscribers(admin), 1)
    await asyncio.sleep(0.3)
    looked = sum(waiter.looks for waiter in waiters)
    await asyncio.sleep(0.3)
    assert sum(waiter.looks for waiter in waiters) == looked  # nobody polls
    async with store_at(server) as other:
        began = time.monotonic()
        for n in range(10):
            await other.apply(f"k{n}", one_more, now=NOW)
        await asyncio.gather(*(waiter.task for waiter in waiters))
    assert max(waiter.woken_at for waiter in waiters) - began < redis_store.LOOK_AGAIN / 3
    assert await subscribers(admin) == 1


async def test_a_change_just_before_the_subscription_is_not_missed(
    server: Server, store: RedisStore
) -> None:
    async with store_at(server) as other:
        await other.open()
        for n in range(20):
            began = time.monotonic()
            waiter = Waiter(store, f"k{n}")
            while not waiter.looks:
                await asyncio.sleep(0)
            # The waiter has seen nothing and is about to subscribe, or to be subscribed.
            await asyncio.sleep(n / 2000)
            await other.apply(f"k{n}", one_more, now=NOW)
            await waiter.task
            assert waiter.woken_at - began < redis_store.LOOK_AGAIN / 3


async def test_where_listening_is_cut_waiters_poll_and_later_listen_again(
    server: Server, store: RedisStore, admin: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "DEAF", 0.2)
    waiter, other = Waiter(store, "k"), Waiter(store, "other")
    await eventually(lambda: subscribers(admin), 1)
    await asyncio.sleep(0.1)
    await admin.client_kill_filter(_type="pubsub")
    await eventually(lambda: subscribers(admin), 0)
    began = time.monotonic()
    await store.apply("k", one_more, now=NOW)
    await waiter.task
    assert waiter.woken_at - began < redis_store.LOOK_AGAIN / 3
    await eventually(lambda: subscribers(admin), 1)
    await store.apply("other", one_more, now=NOW)
    await other.task


async def test_who_may_not_subscribe_polls(server: Server, admin: Redis) -> None:
    await admin.execute_command(
        "ACL", "SETUSER", "deaf", "on", ">pass-of-the-tests", "~*", "+@all", "-subscribe"
    )
    store = RedisStore(f"redis://deaf:pass-of-the-tests@127.0.0.1:{server.port}")
    waiter = Waiter(store, "k")
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await store.apply("k", one_more, now=NOW)
    await waiter.task
    assert waiter.woken_at - began < redis_store.LOOK_AGAIN / 3
    await store.aclose()


async def test_channels_nobody_waits_for_are_left_and_then_the_connection(
    store: RedisStore, admin: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LINGER", 0.1)
    done, waiting = Waiter(store, "done"), Waiter(store, "waiting")
    await eventually(lambda: channels(admin), [b"ideal_auth:v1:{done}", b"ideal_auth:v1:{waiting}"])
    await store.apply("done", one_more, now=NOW)
    await done.task
    await eventually(lambda: channels(admin), [b"ideal_auth:v1:{waiting}"])
    await store.apply("waiting", one_more, now=NOW)
    await waiting.task
    await eventually(lambda: subscribers(admin), 0)
    again = Waiter(store, "again")
    await eventually(lambda: channels(admin), [b"ideal_auth:v1:{again}"])
    await store.apply("again", one_more, now=NOW)
    await again.task


async def channels(admin: Redis) -> list[bytes]:
    return sorted(await admin.pubsub_channels())


async def test_wait_is_in_time_even_if_nothing_happens(store: RedisStore) -> None:
    began = time.monotonic()
    while time.monotonic() - began < 0.2:
        await store.wait("k", timeout=0.05)
    assert time.monotonic() - began < 0.3


# -- a server in trouble --------------------------------------------------------------------------

QUICK = 0.4
"""The time-out of these tests, in seconds."""


async def unavailable(store: RedisStore, *, match: str = "Redis") -> float:
    """Seconds until `StoreUnavailable` was raised."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=match) as caught:
        await store.apply("k", one_more, now=NOW)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return time.monotonic() - began


async def test_a_server_that_stopped_is_unavailable_in_time_and_then_is_back() -> None:
    with redis_server() as server:
        async with store_at(server, timeout=QUICK) as store:
            await store.apply("k", one_more, now=NOW)
            server.process.signal(signal.SIGSTOP)
            for _ in range(3):
                assert await unavailable(store) < QUICK + 0.2
            # Twenty sessions at once, and somebody waiting: no longer.
            began = time.monotonic()
            ends = [store.apply(f"k{n}", one_more, now=NOW) for n in range(20)]
            outcomes = await asyncio.gather(
                *ends, store.wait("k", timeout=0.1), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes[:-1]} == {StoreUnavailable}
            assert time.monotonic() - began < QUICK + 0.4
            server.process.signal(signal.SIGCONT)
            found = (await store.apply("k", unchanged, now=NOW)).after
            assert found is not None
            # What was sent to a stopped server may be done when it wakes: in doubt, not undone.
            assert found.gen >= 1


async def test_a_server_that_was_killed_is_unavailable_and_a_new_one_is_found() -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        with started("redis-server", port=port) as server:
            store = await stack.enter_async_context(store_at(server, timeout=QUICK))
            await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(5)))
            waiting = asyncio.create_task(store.wait("k", timeout=5))
            await asyncio.sleep(0.1)
            server.process.signal(signal.SIGKILL)
            server.process.child.wait()
            assert await unavailable(store, match="ConnectionError") < QUICK
            await asyncio.wait_for(waiting, 2)
        assert await unavailable(store) < QUICK
        with started("redis-server", port=port):
            # Every connection of the pool is dead; nobody is made to notice.
            outcomes = [store.apply(f"k{n}", one_more, now=NOW) for n in range(5)]
            assert {applied.before for applied in await asyncio.gather(*outcomes)} == {None}


async def test_connections_that_the_server_dropped_are_replaced_unnoticed(
    store: RedisStore, admin: Redis
) -> None:
    await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(5)))
    await admin.client_kill_filter(_type="normal", skipme=True)
    await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(5)))


async def test_a_connection_that_died_in_silence_is_given_up_for_a_new_one(
    server: Server, admin: Redis
) -> None:
    """Load balancers drop idle connections and tell nobody: what is sent is never answered."""
    opened: list[asyncio.StreamWriter] = []
    lost: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", server.port)
        opened.append(writer)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if writer not in lost:
                    sink.write(data)
            sink.close()

        await asyncio.gather(carry(reader, ahead), carry(behind, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as balancer:
        port = balancer.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", timeout=QUICK)
        await asyncio.gather(*(store.apply(f"k{n}", one_more, now=NOW) for n in range(5)))
        lost.update(opened)
        began = time.monotonic()
        assert (await store.apply("k0", one_more, now=NOW)).after == replace(RECORD, gen=2)
        assert QUICK / 2 <= time.monotonic() - began < QUICK
        await store.aclose()


async def test_a_server_out_of_memory_is_unavailable_for_writing(
    store: RedisStore, admin: Redis
) -> None:
    await store.apply("k", one_more, now=NOW)
    await admin.config_set("maxmemory-policy", "noeviction")
    await admin.config_set("maxmemory", 1)
    try:
        await unavailable(store, match="OutOfMemory")
        assert (await store.apply("k", unchanged, now=NOW)).after == replace(RECORD, gen=1)
    finally:
        await admin.config_set("maxmemory", 0)
    assert (await store.apply("k", one_more, now=NOW)).after == replace(RECORD, gen=2)


async def test_a_read_only_replica_is_unavailable_for_writing(
    server: Server, store: RedisStore, admin: Redis, tmp_path: Path
) -> None:
    await store.apply("k", one_more, now=NOW)
    await admin.config_set("repl-diskless-sync", "yes")
    await admin.config_set("repl-diskless-sync-delay", 0)
    # What a replica gets it writes to its directory.
    with started("redis-server", cwd=tmp_path) as replica:
        async with Redis(port=replica.port) as its_admin, store_at(replica) as reader:
            await its_admin.replicaof("127.0.0.1", str(server.port))
            look = partial(reader.apply, "k", unchanged, now=NOW)
            wanted = replace(RECORD, gen=1)
            await eventually(look, (wanted, wanted), within=10)
            await unavailable(reader, match="ReadOnly")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-MOVED 1 127.0.0.1:1\r\n", "redis.asyncio.RedisCluster"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "BusyLoadingError"),
        (b"-MISCONF cannot persist /var/lib/private-path\r\n", "ResponseError MISCONF"),
        (b"-NOAUTH Authentication required.\r\n", "AuthenticationError"),
        (b"-ERR max number of clients reached\r\n", "ConnectionError|MaxConnectionsError"),
        (b"HTTP/1.1 400 Bad Request\r\n", "cannot be used"),
        (b"", "ConnectionError"),
    ],
)
async def test_whatever_a_server_answers_is_unavailable_and_its_words_stay_out(
    answer: bytes, reason: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer and await reader.read(65_536):
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", timeout=QUICK)
        with pytest.raises(StoreUnavailable, match=reason) as caught:
            await store.apply("k", one_more, now=NOW)
        with pytest.raises(StoreUnavailable):
            await store.look(["k", "l"], now=NOW)
        assert "private-path" not in str(caught.value)
        await store.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":5\r\n",
        b"$-1\r\n",
        b"$5\r\nhello\r\n",
        b"$3000000000\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n:1\r\n:5\r\n",
        b"*2\r\n:0\r\n$-1\r\n",
        b"*2\r\n*0\r\n*0\r\n",
        b"*3\r\n:1\r\n:1\r\n:1\r\n",
        b"%1\r\n+a\r\n:1\r\n",
    ],
)
async def test_an_answer_of_another_shape_is_unavailable(answer: bytes) -> None:
    """Of a proxy in between, or of something that is no Redis at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}?protocol=2", timeout=QUICK)
        for _ in range(2):
            await unavailable(store)
        store._skew = redis_store._Skew(0.0, time.monotonic())  # past the first question
        await unavailable(store)
        await store.aclose()


@pytest.mark.parametrize("found", ["not a record", "12\n", "[1,2]\n"])
async def test_something_else_under_the_key_is_unavailable(
    store: RedisStore, admin: Redis, found: str
) -> None:
    await admin.set("ideal_auth:v1:{k}", found)
    await unavailable(store, match="something else")
    await admin.delete("ideal_auth:v1:{k}")
    await admin.rpush("ideal_auth:v1:{k}", found)
    await unavailable(store, match="WRONGTYPE")


# -- a client that was given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode_responses": True},
        {"protocol": 2},
        {"protocol": 3},
        {"protocol": 3, "decode_responses": True},
        {"single_connection_client": True},
    ],
    ids=str,
)
async def test_a_client_that_was_given_is_used_and_stays_open(
    server: Server, admin: Redis, options: dict[str, Any]
) -> None:
    async with Redis(port=server.port, **options) as client:
        store = RedisStore(client, prefix="app:")
        assert await store.apply("k", lambda _: RECORD, now=NOW) == (None, RECORD)
        assert await store.apply("k", unchanged, now=NOW) == (RECORD, RECORD)
        waiter = Waiter(store, "other")
        await eventually(lambda: subscribers(admin), 1)
        await asyncio.sleep(0.1)
        looked = waiter.looks
        await store.apply("other", one_more, now=NOW)
        await waiter.task
        assert waiter.looks <= looked + 1
        await store.aclose()
        await eventually(lambda: subscribers(admin), 0)
        assert await client.ping()
        # And the store may be used again.
        assert await store.apply("k", unchanged, now=NOW) == (RECORD, RECORD)
        await store.aclose()
    assert sorted(await admin.keys()) == [b"app:v1:{k}", b"app:v1:{other}"]


async def test_a_client_without_time_outs_that_was_given_hangs_nobody() -> None:
    with redis_server() as server:
        async with Redis(port=server.port, socket_timeout=None) as client:
            store = RedisStore(client, timeout=QUICK)
            await store.apply("k", one_more, now=NOW)
            server.process.signal(signal.SIGSTOP)
            assert await unavailable(store, match="within 0.4 s") < QUICK + 0.2
            server.process.signal(signal.SIGCONT)
            # The connection whose answer nobody read is not used again.
            await store.apply("other", one_more, now=NOW)
            assert (await store.apply("other", unchanged, now=NOW)).after == one_more(None)


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(
        "redis-server", "--cluster-enabled", "yes", cwd=tmp_path_factory.mktemp("cluster")
    ) as server:
        with blocking_redis.Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in admin.execute_command("CLUSTER", "INFO"):
                time.sleep(0.05)
        yield server


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}], ids=str)
async def test_a_redis_cluster(redis_cluster: Server, options: dict[str, Any]) -> None:
    server = redis_cluster
    async with (
        RedisCluster(host="127.0.0.1", port=server.port, **options) as client,
        Redis(port=server.port) as admin,
    ):
        await admin.flushall()
        store = RedisStore(client)
        waiter = Waiter(store, "k0")
        await asyncio.sleep(0.3)
        looked = waiter.looks
        changes = [store.apply(f"k{n % 30}", one_more, now=NOW) for n in range(300)]
        await asyncio.gather(*changes, waiter.task)
        if hasattr(client, "pubsub"):  # redis-py has it for a cluster of late; before, they poll
            assert waiter.looks <= looked + 1
        for n in range(30):
            applied = await store.apply(f"k{n}", unchanged, now=NOW)
            assert applied.after == replace(RECORD, gen=10)
            name = store._name(f"k{n}")
            slot = await admin.execute_command("CLUSTER", "KEYSLOT", name)
            assert slot == key_slot(f"k{n}".encode())
            assert await admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) >= 1
        assert await admin.dbsize() == 30
        await store.aclose()
        assert await client.get("nothing") is None


async def test_a_redis_cluster_survives_calls_that_are_cancelled(redis_cluster: Server) -> None:
    async with RedisCluster(host="127.0.0.1", port=redis_cluster.port) as client:
        await client.flushall(target_nodes=RedisCluster.PRIMARIES)
        await cancelled_at_random(RedisStore(client))


@pytest.mark.parametrize("option", ["read_from_replicas", "load_balancing_strategy"])
async def test_a_client_that_reads_from_replicas_reads_records_from_the_primary(
    redis_cluster: Server, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is behind: a live session would not be found there, or an ended one would."""
    async with RedisCluster(host="127.0.0.1", port=redis_cluster.port) as client:
        setattr(client, option, True)
        sent: set[str] = set()
        execute = client.execute_command

        async def noted(*command: Any, **options: Any) -> Any:
            sent.add(command[0])
            return await execute(*command, **options)

        monkeypatch.setattr(client, "execute_command", noted)
        store, key = RedisStore(client), uuid4().hex
        await store.apply(key, one_more, now=NOW)
        assert (await store.apply(key, unchanged, now=NOW)).after == replace(RECORD, gen=1)
        assert not sent & READ_COMMANDS
        await store.aclose()


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "localhost:6379",
        "http://localhost:6379",
        "redis://:hunter2@localhost:port",
        "redis://:hunter2@localhost:6379/0?no_such_option=1",
        "redis://:hunter2@localhost:6379/0?max_connections=many",
    ],
)
def test_a_url_that_cannot_work_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://host:port/0") as caught:
        RedisStore(wrong)
    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_pool_of_one_connection_is_refused() -> None:
    """It would listen for whoever waits, and nothing could be written meanwhile."""
    with pytest.raises(ConfigurationError, match="max_connections") as caught:
        RedisStore("redis://:hunter2@localhost:6379/0?max_connections=1")
    assert "hunter2" not in str(caught.value)


def test_a_blocking_client_is_refused() -> None:
    client: Any = blocking_redis.Redis()
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio \(Redis or RedisCluster\)"):
        RedisStore(client)


@pytest.mark.parametrize("prefix", ["{app}:", "a\nb", None, b"app:"])
def test_a_prefix_that_cannot_work_is_refused(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStore("redis://localhost", prefix=prefix)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), None, "1", True])
def test_a_time_out_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisStore("redis://localhost", timeout=timeout)


def test_its_repr_holds_no_password() -> None:
    store = RedisStore("redis://:hunter2@localhost", prefix="app:")
    assert repr(store) == "RedisStore(prefix='app:')"


# -- the rotation over it -------------------------------------------------------------------------


@pytest.mark.parametrize("later", [DUE, EXPIRED])
async def test_200_concurrent_requests_on_4_workers_with_a_store_each_make_one_call(
    server: Server, admin: Redis, later: int
) -> None:
    cluster = Cluster(RedisStore(url(server)))
    cluster.workers = [cluster.worker(store=RedisStore(url(server))) for _ in range(4)]
    cookie = cluster.cookie()
    cluster.clock.advance(later)
    responses = await asyncio.gather(*(cluster.request(cookie, n % 4) for n in range(200)))
    assert len({token(response) for response in responses}) == 1
    assert all("set-cookie" in response.headers for response in responses)
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)
    assert await admin.dbsize() == 1
    for worker in cluster.workers:
        await worker.aclose()


async def test_a_store_that_is_down_is_503_and_the_cookie_stays() -> None:
    with redis_server() as server:
        cluster = Cluster(RedisStore(url(server), timeout=QUICK))
        cookie = cluster.cookie()
        cluster.clock.advance(EXPIRED)
        server.process.signal(signal.SIGSTOP)
        began = time.monotonic()
        response = await cluster.request(cookie)
        assert time.monotonic() - began < QUICK + 0.5
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert "set-cookie" not in response.headers
        server.process.signal(signal.SIGCONT)
        cluster.clock.advance(5)
        token(await cluster.request(cookie))
        assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)
        await cluster.store.aclose()


def test_the_app_works_with_a_lifespan_and_without(server: Server) -> None:
    cluster = Cluster(RedisStore(url(server)))
    app = app_of(cluster.workers[0])
    client = TestClient(app, base_url="https://testserver")
    cookie = {"cookie": cluster.cookie()}
    cluster.clock.advance(EXPIRED)
    tokens = {token(client.get("/token", headers=cookie)) for _ in range(3)}
    with client:
        tokens |= {token(client.get("/token", headers=cookie)) for _ in range(3)}
    assert len(tokens) == 1
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)
