"""The wire: the only module that imports an HTTP client, and sends.

Decides how a request travels (TLS verified, redirects refused, time and size capped) and whether
one that failed may have arrived. Does not know what it carries, nor what an answer means.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
import zlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from . import oauth
from .bearer import Hosts
from .errors import ConfigurationError, ProviderUnavailable

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
        form: oauth.Form,
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


# -- a token for some hosts -----------------------------------------------------------------------


Prove = Callable[[str, str], Mapping[str, str]]
"""The headers that go with a request, by its method and its URL."""

Noticed = Callable[[str, Mapping[str, str]], bool]
"""Told of each answer's headers and its URL; whether they held a nonce."""


class BoundToken(httpx.Auth):
    """Sends what ``prove`` makes of a request to the hosts it is for; anywhere else is an error.

    A redirect takes the token to no other host: httpx drops it, and nothing here adds it again.
    """

    requires_request_body = True  # a request that may be repeated must be there to repeat

    def __init__(self, prove: Prove, noticed: Noticed, hosts: Iterable[str]) -> None:
        self._prove = prove
        self._noticed = noticed
        self._hosts = Hosts(hosts)

    @classmethod
    def of(cls, prove: Prove, noticed: Noticed, hosts: Iterable[str]) -> BoundToken:
        """One that is an ``httpx2.Auth`` too, where httpx2 is in use."""
        other = sys.modules.get("httpx2")
        if other is None:
            return cls(prove, noticed, hosts)
        both: type[BoundToken] = type(cls.__name__, (cls, other.Auth), {})
        return both(prove, noticed, hosts)

    def __repr__(self) -> str:
        return f"<bound token for {self._hosts}>"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self._hosts.check(request.url)
        response = yield self._proved(request)
        if self._wants_nonce(request, response):
            response = yield self._proved(request)
            self._wants_nonce(request, response)

    def _proved(self, request: httpx.Request) -> httpx.Request:
        request.headers.update(self._prove(request.method, str(request.url)))
        return request

    def _wants_nonce(self, request: httpx.Request, response: httpx.Response) -> bool:
        # A redirect may have been followed: what another host says is not for this one.
        if (response.url.host, response.url.port) != (request.url.host, request.url.port):
            return False
        kept = self._noticed(str(request.url), response.headers)
        return kept and oauth.asks_for_nonce(response.status_code, response.headers, b"")
