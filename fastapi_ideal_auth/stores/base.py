"""What a store must do: keep one record a session, and change it atomically. It decides nothing.

Whoever can replace one value only if it is still what was read can be a store: the rules of the
refresh protocol are in the changes it is handed, not in the store.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..record import Change, Record

POLL: Final = 0.01
"""Seconds between two looks of a waiter, where a store has no way to wake it."""


class Applied(NamedTuple):
    """A record before and after a change; the same object where nothing was written."""

    before: Record | None
    after: Record | None


def unchanged(record: Record | None) -> Record | None:
    """The change that only reads."""
    return record


class RefreshStore(ABC):
    """Where workers and hosts meet to refresh. Subclass it to keep records somewhere else."""

    async def open(self) -> None:  # noqa: B027 - many stores have nothing to open
        """Make ready; called by the lifespan, or not at all: `apply` must manage without."""

    async def aclose(self) -> None:  # noqa: B027 - or to close
        """Let go of connections and files. The store may be opened again."""

    @abstractmethod
    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        """Replace the record under ``key`` by ``change`` of it, in one step.

        A record whose ``expires_at`` is not after ``now`` (Unix seconds) counts as absent.
        Raises `StoreUnavailable`, promptly, when that cannot be done.
        """

    async def look(self, keys: Sequence[str], *, now: float) -> list[Record | None]:
        """The records under ``keys``, in their order; a store that can ask for all at once does.

        Raises `StoreUnavailable`, promptly, when that cannot be done.
        """
        return [(await self.apply(key, unchanged, now=now)).after for key in keys]

    async def wait(self, key: str, *, timeout: float) -> None:
        """Return when the record may have changed, at the latest after ``timeout`` seconds."""
        await asyncio.sleep(min(timeout, POLL))
