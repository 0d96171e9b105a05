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
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypedDict, TypeVar

from . import record as rec
from .endings import Endings
from .errors import (
    CookieTooLarge,
    InvalidCookie,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)
from .events import Event, EventKind
from .generation import Codec, Generation, Lifetimes, is_of, label, lasting, renewed
from .guarded import GuardedStore
from .oauth import TokenResponse, checked_response
from .record import LONGEST_COOL_OFF, Change, Record, Says, key_of
from .refresh import Answer, Token, freshness
from .seal import KeyRing
from .stores import Applied, MemoryStore, unchanged
from .user import TOKENS, SessionUser

U = TypeVar("U", bound=SessionUser)

log = logging.getLogger("fastapi_ideal_auth")

COOL_OFF: Final = 5.0
"""Seconds in which nobody asks again after a failure."""
COOL_OFF_MISCONFIGURED: Final = 30.0
"""The same where only an operator can help."""
PROMPT: Final = 3.0
"""Seconds a request waits for a flight while its present token is still good."""
MARGIN: Final = 20.0
"""Seconds by which the lease outlasts both tries: for the publish, and for a stalled process."""
VERIFY_PATIENCE: Final = 2.0
"""Seconds in which a refreshed ID token is verified, at most: the publish waits for it."""
PUBLISH_PATIENCE: Final = 1.0
"""Seconds callers wait for a publish that fails; it goes on being retried without them."""
END_PATIENCE: Final = 5.0
"""Seconds a sign-out waits for store and provider; it goes on without the browser."""
PROVIDER_TIMEOUT: Final = 10.0
"""Seconds one try may take, for a provider that does not say (``provider.timeout``)."""
LONGEST_PROVIDER_TIMEOUT: Final = 300.0
"""The same at most: a lease of twice that is as long as a record can hold one."""
REMEMBERED: Final = 4096
"""Sessions of which this process remembers the last refresh. A hint: forgetting costs one read."""

Revoke = Callable[[str], Awaitable[object]]


class Ask(Protocol):
    """Asks the provider for new tokens; for one ``resource`` (RFC 8707) where one is named."""

    def __call__(self, refresh_token: str, *, resource: str | None) -> Awaitable[object]: ...


class Verify(Protocol):
    """Looks whether new tokens are still of whom the session is of.

    Answers what to keep of the response. Raises `RefreshRejected` for another's, or forged, ones.
    """

    def __call__(
        self, response: TokenResponse, *, id_token: str | None, now: float
    ) -> Awaitable[TokenResponse]: ...


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

    def token(self, generation: Generation[Any], resource: str | None = None) -> Token:
        """How fresh the user's access token is, or the one for a further resource."""
        expires_at, token_at = generation.user.expires_at, generation.token_at
        if resource is not None:
            held = generation.token_for(resource)
            if held is None:
                return Token.EXPIRED
            expires_at, token_at = held.expires_at, held.token_at
        return freshness(
            expires_at=expires_at,
            token_at=token_at,
            sid=generation.sid,
            refresh_buffer=self.refresh_buffer,
            now=self.clock(),
        )


class Result(NamedTuple, Generic[U]):
    """How a flight ended. ``retry_at`` is Unix seconds; ``generation`` comes with TOKENS, and with
    REJECTED: the one whose refresh token was rejected."""

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
    resource: str | None = None
    """The resource whose access token is due; ``None``: the user's own is."""


class _Asking(TypedDict):
    """What a record is read for; see `record.says`."""

    gen: int
    presented: int
    owner: str
    at: float
    now: float
    strict: bool


_Key = tuple[bytes, int, bool, str | None]


@dataclass(slots=True)
class _Flight(Generic[U]):
    task: asyncio.Task[Result[U]]
    started: float


class _AnotherIdentity(RefreshRejected):
    """The new tokens are somebody else's, and revoked; the session's own is spent."""


class Rotation(Generic[U]):
    """The meeting of requests, store and provider for one `IdealAuth`."""

    def __init__(
        self,
        *,
        ask: Ask,
        verify: Verify | None,
        revoke: Revoke | None,
        store: GuardedStore,
        endings: Endings[U],
        when_store_down: Literal["closed", "open"],
        ring: KeyRing,
        codec: Codec[U],
        lifetimes: Lifetimes,
        timing: Timing,
        strict: bool,
        emit: Callable[[Event], None],
    ) -> None:
        self._ask = ask
        self._verify = verify
        self._revoke = revoke
        self._store = store
        self.endings = endings
        self._fallback = (
            GuardedStore(MemoryStore(), timing.clock) if when_store_down == "open" else None
        )
        self._ring = ring
        self._codec = codec
        self._lifetimes = lifetimes
        self._timing = timing
        self._strict = strict
        self._emit = emit
        self._flights: dict[_Key, _Flight[U]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # Hints about sessions this process refreshed or saw ended lately. An ended one never comes
        # back, so whatever lands later finds it here.
        self._newest: OrderedDict[bytes, Generation[U]] = OrderedDict()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._acknowledged: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        # Resources that a session was refused, and until when nobody asks again.
        self._refusals: OrderedDict[tuple[bytes, str | None], float] = OrderedDict()
        # Generations whose publish the store has not taken yet.
        self._unpublished: dict[bytes, Generation[U]] = {}
        self._complained_until = 0.0

    # -- what a request does ----------------------------------------------------------------------

    async def result(self, wanted: Wanted[U], token: Token) -> Result[U]:
        """Join the flight for this session, or begin it. Waits no longer than its deadline.

        Cancelling the caller leaves the flight alone.
        """
        sid = wanted.generation.sid
        if sid in self._ended:
            return Result(Answer.KNOWN_DEAD)
        unpublished = self._unpublished.get(sid)
        if unpublished is not None and _is_answer(unpublished, wanted.generation, wanted.resource):
            return await self._still_alive(unpublished)
        refused_until = self._refusals.get((sid, wanted.resource), 0.0)
        if 0 < refused_until - self._timing.clock() <= COOL_OFF_MISCONFIGURED:
            return Result(Answer.MISCONFIGURED, retry_at=refused_until)
        flight, began = self._joined(wanted)
        loop = asyncio.get_running_loop()
        joined_at = loop.time()
        if token is Token.DUE:
            # Counted from the flight's start: the present token is good, and a provider that
            # hangs must not hold up every request of the buffer for the same seconds again.
            deadline = flight.started + PROMPT
        else:
            deadline = loop.time() + self._timing.patience
        await asyncio.wait((flight.task,), timeout=max(0.0, deadline - loop.time()))
        if not flight.task.done() or flight.task.cancelled():
            return Result(Answer.UNAVAILABLE, retry_at=self._timing.clock() + 1)
        result = flight.task.result()
        if result.answer is Answer.TOKENS and not began:
            self._tell(EventKind.JOINED, sid, result.generation, loop.time() - joined_at)
        if result.answer is Answer.REJECTED and not began:
            # One request clears the cookie: the one that asked.
            return result._replace(answer=Answer.KNOWN_DEAD)
        return result

    async def _still_alive(self, unpublished: Generation[U]) -> Result[U]:
        """What the store has not taken yet, unless it has taken a sign-out meanwhile."""
        with suppress(StoreUnavailable):
            _, record = await self._change(unpublished.sid, unchanged)
            if record is not None and record.ended:
                self._has_ended(unpublished.sid)
                return Result(Answer.KNOWN_DEAD)
        return Result(Answer.TOKENS, unpublished)

    def _joined(self, wanted: Wanted[U]) -> tuple[_Flight[U], bool]:
        key = (wanted.generation.sid, wanted.generation.gen, wanted.judge, wanted.resource)
        loop = asyncio.get_running_loop()
        flight = self._flights.get(key)
        if flight is not None and flight.task.get_loop() is loop:
            return flight, False
        flight = _Flight(self._spawn(self._fly(wanted)), loop.time())
        self._flights[key] = flight

        def landed(_: object) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight.task.add_done_callback(landed)
        return flight, True

    def known(self, generation: Generation[U]) -> Generation[U] | None:
        """The newest generation this process knows of; ``None`` when it knows the session ended."""
        if generation.sid in self._ended:
            return None
        newest = self._newest.get(generation.sid)
        if newest is None or newest.gen <= generation.gen:
            return generation
        return _as_long_as(generation, newest)

    def is_published(self, generation: Generation[U]) -> bool:
        """Whether other workers can find it: not what the store has not taken yet."""
        held = self._unpublished.get(generation.sid)
        return held is None or held.gen != generation.gen

    async def newest(self, generation: Generation[U]) -> Generation[U] | None:
        """The same after a look into the store. Raises `StoreUnavailable`."""
        _, after = await self._change_or_tell(generation.sid, unchanged)
        if after is None:
            return self.known(generation)
        return self._newer_of(after, generation)

    async def keep(self, generation: Generation[U]) -> None:
        """Put a generation whose cookie carries no tokens where every worker finds them.

        Raises `StoreUnavailable`: a cookie without tokens must not go out before.
        """
        change = partial(
            rec.published,
            owner="",
            gen=generation.gen,
            sealed=self._sealed(generation),
            expires_at=generation.expires_at,
        )
        await self._change_or_tell(generation.sid, change)
        self._remember(generation)

    async def completed(self, generation: Generation[U], *, at: float) -> Generation[U] | None:
        """The generation with its tokens, or a newer one; ``None`` where no record has them.

        A generation never changes, so what this process saw once it need not read again. ``at``:
        when the cookie arrived, for an older one is judged as a replay here. Raises
        `StoreUnavailable`.
        """
        if generation.sid in self._ended:
            return None
        unpublished = self._unpublished.get(generation.sid)
        if unpublished is not None and unpublished.gen > generation.gen:
            return (await self._still_alive(unpublished)).generation
        held = self._newest.get(generation.sid)
        if held is None or held.gen != generation.gen:
            _, record = await self._change_or_tell(generation.sid, unchanged)
            if record is None or record.ended or record.gen < generation.gen:
                return None
            if not await self._may_go_on(record, generation, at):
                return None
            held = self._opened(record, generation)
            if held is None:
                return None
            self._remember(held)
            if held.gen > generation.gen and self._timing.token(held) is Token.FRESH:
                self._tell(EventKind.HANDED_OVER, held.sid, held)
        if held.gen == generation.gen:
            held = _with_fields_of(generation, held)
        return _as_long_as(generation, held)

    async def acknowledge(self, generation: Generation[U], *, at: float) -> None:
        """Strict detection: write down, once, that a fresh newest generation was presented."""
        key = (generation.sid, generation.gen)
        if key in self._acknowledged:
            return
        try:
            change = partial(rec.acknowledged, gen=generation.gen, at=at)
            _, after = await self._change_or_tell(generation.sid, change)
        except StoreUnavailable:
            return  # the next presentation tries again
        # Without a record there was no refresh, and so nothing older than the first to look for.
        # With one that lags behind, the publish is still on its way: look again next time.
        done = generation.gen == 1 if after is None else after.ended or after.gen >= generation.gen
        if done:
            _hint(self._acknowledged, key, None)

    async def extended(self, generation: Generation[U], *, at: float) -> Generation[U] | None:
        """Keep the record of a touched session as long as the session; answers the newest
        generation, ``None`` for a session that has ended. ``at`` is as in `completed`."""
        change = partial(rec.extended, expires_at=generation.expires_at)
        try:
            (_, after), noticed = await asyncio.gather(
                self._change(generation.sid, change), self._noticed(generation, self._store)
            )
        except StoreUnavailable as error:
            self._store_is_down(error)
            return self.known(generation)
        if noticed:
            await self._put_out(after, generation)
            return None
        if after is None:
            return self.known(generation)
        if not after.ended and not await self._may_go_on(after, generation, at):
            return None
        return self._newer_of(after, generation)

    def _newer_of(self, record: Record, generation: Generation[U]) -> Generation[U] | None:
        if record.ended or generation.sid in self._ended:
            self._has_ended(generation.sid)
            return None
        if rec.is_dead(record, generation.gen):
            return None  # and a new sign-in need not have passed by here
        if record.gen <= generation.gen:
            return generation
        return self._opened(record, generation) or generation

    async def end(self, generation: Generation[U], *, revoke: bool) -> None:
        """Write the tombstone, then revoke the newest refresh token.

        Best effort, and a task of its own: a client that goes away, a store or a provider that
        hangs does not undo it, and nobody waits longer than `END_PATIENCE` seconds for it.
        """
        self._has_ended(generation.sid)  # first, so that no refresh that lands now is handed out
        await asyncio.wait((self._spawn(self._end(generation, revoke)),), timeout=END_PATIENCE)

    async def _end(self, generation: Generation[U], revoke: bool) -> None:
        newest: Generation[U] | None = None
        try:
            before, _ = await self._change(generation.sid, self._tombstone(generation))
            if before is not None and (before.gen > generation.gen or not generation.complete):
                newest = self._opened(before, generation)
        except StoreUnavailable as error:
            self._store_is_down(error)
        if revoke:
            await self._revoked((newest or generation).user.refresh_token)

    def forsake(self, refresh_token: str | None) -> None:
        """Revoke a token that no session will hold, without waiting for it."""
        self._spawn(self._revoked(refresh_token))

    def _has_ended(self, sid: bytes) -> None:
        _hint(self._ended, sid, None)
        self.endings.forget(sid)
        self._newest.pop(sid, None)
        self._unpublished.pop(sid, None)

    async def aclose(self) -> None:
        """Let what is under way land: a rotated token that nobody kept would be a sign-out."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timing.lease)

    # -- a flight ---------------------------------------------------------------------------------

    async def _fly(self, wanted: Wanted[U]) -> Result[U]:
        owner = secrets.token_hex(8)
        retry_at = self._timing.clock() + COOL_OFF
        try:
            return await self._flight(wanted, owner, self._store)
        except StoreUnavailable as error:
            self._store_is_down(error)
        except Exception as error:
            # A flight has no caller of its own to raise to; its waiters get an answer.
            _log_without_values("a refresh failed", error)
            return Result(Answer.UNAVAILABLE, retry_at=retry_at)
        if self._fallback is None:
            return Result(Answer.UNAVAILABLE, retry_at=retry_at)
        return await self._flight(wanted, owner, self._fallback)

    async def _flight(self, wanted: Wanted[U], owner: str, store: GuardedStore) -> Result[U]:
        base = wanted.generation
        began = asyncio.get_running_loop().time()
        waited, judge = False, wanted.judge
        noticed = self._spawn(self._noticed(base, store))  # costs no time beside the lease
        while True:
            now = self._timing.clock()
            until = now + self._timing.lease
            asking = _Asking(
                gen=base.gen,
                presented=wanted.presented,
                owner=owner,
                at=wanted.at,
                now=now,
                strict=self._strict and wanted.judge,
            )
            lease = partial(rec.leased, **asking, until=until, expires_at=base.expires_at)
            before, after = await self._change(base.sid, lease, store)
            assert after is not None  # a lease is a record
            meaning = rec.says(after, **asking)
            if meaning is Says.WAIT:
                waited = True  # and at once: what changes before the wait begins wakes nobody
                await store.wait(key_of(base.sid), timeout=max(0.0, after.lease_until - now))
                continue
            ended = False if meaning is Says.ENDED else await noticed
            if ended is None and meaning in (Says.YOURS, Says.NEWER):
                # Closed: a sign-out from afar that cannot be seen may be there.
                release = partial(rec.released, owner=owner, retry_at=0.0)
                await self._change(base.sid, release, store)
                raise StoreUnavailable("the refresh store did not say who has been signed out")
            if ended:
                log.info("session %s was ended from afar", label(base.sid))
                await self._put_out(after, base)
                return Result(Answer.KNOWN_DEAD)
            if judge:
                self._watch_for_replay(before, wanted)
                judge = False
            match meaning:
                case Says.YOURS:
                    held = await self._held_in_fallback(base, store)
                    if held is None:
                        return await self._lead(base, owner, until, store, wanted.resource)
                    result = await self._publish(base, held, owner, store)
                    if result.answer is not Answer.TOKENS or self._serves(held, wanted.resource):
                        return result
                    base = held
                case Says.NEWER:
                    newest = self._opened(after, base)
                    if newest is None:
                        return Result(Answer.KNOWN_DEAD)
                    self._remember(newest)
                    waited = waited and _is_answer(newest, base, wanted.resource)
                    if waited or self._serves(newest, wanted.resource):
                        if waited:
                            self._tell(EventKind.JOINED, newest.sid, newest, _since(began))
                        else:
                            self._tell(EventKind.HANDED_OVER, newest.sid, newest)
                        return Result(Answer.TOKENS, newest)
                    base = newest
                case Says.ENDED | Says.REJECTED:
                    if meaning is Says.ENDED:
                        self._has_ended(base.sid)
                    return Result(Answer.KNOWN_DEAD)
                case Says.LATER:
                    return Result(Answer.UNAVAILABLE, retry_at=after.retry_at)
                case Says.REPLAYED:
                    await self._put_out(after, base)
                    return Result(Answer.REPLAYED)

    def _serves(self, generation: Generation[U], resource: str | None) -> bool:
        return self._timing.token(generation, resource) is Token.FRESH

    async def _noticed(self, base: Generation[U], store: GuardedStore) -> bool | None:
        """Whether a notice ends the session; ``None``: the store does not say."""
        if store is self._fallback:
            return False
        try:
            return await self.endings.reached(base)
        except StoreUnavailable:
            return None  # where it is down, the lease beside it tells of it

    async def _held_in_fallback(
        self, base: Generation[U], store: GuardedStore
    ) -> Generation[U] | None:
        """What this process refreshed on its own while the store was down (``"open"``)."""
        if self._fallback is None or store is self._fallback:
            return None
        _, held = await self._change(base.sid, unchanged, self._fallback)
        return None if held is None or held.gen <= base.gen else self._opened(held, base)

    async def _lead(
        self,
        base: Generation[U],
        owner: str,
        until: float,
        store: GuardedStore,
        resource: str | None,
    ) -> Result[U]:
        """Hold the lease: ask the provider, once more at once if in doubt, and tell the others."""
        failure: ProviderError | None = None
        began = asyncio.get_running_loop().time()
        for attempt in (1, 2):
            asked_at = self._timing.clock()
            if asked_at >= until - self._timing.provider_timeout:
                break  # the lease would lapse with the request on its way
            try:
                response = await self._asked(base, resource)
                response = await self._verified(base, response, asked_at)
                newer = self._renewed(base, response, asked_at, resource)
            except ProviderError as error:
                failure = error.with_traceback(None)  # its frames hold the refresh token
                in_doubt = isinstance(error, ProviderUnavailable) and error.in_doubt
                if in_doubt:
                    self._tell(EventKind.IN_DOUBT, base.sid, base, _since(began))
                if in_doubt and attempt == 1:
                    continue
                break
            else:
                result = await self._publish(base, newer, owner, store)
                if result.answer is Answer.TOKENS:
                    self._tell(EventKind.REFRESHED, base.sid, result.generation, _since(began))
                return result
        if resource is not None and not _is_of_session(failure):
            return await self._refused(base, failure, owner, store, resource)
        return await self._failed(base, failure, owner, store, began)

    async def _asked(self, base: Generation[U], resource: str | None) -> TokenResponse:
        assert base.user.refresh_token is not None  # the caller looked
        try:
            async with asyncio.timeout(self._timing.provider_timeout + 1):
                answer = await self._ask(base.user.refresh_token, resource=resource)
                return checked_response(answer)
        except ProviderError:
            raise
        except Exception as error:  # a provider of the application's: anything may come out of it
            _log_without_values("the provider's refresh() failed", error)
            kind = type(error).__name__
        raise ProviderUnavailable(f"the provider raised {kind}", in_doubt=True)

    async def _verified(
        self, base: Generation[U], response: TokenResponse, asked_at: float
    ) -> TokenResponse:
        """The response, seen to be of the session's own user.

        What cannot be looked at now is kept without its ID token: the tokens matter more. Another
        user's are revoked before they are forgotten, and the session is refused like one whose
        grant is dead.
        """
        if self._verify is None or response.id_token is None:
            return response
        try:
            async with asyncio.timeout(VERIFY_PATIENCE):
                verified = await self._verify(response, id_token=base.user.id_token, now=asked_at)
            if base.user.id_token is not None or is_of(base, verified.id_token):
                return verified
        except RefreshRejected:
            pass
        except Exception as error:
            _log_without_values("a refreshed ID token was not verified", error)
            return replace(response, id_token=None)
        log.error("session %s: its refresh brought another identity", label(base.sid))
        await self._revoked(response.refresh_token or base.user.refresh_token)
        raise _AnotherIdentity("the refreshed ID token is not of the session's user")

    def _renewed(
        self,
        base: Generation[U],
        response: TokenResponse,
        asked_at: float,
        resource: str | None,
    ) -> Generation[U]:
        """The next generation, seen to open again: what cannot be read back is no session."""
        newer = renewed(base, response, now=asked_at, lifetimes=self._lifetimes, resource=resource)
        try:
            self._codec.unpack(self._codec.pack(newer))
        except (CookieTooLarge, InvalidCookie):
            pass
        else:
            return newer
        raise ProviderMisconfigured("the provider's tokens do not fit into a session")

    async def _publish(
        self, base: Generation[U], newer: Generation[U], owner: str, store: GuardedStore
    ) -> Result[U]:
        """Make the new generation known before anybody gets it; go on for as long as it takes."""
        task = self._spawn(self._published(base, newer, owner, store))
        await asyncio.wait((task,), timeout=PUBLISH_PATIENCE)
        if task.done() and not task.cancelled():
            result: Result[U] = task.result()
            return result
        if newer.sid in self._ended:
            return Result(Answer.KNOWN_DEAD)
        # The browser's cookie can carry it meanwhile; the store gets it when it is back.
        self._unpublished[newer.sid] = newer
        task.add_done_callback(lambda _: self._unpublished.pop(newer.sid, None))
        self._remember(newer)
        return Result(Answer.TOKENS, newer)

    async def _published(
        self, base: Generation[U], newer: Generation[U], owner: str, store: GuardedStore
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
                _, after = await self._change(base.sid, change, store)
                break
            except StoreUnavailable as error:
                self._store_is_down(error)
                if self._timing.clock() >= newer.expires_at:
                    return Result(Answer.TOKENS, newer)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
        assert after is not None
        if after.ended or base.sid in self._ended:
            # Signed out while the request was on its way: nobody may have these.
            self._has_ended(base.sid)
            await self._revoked(newer.user.refresh_token)
            return Result(Answer.KNOWN_DEAD)
        if after.sealed != sealed:  # our lease had lapsed and another was quicker
            newer = self._opened(after, base) or newer
        self._remember(newer)
        log.debug("session %s refreshed to generation %d", label(newer.sid), newer.gen)
        return Result(Answer.TOKENS, newer)

    async def _failed(
        self,
        base: Generation[U],
        failure: ProviderError | None,
        owner: str,
        store: GuardedStore,
        began: float,
    ) -> Result[U]:
        now = self._timing.clock()
        match failure:
            case RefreshRejected():
                return await self._rejected(base, owner, store, began)
            case ProviderUnavailable(refused=True) if self._expired(base):
                return await self._rejected(base, owner, store, began)
            case ProviderMisconfigured():
                self._complain(_told(failure, base), now)
                result: Result[U] = Result(
                    Answer.MISCONFIGURED, retry_at=now + COOL_OFF_MISCONFIGURED
                )
            case ProviderUnavailable(retry_after=float() | int() as pause) if pause > COOL_OFF:
                result = Result(Answer.UNAVAILABLE, retry_at=now + min(pause, LONGEST_COOL_OFF))
            case _:
                result = Result(Answer.UNAVAILABLE, retry_at=now + COOL_OFF)
        self._tell(EventKind.UNAVAILABLE, base.sid, base, _since(began))
        if result.answer is Answer.UNAVAILABLE:
            log.warning("session %s was not refreshed: %s", label(base.sid), _told(failure, base))
        try:
            give_back = partial(rec.released, owner=owner, retry_at=result.retry_at)
            _, after = await self._change(base.sid, give_back, store)
        except StoreUnavailable as error:
            self._store_is_down(error)  # the lease lapses by itself
            return result
        return self._overtaken(after, base) or result

    async def _refused(
        self,
        base: Generation[U],
        failure: ProviderError | None,
        owner: str,
        store: GuardedStore,
        resource: str,
    ) -> Result[U]:
        """One resource is refused: consent or configuration is missing. The session lives on, and
        its own refresh finds out whether the grant is dead."""
        retry_at = self._timing.clock() + COOL_OFF_MISCONFIGURED
        _hint(self._refusals, (base.sid, resource), retry_at)
        self._complain(
            f"no access token for {resource}: {_told(failure, base)}", self._timing.clock()
        )
        with suppress(StoreUnavailable):  # the lease lapses by itself
            await self._change(base.sid, partial(rec.released, owner=owner, retry_at=0.0), store)
        return Result(Answer.MISCONFIGURED, retry_at=retry_at)

    def _overtaken(self, after: Record | None, base: Generation[U]) -> Result[U] | None:
        """A sign-out, or another's newer generation, that came while the provider was asked."""
        if after is None:
            return None
        if after.ended:
            self._has_ended(base.sid)
            return Result(Answer.KNOWN_DEAD)
        if after.gen <= base.gen:
            return None
        if rec.is_dead(after, base.gen):
            return Result(Answer.KNOWN_DEAD)
        newest = self._opened(after, base)
        return None if newest is None else Result(Answer.TOKENS, newest)

    async def _rejected(
        self, base: Generation[U], owner: str, store: GuardedStore, began: float
    ) -> Result[U]:
        """Believe it after one more look: a newer generation may have come meanwhile."""
        change = partial(
            rec.rejected, owner=owner, gen=base.gen, expires_at=self._tombstone_until(base)
        )
        before, after = await self._change(base.sid, change, store)
        overtaken = self._overtaken(after, base)
        if overtaken is not None:
            return overtaken
        if before is not None and rec.is_dead(before, base.gen):
            return Result(Answer.KNOWN_DEAD)  # another was told and clears; our lease had lapsed
        self._tell(EventKind.REJECTED, base.sid, base, _since(began))
        log.info("session %s: the provider rejected its refresh token", label(base.sid))
        return Result(Answer.REJECTED, base)

    # -- replays ----------------------------------------------------------------------------------

    def _watch_for_replay(self, before: Record | None, wanted: Wanted[U]) -> None:
        if before is None or before.ended:
            return
        if rec.is_replay(before, presented=wanted.presented, at=wanted.at):
            self._tell(EventKind.REPLAYED, wanted.generation.sid, wanted.generation)
            log.warning(
                "session %s: generation %d was presented again after generation %d: a copied "
                "cookie, or a very late one",
                label(wanted.generation.sid),
                wanted.presented,
                before.seen,
            )

    async def _may_go_on(self, record: Record, generation: Generation[U], at: float) -> bool:
        """Judge a request that is handed the newest generation without a flight."""
        self._watch_for_replay(record, Wanted(generation, generation.gen, at, judge=True))
        if self._strict and rec.is_replay(record, presented=generation.gen, at=at):
            await self._put_out(record, generation)
            return False
        return True

    async def _put_out(self, record: Record | None, base: Generation[U]) -> None:
        """End a session that nobody signed out of with its own cookie."""
        newer = record is not None and record.gen > base.gen
        newest = (self._opened(record, base) if record and newer else None) or base
        await self.end(newest, revoke=False)
        self.forsake(newest.user.refresh_token)

    # -- small parts ------------------------------------------------------------------------------

    def _expired(self, generation: Generation[U]) -> bool:
        expires_at = generation.user.expires_at
        return expires_at is not None and expires_at <= self._timing.clock()

    async def _change(
        self, sid: bytes, change: Change, store: GuardedStore | None = None
    ) -> Applied:
        """Change a session's record. Raises `StoreUnavailable`."""
        if store is None:
            return await self._change_anywhere(sid, change)
        return await store.change(key_of(sid), change)

    async def _change_or_tell(self, sid: bytes, change: Change) -> Applied:
        """The same for who goes on without the store, or not at all: its failure is told here."""
        try:
            return await self._change(sid, change)
        except StoreUnavailable as error:
            self._store_is_down(error)
            raise

    async def _change_anywhere(self, sid: bytes, change: Change) -> Applied:
        if self._fallback is None:
            return await self._change(sid, change, self._store)
        held = await self._change(sid, change, self._fallback)
        try:
            return await self._change(sid, change, self._store)
        except StoreUnavailable:
            return held

    def _sealed(self, generation: Generation[U]) -> bytes:
        data = self._codec.pack(generation)
        return self._ring.seal(data, purpose="record", binding=generation.sid)

    def _opened(self, record: Record, base: Generation[U]) -> Generation[U] | None:
        """The record's generation, living as long as ``base``; ``None`` if no secret opens it, or
        if it is another than the record says: somebody has written to the store."""
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
        if newest.gen != record.gen:
            log.error("session %s: its record was tampered with", label(base.sid))
            return None
        return _as_long_as(base, newest)

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

    def _remember(self, newest: Generation[U]) -> None:
        known = self._newest.get(newest.sid)
        if newest.sid not in self._ended and (known is None or newest.gen >= known.gen):
            _hint(self._newest, newest.sid, newest)

    def _complain(self, error: str, now: float) -> None:
        if now >= self._complained_until:
            self._complained_until = now + COOL_OFF_MISCONFIGURED
            log.error("sessions cannot be refreshed: %s", error)

    def _store_is_down(self, error: StoreUnavailable) -> None:
        self._emit(Event(EventKind.STORE_DOWN, ""))
        log.warning("%s", error)

    def _tell(
        self,
        kind: EventKind,
        sid: bytes,
        generation: Generation[U] | None,
        seconds: float | None = None,
    ) -> None:
        number = None if generation is None else generation.gen
        self._emit(Event(kind, label(sid), number, seconds))


def _is_of_session(failure: ProviderError | None) -> bool:
    """Whether a failure says as much of the session as of the resource that was asked for."""
    if failure is None or isinstance(failure, _AnotherIdentity):
        return True
    return isinstance(failure, ProviderUnavailable) and not failure.refused


def _is_answer(newer: Generation[Any], older: Generation[Any], resource: str | None) -> bool:
    """Whether the refresh between the two was one of the token that is wanted."""
    if newer.gen <= older.gen:
        return False
    if resource is not None:
        return newer.token_for(resource) not in (None, older.token_for(resource))
    own, before = newer.user.access_token, older.user.access_token
    return (own, newer.token_at) != (before, older.token_at) or newer.resources == older.resources


def _as_long_as(other: Generation[U], generation: Generation[U]) -> Generation[U]:
    """The generation, living as long as a cookie of its session that was touched."""
    if other.expires_at <= generation.expires_at:
        return generation
    return lasting(generation, until=other.expires_at)


def _with_fields_of(carried: Generation[U], held: Generation[U]) -> Generation[U]:
    """The tokens of the store and the other fields of the cookie: a Node side may change those."""
    tokens = {name: getattr(held.user, name) for name in (*TOKENS, "expires_at")}
    return held._replace(user=carried.user.model_copy(update=tokens))


def _since(began: float) -> float:
    return asyncio.get_running_loop().time() - began


def _told(error: ProviderError | None, base: Generation[Any]) -> str:
    """What a log may say of it: a provider of the application's might have put the token in."""
    text = "the lease ran out first" if error is None else str(error)
    return type(error).__name__ if (base.user.refresh_token or "\0") in text else text


def _log_without_values(what: str, error: Exception) -> None:
    """A foreign error's text may hold the token, so only its type and place are told."""
    where = "".join(traceback.format_tb(error.__traceback__, -2))
    log.error("%s (%s); treated as unavailable\n%s", what, type(error).__name__, where)


def _hint(hints: OrderedDict[Any, Any], key: object, value: object) -> None:
    hints[key] = value
    hints.move_to_end(key)
    if len(hints) > REMEMBERED:
        hints.popitem(last=False)
