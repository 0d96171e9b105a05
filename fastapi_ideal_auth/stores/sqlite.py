"""Records in one SQLite file: every worker of this machine meets there, with no configuration."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from ..record import Change, Record
from .base import POLL, Applied, RefreshStore

T = TypeVar("T")

FILE: Final = "refresh-v1.sqlite3"
BUSY_TIMEOUT: Final = 2.0
"""Seconds to wait for another worker's write, which takes well under a millisecond."""
_WAL_TIMEOUT: Final = 5.0
_SWEEP_EVERY: Final = 64
_SWEEP_ROWS: Final = 200
_POLLERS: Final = 4
"""Waiters that may each look every `POLL` seconds: four hundred looks a second in all."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS record (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_expires_at ON record (expires_at);
"""
_READ: Final = "SELECT value FROM record WHERE key = ? AND expires_at > ?"
_WRITE: Final = "INSERT OR REPLACE INTO record (key, value, expires_at) VALUES (?, ?, ?)"
_DELETE: Final = "DELETE FROM record WHERE key = ?"
_SWEEP: Final = (
    "DELETE FROM record WHERE key IN (SELECT key FROM record WHERE expires_at <= ? LIMIT ?)"
)


class SQLiteStore(RefreshStore):
    """One file that all workers of one machine share; a restart finds its records again.

    ``path=None`` is one file a user, in a private directory (0700): under ``$XDG_STATE_HOME``,
    else ``~/.local/state``, else the temporary directory. Raises `ConfigurationError` where the
    file or its directory could be read or swapped by somebody else, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = (
            _default_file() if path is None else _usable(_no_memory(Path(path)), _check_not_shared)
        )
        self._owner = os.getpid()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._writes = 0
        self._waiting = 0

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"

    async def open(self) -> None:
        await self._run(self._connected)

    async def aclose(self) -> None:
        if self._thread is not None and self._owner == os.getpid():
            await self._run(self._close)
            self._thread.shutdown(wait=False)
        self._thread = None

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        return await self._run(lambda: self._apply(key, change, now))

    async def look(self, keys: Sequence[str], *, now: float) -> list[Record | None]:
        return await self._run(lambda: [_read(self._connected(), key, now) for key in keys])

    async def wait(self, key: str, *, timeout: float) -> None:
        # Another process cannot wake us, so we poll; the more who wait, the less often each, so
        # that a slow provider does not turn into a busy disk.
        self._waiting += 1
        try:
            await asyncio.sleep(min(timeout, POLL * max(1.0, self._waiting / _POLLERS)))
        finally:
            self._waiting -= 1

    async def _run(self, work: Callable[[], T]) -> T:
        """In this store's one thread: off the event loop, and a connection is never shared."""
        if self._owner != os.getpid():  # forked: the parent's thread and connection stay its own
            self._owner, self._thread, self._connection = os.getpid(), None, None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "fastapi_ideal_auth-sqlite")
        failed: str
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError, ValueError, RuntimeError, ConfigurationError) as error:
            failed = str(error)
        raise StoreUnavailable(f"the refresh store {self.path} cannot be used: {failed}")

    # -- in the thread ------------------------------------------------------------------------

    def _apply(self, key: str, change: Change, now: float) -> Applied:
        db = self._connected()
        before = _read(db, key, now)
        if change(before) is before:  # most late requests only read: no write lock for them
            return Applied(before, before)
        db.execute("BEGIN IMMEDIATE")
        try:
            before = _read(db, key, now)
            after = change(before)
            if after is None:
                db.execute(_DELETE, (key,))
            elif after is not before:
                db.execute(_WRITE, (key, after.to_bytes(), after.expires_at))
            self._sweep(db, now)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return Applied(before, after)

    def _sweep(self, db: sqlite3.Connection, now: float) -> None:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            # Applications share the file: one whose clock runs ahead must not sweep the others.
            db.execute(_SWEEP, (min(now, time.time()), _SWEEP_ROWS))

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self.path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _read(db: sqlite3.Connection, key: str, now: float) -> Record | None:
    row = db.execute(_READ, (key, now)).fetchone()
    return None if row is None else Record.from_bytes(row[0])


def _connect(path: Path) -> sqlite3.Connection:
    _make_file(path)
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _switch_to_wal(db)
        # In WAL mode NORMAL survives a killed process; after a power cut the last records may be
        # missing, and what they held is in the browsers' cookies all the same.
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    # Four workers that start together get "database is locked" in spite of the busy time-out:
    # SQLite does not wait for this switch.
    give_up = time.monotonic() + _WAL_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return


# -- the private directory ------------------------------------------------------------------------


def _default_file() -> Path:
    refusals: list[str] = []
    for directory in _default_directories():
        try:
            return _usable(directory / FILE, _check_ours_alone)
        except ConfigurationError as error:
            refusals.append(str(error))
    raise ConfigurationError(
        "no private place for the refresh store: " + "; ".join(refusals) + ". Set XDG_STATE_HOME "
        "to a directory of your own, or pass store=SQLiteStore(path)"
    )


def _default_directories() -> Iterator[Path]:
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the specification says to ignore a relative one
        yield Path(state, "fastapi_ideal_auth")
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        yield Path(home, ".local", "state", "fastapi_ideal_auth")
    yield Path(tempfile.gettempdir(), f"fastapi_ideal_auth-{_user()}")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _no_memory(path: Path) -> Path:
    if str(path).startswith(":memory:"):
        raise ConfigurationError(
            "SQLiteStore keeps a file; for this process alone use MemoryStore()"
        )
    return path


def _usable(path: Path, check_directory: Callable[[Path], None]) -> Path:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "geteuid"):
            check_directory(path.parent)
        _make_file(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        return path
    raise ConfigurationError(f"{path} cannot be written: {reason}")


def _check_ours_alone(directory: Path) -> None:
    """For the places we choose: one may lie in a directory where anybody can make a name first."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{directory} is a symbolic link, not a directory")
    if found.st_uid != _user() or found.st_mode & 0o077:
        raise ConfigurationError(
            f"{directory} is not private: it must belong to this user with mode 700 "
            f"(chmod 700 {directory})"
        )


def _check_not_shared(directory: Path) -> None:
    """For a place the operator chose: nobody else may put another file under the name."""
    found = directory.stat()
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"others can write to {directory}: put the refresh store in a directory of its own "
            f"(chmod go-w {directory})"
        )


def _make_file(path: Path) -> None:
    """Create the file as 0600, or check that what is there is ours alone."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o600)  # a symbolic link is ELOOP
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path} is not a regular file")
    if hasattr(os, "geteuid") and (found.st_uid != _user() or found.st_mode & 0o077):
        raise ConfigurationError(
            f"{path} is not private: it must belong to this user with mode 600 (chmod 600 {path})"
        )
