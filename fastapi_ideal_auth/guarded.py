"""A store from which nothing comes but records and `StoreUnavailable`, and that promptly.

Stores of the application's may hang, or raise anything; what they say may hold anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from .errors import StoreUnavailable
from .record import Change, Record
from .stores import Applied, RefreshStore

T = TypeVar("T")

STORE_TIMEOUT: Final = 5.0
"""Seconds after which a store that does not answer counts as down. Ours give up sooner."""


class GuardedStore:
    """One store, and the clock by which it is asked (Unix seconds)."""

    def __init__(self, store: RefreshStore, clock: Callable[[], float]) -> None:
        self.store = store
        self._clock = clock

    async def change(self, key: str, change: Change) -> Applied:
        """Change a record. Raises `StoreUnavailable` for whatever goes wrong."""
        return await _guarded(self.store.apply(key, change, now=self._clock()))

    async def look(self, keys: Sequence[str]) -> list[Record | None]:
        """Read records. Raises `StoreUnavailable` for whatever goes wrong."""
        return await _guarded(self.store.look(keys, now=self._clock()))

    async def wait(self, key: str, *, timeout: float) -> None:
        """Return when the record may have changed; soon enough, though the store wake nobody."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STORE_TIMEOUT):
                await self.store.wait(key, timeout=timeout)


async def _guarded(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            return await work
    except StoreUnavailable:
        raise
    except Exception as error:  # its text may hold anything
        failed = type(error).__name__
    raise StoreUnavailable(f"the refresh store failed ({failed})")
