"""Sessions ended from afar: notices written, looked up, and remembered for a while.

What a notice means and what it is found by is in ``notices``; here is when the store is asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar

from . import notices
from .errors import StoreUnavailable
from .generation import Generation, Lifetimes, party
from .guarded import GuardedStore
from .record import Record, key_of
from .seal import KeyRing
from .user import SessionUser

U = TypeVar("U", bound=SessionUser)

log = logging.getLogger("fastapi_ideal_auth")

REMEMBERED: Final = 4096
"""Sessions of which this process remembers when it last looked."""
CLOCKS_APART: Final = 30.0
"""Seconds by which hosts' clocks may differ: what began a moment ago on a host whose clock is ahead
ends too. Who signs in afterwards is seen to begin after that (`Endings.after_notices`)."""


class Endings(Generic[U]):
    """The notices of one `IdealAuth`.

    ``every``: seconds for which a look holds in this process; ``None``: sessions are looked up
    when their token is due, and not before.
    """

    def __init__(
        self,
        *,
        store: GuardedStore,
        ring: KeyRing,
        cookie_name: str,
        lifetimes: Lifetimes,
        clock: Callable[[], float],
        every: float | None,
    ) -> None:
        self._store = store
        self._ring = ring
        self._cookie_name = cookie_name
        self._longest = max(lifetimes.max_age, lifetimes.remember_max_age)
        self._clock = clock
        self.every = every
        self._looked: OrderedDict[bytes, float] = OrderedDict()
        self.has_written = False
        self._looks: dict[bytes, asyncio.Task[bool]] = {}

    # -- writing ----------------------------------------------------------------------------------

    async def end_user(self, user_id: str) -> None:
        """End what a user has begun until now. Raises `StoreUnavailable`."""
        await self._write(notices.of_user(self._ring, self._cookie_name, user_id))

    async def end_at_provider(self, issuer: str, sub: str | None, sid: str | None) -> None:
        """End what a logout token names: a session at the provider, or all of a subject's.

        Where it names both, a session of ours whose ``sid`` the provider never told ends too.
        Raises `StoreUnavailable`.
        """
        subject = None if sub is None else party(issuer, "sub", sub)
        named = subject if sid is None else party(issuer, "sid", sid)
        for ended in (named, subject and sid and notices.unnamed(subject)):
            if ended:
                await self._write(notices.of_party(self._ring, self._cookie_name, ended))

    async def _write(self, names: list[str]) -> None:
        self.has_written = True
        moment = self._clock() + CLOCKS_APART
        # By then whatever began before is over, or has been refreshed or touched, and so seen.
        notice = partial(notices.noticed, moment=moment, expires_at=int(moment) + self._longest + 1)
        self._looked.clear()  # here at least nobody goes on believing the last look
        for name in names:
            await self._store.change(name, notice)

    def forget(self, sid: bytes) -> None:
        """This process ended the session itself: its last look does not hold any more."""
        self._looked.pop(sid, None)

    async def is_used(self, issuer: str, jti: str) -> bool:
        """Whether a logout token was used before. Raises `StoreUnavailable`."""
        found = await self._store.look(notices.of_token(self._ring, self._cookie_name, issuer, jti))
        return any(found)

    async def use(self, issuer: str, jti: str, *, until: int) -> bool:
        """Whether it had not been used before; from now on it has. Raises `StoreUnavailable`."""
        name = notices.of_token(self._ring, self._cookie_name, issuer, jti)[0]
        used = partial(notices.noticed, moment=self._clock(), expires_at=until)
        return (await self._store.change(name, used)).before is None

    # -- reading ----------------------------------------------------------------------------------

    async def after_notices(self, begun: Generation[U]) -> Generation[U]:
        """A session that begins now, seen to begin after every notice that is there.

        Times are whole seconds, and who is sent out and in again takes less than one. While the
        store is down its notices cannot be known.
        """
        try:
            found = await self._store.look(self._names(begun))
        except StoreUnavailable as error:
            log.warning("%s", error)
            return begun
        latest = max((notice.seen_at for notice in found if notice is not None), default=-math.inf)
        return begun if begun.issued_at > latest else begun._replace(issued_at=int(latest) + 1)

    async def reached(self, generation: Generation[U]) -> bool:
        """Whether a notice ends this session. Raises `StoreUnavailable`."""
        return notices.ends(await self._store.look(self._names(generation)), generation)

    async def has_ended(self, generation: Generation[U]) -> bool:
        """The same, or its own tombstone; looked up if the last look is older than ``every``.

        Raises `StoreUnavailable`.
        """
        if self.every is None:
            return False
        sid = generation.sid
        # A clock that was set back makes every look old.
        if 0 <= self._clock() - self._looked.get(sid, -math.inf) < self.every:
            return False
        look = self._looks.get(sid)
        if look is None or look.get_loop() is not asyncio.get_running_loop():
            look = self._begin(sid, self._look(generation))
        return await asyncio.shield(look)

    def _begin(self, sid: bytes, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        look = asyncio.get_running_loop().create_task(work)
        self._looks[sid] = look

        def landed(done: asyncio.Task[bool]) -> None:
            if self._looks.get(sid) is done:
                del self._looks[sid]
            if not done.cancelled():
                done.exception()  # whoever waits is told; nobody may be waiting any more

        look.add_done_callback(landed)
        return look

    async def _look(self, generation: Generation[U]) -> bool:
        asked = self._clock()
        keys = [key_of(generation.sid), *self._names(generation)]
        own, *found = await self._store.look(keys)
        if _is_tombstone(own) or notices.ends(found, generation):
            return True
        self._looked[generation.sid] = asked
        self._looked.move_to_end(generation.sid)
        while len(self._looked) > REMEMBERED:
            self._looked.popitem(last=False)
        return False

    def _names(self, generation: Generation[U]) -> list[str]:
        return notices.names(self._ring, self._cookie_name, generation)


def _is_tombstone(record: Record | None) -> bool:
    return record is not None and record.ended
