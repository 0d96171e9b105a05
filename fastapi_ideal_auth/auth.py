"""`IdealAuth`: the options checked, the pieces put together, the app wired. Nothing clever."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypedDict, TypeVar

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from .client import OAuthClient
from .cookies import (
    WARN_BYTES,
    CookieSettings,
    Presented,
    SameSite,
    replaceable,
    runs,
    set_lines,
)
from .dependencies import CurrentSession, FreshUser, OptionalUser, UserOrLogin
from .endings import Endings
from .errors import (
    ConfigurationError,
    CookieTooLarge,
    InvalidCookie,
    ProviderMisconfigured,
    StoreUnavailable,
)
from .generation import Codec, Generation, Lifetimes, cookie_max_age
from .guarded import GuardedStore
from .http import HTTP
from .login import add_login
from .logout import add_backchannel_logout, add_logout
from .middleware import SessionMiddleware
from .oauth import LONGEST_LIFETIME, TokenResponse
from .openapi import RESPONSES, attach
from .origin import CrossOriginGuard, checked_origin
from .provider import Provider
from .rotation import LONGEST_PROVIDER_TIMEOUT, PROVIDER_TIMEOUT, Ask, Revoke, Rotation, Timing
from .seal import KeyRing
from .sealers import AnySealer, Format, bound, checked, prefixed
from .session import Session
from .stores import MemoryStore, RefreshStore, SQLiteStore
from .telemetry import OnEvent, Telemetry
from .transfer import add_transfer
from .user import SessionUser

if TYPE_CHECKING:
    from .http import AsyncHTTPClient

U = TypeVar("U", bound=SessionUser)

log = logging.getLogger("fastapi_ideal_auth")

_TEN_YEARS: Final = 10 * 365 * 86400  # seconds

RefreshFunction = Callable[[str], Awaitable[TokenResponse | None]]
"""A bare ``provider=``: takes the refresh token; ``None`` means that the grant is dead."""

ValidateSession = Callable[[Session[U]], bool | Awaitable[bool]]
UserFromClaims = Callable[[Mapping[str, Any], TokenResponse], Any]


class _Attributes(TypedDict):
    name: str
    secure: bool
    samesite: SameSite
    domain: str | None
    path: str


class IdealAuth(Generic[U]):
    """Sealed cookie sessions of one user model, kept fresh at one provider.

    ``user_model``
        Your subclass of `SessionUser`; its fields are the session's fields.
    ``secret``
        At least 32 characters (``python -m fastapi_ideal_auth secret`` prints one), or a sequence
        of them: the first seals, all open.
    ``provider``
        An `OpenIDProvider`, an `OAuth2Provider`, any object with ``async refresh(refresh_token)
        -> TokenResponse``, or a bare async function of that shape where ``None`` means rejected.
        ``None``: nothing is refreshed, and a session ends with its access token.
    ``store``
        Where workers meet to refresh. ``None``: `SQLiteStore`, or `MemoryStore` with a warning
        where no file can be written.
    ``sealer``
        How the cookie is sealed; ``None``: `AESGCMSealer`. `IronSealer`: as iron-session and
        ideal-auth do it. A sequence: the first seals, all open.
    ``cookie_name``, ``cookie_secure``, ``cookie_samesite``, ``cookie_domain``, ``cookie_path``
        The cookie's attributes. ``auth.cookie_name`` is the name on the wire: ``__Host-`` and the
        name, when secure, with path ``/`` and without a domain; with an `IronSealer` that seals,
        the name as it is.
    ``max_age``, ``remember_max_age``
        Seconds a session lives after sign-in, a refresh or a ``touch``: by default, and with
        ``remember=True``.
    ``absolute_max_age``
        Seconds after sign-in at which a session ends whatever happens; ``None``: never.
    ``refresh_buffer``
        Seconds before its expiry from which on a token is refreshed; at most a quarter of the
        token's lifetime.
    ``tokens``
        ``"cookie"``: the cookie carries everything. ``"store"``: it carries the user's other
        fields, and the store the tokens; for sessions that no cookie should carry. A store that
        loses its records then signs out, and one that is down answers 503.
    ``replay_detection``
        ``"lenient"`` reports a replayed older cookie; ``"strict"`` refuses it and ends the session.
    ``trusted_origins``
        Other origins (``https://app.example``) whose unsafe requests are let through.
    ``transfer_origins``
        The origins of one application on several domains, its own included: a session can go on
        at another of them (``/transfer`` of the router). They share secret, store and user model,
        and are trusted like ``trusted_origins``.
    ``login_path``
        Where `user_or_login` redirects to.
    ``validate_session``
        Called once a request with the `Session`; anything but a true value refuses it (401), an
        exception too (503). May be async.
    ``user_from_claims``
        Makes the user at sign-in from the userinfo claims and the `TokenResponse`: a user, or a
        mapping of its fields without the tokens. Default: ``sub``, ``email``, ``name``.
    ``when_store_down``
        ``"closed"`` answers 503 for an expired token while the store is down; ``"open"`` refreshes
        process-locally, which needs the tokens in the cookie.
    ``check_ended_every``
        Seconds for which this process believes that a session with a fresh token has not been
        ended elsewhere, before it looks into the store again. ``None``: it looks when the token
        is due, so that the fresh path does no I/O; a sign-out everywhere, or one at the provider,
        then takes effect within the token's lifetime.
    ``http_client``
        An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` to use; it stays yours to close.
    ``on_event``
        Called with an `Event` for each refresh, hand-over, rejection, failure and replay, from
        the event loop: it must not block. OpenTelemetry is told by itself.
    ``clock``
        Returns Unix seconds.

    Raises `ConfigurationError`, at construction, for an option that cannot work.
    """

    def __init__(
        self,
        user_model: type[U],
        *,
        secret: str | Sequence[str],
        provider: Provider | RefreshFunction | None = None,
        store: RefreshStore | None = None,
        sealer: AnySealer | Sequence[AnySealer] | None = None,
        cookie_name: str = "ideal_session",
        cookie_secure: bool = True,
        cookie_samesite: Literal["lax", "strict", "none"] = "lax",
        cookie_domain: str | None = None,
        cookie_path: str = "/",
        max_age: int = 604_800,
        remember_max_age: int = 2_592_000,
        absolute_max_age: int | None = None,
        refresh_buffer: float = 60,
        tokens: Literal["cookie", "store"] = "cookie",
        replay_detection: Literal["lenient", "strict"] = "lenient",
        trusted_origins: Sequence[str] = (),
        transfer_origins: Sequence[str] = (),
        login_path: str = "/login",
        validate_session: ValidateSession[U] | None = None,
        user_from_claims: UserFromClaims | None = None,
        when_store_down: Literal["closed", "open"] = "closed",
        check_ended_every: float | None = None,
        http_client: AsyncHTTPClient | None = None,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_options(
            max_age=max_age,
            remember_max_age=remember_max_age,
            absolute_max_age=absolute_max_age,
            refresh_buffer=refresh_buffer,
            check_ended_every=check_ended_every,
            tokens=tokens,
            replay_detection=replay_detection,
            when_store_down=when_store_down,
            login_path=login_path,
        )
        self.codec = Codec(user_model)
        self.user_model = user_model
        self.ring = KeyRing(secret)
        sealers = checked(sealer)
        attributes = _Attributes(
            name=cookie_name,
            secure=cookie_secure,
            samesite=cookie_samesite,
            domain=cookie_domain,
            path=cookie_path,
        )
        self.cookies = CookieSettings.of(**attributes, prefixes=[prefixed(s) for s in sealers])
        self.cookie_name = self.cookies.name
        # What is not the session's cookie is named and bound by this, whichever sealer is first:
        # hosts before and after a move meet in it.
        self.native_name = CookieSettings.of(**attributes).name
        self.scheme_name = cookie_name
        # Its own for each object: a mounted app may have a session of the same cookie name.
        self.scope_key = f"fastapi_ideal_auth.{self.cookie_name}.{id(self):x}"
        self.lifetimes = Lifetimes(
            int(max_age),
            int(remember_max_age),
            None if absolute_max_age is None else int(absolute_max_age),
        )
        self.transfer_origins = _transfer_origins(transfer_origins, replay_detection)
        self.guard = CrossOriginGuard.of(trusted_origins, self.transfer_origins)
        self.login_path = login_path
        self.validate_session = validate_session
        self.user_from_claims = user_from_claims
        self.clock = clock
        self.tokens_in_store = tokens == "store"
        self.strict = replay_detection == "strict"
        self.provider = provider
        self._http = HTTP(http_client)
        asked = _wired(provider, self._http)
        self.can_refresh = provider is not None
        self.resources = asked.resources
        self.store = _default_store() if store is None else _checked_store(store)
        self.timing = Timing(clock, refresh_buffer, _timeout(provider))
        self._formats: list[Format[U]] = [
            bound(
                each,
                ring=self.ring,
                codec=self.codec,
                lifetimes=self.lifetimes,
                cookie_name=cookie_name,
                native_name=self.native_name,
            )
            for each in sealers
        ]
        self._warned: set[str] = set()
        guarded = GuardedStore(self.store, clock)
        self.rotation: Rotation[U] = Rotation(
            ask=asked.ask,
            verify=getattr(provider, "verify_refreshed", None),
            revoke=asked.revoke,
            store=guarded,
            endings=Endings(
                store=guarded,
                ring=self.ring,
                cookie_name=self.native_name,
                lifetimes=self.lifetimes,
                clock=clock,
                every=check_ended_every,
            ),
            when_store_down=when_store_down,
            ring=self.ring,
            codec=self.codec,
            lifetimes=self.lifetimes,
            timing=self.timing,
            strict=self.strict,
            emit=Telemetry(on_event),
        )
        self.fresh_user = FreshUser(self)
        self.optional_user = OptionalUser(self)
        self.user_or_login = UserOrLogin(self)
        self.session = CurrentSession(self)

    def __repr__(self) -> str:
        return f"<IdealAuth {self.user_model.__name__} in {self.cookie_name}>"

    # -- wiring -----------------------------------------------------------------------------------

    def install(self, app: FastAPI) -> None:
        """Wire the app: middleware, OpenAPI, and the life cycle of HTTP client and store.

        Call it once, right after ``app = FastAPI()``. Raises `ConfigurationError` when the app has
        started already, or has another `IdealAuth` with the same cookie name.
        """
        if app.middleware_stack is not None:
            raise ConfigurationError(
                "auth.install(app) after the app has started; call it right after app = FastAPI()"
            )
        installed: dict[str, object] = app.__dict__.setdefault("_ideal_auth", {})
        # By this name: another sealer's may be the same session, and what is named after it is.
        if self.native_name in installed:
            raise ConfigurationError(
                f"the cookie {self.cookie_name} already belongs to an IdealAuth of this app: "
                f"install each once, and give a second one its own cookie_name"
            )
        installed[self.native_name] = self
        build: Callable[[], ASGIApp] = app.build_middleware_stack

        # Around the finished stack rather than into it: what is added as a middleware sits inside
        # the handler of unhandled errors, and its 500 would go out without the cookie.
        @functools.wraps(build)
        def build_middleware_stack() -> ASGIApp:
            attach(app, self.scheme_name)  # again: by now it may have an openapi() of its own
            return SessionMiddleware(build(), self)

        app.__dict__["build_middleware_stack"] = build_middleware_stack
        attach(app, self.scheme_name)

    @functools.cached_property
    def router(self) -> APIRouter:
        """``/login``, ``/callback`` and ``/logout``, for ``app.include_router``; with an
        `OpenIDProvider` also ``/backchannel-logout``, with ``transfer_origins`` ``/transfer``."""
        routes = APIRouter(tags=["session"])
        add_login(routes, self)
        add_logout(routes, self)
        if isinstance(self.provider, OAuthClient) and self.provider.checks_id_tokens:
            add_backchannel_logout(routes, self, self.provider)
        if self.transfer_origins:
            add_transfer(routes, self)
        return routes

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        """The documented 401, 403 and 503, for ``APIRouter(responses=…)``."""
        return {status: RESPONSES[status] for status in (401, 403, 503)}

    async def open(self) -> None:
        """Open HTTP client and store. The lifespan does it; without one they open when needed."""
        await self._http.open()
        try:
            await self.store.open()
        except StoreUnavailable as error:
            log.error("%s; sessions are served and not refreshed until it is back", error)

    async def end_sessions(self, *, user_id: str | int) -> None:
        """Sign a user out everywhere: what they have signed in until now ends, on every device.

        ``user_id`` is the `SessionUser.id`. It takes effect when a session's token is due, or
        within ``check_ended_every`` seconds; its refresh token is revoked then. Signing in
        afterwards works at once. Raises `StoreUnavailable` where it could not be written down, and
        `ConfigurationError` for what is no id: nothing was ended then.
        """
        await self.rotation.endings.end_user(_checked_id(user_id))

    async def aclose(self) -> None:
        """Wait for refreshes under way, then close HTTP client and store."""
        await self.rotation.aclose()
        await self._http.aclose()
        await self.store.aclose()

    # -- cookie and session -----------------------------------------------------------------------

    def opened(self, cookies: Presented, *, now: float) -> Generation[U] | None:
        """The newest live session among the cookies of a request; ``None`` if none opens."""
        newest = self._opened(cookies, self.cookies.name, now)
        if cookies.also is None or self.cookies.other_name is None:
            return newest
        return _later(newest, self._opened(cookies.also, self.cookies.other_name, now))

    def _opened(self, cookies: Presented, name: str, now: float) -> Generation[U] | None:
        bare = None if cookies.bare is None else self._unsealed(cookies.bare, name, now)
        if bare is not None and bare.expires_at <= now:
            bare = None
        if not cookies.chunks:
            return bare
        opened = (self._unsealed(value, name, now) for value in runs(cookies))
        cut = next((each for each in opened if each is not None), None)
        return bare if cut is None or cut.expires_at <= now else _later(bare, cut)

    def _unsealed(self, value: str, name: str, now: float) -> Generation[U] | None:
        for each in self._formats:
            try:
                return each.open(value, name=name, now=now)
            except InvalidCookie:
                continue
        return None

    def check(self, user: U) -> None:
        """Refuse a user that would not come back from its cookie, or from the store, as it went in.

        Raises `ConfigurationError` that names the fields.
        """
        for codec in {self.codec, self._formats[0].codec}:
            codec.check(user)
        if user.expires_at is not None and user.expires_at < self.clock() - _TEN_YEARS:
            raise ConfigurationError(
                "expires_at is the Unix time at which the access token expires, such as "
                "int(time.time()) + expires_in; this one looks like expires_in alone"
            )

    def cookie_lines(
        self, generation: Generation[U], presented: Presented, *, now: float
    ) -> list[str]:
        """The Set-Cookie lines of ``generation``. Raises `CookieTooLarge` with the sizes."""
        value = self._formats[0].seal(
            generation,
            tokens=not self.tokens_in_store,
            replaced=replaceable(presented),
            now=now,
        )
        max_age = cookie_max_age(generation, now=now)
        try:
            lines = set_lines(value, self.cookies, presented, max_age=max_age)
        except CookieTooLarge:
            lines = None
        if lines is None:
            sizes = self._formats[0].codec.sizes(generation)
            raise CookieTooLarge(
                f"the session does not fit the {4 * 4096} bytes a cookie may take in four parts "
                f"(bytes by field: {_told(sizes)}); store less in {self.user_model.__name__}, or "
                f'keep the tokens in the store (tokens="store")',
                sizes=sizes,
            )
        self._warn_if_large(lines, generation)
        return lines

    def _warn_if_large(self, lines: list[str], generation: Generation[U]) -> None:
        size = sum(map(len, lines))
        if size > WARN_BYTES:
            self.warn_once(
                "a response carries %d bytes of Set-Cookie (by field: %s); proxies in front may "
                'refuse it: raise their limit, or set tokens="store" (nginx: proxy_buffer_size 16k '
                "and large_client_header_buffers 4 16k; node: --max-http-header-size)",
                size,
                _told(self._formats[0].codec.sizes(generation)),
            )

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log what an operator should know, and what every further request would only repeat."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *arguments)


def _later(one: Generation[U] | None, other: Generation[U] | None) -> Generation[U] | None:
    """A bare cookie and a cut one, or two names, may both be there: of two sessions the later
    sign-in counts, of one session the newer generation."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: (each.issued_at, each.gen))


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items() if size)


def _default_store() -> RefreshStore:
    try:
        return SQLiteStore()
    except ConfigurationError as error:
        log.warning(
            "%s. Sessions are coordinated in this process's memory: with more than one worker "
            "users may be signed out",
            error,
        )
        return MemoryStore()


def _checked_store(store: object) -> RefreshStore:
    if isinstance(store, RefreshStore):
        return store
    hint = " (call it)" if isinstance(store, type) else ""
    raise ConfigurationError(
        f"store= takes a RefreshStore, such as SQLiteStore(path) or MemoryStore(); got "
        f"{store!r}{hint}"
    )


def _checked_id(user_id: object) -> str:
    if isinstance(user_id, str | int) and not isinstance(user_id, bool) and user_id != "":
        return str(user_id)
    raise ConfigurationError(
        f"end_sessions(user_id=…) takes the user's id, a string or a number; got {user_id!r}"
    )


def _timeout(provider: object) -> float:
    timeout: object = getattr(provider, "timeout", None)
    if isinstance(timeout, (int, float)) and 0 < timeout <= LONGEST_PROVIDER_TIMEOUT:
        return float(timeout)
    return PROVIDER_TIMEOUT


class _Asked(NamedTuple):
    """What a provider can be asked, whatever was given as ``provider=``."""

    ask: Ask
    revoke: Revoke | None = None
    resources: Sequence[str] | None = ()
    """What there are access tokens for beside the user's own; ``None``: whatever is named."""


async def _no_provider(refresh_token: str, *, resource: str | None) -> None:
    """Nobody asks it: without a provider nothing is refreshed."""


def _wired(provider: object, http: HTTP) -> _Asked:
    if provider is None:
        return _Asked(_no_provider)
    if isinstance(provider, OAuthClient):
        provider.use(http)
    if isinstance(provider, Provider) and not isinstance(provider, type):
        ask, revoke = _asking(provider.refresh), getattr(provider, "revoke", None)
        if isinstance(provider, OAuthClient):
            return _Asked(ask, revoke, provider.resource)
        return _Asked(ask, revoke, _resources(provider.refresh))
    if callable(provider) and not isinstance(provider, type):
        return _Asked(_asking(provider), None, _resources(provider))
    raise ConfigurationError(
        "provider= takes an OpenIDProvider, an OAuth2Provider, an object with `async def "
        f"refresh(refresh_token)`, or such a function; got {type(provider).__name__}"
    )


def _resources(function: Callable[..., object]) -> Sequence[str] | None:
    try:
        inspect.signature(function).bind("a refresh token", resource="https://api.example")
    except (TypeError, ValueError):
        return ()
    return None


def _asking(function: Callable[..., object]) -> Ask:
    try:
        inspect.signature(function).bind("a refresh token")
    except TypeError:
        takes_one = False
    except ValueError:  # something built in: it does not say
        takes_one = True
    else:
        takes_one = True
    if not takes_one:
        raise ConfigurationError(
            "provider= takes an async function of one argument, the refresh token"
        )

    async def ask(refresh_token: str, *, resource: str | None) -> object:
        if resource is None:
            answer = function(refresh_token)
        else:
            answer = function(refresh_token, resource=resource)
        if inspect.isawaitable(answer):
            return await answer
        raise ProviderMisconfigured("provider= takes an async function: declare it `async def`")

    return ask


def _check_options(
    *,
    max_age: int,
    remember_max_age: int,
    absolute_max_age: int | None,
    refresh_buffer: float,
    check_ended_every: float | None,
    tokens: str,
    replay_detection: str,
    when_store_down: str,
    login_path: str,
) -> None:
    seconds = {
        "max_age": max_age,
        "remember_max_age": remember_max_age,
        "absolute_max_age": 1 if absolute_max_age is None else absolute_max_age,
    }
    for name, value in seconds.items():
        if not _number(value) or not 1 <= value <= LONGEST_LIFETIME:
            raise ConfigurationError(
                f"{name} is a number of seconds of at least 1 and at most ten years; got {value!r}"
            )
    if not _number(refresh_buffer) or not 0 <= refresh_buffer <= LONGEST_LIFETIME:
        raise ConfigurationError(
            f"refresh_buffer is a number of seconds, 0 or more; got {refresh_buffer!r}"
        )
    if check_ended_every is not None and not (
        _number(check_ended_every) and 0 <= check_ended_every <= LONGEST_LIFETIME
    ):
        raise ConfigurationError(
            f"check_ended_every is a number of seconds, or None; got {check_ended_every!r}"
        )
    for name, choice, choices in (
        ("tokens", tokens, ("cookie", "store")),
        ("replay_detection", replay_detection, ("lenient", "strict")),
        ("when_store_down", when_store_down, ("closed", "open")),
    ):
        if choice not in choices:
            raise ConfigurationError(f'{name} is "{choices[0]}" or "{choices[1]}"; got {choice!r}')
    if (tokens, when_store_down) == ("store", "open"):
        # What one process refreshed on its own would be a cookie of no session everywhere else.
        raise ConfigurationError('when_store_down="open" needs tokens="cookie"')
    if not login_path.startswith("/") or login_path.startswith("//"):
        raise ConfigurationError(
            f'login_path is a path of this app, such as "/login"; got {login_path!r}'
        )


def _transfer_origins(origins: Sequence[str], replay_detection: str) -> tuple[str, ...]:
    if isinstance(origins, str):
        raise ConfigurationError("transfer_origins takes a sequence of origins, not one string")
    checked = tuple(checked_origin(each, option="transfer_origins") for each in origins)
    if checked and replay_detection == "strict":
        raise ConfigurationError(
            'transfer_origins needs replay_detection="lenient": two domains hold two cookies of '
            "one session, and strict detection would take the older one for a stolen copy"
        )
    return checked


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
