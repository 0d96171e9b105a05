"""One request's session: read once, refreshed at most once, written when the response starts.

The dependencies and the routes change it; the middleware asks it what to write. It puts the
pieces in order and leaves every decision to the core.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, TypeVar

from fastapi import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from .cookies import Presented, clear_lines
from .errors import ConfigurationError, CookieTooLarge, StoreUnavailable
from .generation import Generation, ResourceToken, begin, label, touched
from .refresh import FRESH, OUTCOMES, SIGNED_OUT, Answer, Cookie, Gets, Token
from .rotation import Result, Wanted
from .user import SessionUser

if TYPE_CHECKING:
    from .auth import IdealAuth

U = TypeVar("U", bound=SessionUser)

log = logging.getLogger("fastapi_ideal_auth")

_RESOURCE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-\"$-~]{1,2000}")

_checking: ContextVar[object] = ContextVar("fastapi_ideal_auth.checking", default=None)
"""The session whose check is running here: the check may ask for the user itself."""

LOOK_AGAIN: Final = 1.0
"""Seconds after which a response that will carry a cookie looks for a newer generation first."""

NOT_SIGNED_IN: Final = "Not signed in"
WHO: Final = {"WWW-Authenticate": 'Cookie realm="session"'}
TRY_LATER: Final = "The session cannot be refreshed just now; try again later"


class _Verdict(NamedTuple):
    gets: Gets
    at: float
    retry_at: float = 0.0


class _Write(NamedTuple, Generic[U]):
    """What the response shall do to the cookie."""

    generation: Generation[U] | None
    """What to set, or the rejected one to clear; ``None``: clear whatever there is."""
    at: float
    begun: bool = False
    """A sign-in of this request: nobody else knows of it yet."""
    clears: bool = False


class Session(Generic[U]):
    """The session of the request at hand.

    ``user``, ``issued_at`` and ``expires_at`` (Unix seconds) are ``None`` when signed out.
    """

    __slots__ = (
        "_at",
        "_auth",
        "_checked",
        "_cookies",
        "_denial",
        "_epoch",
        "_generation",
        "_kept",
        "_loading",
        "_presented",
        "_read",
        "_started",
        "_verdict",
        "_write",
    )

    def __init__(self, auth: IdealAuth[U], cookies: Presented, denial: bool | None) -> None:
        self._auth = auth
        self._cookies = cookies
        self._denial = denial
        # As it arrives: the body may take its time before a dependency runs.
        self._at = auth.clock()
        self._read = False
        self._checked = False
        self._loading: asyncio.Lock | None = None
        self._started = False
        self._epoch = 0
        # What the routes see; and, once it is not the cookie's any more, the same untouched by
        # them: others get it too, and it goes into cookies and records.
        self._generation: Generation[U] | None = None
        self._kept: Generation[U] | None = None
        self._presented = 0
        self._verdict: _Verdict | None = None
        self._write: _Write[U] | None = None

    def __repr__(self) -> str:
        return f"<Session {self._generation!r}>" if self._generation else "<Session signed out>"

    # -- for routes -------------------------------------------------------------------------------

    @property
    def user(self) -> U | None:
        """The user as the cookie (or the last refresh) has it; ``None`` when signed out."""
        generation = self._generation
        return None if generation is None else generation.user

    @property
    def issued_at(self) -> int | None:
        """When the user signed in, Unix seconds."""
        return None if self._generation is None else self._generation.issued_at

    @property
    def expires_at(self) -> int | None:
        """When the session ends unless it is refreshed or touched, Unix seconds."""
        return None if self._generation is None else self._generation.expires_at

    async def fresh_user(self) -> U:
        """The user, refreshed if the token is due; callable for as long as the request lasts.

        A stream or WebSocket that outlives its token calls it again. Once the response has
        started no cookie can be written: the new generation waits in the store, and the next
        request with the old cookie adopts it. Raises the 401 or 503 that the dependency raises.
        """
        await self._decide(again=True)
        return self._user_or_raise()

    async def token_for(self, resource: str) -> str:
        """An access token for one further resource (RFC 8707), a URI, asked for with the
        session's refresh token when there is none or it is due.

        It is refreshed on its own; the user's ``access_token`` stays, and is itself the one for the
        first of the provider's ``resource=``. Raises `ConfigurationError` for a resource that is
        not among those (a server may spend the refresh token before it refuses), and the 401 or 503
        that the dependency raises: 503 too where the server refuses this resource, which is logged.
        """
        auth = self._auth
        check_resource(resource, auth.resources)
        if auth.resources and resource == auth.resources[0]:
            return (await self.fresh_user()).access_token
        await self._load()
        if self._generation is None:
            raise self._error(401, NOT_SIGNED_IN, WHO)
        generation = self._pristine()
        assert generation is not None  # there is one that the routes see
        token = auth.timing.token(generation, resource)
        held = generation.token_for(resource)
        if token is not Token.FRESH:
            held = await self._refreshed_for(resource, generation, token) or held
        assert held is not None  # fresh, or refreshed; else an error was raised
        return held.access_token

    async def _refreshed_for(
        self, resource: str, generation: Generation[U], token: Token
    ) -> ResourceToken | None:
        auth, epoch = self._auth, self._epoch
        if generation.user.refresh_token is None or not auth.can_refresh:
            result: Result[U] = Result(Answer.NOTHING_TO_ASK)
        else:
            judge = self._verdict is None
            wanted = Wanted(generation, self._presented, self._at, judge, resource)
            result = await auth.rotation.result(wanted, token)
        now = auth.clock()
        if result.answer is Answer.TOKENS and epoch == self._epoch:
            assert result.generation is not None
            self._adopt(result.generation)
            self._write = _Write(result.generation, now)
            found = result.generation.token_for(resource)
            if found not in (None, generation.token_for(resource)):
                return found
            # A refresh of another token was quicker than the lease: the next request has its turn.
            result = Result(Answer.UNAVAILABLE, retry_at=now + 1)
        if auth.timing.token(generation, resource) is not Token.EXPIRED:
            return None
        if OUTCOMES[Token.EXPIRED, result.answer].gets is Gets.TRY_LATER:
            self._raise_try_later(_Verdict(Gets.TRY_LATER, now, result.retry_at))
        raise self._error(401, NOT_SIGNED_IN, WHO)

    async def login(
        self,
        user: U,
        remember: bool | None = None,
        *,
        refresh_expires_in: int | None = None,
        id_token: str | None = None,
    ) -> None:
        """Begin a session for ``user`` under a new id, and end the one that this request carries.

        ``remember``: ``True`` for ``remember_max_age``, ``None`` for ``max_age``, ``False`` for a
        browser-session cookie. ``refresh_expires_in``: seconds the refresh token lives, where the
        server said so; the session does not outlive it. ``id_token``: the verified one of this
        sign-in, where ``user`` does not carry it: by it a logout token finds the session, and a
        refresh is seen to be of the same person. Raises `ConfigurationError` for a user that
        does not survive being stored or a response that has begun, `CookieTooLarge` over the cookie
        budget, and with ``tokens="store"`` `StoreUnavailable`.
        """
        auth = self._auth
        if self._started:
            raise ConfigurationError(
                "login() after the response has started: its headers are gone, so the browser "
                "cannot get the cookie; sign in before the first byte (or before accept())"
            )
        auth.check(user)
        now = auth.clock()
        begun = begin(
            user.model_copy(deep=True),
            now=now,
            remember=remember,
            lifetimes=auth.lifetimes,
            refresh_expires_in=refresh_expires_in,
            id_token=id_token,
        )
        generation = await auth.rotation.endings.after_notices(begun)
        auth.cookie_lines(generation, self._cookies, now=now)  # refuse what is too large here
        if auth.tokens_in_store:
            await auth.rotation.keep(generation)
        old = self._pristine()
        if old is not None:
            await auth.rotation.end(old, revoke=False)
        self._become(generation, user)
        self._presented = generation.gen
        self._verdict = _Verdict(Gets.USER, now)
        self._write = _Write(generation, now, begun=True)

    async def logout(self, revoke: bool = True) -> None:
        """End the session everywhere: tombstone, cookie cleared, refresh token revoked.

        Bounded and best effort towards store and provider: this browser is signed out even if
        neither answers. ``revoke=False`` leaves the refresh token alive at the provider.
        """
        old = self._pristine()
        now = self._auth.clock()
        self._become(None, None)
        self._verdict = _Verdict(SIGNED_OUT.gets, now)
        # What did not come is not cleared: a form of another site comes without the cookie, so
        # past the guard, and the browser would obey the answer (logout CSRF).
        self._write = _Write(None, now) if self._cookies else None
        if old is not None:
            await self._auth.rotation.end(old, revoke=revoke)

    async def touch(self) -> None:
        """Begin a new period of ``max_age`` once more than half of the present one is over.

        Sign-in time, remember mode and absolute deadline stay. Does nothing when signed out.
        """
        await self._load()
        generation = self._pristine()
        if self._generation is None or generation is None or self._started:
            return
        auth, epoch = self._auth, self._epoch
        now = auth.clock()
        longer = touched(generation, now=now, lifetimes=auth.lifetimes)
        if longer is None:
            return
        newest = await auth.rotation.extended(longer, at=self._at)
        if newest is not None and auth.tokens_in_store and not await self._stored(newest):
            return
        if epoch != self._epoch:  # signed in or out while this call waited
            return
        if newest is None:
            self._become(None, None)
            self._verdict = _Verdict(SIGNED_OUT.gets, now)
        else:
            self._adopt(newest)
            self._write = _Write(newest, now)

    # -- for the dependencies ---------------------------------------------------------------------

    def _open(self) -> None:
        """Open the cookie, once a request. No I/O."""
        if self._read:
            return
        self._read = True
        auth = self._auth
        generation = self._generation = auth.opened(self._cookies, now=auth.clock())
        if generation is None:
            self._checked = True
        else:
            self._presented = generation.gen
            # Mostly neither the store nor the application has a say.
            self._checked = (
                auth.validate_session is None
                and auth.rotation.endings.every is None
                and generation.complete
            )

    def _pristine(self) -> Generation[U] | None:
        """The newest generation this request knows of, whatever a route did to its user, and
        whatever ``validate_session`` says of it."""
        self._open()
        return self._kept or self._auth.opened(self._cookies, now=self._at)

    def _adopt(self, generation: Generation[U]) -> None:
        self._kept = generation
        self._generation = generation._replace(user=generation.user.model_copy(deep=True))

    def _become(self, generation: Generation[U] | None, user: U | None) -> None:
        """Signed in, or out: what waits for a refresh of the session before learns of it."""
        self._epoch += 1
        self._read = self._checked = True
        self._kept = generation
        self._generation = None
        if generation is not None and user is not None:
            self._generation = generation._replace(user=user)

    async def _load(self) -> None:
        """Open the cookie and let the application's own check see the session, once a request.

        Who asks meanwhile waits for the check, but for the check itself and its tasks.
        """
        if self._is_loaded():
            return
        if self._loading is None:
            self._loading = asyncio.Lock()
        async with self._loading:
            within = _checking.set(self)
            try:
                await self._load_alone()
            finally:
                _checking.reset(within)

    def _is_loaded(self) -> bool:
        self._open()
        loading = self._loading
        if self._checked and (loading is None or not loading.locked()):
            return True
        return _checking.get() is self

    async def _load_alone(self) -> None:
        if self._generation is not None and not self._checked:
            await self._look(self._generation)
        if self._generation is not None and not self._generation.complete:
            await self._complete(self._generation)
        if self._checked:
            return
        self._checked = True
        validate = self._auth.validate_session
        if validate is None or self._generation is None:
            return
        epoch = self._epoch
        try:
            valid = await self._valid(validate)
        except BaseException:
            self._checked = False
            raise
        if not valid and epoch == self._epoch:
            self._generation = None

    async def _look(self, generation: Generation[U]) -> None:
        """Has the session been ended elsewhere? Asked now and then (``check_ended_every``)."""
        endings, epoch = self._auth.rotation.endings, self._epoch
        if endings.every is None:
            return
        try:
            ended = await endings.has_ended(generation)
        except StoreUnavailable as error:
            # An outage signs nobody out: until it is over, sign-outs elsewhere go unseen.
            log.warning("%s", error)
            return
        if ended and epoch == self._epoch:
            self._generation = None

    async def _complete(self, carried: Generation[U]) -> None:
        """Get the tokens that the cookie does not carry."""
        epoch = self._epoch
        try:
            held = await self._auth.rotation.completed(carried, at=self._at)
        except StoreUnavailable:
            held = carried
        if held is carried:
            raise self._error(503, TRY_LATER, {"Retry-After": "5"})
        if epoch != self._epoch:
            return
        if held is None:
            self._generation = None
            return
        self._adopt(held)

    async def _stored(self, generation: Generation[U]) -> bool:
        try:
            await self._auth.rotation.keep(generation)
        except StoreUnavailable:
            return False
        return True

    async def _valid(self, validate: Callable[[Session[U]], bool | Awaitable[bool]]) -> bool:
        try:
            verdict = validate(self)
            return (await verdict) if isawaitable(verdict) else verdict
        except HTTPException:
            raise
        except Exception as error:
            # Closed, but no sign-out: what could not be checked is neither good nor bad. Only the
            # type is logged: the error's text and frames may hold the user.
            log.error("validate_session raised %s; the request is refused", type(error).__name__)
        raise self._error(503, TRY_LATER, {"Retry-After": "5"})

    async def _decide(self, *, again: bool = False) -> Gets:
        """What this request gets. One refresh a request, however often and wherever it is asked."""
        verdict = self._verdict
        if verdict is not None and not (again and self._changed_since(verdict)):
            return verdict.gets
        if not self._is_loaded():
            await self._load()
        if again and self._generation is not None:
            await self._look(self._generation)
        generation = self._generation
        auth = self._auth
        if generation is None:
            self._verdict = _Verdict(SIGNED_OUT.gets, self._at)
            return SIGNED_OUT.gets
        token = auth.timing.token(generation)
        if token is Token.FRESH:
            if auth.strict and generation.gen == self._presented:
                await auth.rotation.acknowledge(generation, at=self._at)
            if generation.gen > self._presented and self._write is None:
                # The store keeps the newest tokens alone, so an older cookie is served with them.
                self._write = _Write(self._kept, auth.clock())
            self._verdict = _Verdict(FRESH.gets, self._at)
            return FRESH.gets
        # An older cookie whose tokens were looked for has been judged as they were found.
        return await self._refresh(
            token, judge=verdict is None and generation.gen == self._presented
        )

    async def _refresh(self, token: Token, *, judge: bool) -> Gets:
        auth, epoch = self._auth, self._epoch
        generation = self._pristine()
        assert generation is not None  # the caller has one
        if generation.user.refresh_token is None or not auth.can_refresh:
            result: Result[U] = Result(Answer.NOTHING_TO_ASK)
        else:
            wanted = Wanted(generation, self._presented, self._at, judge)
            result = await auth.rotation.result(wanted, token)
        if epoch != self._epoch:  # signed in or out while this call waited
            assert self._verdict is not None
            return self._verdict.gets
        if auth.timing.token(generation) is Token.EXPIRED:  # it may have run out meanwhile
            token = Token.EXPIRED
        outcome = OUTCOMES[token, result.answer]
        now = auth.clock()
        self._verdict = _Verdict(outcome.gets, now, result.retry_at)
        if outcome.cookie is Cookie.REPLACED:
            assert result.generation is not None
            self._adopt(result.generation)
            self._write = _Write(result.generation, now)
        elif outcome.gets is Gets.UNAUTHORIZED:
            self._generation = None
            if outcome.cookie is Cookie.CLEARED:
                self._write = _Write(result.generation or generation, now, clears=True)
        return outcome.gets

    def _changed_since(self, verdict: _Verdict) -> bool:
        """Whether a route that asks again, later, may get another answer."""
        now = self._auth.clock()
        return self._generation is not None and now >= max(verdict.at + 1.0, verdict.retry_at)

    def _user_or_raise(self) -> U:
        verdict = self._verdict
        if self._generation is not None and verdict is not None:
            if verdict.gets is Gets.TRY_LATER:
                self._raise_try_later(verdict)
            return self._generation.user
        raise self._error(401, NOT_SIGNED_IN, WHO)

    def _user_or_none(self) -> U | None:
        return None if self._generation is None else self._user_or_raise()

    def _raise_try_later(self, verdict: _Verdict) -> NoReturn:
        seconds = max(1, int(verdict.retry_at - self._auth.clock() + 0.999))
        raise self._error(503, TRY_LATER, {"Retry-After": str(seconds)})

    def _error(self, status: int, detail: str, headers: dict[str, str]) -> Exception:
        # A WebSocket can be refused with a response where the server knows how; elsewhere it is
        # closed: before it is accepted a browser sees that as a 403.
        if self._denial is False or (self._denial and self._started):
            code = 1013 if status == 503 else 1008
            return WebSocketException(code=code, reason=detail)
        return HTTPException(status, detail, headers)

    def _forget(self) -> None:
        """Clear the cookie on a redirect that the browser follows before anything else; one that
        was long in coming, while a provider took its time, could clear a new sign-in's."""
        now = self._auth.clock()
        if self._cookies and self._write is None and 0 <= now - self._at < LOOK_AGAIN:
            self._write = _Write(None, now)

    async def _go_on_with(self, generation: Generation[U]) -> None:
        """Take up a session that another domain handed over, in place of the one here."""
        old = self._pristine()
        if old is not None and old.sid != generation.sid:
            await self._auth.rotation.end(old, revoke=False)
        now = self._auth.clock()
        self._become(generation, generation.user.model_copy(deep=True))
        self._presented = generation.gen
        self._verdict = _Verdict(Gets.USER, now)
        self._write = _Write(generation, now, begun=True)

    async def _id_token(self) -> str | None:
        """The session's ID token, also where the store has the tokens; ``None`` without one."""
        generation = self._pristine()
        if generation is not None and not generation.complete:
            try:
                generation = await self._auth.rotation.completed(generation, at=self._at)
            except StoreUnavailable:
                return None
        return None if generation is None else generation.user.id_token

    # -- for the middleware -----------------------------------------------------------------------

    def _start(self) -> bool:
        """The response starts now: whether `_lines` may have something for it. Once a request."""
        begins = not self._started
        self._started = True
        return begins and self._write is not None

    async def _lines(self) -> list[str]:
        """The Set-Cookie lines of the response that starts now; asked once."""
        write = self._write
        if write is None:
            return []
        auth = self._auth
        if write.generation is None:
            return clear_lines(auth.cookies, self._cookies)
        now = auth.clock()
        generation = await self._newest(write.generation, write, now)
        if generation is None:
            return []
        if write.clears and generation.gen <= write.generation.gen:
            # Only at once: a late one would take the cookie of a new sign-in with it.
            soon = 0 <= now - write.at < LOOK_AGAIN
            return clear_lines(auth.cookies, self._cookies) if soon else []
        if auth.tokens_in_store and not auth.rotation.is_published(generation):
            return []  # nobody else could find its tokens; the cookie before leads to them in time
        try:
            return auth.cookie_lines(generation, self._cookies, now=now)
        except CookieTooLarge as error:
            # The request goes on with the new tokens and the store keeps them: the old cookie
            # leads there for as long as the session lives.
            log.error("session %s: %s", label(generation.sid), error)
            return []

    async def _newest(
        self, generation: Generation[U], write: _Write[U], now: float
    ) -> Generation[U] | None:
        """What a long poll may write: it can outlive refreshes, a sign-out and a new sign-in."""
        rotation = self._auth.rotation
        if 0 <= now - write.at < LOOK_AGAIN:
            return rotation.known(generation)
        try:
            return await rotation.newest(generation)
        except StoreUnavailable:
            return generation if write.begun else None


def check_resource(resource: object, allowed: Sequence[str] | None) -> None:
    """Raises `ConfigurationError` for a resource that must not be asked for (RFC 8707 §2).

    ``allowed``: those that may be, ``None``: any.
    """
    if allowed is not None and resource not in allowed:
        raise ConfigurationError(
            f"token_for({resource!r}): name it in the provider's resource=[...], so that it is "
            f"asked for at sign-in too; a refresh function needs a keyword `resource`"
        )
    if not isinstance(resource, str) or not _RESOURCE.fullmatch(resource):
        raise ConfigurationError(
            "token_for() takes the resource's identifier: an absolute URI without a fragment, such "
            "as https://api.example"
        )


def session_of(connection: HTTPConnection, auth: IdealAuth[Any]) -> Session[Any]:
    """The session that the middleware put into this request."""
    session = connection.scope.get(auth.scope_key)
    if session is None:
        raise ConfigurationError(
            "this app has no session middleware: call auth.install(app) once, right after "
            "app = FastAPI()"
        )
    return session  # type: ignore[no-any-return]  # a scope holds Any
