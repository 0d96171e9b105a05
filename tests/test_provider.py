"""How a request travels: over httpx and httpx2, over real sockets, and where none arrives."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastapi_ideal_auth.errors import (
    ConfigurationError,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)
from fastapi_ideal_auth.http import HTTP, LIMIT
from fastapi_ideal_auth.oauth import TokenResponse
from fastapi_ideal_auth.provider import OAuth2Provider, Provider

from .test_oauth import chain, told

SECRET = "cl1ent:s3cret"
REFRESH_TOKEN = "pl4nted-r3fresh-token"
TOKENS = b'{"access_token": "n3w-access-token", "refresh_token": "n3w-refresh", "expires_in": 300}'
PLANTED = [
    SECRET,
    "cl1ent%3As3cret",
    "Y2xpZW50OmNsMWVudCUzQXMzY3JldA==",  # the credentials as they stand in the header
    REFRESH_TOKEN,
    "n3w-access-token",
    "n3w-refresh",
]


def provider_at(url: str = "https://op.example/token", **options: Any) -> OAuth2Provider:
    return OAuth2Provider(url, "client", **{"client_secret": SECRET, **options})


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


Client = Callable[[], Any]


@pytest.fixture(params=["own", "httpx", "httpx2"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """``http_client=``: none, or one of the two that can be given, as hostile as they come."""
    if request.param == "own":
        yield None
        return
    module = {"httpx": httpx, "httpx2": httpx2}[request.param]
    async with module.AsyncClient(
        follow_redirects=True, auth=("wrong", "wrong"), cookies={"wrong": "wrong"}
    ) as given:
        yield given


class Wire:
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.requests: list[Any] = []
        self.answers: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        return self.library.Response(status, content=body, headers=dict(*headers))

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.requests[-1].content.decode())

    def provider(self, *answers: Any, **options: Any) -> OAuth2Provider:
        self.answers += answers
        transport = self.library.MockTransport(self)
        return provider_at(http_client=self.library.AsyncClient(transport=transport), **options)


@pytest.fixture
def wire(library: ModuleType) -> Wire:
    return Wire(library)


async def failure(attempt: Awaitable[object]) -> ProviderUnavailable:
    """The error, which must hold nothing of the request and lead to nothing that does."""
    with pytest.raises(ProviderUnavailable) as caught:
        await attempt
    error = caught.value
    assert chain(error) == [error]
    assert not [planted for planted in PLANTED if planted in told(error)]
    return error


# -- what is sent ---------------------------------------------------------------------------------


async def test_a_refresh_is_one_form_sent_once(wire: Wire) -> None:
    tokens = await wire.provider((200, TOKENS)).refresh(REFRESH_TOKEN)
    assert tokens == TokenResponse("n3w-access-token", "Bearer", 300, "n3w-refresh")
    [request] = wire.requests
    assert (request.method, str(request.url)) == ("POST", "https://op.example/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["authorization"] == f"Basic {PLANTED[2]}"
    assert wire.form == {"grant_type": ["refresh_token"], "refresh_token": [REFRESH_TOKEN]}


@pytest.mark.parametrize(
    ("options", "credentials"),
    [
        (
            {"token_endpoint_auth_method": "client_secret_post"},
            {"client_id": ["client"], "client_secret": [SECRET]},
        ),
        (
            {"token_endpoint_auth_method": "none", "client_secret": None},
            {"client_id": ["client"]},
        ),
        ({"client_secret": None}, {"client_id": ["client"]}),
    ],
)
async def test_the_client_authenticates_in_the_form(
    wire: Wire, options: dict[str, Any], credentials: dict[str, list[str]]
) -> None:
    await wire.provider((200, TOKENS), **options).refresh("rt")
    assert wire.form == {"grant_type": ["refresh_token"], "refresh_token": ["rt"], **credentials}
    assert "authorization" not in wire.requests[0].headers


async def test_a_refresh_may_carry_further_fields(wire: Wire) -> None:
    await wire.provider((200, TOKENS), refresh_params={"resource": "a b&c"}).refresh("rt")
    assert wire.form["resource"] == ["a b&c"]


async def test_a_code_is_exchanged_with_its_verifier(wire: Wire) -> None:
    tokens = await wire.provider((200, TOKENS)).exchange_code(
        "c0de", redirect_uri="https://app.example/callback", code_verifier="v"
    )
    assert tokens.access_token == "n3w-access-token"
    assert wire.form == {
        "grant_type": ["authorization_code"],
        "code": ["c0de"],
        "redirect_uri": ["https://app.example/callback"],
        "code_verifier": ["v"],
    }


async def test_a_dead_code_is_called_a_code(wire: Wire) -> None:
    provider = wire.provider((400, b'{"error": "invalid_grant"}'))
    with pytest.raises(RefreshRejected, match="rejected the authorization code"):
        await provider.exchange_code("c0de", redirect_uri="https://a.example", code_verifier="v")


async def test_claims_are_asked_for_with_the_access_token(wire: Wire) -> None:
    provider = wire.provider(
        (200, b'{"sub": "1"}'), userinfo_endpoint="https://op.example/userinfo"
    )
    assert await provider.userinfo("at") == {"sub": "1"}
    [request] = wire.requests
    assert (request.method, str(request.url)) == ("GET", "https://op.example/userinfo")
    assert request.headers["authorization"] == "Bearer at"


async def test_an_access_token_that_fits_no_header_is_not_sent(wire: Wire) -> None:
    provider = wire.provider(userinfo_endpoint="https://op.example/userinfo")
    for token in ("a\r\nb", "é", "\ud800"):
        with pytest.raises(RefreshRejected):
            await provider.userinfo(token)
    assert wire.requests == []


async def test_userinfo_without_an_endpoint_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="userinfo_endpoint"):
        await provider_at().userinfo("at")


async def test_a_lone_surrogate_in_a_token_raises_nothing_that_holds_it(wire: Wire) -> None:
    provider = wire.provider((400, b'{"error": "invalid_grant"}'))
    with pytest.raises(RefreshRejected):
        await provider.refresh("rt\ud800")


@pytest.mark.parametrize("header", ["cookie", "authorization"])
async def test_a_clients_own_credentials_stay_at_home(library: ModuleType, header: str) -> None:
    wire = Wire(library)
    wire.answers += [(200, TOKENS, {"set-cookie": "sid=of-another-user"}), (200, TOKENS)]
    given = library.AsyncClient(
        transport=library.MockTransport(wire), auth=("wrong", "wrong"), cookies={"wrong": "wrong"}
    )
    provider = provider_at(client_secret=None, http_client=given)
    for _ in range(2):
        await provider.refresh("rt")
    assert [header in request.headers for request in wire.requests] == [False, False]


async def test_a_subclass_of_a_client_is_a_client(library: ModuleType) -> None:
    subclass = type("Traced", (library.AsyncClient,), {})

    def refuse(request: Any) -> Any:
        raise library.ConnectError("no route")

    provider = provider_at(http_client=subclass(transport=library.MockTransport(refuse)))
    assert not (await failure(provider.refresh(REFRESH_TOKEN))).in_doubt


# -- what comes back ------------------------------------------------------------------------------


async def test_a_dead_grant_is_a_rejection(wire: Wire) -> None:
    with pytest.raises(RefreshRejected, match="invalid_grant"):
        await wire.provider((400, b'{"error": "invalid_grant"}')).refresh("rt")


async def test_a_provider_has_rejection_codes_of_its_own(wire: Wire) -> None:
    provider = wire.provider((400, b'{"error": "Gone_Grant"}'), rejection_codes=["GONE_grant"])
    with pytest.raises(RefreshRejected):
        await provider.refresh("rt")


async def test_a_lifetime_is_assumed_where_the_server_says_none(wire: Wire) -> None:
    silent = b'{"access_token": "at"}'
    provider = wire.provider((200, silent), (200, silent), (200, TOKENS), default_expires_in=900)
    assert (await provider.refresh("rt")).expires_in == 900
    code = await provider.exchange_code(
        "c", redirect_uri="https://app.example/cb", code_verifier="v"
    )
    assert code.expires_in == 900
    assert (await provider.refresh("rt")).expires_in == 300


async def test_a_wrong_secret_is_for_an_operator(wire: Wire) -> None:
    with pytest.raises(ProviderMisconfigured, match="check client_id"):
        await wire.provider((401, b'{"error": "invalid_client"}')).refresh("rt")


async def test_retry_after_may_be_a_date(wire: Wire) -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    error = await failure(wire.provider((503, b"", {"retry-after": date})).refresh("rt"))
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60


NOT_SENT = ["ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"]
MAYBE_SENT = [
    "ReadTimeout",
    "WriteTimeout",
    "ReadError",
    "WriteError",
    "CloseError",
    "RemoteProtocolError",
    "LocalProtocolError",
    "DecodingError",
]


@pytest.mark.parametrize("name", [*NOT_SENT, *MAYBE_SENT])
async def test_an_error_of_the_wire_says_whether_it_may_have_arrived(wire: Wire, name: str) -> None:
    fault = getattr(wire.library, name)(f"about {REFRESH_TOKEN}")
    error = await failure(wire.provider(fault).refresh(REFRESH_TOKEN))
    assert error.in_doubt is (name in MAYBE_SENT)
    assert name in str(error)


@pytest.mark.parametrize("fault", [ValueError, RuntimeError, OSError, TimeoutError, KeyError])
async def test_a_strange_error_of_a_transport_is_in_doubt_and_goes_no_further(
    wire: Wire, fault: type[Exception]
) -> None:
    error = await failure(wire.provider(fault(REFRESH_TOKEN)).refresh(REFRESH_TOKEN))
    assert error.in_doubt


async def test_a_client_that_was_closed_says_so(wire: Wire) -> None:
    provider = wire.provider()
    assert provider.http._given is not None
    await provider.http._given.aclose()
    error = await failure(provider.refresh("rt"))
    assert not error.in_doubt
    assert "closed" in str(error)


# -- revocation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "confirmed"),
    [
        ([(200, b"")], True),
        ([(400, b'{"error": "unsupported_token_type"}')], False),
        ([(302, b"", {"location": "https://op.example/login"})], False),
        ([(503, b""), (200, b"")], True),
        ([(503, b""), (503, b"")], False),
    ],
)
async def test_a_revocation_is_tried_again_once_after_503(
    wire: Wire, answers: list[Any], confirmed: bool
) -> None:
    provider = wire.provider(*answers, revocation_endpoint="https://op.example/revoke")
    assert await provider.revoke("rt") is confirmed
    assert wire.answers == []
    assert str(wire.requests[0].url) == "https://op.example/revoke"
    assert wire.form == {"token": ["rt"], "token_type_hint": ["refresh_token"]}
    assert wire.requests[0].headers["authorization"].startswith("Basic ")


async def test_a_revocation_that_finds_nobody_is_not_confirmed(wire: Wire) -> None:
    options = {"revocation_endpoint": "https://op.example/revoke"}
    provider = wire.provider(wire.library.ReadTimeout("late"), **options)
    assert await provider.revoke("at", token_type_hint="access_token") is False


async def test_without_a_revocation_endpoint_nothing_is_sent(wire: Wire) -> None:
    assert await wire.provider().revoke("rt") is False
    assert wire.requests == []


# -- real sockets ---------------------------------------------------------------------------------


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handle: Handler, **options: Any) -> AsyncIterator[int]:
    """A server on a free port of this machine; its handlers end with it."""
    tasks: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)


def answering(raw: bytes, *, seen: list[bytes] | None = None) -> Handler:
    """Reads one request, writes ``raw``, hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if seen is not None:
            seen.append(request)
        writer.write(raw)
        await writer.drain()

    return handle


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def at(port: int, client: Any, **options: Any) -> OAuth2Provider:
    return provider_at(
        f"http://127.0.0.1:{port}/token", http_client=client, **{"timeout": 2.0, **options}
    )


async def test_tokens_come_over_a_real_socket(client: Any) -> None:
    seen: list[bytes] = []
    async with listening(answering(answer("200 OK", TOKENS), seen=seen)) as port:
        tokens = await at(port, client).refresh(REFRESH_TOKEN)
    assert tokens.access_token == "n3w-access-token"
    head, _, body = seen[0].lower().partition(b"\r\n\r\n")
    assert body == f"grant_type=refresh_token&refresh_token={REFRESH_TOKEN}".encode()
    assert head.startswith(b"post /token http/1.1\r\n")
    assert b"\r\ncookie:" not in head
    assert head.count(b"authorization:") == 1


async def test_nobody_listening_is_not_sent(client: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await failure(at(free.getsockname()[1], client).refresh(REFRESH_TOKEN))
    assert not error.in_doubt
    assert "could not be reached" in str(error)


async def test_a_server_that_hangs_up_after_reading_leaves_it_in_doubt(client: Any) -> None:
    async with listening(answering(b"")) as port:
        assert (await failure(at(port, client).refresh(REFRESH_TOKEN))).in_doubt


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + TOKENS,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n" + TOKENS[:16] + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        answer("200 OK", TOKENS[:40]),
        answer("200 OK", gzip.compress(TOKENS)[:-9], "content-encoding: gzip"),
        answer("200 OK", TOKENS, "content-encoding: gzip"),
        answer("200 OK", TOKENS, "content-encoding: br"),
    ],
    ids=["length", "chunked", "head", "no-http", "json", "gzip", "no-gzip", "unasked-coding"],
)
async def test_half_an_answer_leaves_it_in_doubt(client: Any, raw: bytes) -> None:
    async with listening(answering(raw)) as port:
        assert (await failure(at(port, client).refresh(REFRESH_TOKEN))).in_doubt


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TOKENS)),
        ("x-gzip", gzip.compress(TOKENS)),
        ("Deflate", zlib.compress(TOKENS)),
    ],
)
async def test_an_answer_that_is_compressed_unasked_is_read(
    client: Any, coding: str, body: bytes
) -> None:
    async with listening(answering(answer("200 OK", body, f"content-encoding: {coding}"))) as port:
        assert (await at(port, client).refresh("rt")).refresh_token == "n3w-refresh"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await asyncio.sleep(60)


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never silent for long enough to be timed out for it."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(3000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [silent, dripping])
async def test_time_is_capped_whatever_the_server_does(client: Any, handler: Handler) -> None:
    began = time.monotonic()
    async with listening(handler) as port:
        error = await failure(at(port, client, timeout=0.3).refresh(REFRESH_TOKEN))
        assert 0.2 < time.monotonic() - began < 1.5
    assert error.in_doubt


async def test_a_handshake_that_hangs_is_not_sent(client: Any) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with listening(mute) as port:
        provider = provider_at(f"https://127.0.0.1:{port}/", http_client=client, timeout=0.3)
        assert not (await failure(provider.refresh(REFRESH_TOKEN))).in_doubt


async def test_being_cancelled_is_passed_on_at_once(client: Any) -> None:
    async with listening(silent) as port:
        task = asyncio.create_task(at(port, client, timeout=60).refresh("rt"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)


@pytest.mark.parametrize(
    ("status", "in_doubt"), [("200 OK", True), ("500 Oops", False), ("400 Bad", False)]
)
async def test_an_endless_answer_is_read_no_further_than_the_cap(
    client: Any, status: str, in_doubt: bool
) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with listening(endless) as port:
        error = await failure(at(port, client, timeout=10).refresh(REFRESH_TOKEN))
    assert (error.in_doubt, error.refused) == (in_doubt, False)
    assert "too long" in str(error)


async def test_a_decompression_bomb_is_not_unpacked(client: Any) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < LIMIT
    async with listening(answering(answer("200 OK", bomb, "content-encoding: gzip"))) as port:
        tracemalloc.start()
        error = await failure(at(port, client, timeout=10).refresh(REFRESH_TOKEN))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert error.in_doubt
    assert "too long" in str(error)
    assert peak < 20_000_000


async def test_an_answer_just_under_the_cap_is_read(client: Any) -> None:
    body = TOKENS + b" " * (LIMIT - len(TOKENS))
    for fits, raw in ((True, body), (False, body + b" ")):
        async with listening(answering(answer("200 OK", raw))) as port:
            if fits:
                await at(port, client).refresh("rt")
            else:
                await failure(at(port, client).refresh(REFRESH_TOKEN))


async def test_a_cap_counts_for_a_transport_that_has_read_already(wire: Wire) -> None:
    body = TOKENS + b" " * LIMIT
    assert (await failure(wire.provider((200, body)).refresh(REFRESH_TOKEN))).in_doubt


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Here", "308 Now"])
async def test_credentials_do_not_follow_a_redirect(client: Any, status: str) -> None:
    seen: list[bytes] = []
    async with listening(answering(answer("200 OK", TOKENS), seen=seen)) as elsewhere:
        location = f"location: http://127.0.0.1:{elsewhere}/token"
        async with listening(answering(answer(status, b"", location))) as port:
            with pytest.raises(ProviderMisconfigured, match="redirects"):
                await at(port, client).refresh(REFRESH_TOKEN)
    assert seen == []


async def test_plain_http_on_this_machine_goes_past_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []
    async with listening(answering(answer("200 OK", TOKENS), seen=seen)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        async with listening(answering(answer("200 OK", TOKENS))) as port:
            await at(port, None).refresh(REFRESH_TOKEN)
    assert seen == []


async def test_what_a_server_sets_for_one_user_is_not_sent_for_the_next() -> None:
    seen: list[bytes] = []
    raw = answer("200 OK", TOKENS, "set-cookie: sid=1; path=/")
    async with listening(answering(raw, seen=seen)) as port:
        provider = at(port, None)
        await provider.http.open()
        for _ in range(2):
            await provider.refresh("rt")
        await provider.http.aclose()
    assert len(seen) == 2
    assert not [request for request in seen if b"\r\ncookie:" in request.lower()]


# -- TLS ------------------------------------------------------------------------------------------


def certificate(name: str, folder: Path) -> Path:
    """A self-signed certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def serving(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_certificate_that_nobody_signed_is_refused(client: Any, tmp_path: Path) -> None:
    seen: list[bytes] = []
    handler = answering(answer("200 OK", TOKENS), seen=seen)
    context = serving(certificate("localhost", tmp_path))
    async with listening(handler, ssl=context) as port:
        provider = provider_at(f"https://localhost:{port}/token", http_client=client)
        error = await failure(provider.refresh(REFRESH_TOKEN))
    assert (error.in_doubt, seen) == (False, [])
    assert "certificate is not trusted" in str(error)


async def test_an_error_before_anything_is_sent_is_known_for_one_by_its_time(
    library: ModuleType,
) -> None:
    class Broken(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError(REFRESH_TOKEN)

    async with (
        listening(silent) as port,
        library.AsyncClient(verify=Broken(ssl.PROTOCOL_TLS_CLIENT)) as given,
    ):
        provider = provider_at(f"https://localhost:{port}/", http_client=given)
        error = await failure(provider.refresh(REFRESH_TOKEN))
    assert (error.in_doubt, "RuntimeError" in str(error)) == (False, True)


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("op.example", False)])
async def test_a_trusted_certificate_counts_for_its_own_name_only(
    name: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(name, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with listening(answering(answer("200 OK", TOKENS)), ssl=serving(path)) as port:
        provider = provider_at(f"https://localhost:{port}/token")
        if trusted:
            assert (await provider.refresh("rt")).refresh_token == "n3w-refresh"
        else:
            assert not (await failure(provider.refresh(REFRESH_TOKEN))).in_doubt


# -- the client's life ----------------------------------------------------------------------------


class Counted(BaseHTTPRequestHandler):
    """Keeps connections alive, and counts them."""

    protocol_version = "HTTP/1.1"
    connections: list[object]

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.client_address)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(TOKENS)))
        self.end_headers()
        self.wfile.write(TOKENS)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def counted() -> Iterator[tuple[int, list[object]]]:
    """A server in a thread of its own, which outlives event loops."""
    connections: list[object] = []
    handler = type("Handler", (Counted,), {"connections": connections})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_address[1], connections
    server.shutdown()
    server.server_close()
    thread.join()


async def test_an_open_client_shares_its_connections(counted: tuple[int, list[object]]) -> None:
    port, connections = counted
    http = HTTP()
    provider = at(port, None)
    provider.use(http)
    await http.open()
    await http.open()
    for _ in range(3):
        await provider.refresh("rt")
    assert len(connections) == 1
    await http.aclose()
    await http.aclose()
    await provider.refresh("rt")
    assert len(connections) == 2


def test_one_provider_serves_one_event_loop_after_another(
    counted: tuple[int, list[object]],
) -> None:
    port, connections = counted
    provider = at(port, None)
    for _ in range(3):
        assert asyncio.run(provider.refresh("rt")).access_token == "n3w-access-token"
    assert len(connections) == 3


def test_an_open_client_is_no_client_of_another_event_loop(
    counted: tuple[int, list[object]],
) -> None:
    port, _ = counted
    provider = at(port, None)

    async def lifespan() -> None:
        await provider.http.open()
        await provider.refresh("rt")
        thread = threading.Thread(target=lambda: asyncio.run(provider.refresh("rt")))
        thread.start()
        await asyncio.to_thread(thread.join)
        await provider.refresh("rt")
        await provider.http.aclose()

    for _ in range(2):
        asyncio.run(lifespan())


async def test_a_client_that_was_given_is_left_open(library: ModuleType) -> None:
    async with library.AsyncClient() as given:
        http = HTTP(given)
        await http.open()
        await http.aclose()
        assert not given.is_closed


async def test_a_provider_with_a_client_of_its_own_keeps_it(wire: Wire) -> None:
    provider = wire.provider((200, TOKENS))
    provider.use(HTTP())
    await provider.refresh("rt")
    assert len(wire.requests) == 1


async def test_a_provider_without_one_uses_what_it_is_lent(wire: Wire) -> None:
    wire.answers.append((200, TOKENS))
    lent = HTTP(wire.library.AsyncClient(transport=wire.library.MockTransport(wire)))
    provider = provider_at()
    provider.use(lent)
    await provider.refresh("rt")
    assert len(wire.requests) == 1


@pytest.mark.parametrize("wrong", [httpx.Client, httpx2.Client, object, lambda: "client"])
def test_only_an_asynchronous_client_will_do(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match="http_client"):
        provider_at(http_client=wrong())


# -- what is told ---------------------------------------------------------------------------------


async def test_no_token_is_logged_at_any_level(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    bodies = [
        answer("200 OK", TOKENS),
        answer("400 Bad", b'{"error": "%s"}' % REFRESH_TOKEN.encode()),
        answer("400 Bad", b'{"error": "invalid_grant"}'),
        answer("200 OK", TOKENS[:-5]),
        b"",
    ]
    for raw in bodies:
        async with listening(answering(raw)) as port:
            url = f"http://127.0.0.1:{port}/"
            provider = at(port, client, userinfo_endpoint=url, revocation_endpoint=url)
            for attempt in (
                provider.refresh(REFRESH_TOKEN),
                provider.revoke(REFRESH_TOKEN),
                provider.userinfo("n3w-access-token"),
            ):
                try:
                    await attempt
                except ProviderError as error:
                    logging.getLogger("test").exception("failed", exc_info=error)
    asyncio.get_running_loop().set_debug(False)
    assert "send_request_headers" in caplog.text
    assert not [planted for planted in PLANTED if planted in caplog.text]


def test_a_provider_shows_no_secret() -> None:
    shown = repr(provider_at())
    assert shown == "OAuth2Provider(token_endpoint='https://op.example/token', client_id='client')"


async def test_an_answer_shows_its_status_only(wire: Wire) -> None:
    provider = wire.provider((200, TOKENS, {"x-token": "n3w-access-token"}))
    got = await provider.http.post("https://op.example/token", {})
    assert (got.status, got.body, got.headers["x-token"]) == (200, TOKENS, "n3w-access-token")
    assert repr(got) == "Answer(status=200)"


# -- how one is made ------------------------------------------------------------------------------


def test_an_oauth2_provider_is_a_provider() -> None:
    assert isinstance(provider_at(), Provider)
    assert provider_at(timeout=2).timeout == 2.0
    assert provider_at().timeout == 5.0


def test_the_sign_in_url_holds_what_the_provider_knows() -> None:
    provider = provider_at(
        authorization_endpoint="https://op.example/authorize",
        scope=["openid", "email offline_access"],
        authorization_params={"prompt": "consent", "audience": "api"},
        redirect_uri="https://app.example/callback",
    )
    url = provider.authorization_url(state="s", code_challenge="c", extra={"prompt": "login"})
    assert parse_qs(urlsplit(url).query) == {
        "response_type": ["code"],
        "client_id": ["client"],
        "redirect_uri": ["https://app.example/callback"],
        "scope": ["openid email offline_access"],
        "state": ["s"],
        "code_challenge": ["c"],
        "code_challenge_method": ["S256"],
        "prompt": ["login"],
        "audience": ["api"],
    }
    other = provider.authorization_url(
        state="s", code_challenge="c", redirect_uri="https://other.example/"
    )
    assert parse_qs(urlsplit(other).query)["redirect_uri"] == ["https://other.example/"]


@pytest.mark.parametrize(
    "options", [{}, {"authorization_endpoint": "https://op.example/authorize"}]
)
def test_a_sign_in_needs_an_address_and_a_way_back(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="authorization_endpoint"):
        provider_at(**options).authorization_url(state="s", code_challenge="c")


@pytest.mark.parametrize(
    ("options", "told_about"),
    [
        ({"token_endpoint": "http://op.example/token"}, "token_endpoint"),
        ({"revocation_endpoint": "http://op.example/"}, "revocation_endpoint"),
        ({"authorization_endpoint": "op.example"}, "authorization_endpoint"),
        ({"userinfo_endpoint": ""}, "userinfo_endpoint"),
        ({"redirect_uri": "https://app.example/#"}, "redirect_uri"),
        ({"client_id": ""}, "client_id is empty"),
        ({"client_id": None}, "client_id is empty"),
        ({"client_id": "a\nb"}, "client_id .* newline"),
        ({"client_secret": ""}, "client_secret is empty"),
        ({"client_secret": "read-from-a-file\n"}, "client_secret .* newline"),
        ({"client_secret": "\ud800"}, "client_secret"),
        ({"token_endpoint_auth_method": "basic"}, "client_secret_basic, client_secret_post"),
        ({"token_endpoint_auth_method": None}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "none"}, "leave out client_secret"),
        (
            {"token_endpoint_auth_method": "client_secret_post", "client_secret": None},
            "needs a client_secret",
        ),
        ({"scope": 7}, "scope"),
        ({"scope": ["openid", 7]}, "scope"),
        ({"authorization_params": {"state": "s"}}, "may not hold state"),
        ({"authorization_params": {"code_challenge": "c", "nonce": "n"}}, "code_challenge, nonce"),
        ({"authorization_params": {"prompt": True}}, "authorization_params"),
        ({"refresh_params": {"grant_type": "password"}}, "may not hold grant_type"),
        ({"refresh_params": {"refresh_token": "rt"}}, "may not hold refresh_token"),
        ({"refresh_params": "scope=openid"}, "refresh_params"),
        ({"rejection_codes": "gone"}, "in brackets"),
        ({"rejection_codes": [7]}, "rejection_codes"),
        ({"rejection_codes": None}, "rejection_codes"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"default_expires_in": 0}, "default_expires_in"),
        ({"default_expires_in": "3600"}, "default_expires_in"),
    ],
)
def test_what_could_not_work_is_refused_at_once(options: dict[str, Any], told_about: str) -> None:
    settings: dict[str, Any] = {
        "token_endpoint": "https://op.example/token",
        "client_id": "client",
        "client_secret": SECRET,
        **options,
    }
    with pytest.raises(ConfigurationError, match=told_about) as caught:
        OAuth2Provider(**settings)
    assert SECRET not in told(caught.value)
