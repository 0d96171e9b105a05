"""The wire to the authorization server: the only module that sends.

Decides how a request travels (TLS verified, redirects refused, time and size capped) and whether
one that failed may have arrived. Does not know what an answer means: ``oauth`` judges it.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
import zlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, get_args, runtime_checkable

import httpx

from . import oauth
from .errors import (
    ConfigurationError,
    ProviderError,
    ProviderUnavailable,
    RefreshRejected,
)
from .oauth import TokenEndpointAuthMethod, TokenResponse

if TYPE_CHECKING:
    import ssl

TIMEOUT: Final = 5.0
"""Seconds one request may take, from the connection's first packet to the answer's last byte."""

LIMIT: Final = 262_144
"""Bytes of an answer that are read. The largest token responses known (Entra, with every group of
the user in three tokens) take a tenth of it."""

_NOT_SENT: Final = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "ProxyError",
        "UnsupportedProtocol",
        "InvalidURL",
        "ConnectionRefusedError",
    }
)
"""Names of errors, in httpx and httpx2 alike, that come before the request is on its way."""

_RESERVED_IN_AUTHORIZATION: Final = frozenset(
    {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    }
)
_RESERVED_IN_REFRESH: Final = frozenset(
    {"grant_type", "refresh_token", "client_id", "client_secret"}
)


@runtime_checkable
class Provider(Protocol):
    """Whoever refreshes tokens. Any object with this method can be ``provider=``."""

    async def refresh(self, refresh_token: str) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6).

        Raises `RefreshRejected` where the grant is dead, `ProviderUnavailable` where trying later
        may help, and `ProviderMisconfigured` where an operator must look.
        """
        ...


# -- one request, one answer ----------------------------------------------------------------------


class AsyncHTTPClient(Protocol):
    """What is used of an ``httpx.AsyncClient`` or an ``httpx2.AsyncClient``."""

    @property
    def is_closed(self) -> bool: ...

    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: tuple[float, float, float, float],
        extensions: dict[str, Any],
    ) -> Any: ...

    async def send(
        self, request: Any, *, stream: bool, auth: None, follow_redirects: bool
    ) -> Any: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Its repr shows nothing that came over the wire but the status."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name."""

    body: bytes = field(repr=False)


@dataclass(slots=True)
class _Flight:
    """How far a request got. httpcore tells of each step; a transport of a test need not."""

    traced: bool = False
    sent: bool = False
    status: int | None = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        self.traced = True
        self.sent = self.sent or event.endswith(".send_request_headers.started")


class _TooLong(Exception):
    pass


class _Unreadable(Exception):
    pass


class HTTP:
    """The HTTP client: one that was given, or its own.

    A client that was given is used as it is, and stays its giver's to close. Its own one lives
    from `open` to `aclose`, which the middleware's lifespan calls, in the event loop that called
    `open`. Where no lifespan runs, or in another loop, each request brings its own connection:
    what a loop leaves open when it ends cannot be closed any more.
    """

    def __init__(self, client: AsyncHTTPClient | None = None) -> None:
        if client is not None and not hasattr(client, "aclose"):
            raise ConfigurationError(
                f"http_client= takes an httpx.AsyncClient or an httpx2.AsyncClient; got "
                f"{type(client).__name__}"
            )
        self._given = client
        self._opened: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        self._context: ssl.SSLContext | None = None

    async def open(self) -> None:
        """Make a client for the running event loop, whose connections requests share."""
        loop = asyncio.get_running_loop()
        if self._given is None and loop not in self._opened:
            self._opened[loop] = self._client()

    async def aclose(self) -> None:
        """Close what `open` made in the running event loop."""
        client = self._opened.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def post(
        self,
        url: str,
        form: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT,
        limit: int = LIMIT,
    ) -> Answer:
        """Send a form. ``timeout``: seconds for all of it; ``limit``: bytes of the answer.

        Raises `ProviderUnavailable` where no whole answer came: ``in_doubt`` if the request may
        have arrived.
        """
        content_type = {"content-type": "application/x-www-form-urlencoded"}
        body = oauth.encode_form(form)
        return await self._send(
            "POST", url, {**(headers or {}), **content_type}, body, timeout, limit
        )

    async def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT,
        limit: int = LIMIT,
    ) -> Answer:
        """The same, without a body."""
        return await self._send("GET", url, headers or {}, None, timeout, limit)

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
        seconds: float,
        limit: int,
    ) -> Answer:
        if self._given is not None and self._given.is_closed:
            raise ProviderUnavailable(
                "the http_client that was given is closed: keep it open while the app runs"
            )
        flight = _Flight()
        try:
            async with asyncio.timeout(seconds), self._lent() as client:
                request = client.build_request(
                    method,
                    url,
                    content=content,
                    headers={**_HEADERS, **headers},
                    # Connecting (TCP and TLS each) and waiting for a free connection end before
                    # the whole does: httpx then closes what it opened, and says it was not sent.
                    timeout=(seconds / 2, seconds, seconds, seconds / 2),
                    extensions={"trace": flight.trace},
                )
                return await _exchange(client, request, flight, limit)
        # Whatever a transport raises: its request holds tokens and secrets, so it goes no further.
        except Exception as error:
            fault = _fault(error, flight)
        # Out here the error has neither a cause nor a context that would take the request along.
        raise fault

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[AsyncHTTPClient]:
        client = self._given or self._opened.get(asyncio.get_running_loop())
        if client is not None:
            yield client
        else:
            async with self._client() as own:
                yield own

    def _client(self) -> httpx.AsyncClient:
        # Loading the certificates takes longer than anything else here, so it is done once.
        self._context = self._context or httpx.create_ssl_context()
        return httpx.AsyncClient(
            verify=self._context,
            # Plain http never leaves this machine (`oauth.check_endpoint`), so neither may it go
            # through a proxy of the environment, which would read the secret.
            mounts={"http://": None},
            # A server that closes an idle connection just as it is used again leaves a refresh in
            # doubt: gunicorn closes after 2 s, node and uvicorn after 5 s.
            limits=httpx.Limits(max_connections=100, keepalive_expiry=1.0),
        )


_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "fastapi_ideal_auth",
}


async def _exchange(client: AsyncHTTPClient, request: Any, flight: _Flight, limit: int) -> Answer:
    # The client's jar: what one user's answer set must not travel with the next one's grant.
    request.headers.pop("cookie", None)
    response = await client.send(request, stream=True, auth=None, follow_redirects=False)
    try:
        flight.status = response.status_code
        body = await _body(response, limit)
    finally:
        await response.aclose()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, body)


async def _body(response: Any, limit: int) -> bytes:
    if response.is_stream_consumed:
        # A MockTransport's answer is read, and decoded, before it sets out.
        body: bytes = response.content
    else:
        raw = bytearray()
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > limit:
                raise _TooLong
        body = _decoded(bytes(raw), response.headers.get("content-encoding", ""), limit)
    if len(body) > limit:
        raise _TooLong
    return body


def _decoded(raw: bytes, encoding: str, limit: int) -> bytes:
    """At most ``limit`` + 1 bytes: some servers compress unasked, and a bomb is small."""
    match encoding.strip().lower():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip" | "deflate":
            decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            body = decoder.decompress(raw, limit + 1)
            if decoder.eof or len(body) > limit:
                return body
        case _:
            pass
    raise _Unreadable


def _fault(error: Exception, flight: _Flight) -> ProviderUnavailable:
    if isinstance(error, _TooLong):
        granted = flight.status is not None and 200 <= flight.status < 300
        return ProviderUnavailable(
            f"the authorization server's answer ({flight.status}) is too long to read",
            in_doubt=granted,
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    told = "its TLS certificate is not trusted" if _untrusted(error) else type(error).__name__
    if kinds & _NOT_SENT or (flight.traced and not flight.sent):
        return ProviderUnavailable(f"the authorization server could not be reached ({told})")
    return ProviderUnavailable(
        f"no whole answer came from the authorization server ({told})", in_doubt=True
    )


def _untrusted(error: BaseException) -> bool:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            break
        if type(cause).__name__ == "SSLCertVerificationError":
            return True
        cause = cause.__cause__ or cause.__context__
    return False


# -- an authorization server ----------------------------------------------------------------------


class OAuth2Provider:
    """An authorization server, known by its endpoints (RFC 6749 §3).

    ``token_endpoint`` and the other endpoints
        ``https``; ``http`` on loopback only.
    ``client_secret``
        ``None``: a public client, which says no more than its ``client_id``.
    ``token_endpoint_auth_method``
        ``client_secret_basic``, ``client_secret_post`` or ``none`` (OpenID Connect Core §9). It is
        never found out by trying: a server may burn a refresh token that comes with a wrong
        secret.
    ``redirect_uri``
        Where the server sends the browser back to. ``None``: worked out from the request.
    ``scope``
        What to ask for at sign-in: a string, or a sequence of scopes. ``None``: the server's own.
    ``authorization_params``, ``refresh_params``
        Further parameters of the authorization request (``prompt``, ``audience``) and fields of
        the refresh request (``scope``, ``resource``).
    ``rejection_codes``
        Error codes by which this server, and no table here, says that a grant is dead.
    ``timeout``
        Seconds one request may take in all.
    ``http_client``
        An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` for this provider alone; it stays yours
        to close. ``None``: the one of `IdealAuth`.

    Raises `ConfigurationError` at once for whatever could not work.
    """

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        token_endpoint_auth_method: TokenEndpointAuthMethod = "client_secret_basic",  # noqa: S107 - a method
        revocation_endpoint: str | None = None,
        authorization_endpoint: str | None = None,
        userinfo_endpoint: str | None = None,
        redirect_uri: str | None = None,
        scope: str | Sequence[str] | None = None,
        authorization_params: Mapping[str, str] | None = None,
        refresh_params: Mapping[str, str] | None = None,
        rejection_codes: Iterable[str] = (),
        timeout: float = TIMEOUT,
        http_client: AsyncHTTPClient | None = None,
    ) -> None:
        self.token_endpoint = oauth.check_endpoint("token_endpoint", token_endpoint)
        self.revocation_endpoint = _endpoint("revocation_endpoint", revocation_endpoint)
        self.authorization_endpoint = _endpoint("authorization_endpoint", authorization_endpoint)
        self.userinfo_endpoint = _endpoint("userinfo_endpoint", userinfo_endpoint)
        self.redirect_uri = _endpoint("redirect_uri", redirect_uri)
        self.client_id = _text("client_id", client_id)
        self._client_secret = (
            None if client_secret is None else _text("client_secret", client_secret)
        )
        self.token_endpoint_auth_method: TokenEndpointAuthMethod = _method(
            token_endpoint_auth_method, client_secret
        )
        self.scope = _scope(scope)
        self.authorization_params = _params(
            "authorization_params", authorization_params, _RESERVED_IN_AUTHORIZATION
        )
        self.refresh_params = _params("refresh_params", refresh_params, _RESERVED_IN_REFRESH)
        self.rejection_codes = _codes(rejection_codes)
        self.timeout = _seconds("timeout", timeout)
        self.http = HTTP(http_client)
        self._has_own_client = http_client is not None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(token_endpoint={self.token_endpoint!r}, "
            f"client_id={self.client_id!r})"
        )

    def use(self, http: HTTP) -> None:
        """Send over ``http`` from now on, unless this provider was given a client of its own."""
        if not self._has_own_client:
            self.http = http

    async def refresh(self, refresh_token: str) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6), asked for once.

        Raises `RefreshRejected`, `ProviderUnavailable` or `ProviderMisconfigured`.
        """
        form = oauth.refresh_form(refresh_token, self.refresh_params)
        return await self._grant(form, "refresh token")

    async def exchange_code(
        self, code: str, *, redirect_uri: str, code_verifier: str
    ) -> TokenResponse:
        """The tokens of a sign-in (RFC 6749 §4.1.3, RFC 7636 §4.5).

        ``redirect_uri`` and ``code_verifier`` as in the authorization request. Raises
        `RefreshRejected` where the code is dead, else as `refresh`.
        """
        form = oauth.code_form(code, redirect_uri, code_verifier)
        return await self._grant(form, "authorization code")

    async def revoke(
        self,
        token: str,
        *,
        token_type_hint: str = "refresh_token",  # noqa: S107 - a kind of token, none itself
    ) -> bool:
        """Whether the server confirmed that the token is gone (RFC 7009). Never raises an error
        of the provider's: ``False`` too where there is no endpoint, or no answer.
        """
        if self.revocation_endpoint is None:
            return False
        form = oauth.revocation_form(token, token_type_hint)
        try:
            answer = await self._post(self.revocation_endpoint, form)
            if answer.status == 503:  # RFC 7009 §2.2.1: the token still exists, and may be retried
                answer = await self._post(self.revocation_endpoint, form)
        except ProviderError:
            return False
        return oauth.judge_revocation(answer.status)

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        """The claims about the user (OpenID Connect Core §5.3).

        Raises `ConfigurationError` without a ``userinfo_endpoint``, `RefreshRejected` where the
        access token is refused, else as `refresh`.
        """
        if self.userinfo_endpoint is None:
            raise ConfigurationError("give OAuth2Provider(userinfo_endpoint=...) to ask it")
        if not oauth.is_bearer(access_token):
            raise RefreshRejected("the access token cannot stand in a header")
        headers = {"authorization": f"Bearer {access_token}"}
        answer = await self.http.get(self.userinfo_endpoint, headers, timeout=self.timeout)
        return oauth.judge_userinfo(answer.status, answer.headers, answer.body, now=time.time())

    def authorization_url(
        self,
        *,
        state: str,
        code_challenge: str,
        redirect_uri: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Where to send the browser to sign in (RFC 6749 §4.1.1), with a PKCE ``S256`` challenge.

        ``extra``: parameters of this one request, over ``authorization_params``. Raises
        `ConfigurationError` without an ``authorization_endpoint`` or a redirect URI.
        """
        redirect_uri = redirect_uri or self.redirect_uri
        if self.authorization_endpoint is None or redirect_uri is None:
            raise ConfigurationError(
                "signing in needs OAuth2Provider(authorization_endpoint=...) and a redirect_uri"
            )
        return oauth.authorization_url(
            self.authorization_endpoint,
            client_id=self.client_id,
            redirect_uri=redirect_uri,
            scope=self.scope,
            state=state,
            code_challenge=code_challenge,
            extra={**self.authorization_params, **(extra or {})},
        )

    async def _grant(self, form: Mapping[str, str], grant: str) -> TokenResponse:
        answer = await self._post(self.token_endpoint, form)
        return oauth.judge_token_response(
            answer.status,
            answer.headers,
            answer.body,
            now=time.time(),
            rejection_codes=self.rejection_codes,
            grant=grant,
        )

    async def _post(self, endpoint: str, form: Mapping[str, str]) -> Answer:
        headers, credentials = oauth.client_authentication(
            self.token_endpoint_auth_method, self.client_id, self._client_secret
        )
        form = {**form, **credentials}
        return await self.http.post(endpoint, form, headers, timeout=self.timeout)


# -- what it may be given -------------------------------------------------------------------------


def _endpoint(name: str, url: str | None) -> str | None:
    return None if url is None else oauth.check_endpoint(name, url)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} is empty: is an environment variable missing?")
    if not value.isprintable():
        raise ConfigurationError(
            f"{name} holds a character that cannot be meant: has it been read with the newline at "
            f"the end of its file?"
        )
    return value


def _method(method: object, client_secret: str | None) -> TokenEndpointAuthMethod:
    if method not in get_args(TokenEndpointAuthMethod):
        raise ConfigurationError(
            f"token_endpoint_auth_method is one of {', '.join(get_args(TokenEndpointAuthMethod))}"
        )
    if method == "none" and client_secret is not None:
        raise ConfigurationError(
            "token_endpoint_auth_method='none' sends no secret: leave out client_secret, or name "
            "the method that sends it"
        )
    if method == "client_secret_post" and client_secret is None:
        raise ConfigurationError(
            "token_endpoint_auth_method='client_secret_post' needs a client_secret; a public "
            "client has 'none'"
        )
    # The default method of a client without a secret: there is nothing to authenticate with.
    return "none" if client_secret is None else cast("TokenEndpointAuthMethod", method)


def _scope(scope: object) -> str | None:
    if scope is None:
        return None
    parts = scope.split() if isinstance(scope, str) else scope
    if not isinstance(parts, Sequence):
        raise ConfigurationError("scope is a string, or a sequence of them")
    return " ".join(_text("scope", part) for part in cast("Sequence[object]", parts)) or None


def _params(name: str, params: object, reserved: frozenset[str]) -> dict[str, str]:
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise ConfigurationError(f"{name} is a mapping of names to strings")
    given = dict(cast("Mapping[object, object]", params))
    if not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise ConfigurationError(f"{name} is a mapping of names to strings")
    taken = sorted(reserved & given.keys(), key=str)
    if taken:
        raise ConfigurationError(
            f"{name} may not hold {', '.join(map(str, taken))}: each request has its own"
        )
    return cast("dict[str, str]", given)


def _codes(codes: object) -> frozenset[str]:
    if isinstance(codes, str) or not isinstance(codes, Iterable):
        raise ConfigurationError("rejection_codes is a collection of codes: put it in brackets")
    listed = list(cast("Iterable[object]", codes))
    return frozenset(_text("a code in rejection_codes", code).lower() for code in listed)


def _seconds(name: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConfigurationError(f"{name} is a positive number of seconds")
    return float(value)
