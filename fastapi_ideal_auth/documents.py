"""A document of the provider's, kept: its metadata, its keys.

Decides when it is fetched again and what counts meanwhile. Does not know what is in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from .errors import ProviderError, ProviderMisconfigured, ProviderUnavailable

T = TypeVar("T")

log = logging.getLogger("fastapi_ideal_auth")

FRESH: Final = 3600.0
"""Seconds a document counts as it is. A new key is found sooner, by its unknown ``kid``."""

PAUSE: Final = 60.0
"""Seconds between two tries to replace a document that is there: after a failure, and for tokens
that name a key nobody knows, which anybody can make up."""


class Document(Generic[T]):
    """One document: fetched when it is first asked for, once for however many wait for it.

    ``fetch``
        Gets it; raises `ProviderError`, whose ``in_doubt`` is dropped: nothing of a grant was sent.
    ``clock``
        Returns seconds that pass.

    An old one goes on serving while the provider is down.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._held: tuple[T, float] | None = None
        self._next_try = 0.0
        self._next_renewal = 0.0
        self._task: asyncio.Task[T | ProviderError] | None = None

    async def get(self, patience: float) -> T:
        """The document, of the last hour if the provider answers.

        ``patience``: seconds to wait for it. Raises `ProviderUnavailable` or
        `ProviderMisconfigured` where there has never been one.
        """
        if self._held is None:
            return await self._fetched(patience)
        value, fetched_at = self._held
        now = self._clock()
        # Beyond the first who finds it old nobody waits: the old one is good enough.
        fresh = 0 <= now - fetched_at < FRESH  # a clock that was set back makes everything old
        if not fresh and not _pausing(self._next_try, now) and not self._flying():
            self._next_try = now + PAUSE
            try:
                return await self._fetched(patience)
            except ProviderError as error:
                log.warning("%s; the one that is known goes on serving", error)
        return value

    async def renewed(self, patience: float) -> T:
        """The document as it is now.

        Raises as `get` does; `ProviderUnavailable` too when it was renewed a moment ago.
        """
        if self._flying():
            return await self._fetched(patience)
        now = self._clock()
        if _pausing(self._next_renewal, now):
            raise ProviderUnavailable(
                "what is not known was looked for a moment ago",
                retry_after=self._next_renewal - now,
            )
        self._next_renewal = now + PAUSE
        return await self._fetched(patience)

    def _flying(self) -> bool:
        task = self._task
        return (
            task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()
        )

    async def _fetched(self, patience: float) -> T:
        if not self._flying():
            self._task = asyncio.get_running_loop().create_task(self._fly())
        task = self._task
        assert task is not None
        # A caller that goes away takes nothing from the others.
        done, _ = await asyncio.wait((task,), timeout=patience)
        if not done or task.cancelled():
            raise ProviderUnavailable("the provider took too long to say what it is")
        result = task.result()
        if isinstance(result, ProviderError):
            raise _again(result)
        return result

    async def _fly(self) -> T | ProviderError:
        try:
            value = await self._fetch()
        except ProviderError as error:
            return error
        self._held = value, self._clock()
        return value


def _pausing(until: float, now: float) -> bool:
    return 0 < until - now <= PAUSE


def _again(error: ProviderError) -> ProviderError:
    """The same for each who waited: an error that is raised twice collects two histories."""
    if isinstance(error, ProviderUnavailable):
        return ProviderUnavailable(str(error), retry_after=error.retry_after)
    return ProviderMisconfigured(str(error))
