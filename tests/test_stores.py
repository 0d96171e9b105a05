"""The store contract: one suite, inherited by every store; then what is each one's own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import stat
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    RefreshStore,
    SQLiteStore,
    StoreUnavailable,
)
from fastapi_ideal_auth.record import (
    Change,
    Record,
    acknowledged,
    ended,
    extended,
    leased,
    published,
    rejected,
    released,
)
from fastapi_ideal_auth.stores import Applied, sqlite

from .support import SECRET, User

NOW = 1_800_000_000.0
RECORD = Record(expires_at=int(NOW) + 100, gen=3, sealed=b"\x00sealed\n\xff", lease="me")


def lease(owner: str, now: float = NOW) -> Change:
    """For half a minute."""
    return partial(
        leased,
        gen=1,
        presented=0,
        owner=owner,
        at=now,
        now=now,
        until=now + 30,
        expires_at=int(NOW) + 100,
        strict=False,
    )


def publish(gen: int, owner: str = "me") -> Change:
    sealed = f"generation {gen}".encode()
    return partial(published, owner=owner, gen=gen, sealed=sealed, expires_at=int(NOW) + 100)


def held(applied: Applied) -> str | None:
    assert applied.after is not None
    return applied.after.lease


class StoreContract:
    @pytest.fixture
    async def store(self, tmp_path: Path) -> RefreshStore:
        raise NotImplementedError

    async def test_a_missing_record_is_none(self, store: RefreshStore) -> None:
        assert await store.apply("k", lambda r: r, now=NOW) == (None, None)

    async def test_what_was_written_is_read(self, store: RefreshStore) -> None:
        assert await store.apply("k", lambda _: RECORD, now=NOW) == (None, RECORD)
        assert await store.apply("k", lambda r: r, now=NOW) == (RECORD, RECORD)

    async def test_several_records_are_read_at_once(self, store: RefreshStore) -> None:
        other = replace(RECORD, gen=7, ended=True)
        await store.apply("k", lambda _: RECORD, now=NOW)
        await store.apply("l", lambda _: other, now=NOW)
        assert await store.look(["l", "none", "k", "k"], now=NOW) == [other, None, RECORD, RECORD]
        assert await store.look(["l", "k"], now=NOW + 100) == [None, None]
        assert await store.look([], now=NOW) == []

    async def test_a_record_expires(self, store: RefreshStore) -> None:
        await store.apply("k", lambda _: RECORD, now=NOW)
        assert (await store.apply("k", lambda r: r, now=NOW + 99.9)).after == RECORD
        assert await store.apply("k", lambda r: r, now=NOW + 100) == (None, None)

    async def test_a_change_can_delete(self, store: RefreshStore) -> None:
        await store.apply("k", lambda _: RECORD, now=NOW)
        await store.apply("k", lambda _: None, now=NOW)
        assert (await store.apply("k", lambda r: r, now=NOW)).after is None

    async def test_changes_are_atomic(self, store: RefreshStore) -> None:
        def one_more(record: Record | None) -> Record:
            base = record or replace(RECORD, gen=0)
            return replace(base, gen=base.gen + 1)

        await asyncio.gather(*(store.apply("k", one_more, now=NOW) for _ in range(100)))
        final = (await store.apply("k", lambda r: r, now=NOW)).after
        assert final is not None
        assert final.gen == 100

    async def test_a_lease_is_taken_once(self, store: RefreshStore) -> None:
        taken = await asyncio.gather(*(store.apply("k", lease(str(n)), now=NOW) for n in range(50)))
        assert len({held(applied) for applied in taken}) == 1

    async def test_an_error_in_a_change_changes_nothing(self, store: RefreshStore) -> None:
        await store.apply("k", lambda _: RECORD, now=NOW)

        def broken(record: Record | None) -> Record:
            raise KeyError("a bug")

        with pytest.raises(KeyError):
            await store.apply("k", broken, now=NOW)
        assert (await store.apply("k", lambda r: r, now=NOW)).after == RECORD

    async def test_a_waiter_is_woken_or_polls(self, store: RefreshStore) -> None:
        async def wait() -> None:
            while (await store.apply("k", lambda r: r, now=NOW)).after is None:
                await store.wait("k", timeout=5)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.02)
        await store.apply("k", lambda _: RECORD, now=NOW)
        await asyncio.wait_for(waiting, 2)

    async def test_it_opens_and_closes_and_opens_again(self, store: RefreshStore) -> None:
        await store.open()
        await store.apply("k", lambda _: RECORD, now=NOW)
        await store.aclose()
        await store.open()
        await store.apply("k", lambda r: r, now=NOW)

    async def test_live_records_outlive_a_sweep_and_stale_ones_do_not(
        self, store: RefreshStore
    ) -> None:
        stale = replace(RECORD, expires_at=1_000)
        await store.apply("stale", lambda _: stale, now=900)
        for n in range(600):
            await store.apply(f"k{n}", lambda _: RECORD, now=NOW)
        assert await self.size(store) == 600

    # -- the rules of the protocol, as they come out of a store ------------------------------------

    async def test_only_the_owner_gives_a_lease_back(self, store: RefreshStore) -> None:
        await store.apply("k", lease("me"), now=NOW)
        give_back = partial(released, owner="you", retry_at=NOW)
        assert held(await store.apply("k", give_back, now=NOW)) == "me"
        give_back = partial(released, owner="me", retry_at=NOW)
        assert held(await store.apply("k", give_back, now=NOW)) is None

    async def test_a_lease_ends_by_itself(self, store: RefreshStore) -> None:
        await store.apply("k", lease("me"), now=NOW)
        assert held(await store.apply("k", lease("you", NOW + 29), now=NOW + 29)) == "me"
        assert held(await store.apply("k", lease("you", NOW + 31), now=NOW + 31)) == "you"

    async def test_a_publish_beats_the_lapse_of_its_lease(self, store: RefreshStore) -> None:
        await store.apply("k", lease("me"), now=NOW)
        await store.apply("k", lease("you", NOW + 31), now=NOW + 31)
        _, after = await store.apply("k", publish(2, "me"), now=NOW + 32)
        assert after is not None
        assert (after.gen, after.lease) == (2, "you")

    async def test_a_generation_only_grows_and_stays_for_the_life_of_the_session(
        self, store: RefreshStore
    ) -> None:
        for gen in (2, 4, 3, 1, 4):
            await store.apply("k", publish(gen), now=NOW)
        _, after = await store.apply("k", lambda r: r, now=NOW + 99)
        assert after is not None
        assert (after.gen, after.sealed) == (4, b"generation 4")

    async def test_a_rejection_stays_until_a_publish_overrides_it(
        self, store: RefreshStore
    ) -> None:
        reject = partial(rejected, owner="me", gen=1, expires_at=int(NOW) + 100)
        await store.apply("k", reject, now=NOW)
        assert held(await store.apply("k", lease("you"), now=NOW)) is None
        _, after = await store.apply("k", publish(2), now=NOW)
        assert after is not None
        assert (after.gen, after.rejected) == (2, None)

    async def test_a_tombstone_stays_whatever_lands_on_it(self, store: RefreshStore) -> None:
        await store.apply("k", publish(2), now=NOW)
        await store.apply("k", partial(ended, expires_at=int(NOW) + 100), now=NOW)
        for change in (publish(3), lease("me"), partial(extended, expires_at=int(NOW) + 200)):
            _, after = await store.apply("k", change, now=NOW)
            assert after is not None
            assert (after.ended, after.sealed, after.lease) == (True, None, None)

    async def test_what_was_seen_first_is_what_is_kept(self, store: RefreshStore) -> None:
        await store.apply("k", publish(2), now=NOW)
        for seconds in (1, 2):
            change = partial(acknowledged, gen=2, at=NOW + seconds)
            _, after = await store.apply("k", change, now=NOW + seconds)
        assert after is not None
        assert (after.seen, after.seen_at) == (2, pytest.approx(NOW + 1, abs=0.01))

    async def test_a_session_is_one_record_of_the_newest_generation_alone(
        self, store: RefreshStore
    ) -> None:
        sizes: set[int] = set()
        for gen in range(1, 9):
            await store.apply("k", lease(f"owner {gen}"), now=NOW)
            _, after = await store.apply("k", publish(gen, f"owner {gen}"), now=NOW)
            assert after is not None
            sizes.add(len(after.to_bytes()))
        assert len(sizes) == 1
        assert await self.size(store) == 1

    async def size(self, store: RefreshStore) -> int:
        raise NotImplementedError


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> RefreshStore:
        return MemoryStore()

    async def size(self, store: RefreshStore) -> int:
        assert isinstance(store, MemoryStore)
        return len(store._records)


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path):  # type: ignore[no-untyped-def]  # each store's fixture has its own type
        store = SQLiteStore(tmp_path / "refresh.sqlite3")
        yield store
        await store.aclose()

    async def size(self, store: RefreshStore) -> int:
        assert isinstance(store, SQLiteStore)
        count = await store._run(
            lambda: store._connected().execute("SELECT count(*) FROM record").fetchone()[0]
        )
        assert isinstance(count, int)
        return count

    async def test_it_works_off_the_event_loop(self, store: RefreshStore) -> None:
        threads: set[int] = set()

        def note(record: Record | None) -> Record | None:
            threads.add(threading.get_ident())
            return record

        await store.apply("k", note, now=NOW)
        assert threading.get_ident() not in threads

    async def test_the_file_is_private_and_in_wal_mode(
        self, store: RefreshStore, tmp_path: Path
    ) -> None:
        await store.apply("k", lambda _: RECORD, now=NOW)
        for file in tmp_path.glob("refresh.sqlite3*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert (tmp_path / "refresh.sqlite3-wal").exists()

    async def test_a_read_only_disk_is_unavailable_and_never_a_hang(
        self, store: RefreshStore
    ) -> None:
        assert isinstance(store, SQLiteStore)
        await store.apply("k", lambda _: RECORD, now=NOW)
        await store._run(lambda: store._connected().execute("PRAGMA query_only=1"))
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await store.apply("k", lambda _: replace(RECORD, gen=9), now=NOW)
        assert (await store.apply("k", lambda r: r, now=NOW)).after == RECORD

    async def test_a_full_disk_is_unavailable(self, store: RefreshStore) -> None:
        assert isinstance(store, SQLiteStore)
        await store.open()
        await store._run(lambda: store._connected().execute("PRAGMA max_page_count=8"))
        big = replace(RECORD, sealed=bytes(100_000))
        with pytest.raises(StoreUnavailable, match="full"):
            await store.apply("big", lambda _: big, now=NOW)
        await store.apply("k", lambda _: RECORD, now=NOW)

    async def test_a_file_that_is_no_database_is_unavailable(self, tmp_path: Path) -> None:
        path = tmp_path / "no.sqlite3"
        path.write_bytes(b"this is a text, not a database" * 100)
        path.chmod(0o600)
        with pytest.raises(StoreUnavailable):
            await SQLiteStore(path).apply("k", lambda r: r, now=NOW)


# -- several processes ----------------------------------------------------------------------------


def _count(path: str, times: int) -> None:
    def one_more(record: Record | None) -> Record:
        base = record or replace(RECORD, gen=0)
        return replace(base, gen=base.gen + 1)

    async def run() -> None:
        store = SQLiteStore(path)
        for _ in range(times):
            await store.apply("k", one_more, now=NOW)
        await store.aclose()

    asyncio.run(run())


async def test_four_processes_open_the_file_at_once_and_no_change_is_lost(tmp_path: Path) -> None:
    path = str(tmp_path / "refresh.sqlite3")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count, args=(path, 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    store = SQLiteStore(path)
    final = (await store.apply("k", lambda r: r, now=NOW)).after
    await store.aclose()
    assert final is not None
    assert final.gen == 200


# -- the private directory ------------------------------------------------------------------------


def test_the_default_is_one_private_file_in_the_state_directory(tmp_path: Path) -> None:
    store = SQLiteStore()
    assert store.path == tmp_path / "state" / "fastapi_ideal_auth" / sqlite.FILE
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_without_a_state_directory_it_is_under_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SQLiteStore().path.is_relative_to(tmp_path / ".local" / "state")


def _everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and temporary directory out of reach, so that only the state directory is left."""
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    return tmp_path / "state" / "fastapi_ideal_auth"


def test_a_symbolic_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _everywhere(tmp_path, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        SQLiteStore()
    target = tmp_path / "target"
    target.touch(0o600)
    (tmp_path / "link.sqlite3").symlink_to(target)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        SQLiteStore(tmp_path / "link.sqlite3")


def test_a_directory_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _everywhere(tmp_path, monkeypatch)
    directory.mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        SQLiteStore()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _everywhere(tmp_path, monkeypatch)
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(ConfigurationError, match="must belong to this user"):
        SQLiteStore()


def test_a_file_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "refresh.sqlite3"
    path.touch(0o644)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        SQLiteStore(path)


def test_a_directory_others_can_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        SQLiteStore(shared / "refresh.sqlite3")


def test_where_no_file_can_be_written_it_is_memory_and_a_logged_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _everywhere(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    auth = IdealAuth(User, secret=SECRET)
    assert isinstance(auth.store, MemoryStore)
    assert "with more than one worker users may be signed out" in caplog.text
