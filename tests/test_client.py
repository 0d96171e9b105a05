"""How the client proves who it is, and what else its requests carry: proofs, resources, more."""

from __future__ import annotations

import asyncio
import json
import logging
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest

from fastapi_ideal_auth import (
    ConfigurationError,
    OAuth2Provider,
    OpenIDProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)
from fastapi_ideal_auth.client import Deadline
from fastapi_ideal_auth.errors import ProviderError
from fastapi_ideal_auth.oauth import asks_for_nonce, code_challenge, judge_pushed_request

from .openid_provider import CLIENT_ID, CLIENT_SECRET, ISSUER, OpenIDServer, key, opened
from .test_oauth import told

EC, RSA, ED = key("EC", "ec-1"), key("RSA", "rsa-1"), key("OKP", "ed-1")
DPOP = key("EC", "dpop-1")
VERIFIER = "v" * 43
CALLBACK = "https://app.example/callback"


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def server() -> OpenIDServer:
    return OpenIDServer()


def private(of: Any) -> dict[str, Any]:
    jwk: dict[str, Any] = of.as_dict(private=True)
    return jwk


def openid(server: OpenIDServer, library: Any = httpx, **options: Any) -> OpenIDProvider:
    settings: dict[str, Any] = {
        "client_secret": CLIENT_SECRET,
        "http_client": server.client(library),
        "clock": server.clock,
        "redirect_uri": CALLBACK,
        **options,
    }
    return OpenIDProvider(server.issuer, CLIENT_ID, **settings)


def oauth2(server: OpenIDServer, library: Any = httpx, **options: Any) -> OAuth2Provider:
    settings: dict[str, Any] = {
        "client_secret": CLIENT_SECRET,
        "http_client": server.client(library),
        "clock": server.clock,
        "redirect_uri": CALLBACK,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "userinfo_endpoint": f"{ISSUER}/userinfo",
        "revocation_endpoint": f"{ISSUER}/revoke",
        **options,
    }
    return OAuth2Provider(f"{ISSUER}/token", CLIENT_ID, **settings)


def with_key(of: Any, **options: Any) -> dict[str, Any]:
    return {
        "client_secret": None,
        "token_endpoint_auth_method": "private_key_jwt",
        "client_key": private(of),
        **options,
    }


async def begin(provider: Any, **options: Any) -> str:
    url: str = await provider.authorization_request(
        state="s", code_challenge=code_challenge(VERIFIER), **options
    )
    return url


async def sign_in(server: OpenIDServer, provider: Any) -> Any:
    back = parse_qs(urlsplit(server.approve(await begin(provider))).query)
    return await provider.exchange_code(
        back["code"][0], redirect_uri=CALLBACK, code_verifier=VERIFIER
    )


# -- private_key_jwt ------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [RSA, EC, ED], ids=["RSA", "EC", "Ed25519"])
async def test_a_client_signs_who_it_is(server: OpenIDServer, library: ModuleType, of: Any) -> None:
    server.client_public = of
    server.refresh_tokens["rt"] = "ada"
    await openid(server, library, **with_key(of)).refresh("rt")
    form = server.form()
    assert form["client_id"] == [CLIENT_ID]
    assert "client_secret" not in form
    assert "authorization" not in server.asked_for("/token")[0].headers
    header, claims = opened(form["client_assertion"][0], of)
    assert header["kid"] == of.kid
    assert claims["aud"] == ISSUER
    assert claims["exp"] - claims["iat"] <= 60


async def test_each_request_has_an_assertion_of_its_own(server: OpenIDServer) -> None:
    """The server refuses a ``jti`` that it has seen."""
    server.client_public = EC
    server.metadata["pushed_authorization_request_endpoint"] = f"{ISSUER}/par"
    provider = openid(server, **with_key(EC))
    tokens = await sign_in(server, provider)
    for _ in range(3):
        tokens = await provider.refresh(tokens.refresh_token)
    assert await provider.revoke(tokens.refresh_token)
    assert len(server.jtis) == 6


async def test_a_second_try_has_another_jti(server: OpenIDServer) -> None:
    server.client_public = EC
    answers = [503, 200]

    def revoke(request: Any) -> Any:
        server.authenticates(request, parse_qs(request.content.decode()))
        return httpx.Response(answers.pop(0))

    server.faults["/revoke"] = revoke
    assert await openid(server, **with_key(EC)).revoke("rt")
    assert len(server.jtis) == 2


@pytest.mark.parametrize(
    ("options", "audience"),
    [
        ({}, f"{ISSUER}/token"),
        ({"issuer": ISSUER}, ISSUER),
        (
            {"issuer": ISSUER, "client_assertion_audience": "https://as.example"},
            "https://as.example",
        ),
    ],
)
async def test_an_assertion_is_for_the_issuer_or_whom_is_named(
    server: OpenIDServer, options: dict[str, Any], audience: str
) -> None:
    server.client_public = EC
    with pytest.raises(ProviderError) if audience != ISSUER else pytest.raises(RefreshRejected):
        await oauth2(server, **with_key(EC), **options).refresh("rt")
    _, claims = opened(server.form()["client_assertion"][0], EC)
    assert claims["aud"] == audience


async def test_how_an_assertion_is_signed_can_be_chosen(server: OpenIDServer) -> None:
    server.client_public = RSA
    provider = openid(server, **with_key(RSA, token_endpoint_auth_signing_alg="PS256"))
    with pytest.raises(RefreshRejected):
        await provider.refresh("rt")
    assert opened(server.form()["client_assertion"][0], RSA)[0]["alg"] == "PS256"


@pytest.mark.parametrize(
    ("options", "told_about"),
    [
        ({"token_endpoint_auth_method": "private_key_jwt"}, "go together"),
        ({"client_key": private(EC)}, "go together"),
        (with_key(EC, client_key="no key"), "client_key is a private key"),
        (with_key(EC, token_endpoint_auth_signing_alg="RS256"), "does not sign with RS256"),
        ({"dpop_key": private(RSA)}, "dpop_key is a private key of type EC or OKP"),
        ({"resource": "no-uri"}, "resource"),
        ({"resource": "https://api.example/#a"}, "resource"),
        ({"resource": 7}, "resource"),
        ({"token_params": {"client_assertion": "x"}}, "may not hold client_assertion"),
        ({"token_params": {"audience": 7}}, "token_params"),
        ({"authorization_params": {"request_uri": "x"}}, "may not hold request_uri"),
        ({"authorization_params": {"resource": ["a", 7]}}, "authorization_params"),
        ({"post_logout_redirect_uri": "http://app.example/"}, "post_logout_redirect_uri"),
        ({"end_session_endpoint": "http://op.example/"}, "end_session_endpoint"),
    ],
)
def test_what_could_not_work_is_refused_at_once(
    server: OpenIDServer, options: dict[str, Any], told_about: str
) -> None:
    with pytest.raises(ConfigurationError, match=told_about) as caught:
        oauth2(server, **options)
    assert private(EC)["d"] not in told(caught.value)


# -- resources and parameters ---------------------------------------------------------------------


async def test_the_browser_asks_for_every_resource_and_a_token_is_for_one(
    server: OpenIDServer,
) -> None:
    provider = openid(server, resource=["https://a.example/", "https://b.example/"])
    query = parse_qs(urlsplit(await begin(provider)).query)
    assert query["resource"] == ["https://a.example/", "https://b.example/"]
    tokens = await sign_in(server, provider)
    assert server.form()["resource"] == ["https://a.example/"]
    tokens = await provider.refresh(tokens.refresh_token)
    assert server.form()["resource"] == ["https://a.example/"]
    await provider.refresh(tokens.refresh_token, resource="https://b.example/")
    assert server.form()["resource"] == ["https://b.example/"]


async def test_one_resource_may_be_asked_for_though_none_is_configured(
    server: OpenIDServer,
) -> None:
    server.refresh_tokens["rt"] = "ada"
    await openid(server).refresh("rt", resource="https://a.example/")
    assert server.form()["resource"] == ["https://a.example/"]


async def test_further_parameters_go_where_they_are_meant(server: OpenIDServer) -> None:
    provider = openid(
        server,
        authorization_params={"prompt": "consent", "audience": ["a", "b"]},
        token_params={"audience": "api", "scope": "all"},
        refresh_params={"scope": "some"},
    )
    query = parse_qs(urlsplit(await begin(provider, extra={"prompt": "login"})).query)
    assert (query["prompt"], query["audience"]) == (["login"], ["a", "b"])
    tokens = await sign_in(server, provider)
    assert (server.form()["audience"], server.form()["scope"]) == (["api"], ["all"])
    await provider.refresh(tokens.refresh_token)
    assert (server.form()["audience"], server.form()["scope"]) == (["api"], ["some"])


async def test_no_parameter_replaces_what_a_request_has(server: OpenIDServer) -> None:
    provider = openid(server)
    url = await begin(provider, extra={"state": "evil", "redirect_uri": "https://evil.example"})
    query = parse_qs(urlsplit(url).query)
    assert (query["state"], query["redirect_uri"]) == (["s"], [CALLBACK])


# -- pushed authorization requests ----------------------------------------------------------------


@pytest.fixture
def pushing(server: OpenIDServer) -> OpenIDServer:
    server.metadata["pushed_authorization_request_endpoint"] = f"{ISSUER}/par"
    return server


async def test_a_request_is_pushed_where_the_server_takes_it(
    pushing: OpenIDServer, library: ModuleType
) -> None:
    provider = openid(pushing, library)
    url = await begin(provider, nonce="n")
    query = parse_qs(urlsplit(url).query)
    assert query.keys() == {"client_id", "request_uri"}
    assert pushing.form("/par")["nonce"] == ["n"]
    assert "authorization" in pushing.asked_for("/par")[0].headers
    assert (await sign_in(pushing, provider)).access_token


async def test_endpoints_that_are_told_may_push_too(server: OpenIDServer) -> None:
    provider = oauth2(server, pushed_authorization_request_endpoint=f"{ISSUER}/par")
    assert (await sign_in(server, provider)).access_token
    assert "/par" in server.paths()


async def test_a_server_may_be_kept_from_it(pushing: OpenIDServer) -> None:
    url = await begin(openid(pushing, pushed_authorization_requests=False))
    assert "state=s" in url
    assert "/par" not in pushing.paths()


async def test_what_must_be_pushed_goes_no_other_way(server: OpenIDServer) -> None:
    with pytest.raises(ProviderMisconfigured, match="names no pushed"):
        await begin(openid(server, pushed_authorization_requests=True))
    with pytest.raises(ProviderMisconfigured, match="names no pushed"):
        await begin(oauth2(server, pushed_authorization_requests=True))
    server.metadata["require_pushed_authorization_requests"] = True
    with pytest.raises(ProviderMisconfigured, match="names no pushed"):
        await begin(openid(server))
    server.metadata["pushed_authorization_request_endpoint"] = f"{ISSUER}/par"
    with pytest.raises(ProviderMisconfigured, match="leave out"):
        await begin(openid(server, pushed_authorization_requests=False))
    assert "request_uri" in await begin(openid(server))


@pytest.mark.parametrize("code", ["invalid_request", "invalid_redirect_uri"])
async def test_a_push_that_is_refused_says_where_to_look(pushing: OpenIDServer, code: str) -> None:
    """For a redirect URI that is not registered there is no code of its own (RFC 9126 §2.3)."""
    pushing.faults["/par"] = lambda _: pushing.refuse(code)
    with pytest.raises(ProviderMisconfigured, match=r"answered 400 .*register the redirect URI"):
        await begin(openid(pushing))


@pytest.mark.parametrize("required", [True, False])
async def test_a_push_that_fails_is_no_reason_to_send_the_browser_with_it_all(
    pushing: OpenIDServer, required: bool
) -> None:
    pushing.metadata["require_pushed_authorization_requests"] = required
    pushing.faults["/par"] = lambda _: httpx.Response(503, headers={"retry-after": "7"})
    with pytest.raises(ProviderUnavailable) as caught:
        await begin(openid(pushing))
    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"error": "invalid_request"}, ProviderMisconfigured, "invalid_request"),
        (401, {"error": "invalid_client"}, ProviderMisconfigured, "check client_id"),
        (400, {"error": "s3cret-echo"}, ProviderMisconfigured, "an unknown error code"),
        (404, {}, ProviderMisconfigured, "404"),
        (302, {}, ProviderMisconfigured, "redirects"),
        (201, {}, ProviderMisconfigured, "201"),
        (201, {"request_uri": ""}, ProviderMisconfigured, "201"),
        (201, {"request_uri": "a b"}, ProviderMisconfigured, "201"),
        (429, {}, ProviderUnavailable, "429"),
        (400, {"error": "temporarily_unavailable"}, ProviderUnavailable, "temporarily"),
    ],
)
def test_a_pushed_request_that_is_refused_says_whose_fault_it_is(
    status: int, body: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        judge_pushed_request(status, {}, json.dumps(body).encode(), now=0)


# -- DPoP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [DPOP, ED], ids=["EC", "Ed25519"])
async def test_tokens_are_bound_to_a_key(
    pushing: OpenIDServer, library: ModuleType, of: Any
) -> None:
    provider = openid(pushing, library, dpop_key=private(of))
    tokens = await sign_in(pushing, provider)
    assert tokens.token_type == "DPoP"
    assert pushing.form("/par")["dpop_jkt"] == [of.thumbprint()]
    assert (await provider.userinfo(tokens.access_token))["sub"] == "ada"
    assert (await provider.refresh(tokens.refresh_token)).token_type == "DPoP"
    assert pushing.bound == {of.thumbprint()}
    for path in ("/par", "/token", "/userinfo"):
        assert all("dpop" in request.headers for request in pushing.asked_for(path))


async def test_the_plain_request_names_the_key_too(server: OpenIDServer) -> None:
    query = parse_qs(urlsplit(await begin(openid(server, dpop_key=private(DPOP)))).query)
    assert query["dpop_jkt"] == [DPOP.thumbprint()]


async def test_a_refresh_is_repeated_once_for_a_nonce(
    server: OpenIDServer, library: ModuleType
) -> None:
    """The server spends nothing when it asks for its nonce (RFC 9449 §8)."""
    server.dpop_nonce = "nonce-1"
    server.refresh_tokens["rt"] = "ada"
    provider = openid(server, library, dpop_key=private(DPOP))
    tokens = await provider.refresh("rt")
    assert server.paths().count("/token") == 2
    tokens = await provider.refresh(tokens.refresh_token)
    assert server.paths().count("/token") == 3  # the nonce is known now
    server.dpop_nonce = "nonce-2"
    tokens = await provider.refresh(tokens.refresh_token)
    assert server.paths().count("/token") == 5


async def test_every_request_with_a_proof_takes_a_nonce(pushing: OpenIDServer) -> None:
    provider = openid(pushing, dpop_key=private(DPOP))
    for path in ("/par", "/token", "/userinfo"):
        pushing.dpop_nonce = f"nonce-of-{path}"
        match path:
            case "/par":
                url = await begin(provider)
            case "/token":
                code = parse_qs(urlsplit(pushing.approve(url)).query)["code"][0]
                tokens = await provider.exchange_code(
                    code, redirect_uri=CALLBACK, code_verifier=VERIFIER
                )
            case _:
                assert await provider.userinfo(tokens.access_token)
        assert pushing.paths().count(path) == 2


async def test_a_server_that_never_has_enough_is_asked_twice(server: OpenIDServer) -> None:
    def never(request: Any) -> Any:
        headers = {"dpop-nonce": f"nonce-{len(server.requests)}"}
        return httpx.Response(400, json={"error": "use_dpop_nonce"}, headers=headers)

    server.faults["/token"] = never
    with pytest.raises(ProviderMisconfigured):
        await openid(server, dpop_key=private(DPOP)).refresh("rt")
    assert server.paths().count("/token") == 2


async def test_a_nonce_costs_no_second_assertion_its_life(server: OpenIDServer) -> None:
    server.client_public, server.dpop_nonce = EC, "nonce-1"
    server.refresh_tokens["rt"] = "ada"
    provider = openid(server, **with_key(EC), dpop_key=private(DPOP))
    assert (await provider.refresh("rt")).token_type == "DPoP"


async def test_nonces_are_kept_a_server(server: OpenIDServer) -> None:
    provider = openid(server, dpop_key=private(DPOP))
    for n in range(200):
        provider._noticed(f"https://{n}.example/", {"dpop-nonce": str(n)})
    assert len(provider._nonces) == 64
    assert not provider._noticed("https://a.example/", {"dpop-nonce": "a\nb"})
    assert not provider._noticed("https://a.example/", {"dpop-nonce": "n" * 5000})


async def test_a_bound_token_without_a_key_is_for_an_operator(server: OpenIDServer) -> None:
    bound = {"access_token": "at", "token_type": "dPoP"}
    server.faults["/token"] = lambda _: httpx.Response(200, json=bound)
    with pytest.raises(ProviderMisconfigured, match="dpop_key"):
        await openid(server).refresh("rt")


async def test_a_sign_in_that_is_not_bound_in_spite_of_the_key_is_refused(
    server: OpenIDServer,
) -> None:
    server.faults["/token"] = lambda _: httpx.Response(200, json={"access_token": "at"})
    with pytest.raises(ProviderMisconfigured, match="Bearer"):
        await openid(server, dpop_key=private(DPOP)).exchange_code(
            "c", redirect_uri=CALLBACK, code_verifier=VERIFIER
        )


@pytest.mark.parametrize(
    ("status", "headers", "body", "asks"),
    [
        (400, {"dpop-nonce": "n"}, b'{"error": "use_dpop_nonce"}', True),
        (401, {"dpop-nonce": "n", "www-authenticate": 'DPoP error="use_dpop_nonce"'}, b"", True),
        (401, {"dpop-nonce": "n"}, b'{"error": "use_dpop_nonce"}', True),
        (400, {}, b'{"error": "use_dpop_nonce"}', False),
        (400, {"dpop-nonce": "n"}, b'{"error": "invalid_grant"}', False),
        (401, {"dpop-nonce": "n", "www-authenticate": "Bearer"}, b"", False),
        (200, {"dpop-nonce": "n"}, b'{"access_token": "at"}', False),
        (500, {"dpop-nonce": "n"}, b'{"error": "use_dpop_nonce"}', False),
    ],
)
def test_a_nonce_is_asked_for_in_so_many_words(
    status: int, headers: dict[str, str], body: bytes, asks: bool
) -> None:
    assert asks_for_nonce(status, headers, body) is asks


# -- a bound token at an API ----------------------------------------------------------------------


class API:
    """A resource server that wants a nonce of its own, and redirects when told to."""

    def __init__(self, server: OpenIDServer, library: ModuleType) -> None:
        self.server = server
        self.library = library
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if request.url.path == "/away":
            return self.library.Response(302, headers={"location": "https://evil.example/"})
        if "authorization" not in request.headers:
            return self.library.Response(401)
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert scheme == "DPoP"
        wrong = self.server.wrong_proof(request, token)
        headers = {"dpop-nonce": self.server.dpop_nonce or "n"}
        if wrong:
            headers["www-authenticate"] = f'DPoP error="{wrong}"'
        return self.library.Response(401 if wrong else 200, headers=headers)

    def client(self) -> Any:
        return self.library.AsyncClient(
            transport=self.library.MockTransport(self), follow_redirects=True
        )


@pytest.fixture
def api(server: OpenIDServer, library: ModuleType) -> API:
    return API(server, library)


async def test_an_api_is_called_with_a_proof_and_its_nonce(server: OpenIDServer, api: API) -> None:
    server.dpop_nonce = "of-the-api"
    auth = openid(server, dpop_key=private(DPOP)).dpop_auth("at", "api.example")
    async with api.client() as client:
        first = await client.get("https://api.example/a?b=c", auth=auth)
        second = await client.post("https://api.example/a", auth=auth, json={"a": 1})
    assert (first.status_code, second.status_code) == (200, 200)
    assert len(api.requests) == 3


async def test_a_body_that_is_streamed_can_be_sent_again(server: OpenIDServer, api: API) -> None:
    server.dpop_nonce = "of-the-api"

    async def body() -> Any:
        yield b"a"
        yield b"b"

    auth = openid(server, dpop_key=private(DPOP)).dpop_auth("at", "api.example")
    async with api.client() as client:
        response = await client.post("https://api.example/", auth=auth, content=body())
    assert response.status_code == 200
    assert [request.content for request in api.requests] == [b"ab", b"ab"]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://api.example.evil.example/",
        "https://api.example:8443/",
        "http://api.example/",
        "https://api.example@evil.example/",
        "https://xapi.example/",
    ],
)
async def test_the_token_goes_to_no_other_host(server: OpenIDServer, api: API, url: str) -> None:
    auth = openid(server, dpop_key=private(DPOP)).dpop_auth("at-planted", "api.example")
    async with api.client() as client:
        with pytest.raises(ConfigurationError, match="may not go to") as caught:
            await client.get(url, auth=auth)
    assert api.requests == []
    assert "at-planted" not in told(caught.value)


async def test_a_redirect_takes_no_token_along(server: OpenIDServer, api: API) -> None:
    auth = openid(server, dpop_key=private(DPOP)).dpop_auth("at-planted", "api.example")
    async with api.client() as client:
        response = await client.get("https://api.example/away", auth=auth)
    assert str(response.url) == "https://evil.example/"
    assert [r.headers.get("authorization") for r in api.requests] == ["DPoP at-planted", None]


async def test_another_host_has_no_say_in_the_nonce(server: OpenIDServer, api: API) -> None:
    """Where a redirect led, what is said there is not for the API's next proof."""

    def answer(request: Any) -> Any:
        if request.url.host == "evil.example":
            headers = {"dpop-nonce": "evil", "www-authenticate": 'DPoP error="use_dpop_nonce"'}
            return api.library.Response(401, headers=headers)
        return api.library.Response(302, headers={"location": "https://evil.example/"})

    provider = openid(server, dpop_key=private(DPOP))
    transport = api.library.MockTransport(answer)
    async with api.library.AsyncClient(transport=transport, follow_redirects=True) as client:
        auth = provider.dpop_auth("at", "api.example")
        assert (await client.get("https://api.example/", auth=auth)).status_code == 401
    assert provider._nonces == {}


async def test_a_host_may_have_a_port_and_be_this_machine(server: OpenIDServer, api: API) -> None:
    auth = openid(server, dpop_key=private(DPOP)).dpop_auth(
        "at", "api.example:8443", "127.0.0.1:9000", "[::1]:9001", "localhost"
    )
    async with api.client() as client:
        for url in (
            "https://api.example:8443/",
            "http://127.0.0.1:9000/",
            "http://[::1]:9001/",
            "http://localhost/",
        ):
            assert (await client.get(url, auth=auth)).status_code == 200
    assert all("dpop" in request.headers for request in api.requests)


@pytest.mark.parametrize("host", [None, "", "https://api.example", "a b", "a/b", "u@a", "a:x"])
def test_what_is_no_host_is_refused(server: OpenIDServer, host: str | None) -> None:
    hosts = () if host is None else (host,)
    with pytest.raises(ConfigurationError, match=r"api\.example"):
        openid(server, dpop_key=private(DPOP)).dpop_auth("at", *hosts)


def test_a_token_is_bound_to_a_key_or_not_at_all(server: OpenIDServer) -> None:
    with pytest.raises(ConfigurationError, match="dpop_key"):
        openid(server).dpop_auth("at", "api.example")
    with pytest.raises(ConfigurationError, match="header"):
        openid(server, dpop_key=private(DPOP)).dpop_auth("a\nb", "api.example")


# -- what is told ---------------------------------------------------------------------------------


async def test_time_that_is_up_sends_nothing() -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        Deadline(0).left()
    assert not caught.value.in_doubt


async def test_no_key_assertion_or_proof_is_shown(
    server: OpenIDServer, library: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    server.client_public = EC
    provider = openid(server, library, **with_key(EC), dpop_key=private(DPOP))
    auth = provider.dpop_auth("at-planted", "api.example")
    shown = [repr(provider), repr(auth)]
    faults = [
        library.ReadTimeout("late"),
        library.ConnectError("none"),
        ValueError("odd"),
        library.Response(400, json={"error": "invalid_grant"}),
        library.Response(401, json={"error": "invalid_client"}),
        library.Response(200, text="<html>"),
    ]
    for fault in faults:

        def answer(request: Any, fault: Any = fault) -> Any:
            if isinstance(fault, Exception):
                raise fault
            return fault

        server.faults["/token"] = answer
        with pytest.raises(ProviderError) as caught:
            await provider.refresh("rt-planted")
        shown.append(told(caught.value))
    asyncio.get_running_loop().set_debug(False)
    text = "\n".join([*shown, caplog.text])
    planted = ["rt-planted", "at-planted", private(EC)["d"], private(DPOP)["d"]]
    for request in server.asked_for("/token"):
        planted.append(request.headers["dpop"])
        planted += parse_qs(request.content.decode())["client_assertion"]
    assert len(planted) == 4 + 2 * len(faults)
    assert not [secret for secret in planted if secret in text]
