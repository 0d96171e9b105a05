"""Acknowledged rotation: the refresh protocol's sequence. It decides nothing by itself.

What a record means and how it changes is in ``record``; what follows for a request is in
``refresh``. Here is the order: take the lease, ask once, publish before anything else, wake the
others. A refresh is a task of its own, a *flight*: callers only wait for it, so that cancelling
any or all of them stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from . import record as rec
from .errors import (
    InvalidCookie,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)
from .generation import Codec, Generation, Lifetimes, label, renewed
from .oauth import TokenResponse
from .record import Change, Record, Says, key_of
from .refresh import Answer, Token, freshness
from .seal import KeyRing
from .stores import Applied, MemoryStore, RefreshStore
from .user import SessionUser

U = TypeVar("U", bound=SessionUser)

log = logging.getLogger("fastapi_ideal_auth")

COOL_OFF: Final = 5.0
"""Seconds in which nobody asks again after a failure."""
COOL_OFF_MISCONFIGURED: Final = 30.0
"""The same where only an operator can help."""
LONGEST_COOL_OFF: Final = 300.0
"""A ``Retry-After`` is honoured up to here: an hour of it would be an hour of 503s."""
PROMPT: Final = 3.0
"""Seconds a request waits for a flight while its present token is still good."""
MARGIN: Final = 20.0
"""Seconds by which the lease outlasts both tries: for the publish, and for a stalled process."""
PUBLISH_PATIENCE: Final = 1.0
"""Seconds callers wait for a publish that fails; it goes on being retried without them."""
PROVIDER_TIMEOUT: Final = 10.0
"""Seconds one try may take, for a provider that does not say (``provider.timeout``)."""
REMEMBERED: Final = 4096
"""Sessions of which this process remembers the last refresh. A hint: forgetting costs one read."""

Ask = Callable[[str], Awaitable[TokenResponse]]
Revoke = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """The protocol's clock and its waits, all in seconds."""

    clock: Callable[[], float]
    refresh_buffer: float
    provider_timeout: float

    @property
    def lease(self) -> float:
        return 2 * self.provider_timeout + MARGIN

    @property
    def patience(self) -> float:
        """How long a request with an expired token waits: both tries, and a little."""
        return 2 * self.provider_timeout + 2.0

    def token(self, generation: Generation[Any]) -> Token:
        return freshness(
            expires_at=generation.user.expires_at,
            token_at=generation.token_at,
            sid=generation.sid,
            refresh_buffer=self.refresh_buffer,
            now=self.clock(),
        )


class Result(NamedTuple, Generic[U]):
    """How a flight ended. ``retry_at`` is Unix seconds; ``generation`` comes with TOKENS."""

    answer: Answer
    generation: Generation[U] | None = None
    retry_at: float = 0.0


class Wanted(NamedTuple, Generic[U]):
    """What a request wants refreshed: its generation, and how the request came by it."""

    generation: Generation[U]
    presented: int
    """The generation of the cookie that the request carried."""
    at: float
    """When the request arrived."""
    judge: bool
    """Whether it is to be judged as a replay: once a request, as it arrives."""


@dataclass(slots=True)
class _Flight(Generic[U]):
    task: asyncio.Task[Result[U]]
    started: float


class Rotation(Generic[U]):
    """The meeting of requests, store and provider for one `IdealAuth`."""

    def __init__(
        self,
        *,
        ask: Ask,
        revoke: Revoke | None,
        store: RefreshStore,
        when_store_down: Literal["closed", "open"],
        ring: KeyRing,
        codec: Codec[U],
        lifetimes: Lifetimes,
        timing: Timing,
        strict: bool,
    ) -> None:
        self._ask = ask
        self._revoke = revoke
        self.store = store
        self._fallback = MemoryStore() if when_store_down == "open" else None
        self._ring = ring
        self._codec = codec
        self._lifetimes = lifetimes
        self._timing = timing
        self._strict = strict
        self._flights: dict[tuple[bytes, int, bool], _Flight[U]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # Hints about sessions this process refreshed, ended or failed to refresh lately.
        self._newest: OrderedDict[bytes, Generation[U] | None] = OrderedDict()
        self._quiet: OrderedDict[bytes, Result[U]] = OrderedDict()
        self._acknowledged: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        # Generations whose publish the store has not taken yet.
        self._unpublished: dict[bytes, Generation[U]] = {}
        self._complained_until = 0.0

    # -- what a request does ----------------------------------------------------------------------

    async def result(self, wanted: Wanted[U], token: Token) -> Result[U]:
        """Join the flight for this session, or begin it. Waits no longer than its deadline.

        Cancelling the caller leaves the flight alone.
        """
        sid = wanted.generation.sid
        unpublished = self._unpublished.get(sid)
        if unpublished is not None and unpublished.gen > wanted.generation.gen:
            return Result(Answer.TOKENS, unpublished)
        if token is Token.DUE:
            quiet = self._quiet.get(sid)
            if quiet is not None and quiet.retry_at > self._timing.clock():
                return quiet
        flight, began = self._joined(wanted)
        loop = asyncio.get_running_loop()
        if token is Token.DUE:
            # Counted from the flight's start: the present token is good, and a provider that
            # hangs must not hold up every request of the buffer for the same seconds again.
            deadline = flight.started + PROMPT
        else:
            deadline = loop.time() + self._timing.patience
        await asyncio.wait((flight.task,), timeout=max(0.0, deadline - loop.time()))
        if not flight.task.done():
            return Result(Answer.UNAVAILABLE, retry_at=self._timing.clock() + 1)
        if flight.task.cancelled():
            return Result(Answer.UNAVAILABLE, retry_at=self._timing.clock() + 1)
        result = flight.task.result()
        if result.answer is Answer.REJECTED and not began:
            return result._replace(
                answer=Answer.KNOWN_DEAD
            )  # one request clears, the one that asked
        return result

    def _joined(self, wanted: Wanted[U]) -> tuple[_Flight[U], bool]:
        key = (wanted.generation.sid, wanted.generation.gen, wanted.judge)
        loop = asyncio.get_running_loop()
        flight = self._flights.get(key)
        if flight is not None and flight.task.get_loop() is loop:
            return flight, False
        flight = _Flight(self._spawn(self._fly(wanted)), loop.time())
        self._flights[key] = flight
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return flight, True

    def _landed(
        self, key: tuple[bytes, int, bool], flight: _Flight[U], task: asyncio.Task[Result[U]]
    ) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled() and task.result().answer in _FAILURES:
            self._hint(self._quiet, key[0], task.result())

    def known(self, generation: Generation[U]) -> Generation[U] | None:
        """The newest generation this process knows of; ``None`` when it knows the session ended."""
        newest = self._newest.get(generation.sid, generation)
        if newest is None or newest.gen <= generation.gen:
            return newest and generation
        return newest._replace(expires_at=max(newest.expires_at, generation.expires_at))

    async def newest(self, generation: Generation[U]) -> Generation[U] | None:
        """The same after a look into the store. Raises `StoreUnavailable`."""
        applied = await self._apply(generation.sid, _unchanged)
        if applied.after is None:
            return self.known(generation)
        if applied.after.ended:
            return None
        if applied.after.gen <= generation.gen:
            return generation
        return self._opened(applied.after, generation) or generation

    async def acknowledge(self, generation: Generation[U], *, at: float) -> None:
        """Strict detection: write down, once, that a fresh newest generation was presented."""
        key = (generation.sid, generation.gen)
        if key in self._acknowledged:
            return
        try:
            change = partial(rec.acknowledged, gen=generation.gen, at=at)
            await self._apply(generation.sid, change)
        except StoreUnavailable:
            return  # the next presentation tries again
        self._hint(self._acknowledged, key, None)

    async def extended(self, generation: Generation[U]) -> Generation[U]:
        """Keep the record of a touched session as long as the session; answers the newest."""
        change = partial(rec.extended, expires_at=generation.expires_at)
        try:
            _, after = await self._apply(generation.sid, change)
        except StoreUnavailable as error:
            self._store_is_down(error)
            return generation
        if after is None or after.gen <= generation.gen:
            return generation
        return self._opened(after, generation) or generation

    async def end(self, generation: Generation[U], *, revoke: bool) -> None:
        """Write the tombstone, then revoke the newest refresh token; both bounded, best effort."""
        newest: Generation[U] | None = generation
        self._hint(self._newest, generation.sid, None)
        try:
            applied = await self._apply(generation.sid, self._tombstone(generation))
            if applied.before is not None and applied.before.gen > generation.gen:
                newest = self._opened(applied.before, generation)
        except StoreUnavailable as error:
            self._store_is_down(error)
        if revoke:
            await self._revoked((newest or generation).user.refresh_token)

    async def aclose(self) -> None:
        """Let what is under way land: a rotated token that nobody kept would be a sign-out."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timing.lease)

    # -- a flight ---------------------------------------------------------------------------------

    async def _fly(self, wanted: Wanted[U]) -> Result[U]:
        owner = secrets.token_hex(8)
        try:
            return await self._flight(wanted, owner, self.store)
        except StoreUnavailable as error:
            self._store_is_down(error)
        if self._fallback is None:
            return Result(Answer.UNAVAILABLE, retry_at=self._timing.clock() + COOL_OFF)
        return await self._flight(wanted, owner, self._fallback)

    async def _flight(self, wanted: Wanted[U], owner: str, store: RefreshStore) -> Result[U]:
        base = wanted.generation
        key = key_of(base.sid)
        waited, judge = False, wanted.judge
        while True:
            now = self._timing.clock()
            until = now + self._timing.lease
            lease = partial(
                rec.leased,
                gen=base.gen,
                presented=wanted.presented,
                owner=owner,
                at=wanted.at,
                now=now,
                until=until,
                expires_at=base.expires_at,
                strict=self._strict and wanted.judge,
            )
            before, after = await store.apply(key, lease, now=now)
            assert after is not None  # a lease is a record
            meaning = rec.says(
                after,
                gen=base.gen,
                presented=wanted.presented,
                owner=owner,
                at=wanted.at,
                now=now,
                strict=self._strict and wanted.judge,
            )
            if meaning is Says.WAIT:
                waited = True
                await store.wait(key, timeout=max(0.0, after.lease_until - now))
                continue
            if judge:
                self._watch_for_replay(before, wanted)
                judge = False
            match meaning:
                case Says.YOURS:
                    return await self._lead(base, owner, until, store)
                case Says.NEWER:
                    newest = self._opened(after, base)
                    if newest is None:
                        return Result(Answer.KNOWN_DEAD)
                    self._hint(self._newest, newest.sid, newest)
                    if waited or self._timing.token(newest) is Token.FRESH:
                        return Result(Answer.TOKENS, newest)
                    base = newest
                case Says.ENDED | Says.REJECTED:
                    if meaning is Says.ENDED:
                        self._hint(self._newest, base.sid, None)
                    return Result(Answer.KNOWN_DEAD)
                case Says.LATER:
                    return Result(Answer.UNAVAILABLE, retry_at=after.retry_at)
                case Says.REPLAYED:
                    await self._end_replayed(after, base)
                    return Result(Answer.REPLAYED)

    async def _lead(
        self, base: Generation[U], owner: str, until: float, store: RefreshStore
    ) -> Result[U]:
        """Hold the lease: ask the provider, once more at once if in doubt, and tell the others."""
        failure: ProviderError | None = None
        for attempt in (1, 2):
            asked_at = self._timing.clock()
            if asked_at >= until - self._timing.provider_timeout:
                break  # the lease would lapse with the request on its way
            try:
                response = await self._asked(base)
            except ProviderError as error:
                failure = _without_trace(error)
                in_doubt = isinstance(error, ProviderUnavailable) and error.in_doubt
                if in_doubt and attempt == 1:
                    continue
                break
            else:
                newer = renewed(base, response, now=asked_at, lifetimes=self._lifetimes)
                return await self._publish(base, newer, owner, store)
        return await self._failed(base, failure, owner, store)

    async def _asked(self, base: Generation[U]) -> TokenResponse:
        assert base.user.refresh_token is not None  # the caller looked
        where: str
        try:
            async with asyncio.timeout(self._timing.provider_timeout + 1):
                return await self._ask(base.user.refresh_token)
        except ProviderError:
            raise
        except Exception as error:  # a provider of the application's: anything may come out of it
            # The text of a foreign error may hold the token, so only its type and place are told.
            where = "".join(traceback.format_tb(error.__traceback__, -2))
            kind = type(error).__name__
        log.error("the provider's refresh raised %s; treated as unavailable\n%s", kind, where)
        raise ProviderUnavailable(f"the provider raised {kind}", in_doubt=True)

    async def _publish(
        self, base: Generation[U], newer: Generation[U], owner: str, store: RefreshStore
    ) -> Result[U]:
        """Make the new generation known before anybody gets it; go on for as long as it takes."""
        task = self._spawn(self._published(base, newer, owner, store))
        done, _ = await asyncio.wait((task,), timeout=PUBLISH_PATIENCE)
        if done and not task.cancelled():
            result: Result[U] = task.result()
            return result
        # The browser's cookie can carry it meanwhile; the store gets it when it is back.
        self._unpublished[newer.sid] = newer
        task.add_done_callback(lambda _: self._unpublished.pop(newer.sid, None))
        self._hint(self._newest, newer.sid, newer)
        return Result(Answer.TOKENS, newer)

    async def _published(
        self, base: Generation[U], newer: Generation[U], owner: str, store: RefreshStore
    ) -> Result[U]:
        sealed = self._sealed(newer)
        change = partial(
            rec.published,
            owner=owner,
            gen=newer.gen,
            sealed=sealed,
            expires_at=newer.expires_at,
        )
        pause = 0.02
        while True:
            try:
                _, after = await store.apply(key_of(base.sid), change, now=self._timing.clock())
                break
            except StoreUnavailable as error:
                self._store_is_down(error)
                if self._timing.clock() >= newer.expires_at:
                    return Result(Answer.TOKENS, newer)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
        assert after is not None
        if after.ended:
            # Signed out while the request was on its way: nobody may have these.
            self._hint(self._newest, base.sid, None)
            await self._revoked(newer.user.refresh_token)
            return Result(Answer.KNOWN_DEAD)
        if after.sealed != sealed:  # our lease had lapsed and another was quicker
            newer = self._opened(after, base) or newer
        self._hint(self._newest, newer.sid, newer)
        self._quiet.pop(newer.sid, None)
        log.debug("session %s refreshed to generation %d", label(newer.sid), newer.gen)
        return Result(Answer.TOKENS, newer)

    async def _failed(
        self, base: Generation[U], failure: ProviderError | None, owner: str, store: RefreshStore
    ) -> Result[U]:
        now = self._timing.clock()
        match failure:
            case RefreshRejected():
                return await self._rejected(base, owner, store)
            case ProviderUnavailable(refused=True) if self._expired(base):
                return await self._rejected(base, owner, store)
            case ProviderMisconfigured():
                self._complain(_told(failure, base), now)
                result: Result[U] = Result(
                    Answer.MISCONFIGURED, retry_at=now + COOL_OFF_MISCONFIGURED
                )
            case ProviderUnavailable(retry_after=float() | int() as pause):
                result = Result(
                    Answer.UNAVAILABLE,
                    retry_at=now + min(max(pause, COOL_OFF), LONGEST_COOL_OFF),
                )
            case _:
                result = Result(Answer.UNAVAILABLE, retry_at=now + COOL_OFF)
        if result.answer is Answer.UNAVAILABLE:
            log.warning("session %s was not refreshed: %s", label(base.sid), _told(failure, base))
        give_back = partial(rec.released, owner=owner, retry_at=result.retry_at)
        try:
            await store.apply(key_of(base.sid), give_back, now=now)
        except StoreUnavailable as error:
            self._store_is_down(error)  # the lease lapses by itself
        return result

    async def _rejected(self, base: Generation[U], owner: str, store: RefreshStore) -> Result[U]:
        """Believe it after one more look: a newer generation may have come meanwhile."""
        change = partial(
            rec.rejected, owner=owner, gen=base.gen, expires_at=self._tombstone_until(base)
        )
        _, after = await store.apply(key_of(base.sid), change, now=self._timing.clock())
        assert after is not None
        if after.ended:
            return Result(Answer.KNOWN_DEAD)
        if after.gen > base.gen:
            newest = self._opened(after, base)
            if newest is not None:
                return Result(Answer.TOKENS, newest)
        log.info("session %s: the provider rejected its refresh token", label(base.sid))
        return Result(Answer.REJECTED)

    # -- replays ----------------------------------------------------------------------------------

    def _watch_for_replay(self, before: Record | None, wanted: Wanted[U]) -> None:
        if before is None or before.ended:
            return
        if rec.is_replay(before, presented=wanted.presented, at=wanted.at):
            log.warning(
                "session %s: generation %d was presented again after generation %d: a copied "
                "cookie, or a very late one",
                label(wanted.generation.sid),
                wanted.presented,
                before.seen,
            )

    async def _end_replayed(self, record: Record, base: Generation[U]) -> None:
        newest = (self._opened(record, base) if record.gen > base.gen else None) or base
        await self.end(newest, revoke=False)
        self._spawn(self._revoked(newest.user.refresh_token))  # nobody need wait for it

    # -- small parts ------------------------------------------------------------------------------

    def _expired(self, generation: Generation[U]) -> bool:
        expires_at = generation.user.expires_at
        return expires_at is not None and expires_at <= self._timing.clock()

    async def _apply(self, sid: bytes, change: Change) -> Applied:
        key, now = key_of(sid), self._timing.clock()
        if self._fallback is not None:
            try:
                return await self.store.apply(key, change, now=now)
            except StoreUnavailable:
                return await self._fallback.apply(key, change, now=now)
        return await self.store.apply(key, change, now=now)

    def _sealed(self, generation: Generation[U]) -> bytes:
        data = self._codec.pack(generation)
        return self._ring.seal(data, purpose="record", binding=generation.sid)

    def _opened(self, record: Record, base: Generation[U]) -> Generation[U] | None:
        """The record's generation, living as long as ``base``; ``None`` if no secret opens it."""
        if record.sealed is None:
            return None
        try:
            data = self._ring.open(record.sealed, purpose="record", binding=base.sid)
            newest = self._codec.unpack(data)
        except InvalidCookie:
            log.error(
                "session %s: its record was sealed with a secret that is gone", label(base.sid)
            )
            return None
        return newest._replace(expires_at=max(newest.expires_at, base.expires_at))

    def _tombstone(self, generation: Generation[U]) -> Change:
        return partial(rec.ended, expires_at=self._tombstone_until(generation))

    def _tombstone_until(self, generation: Generation[U]) -> int:
        """No copy of this session's cookie, however touched, is good after this."""
        latest = max(
            generation.expires_at,
            int(self._timing.clock()) + self._lifetimes.of(generation.remember),
        )
        return latest if generation.deadline is None else min(latest, generation.deadline)

    async def _revoked(self, refresh_token: str | None) -> None:
        if self._revoke is None or refresh_token is None:
            return
        try:
            async with asyncio.timeout(self._timing.provider_timeout):
                await self._revoke(refresh_token)
        except Exception as error:  # best effort, and the error's text may hold the token
            log.warning("a refresh token was not revoked: %s", type(error).__name__)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _hint(self, hints: OrderedDict[Any, Any], key: object, value: object) -> None:
        hints[key] = value
        hints.move_to_end(key)
        if len(hints) > REMEMBERED:
            hints.popitem(last=False)

    def _complain(self, error: str, now: float) -> None:
        if now >= self._complained_until:
            self._complained_until = now + COOL_OFF_MISCONFIGURED
            log.error("no session can be refreshed: %s", error)

    def _store_is_down(self, error: StoreUnavailable) -> None:
        log.warning("%s", error)


_FAILURES: Final = (Answer.UNAVAILABLE, Answer.MISCONFIGURED)


def _unchanged(record: Record | None) -> Record | None:
    return record


def _told(error: ProviderError | None, base: Generation[Any]) -> str:
    """What a log may say of it: a provider of the application's might have put the token in."""
    text = "the lease ran out first" if error is None else str(error)
    return type(error).__name__ if (base.user.refresh_token or "\0") in text else text


def _without_trace(error: ProviderError) -> ProviderError:
    """Frames of a traceback hold the refresh token; only the judgement is kept."""
    return error.with_traceback(None)
