"""Records in this process's memory: for one worker, and for tests."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from ..record import Change, Record
from .base import Applied, RefreshStore

_SWEEP_EVERY: Final = 256
_LOOK_AGAIN: Final = 1.0


class MemoryStore(RefreshStore):
    """Workers do not see each other's records and a restart forgets them: use it with one worker.

    One record a session that was refreshed or ended, until the session's own end.
    """

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._writes = 0
        self._lock = threading.Lock()

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        with self._lock:  # for event loops in several threads; on one there is no await in here
            before = self._records.get(key)
            if before is not None and before.expires_at <= now:
                before = None
            after = change(before)
            if after is not before:
                self._write(key, after, now)
        return Applied(before, after)

    async def wait(self, key: str, *, timeout: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(key, set())
        waiters.add(future)
        try:
            # A second event loop in another thread would not be woken: look again now and then.
            await asyncio.wait((future,), timeout=min(timeout, _LOOK_AGAIN))
        finally:
            waiters.discard(future)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]

    def _write(self, key: str, record: Record | None, now: float) -> None:
        if record is None:
            self._records.pop(key, None)
        else:
            self._records[key] = record
        for future in self._waiters.pop(key, ()):
            if not future.done():
                future.get_loop().call_soon_threadsafe(_wake, future)
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            for stale in [k for k, r in self._records.items() if r.expires_at <= now]:
                del self._records[stale]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
