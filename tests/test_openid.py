"""A provider known by its issuer, on the wire: what is fetched when, and whom it vouches for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest

from fastapi_ideal_auth import (
    ConfigurationError,
    IdentityRejected,
    OpenIDProvider,
    Provider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    TokenResponse,
)
from fastapi_ideal_auth.documents import FRESH, PAUSE
from fastapi_ideal_auth.testing import Clock

from .openid_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    ISSUER,
    OpenIDServer,
    hs256,
    key,
    public,
    signed,
    unsigned,
)
from .test_oauth import chain, told

DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def server() -> OpenIDServer:
    return OpenIDServer()


def provider_of(server: OpenIDServer, library: Any = httpx, **options: Any) -> OpenIDProvider:
    settings = {
        "client_secret": CLIENT_SECRET,
        "http_client": server.client(library),
        "clock": server.clock,
        **options,
    }
    return OpenIDProvider(server.issuer, CLIENT_ID, **settings)


def tokens_of(server: OpenIDServer, nonce: str | None = "n", **claims: Any) -> TokenResponse:
    return TokenResponse("at", id_token=server.id_token("at", nonce, **claims))


def down(request: Any) -> Any:
    raise httpx.ReadTimeout("late")


def page(request: Any) -> Any:
    return httpx.Response(200, text="<html>", headers={"content-type": "text/html"})


# -- discovery ------------------------------------------------------------------------------------


async def test_nothing_is_sent_at_construction(server: OpenIDServer) -> None:
    assert isinstance(provider_of(server), Provider)
    assert server.requests == []


async def test_the_endpoints_are_found_out_once(server: OpenIDServer, library: ModuleType) -> None:
    provider = provider_of(server, library)
    url = await provider.authorization_request(
        state="s", code_challenge="c", nonce="n", redirect_uri="https://app.example/callback"
    )
    assert parse_qs(urlsplit(url).query) == {
        "response_type": ["code"],
        "client_id": [CLIENT_ID],
        "redirect_uri": ["https://app.example/callback"],
        "scope": ["openid email profile offline_access"],
        "state": ["s"],
        "nonce": ["n"],
        "code_challenge": ["c"],
        "code_challenge_method": ["S256"],
    }
    for _ in range(3):
        server.refresh_tokens["rt"] = "ada"
        assert (await provider.refresh("rt")).access_token
    assert server.paths() == [DISCOVERY, "/token", "/token", "/token"]


async def test_offline_access_is_asked_for_where_there_is_such_a_scope(
    server: OpenIDServer,
) -> None:
    server.metadata["scopes_supported"] = ["openid"]
    url = await provider_of(server).authorization_request(
        state="s", code_challenge="c", redirect_uri="https://app.example/"
    )
    assert parse_qs(urlsplit(url).query)["scope"] == ["openid email profile"]


async def test_many_callers_wait_for_one_fetch(server: OpenIDServer) -> None:
    server.delay = 0.02
    provider = provider_of(server)
    server.refresh_tokens |= {f"rt-{n}": "ada" for n in range(20)}
    await asyncio.gather(*(provider.refresh(f"rt-{n}") for n in range(20)))
    assert server.paths().count(DISCOVERY) == 1


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(
    server: OpenIDServer,
) -> None:
    server.delay = 0.05
    provider = provider_of(server)
    server.refresh_tokens |= {"one": "ada", "two": "ada"}
    first = asyncio.create_task(provider.refresh("one"))
    second = asyncio.create_task(provider.refresh("two"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).access_token
    assert server.paths().count(DISCOVERY) == 1


async def test_metadata_is_fetched_again_after_an_hour(server: OpenIDServer) -> None:
    provider = provider_of(server)
    await provider.revoke("rt")
    server.clock.advance(FRESH - 1)
    await provider.revoke("rt")
    assert server.paths().count(DISCOVERY) == 1
    server.clock.advance(1)
    await provider.revoke("rt")
    assert server.paths().count(DISCOVERY) == 2


@pytest.mark.parametrize("fault", [down, page, lambda _: httpx.Response(500)])
async def test_an_old_document_goes_on_serving_while_the_provider_is_down(
    server: OpenIDServer, fault: Callable[[Any], Any]
) -> None:
    provider = provider_of(server)
    assert await provider.revoke("rt")
    server.faults[DISCOVERY] = fault
    server.clock.advance(10 * FRESH)
    for _ in range(5):
        assert await provider.revoke("rt")
    assert server.paths().count(DISCOVERY) == 2  # and is not asked at each request
    server.clock.advance(PAUSE)
    del server.faults[DISCOVERY]
    assert await provider.revoke("rt")
    assert server.paths().count(DISCOVERY) == 3


async def test_a_document_of_another_issuer_does_not_replace_the_one_that_is_known(
    server: OpenIDServer,
) -> None:
    provider = provider_of(server)
    assert await provider.revoke("rt")
    server.metadata |= {
        "issuer": "https://evil.example",
        "revocation_endpoint": "https://evil.example",
    }
    server.clock.advance(FRESH)
    assert await provider.revoke("rt")
    assert {request.url.host for request in server.requests} == {"op.example"}


async def test_a_wrong_issuer_is_for_an_operator(server: OpenIDServer) -> None:
    server.metadata["issuer"] = f"{ISSUER}/"
    with pytest.raises(ProviderMisconfigured, match="another issuer"):
        await provider_of(server).refresh("rt")


@pytest.mark.parametrize("fault", [down, page, lambda _: httpx.Response(502)])
async def test_a_refresh_without_discovery_is_not_in_doubt(
    server: OpenIDServer, fault: Callable[[Any], Any]
) -> None:
    """Nothing of the grant was sent, so nothing of it can have been spent."""
    server.faults[DISCOVERY] = fault
    with pytest.raises(ProviderUnavailable) as caught:
        await provider_of(server).refresh("rt")
    assert not caught.value.in_doubt
    assert chain(caught.value) == [caught.value]
    assert server.paths() == [DISCOVERY]


async def test_a_page_in_the_metadatas_place_is_called_one(server: OpenIDServer) -> None:
    server.faults[DISCOVERY] = page
    with pytest.raises(ProviderUnavailable, match="page of HTML instead of JSON"):
        await provider_of(server).refresh("rt")


async def test_metadata_without_end_is_read_no_further_than_the_cap(server: OpenIDServer) -> None:
    server.metadata["padding"] = "x" * 300_000
    with pytest.raises(ProviderUnavailable, match="too long"):
        await provider_of(server).refresh("rt")


async def test_discovery_and_refresh_share_one_time(server: OpenIDServer) -> None:
    server.delay = 0.2
    server.refresh_tokens["rt"] = "ada"
    with pytest.raises(ProviderUnavailable) as caught:
        await provider_of(server, timeout=0.3).refresh("rt")
    assert caught.value.in_doubt  # the second of the two was on its way


async def test_a_provider_serves_one_event_loop_after_another(server: OpenIDServer) -> None:
    provider = provider_of(server)

    async def once() -> bool:
        return await provider.revoke("rt")

    for _ in range(2):
        assert await asyncio.to_thread(lambda: asyncio.run(once()))
        server.clock.advance(FRESH)


# -- keys -----------------------------------------------------------------------------------------


async def test_the_keys_are_fetched_once(server: OpenIDServer, library: ModuleType) -> None:
    provider = provider_of(server, library)
    for _ in range(3):
        claims = await provider.claims(tokens_of(server), nonce="n", now=server.clock())
        assert claims["sub"] == "ada"
    assert server.paths().count("/jwks") == 1


async def test_an_unknown_kid_is_looked_for_once(server: OpenIDServer) -> None:
    provider = provider_of(server)
    await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    server.key = key("RSA", "rsa-2")
    server.published = [key("RSA", "rsa-1"), server.key]
    for _ in range(3):
        await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    assert server.paths().count("/jwks") == 2


async def test_forged_kids_do_not_hammer_the_provider(server: OpenIDServer) -> None:
    provider = provider_of(server)
    eve = key("RSA", "eve-1")
    refusals = []
    for n in range(50):
        claims = server.id_claims("at", "n")
        forged = signed(claims, eve, "RS256", kid=f"forged-{n}")
        with pytest.raises((IdentityRejected, ProviderUnavailable)) as caught:
            await provider.logout_token(forged, now=server.clock())
        refusals.append(caught.value)
    assert server.paths().count("/jwks") == 2
    assert isinstance(refusals[0], IdentityRejected)
    assert isinstance(refusals[1], ProviderUnavailable)
    assert refusals[1].retry_after == PAUSE
    server.clock.advance(PAUSE)
    with pytest.raises(IdentityRejected):
        await provider.logout_token(forged, now=server.clock())
    assert server.paths().count("/jwks") == 3


async def test_forged_kids_at_once_are_one_fetch(server: OpenIDServer) -> None:
    provider = provider_of(server)
    server.delay = 0.01
    forged = [
        signed(server.id_claims("at"), key("RSA", "eve-1"), "RS256", kid=f"forged-{n}")
        for n in range(20)
    ]
    outcomes = await asyncio.gather(
        *(provider.logout_token(token, now=server.clock()) for token in forged),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} <= {IdentityRejected, ProviderUnavailable}
    assert server.paths().count("/jwks") <= 2


async def test_an_algorithm_that_does_not_count_fetches_nothing(server: OpenIDServer) -> None:
    provider = provider_of(server)
    with pytest.raises(IdentityRejected, match="algorithm"):
        await provider.logout_token(
            hs256(server.id_claims("at"), b"x" * 32, kid="new"), now=server.clock()
        )
    assert server.paths() == [DISCOVERY]


async def test_keys_that_moved_are_found_where_they_are(server: OpenIDServer) -> None:
    provider = provider_of(server)
    await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    server.metadata["jwks_uri"] = f"{ISSUER}/moved"
    server.faults["/moved"] = lambda _: httpx.Response(200, json=public(key("EC", "ec-1")))
    server.key, server.alg = key("EC", "ec-1"), "ES256"
    server.clock.advance(FRESH)
    assert await provider.claims(tokens_of(server), nonce="n", now=server.clock())


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_each_algorithm_of_the_provider_counts(server: OpenIDServer, alg: str) -> None:
    kinds = {"RS256": ("RSA", "rsa-1"), "ES256": ("EC", "ec-1"), "EdDSA": ("OKP", "ed-1")}
    server.key, server.alg = key(*kinds[alg]), alg
    server.published = [server.key]
    claims = await provider_of(server).claims(tokens_of(server), nonce="n", now=server.clock())
    assert claims["sub"] == "ada"


# -- an ID token ----------------------------------------------------------------------------------


def resigned(claims: dict[str, Any]) -> str:
    return signed(claims, key("RSA", "eve-1"), "RS256", kid="rsa-1")


def with_the_public_key(claims: dict[str, Any]) -> str:
    return hs256(claims, key("RSA", "rsa-1").as_pem(private=False), kid="rsa-1")  # type: ignore[union-attr]  # an asymmetric key has one


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    def forge(claims: dict[str, Any]) -> str:
        merged = {name: value for name, value in {**claims, **changes}.items() if value != ""}
        return signed(merged, key("RSA", "rsa-1"), "RS256", kid="rsa-1")

    return forge


def typed(claims: dict[str, Any]) -> str:
    return signed(claims, key("RSA", "rsa-1"), "RS256", kid="rsa-1", typ="logout+jwt")


NOW = int(Clock()())
FORGERIES = {
    "another-key": resigned,
    "alg-none": unsigned,
    "alg-None": lambda claims: unsigned(claims, "None"),
    "hs256-with-the-public-key": with_the_public_key,
    "hs256-with-the-clients-secret": lambda claims: hs256(claims, CLIENT_SECRET.encode()),
    "an-algorithm-that-is-not-listed": lambda claims: signed(
        claims, key("RSA", "rsa-1"), "PS256", kid="rsa-1"
    ),
    "expired": changed(exp=NOW - 61),
    "no-exp": changed(exp=""),
    "not-valid-yet": changed(nbf=NOW + 3600),
    "from-the-future": changed(iat=NOW + 3600),
    "another-audience": changed(aud="another"),
    "audiences-without-azp": changed(aud=[CLIENT_ID, "another"]),
    "another-azp": changed(aud=[CLIENT_ID, "another"], azp="another"),
    "another-issuer": changed(iss="https://evil.example"),
    "another-nonce": changed(nonce="of another sign-in"),
    "no-nonce": changed(nonce=""),
    "at-hash-of-another-token": changed(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"),
    "no-subject": changed(sub=""),
    "logout-token": typed,
    "no-jwt": lambda claims: "opaque",
    "encrypted": lambda claims: "a.b.c.d.e",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_an_id_token_that_does_not_hold_names_nobody(
    server: OpenIDServer, forge: Callable[[dict[str, Any]], str]
) -> None:
    server.forge = forge
    tokens = tokens_of(server)
    with pytest.raises(IdentityRejected) as caught:
        await provider_of(server).claims(tokens, nonce="n", now=server.clock())
    assert chain(caught.value) == [caught.value]
    shown = told(caught.value)
    parts = [part for part in (tokens.id_token or "").split(".") if len(part) > 8]
    assert not [part for part in parts if part in shown]


async def test_without_an_id_token_nobody_signs_in(server: OpenIDServer) -> None:
    with pytest.raises(IdentityRejected, match="no ID token"):
        await provider_of(server).claims(TokenResponse("at"), nonce="n", now=server.clock())


async def test_hs256_counts_where_it_was_asked_for_and_nothing_else_does(
    server: OpenIDServer,
) -> None:
    provider = provider_of(server, id_token_signed_response_alg="HS256")
    server.forge = lambda claims: hs256(claims, CLIENT_SECRET.encode())
    assert await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    server.forge = lambda claims: hs256(claims, b"another secret of some length....")
    with pytest.raises(IdentityRejected, match="signature"):
        await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    server.forge = None
    with pytest.raises(IdentityRejected, match="algorithm"):
        await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    assert "/jwks" not in server.paths()


async def test_one_algorithm_can_be_asked_for(server: OpenIDServer) -> None:
    provider = provider_of(server, id_token_signed_response_alg="ES256")
    with pytest.raises(IdentityRejected, match="algorithm"):
        await provider.claims(tokens_of(server), nonce="n", now=server.clock())


async def test_max_age_is_asked_for_and_looked_at(server: OpenIDServer) -> None:
    provider = provider_of(server, authorization_params={"max_age": "300"})
    assert await provider.claims(tokens_of(server), nonce="n", now=server.clock())
    old = tokens_of(server, auth_time=int(server.clock()) - 3600)
    with pytest.raises(IdentityRejected, match="auth_time"):
        await provider.claims(old, nonce="n", now=server.clock())


# -- userinfo -------------------------------------------------------------------------------------


async def test_what_the_id_token_lacks_is_asked_for(server: OpenIDServer) -> None:
    claims = await provider_of(server).claims(tokens_of(server), nonce="n", now=server.clock())
    assert (claims["email"], claims["name"]) == ("ada@example.test", "Ada Lovelace")
    assert server.asked_for("/userinfo")[0].headers["authorization"] == "Bearer at"


async def test_what_the_id_token_says_counts_and_is_enough(server: OpenIDServer) -> None:
    provider = provider_of(server)
    whole = tokens_of(server, email="signed@example.test", name="Ada")
    claims = await provider.claims(whole, nonce="n", now=server.clock())
    assert claims["email"] == "signed@example.test"
    assert "/userinfo" not in server.paths()
    part = tokens_of(server, email="signed@example.test")
    claims = await provider.claims(part, nonce="n", now=server.clock())
    assert (claims["email"], claims["name"]) == ("signed@example.test", "Ada Lovelace")


async def test_userinfo_of_another_subject_is_refused(server: OpenIDServer) -> None:
    """Token substitution: the access token of another user."""
    server.userinfo["sub"] = "eve"
    with pytest.raises(IdentityRejected, match="sub"):
        await provider_of(server).claims(tokens_of(server), nonce="n", now=server.clock())


@pytest.mark.parametrize("status", [401, 403])
async def test_an_access_token_for_an_api_does_without_userinfo(
    server: OpenIDServer, status: int
) -> None:
    server.faults["/userinfo"] = lambda _: httpx.Response(status)
    claims = await provider_of(server).claims(tokens_of(server), nonce="n", now=server.clock())
    assert claims["sub"] == "ada"


async def test_userinfo_that_is_down_is_tried_later(server: OpenIDServer) -> None:
    server.faults["/userinfo"] = lambda _: httpx.Response(503)
    with pytest.raises(ProviderUnavailable):
        await provider_of(server).claims(tokens_of(server), nonce="n", now=server.clock())


# -- a refresh ------------------------------------------------------------------------------------


async def test_a_refreshed_id_token_is_verified(server: OpenIDServer) -> None:
    provider = provider_of(server)
    before = server.id_token("at", "n")
    server.clock.advance(60)
    response = tokens_of(server, None)
    same = await provider.verify_refreshed(response, id_token=before, now=server.clock())
    assert same is response
    again = await provider.verify_refreshed(response, id_token=None, now=server.clock())
    assert again is response


async def test_a_refresh_without_an_id_token_has_nothing_to_verify(server: OpenIDServer) -> None:
    response = TokenResponse("at")
    provider = provider_of(server)
    assert await provider.verify_refreshed(response, id_token="old", now=0) is response
    assert server.requests == []


@pytest.mark.parametrize(
    "forge",
    [
        changed(sub="eve"),
        changed(auth_time=NOW + 30),
        changed(aud=[CLIENT_ID, "another"], azp=CLIENT_ID),
        changed(iss="https://evil.example"),
        changed(nonce="another"),
        changed(exp=NOW - 3600),
        changed(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"),
        resigned,
        unsigned,
        with_the_public_key,
    ],
)
async def test_an_identity_that_changed_at_a_refresh_is_a_rejection(
    server: OpenIDServer, forge: Callable[[dict[str, Any]], str]
) -> None:
    before = server.id_token("at", "n")
    server.forge = forge
    with pytest.raises(RefreshRejected) as caught:
        await provider_of(server).verify_refreshed(
            tokens_of(server, None), id_token=before, now=server.clock()
        )
    assert chain(caught.value) == [caught.value]


@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
async def test_no_tokens_are_lost_because_the_keys_are_not_to_be_had(
    server: OpenIDServer, path: str
) -> None:
    server.faults[path] = down
    response = tokens_of(server, None)
    kept = await provider_of(server).verify_refreshed(
        response, id_token=server.id_token("at"), now=server.clock()
    )
    assert (kept.access_token, kept.id_token) == ("at", None)


# -- signing out ----------------------------------------------------------------------------------


async def test_a_logout_token_is_verified(server: OpenIDServer) -> None:
    token = await provider_of(server).logout_token(server.logout_token(), now=server.clock())
    assert (token.issuer, token.subject, token.sid) == (ISSUER, "ada", "op-session")
    assert repr(token).count("op-session") == 0


async def test_logout_tokens_that_do_not_hold_are_refused(server: OpenIDServer) -> None:
    now = int(server.clock())
    provider = provider_of(server)
    made = server.logout_token
    eve = key("RSA", "eve-1")
    claims = {"iss": ISSUER, "aud": CLIENT_ID, "sub": "ada", "iat": now, "exp": now + 60}
    claims |= {"jti": "j", "events": {"http://schemas.openid.net/event/backchannel-logout": {}}}
    for token in (
        made(iss="https://evil.example"),
        made(aud="another"),
        made(iat=now - 3600),
        made(iat=now + 3600),
        made(exp=now - 3600),
        made(without="jti"),
        made(without="events"),
        made(without="sub sid"),
        made(without="exp"),
        made(nonce="n"),
        made(typ="at+jwt"),
        server.id_token("at", "n"),
        unsigned(claims),
        signed(claims, eve, "RS256", kid="rsa-1"),
        with_the_public_key(claims),
        "",
    ):
        with pytest.raises(IdentityRejected):
            await provider.logout_token(token, now=server.clock())


async def test_signing_out_at_the_provider_has_an_address(server: OpenIDServer) -> None:
    server.metadata["end_session_endpoint"] = f"{ISSUER}/logout?a=b"
    provider = provider_of(server, post_logout_redirect_uri="https://app.example/bye")
    url = await provider.end_session_url(id_token_hint="idt", state="s")
    assert url is not None
    assert url.startswith(f"{ISSUER}/logout?a=b&")
    assert parse_qs(urlsplit(url).query) == {
        "a": ["b"],
        "id_token_hint": ["idt"],
        "client_id": [CLIENT_ID],
        "post_logout_redirect_uri": ["https://app.example/bye"],
        "state": ["s"],
    }
    url = await provider.end_session_url(
        id_token_hint=None, post_logout_redirect_uri="https://app.example/other"
    )
    query = parse_qs(urlsplit(url or "").query)
    assert query["post_logout_redirect_uri"] == ["https://app.example/other"]
    assert "id_token_hint" not in query


async def test_without_an_end_session_endpoint_the_browser_goes_nowhere(
    server: OpenIDServer,
) -> None:
    assert await provider_of(server).end_session_url(id_token_hint="idt") is None


async def test_signing_out_does_not_wait_for_discovery(server: OpenIDServer) -> None:
    server.faults[DISCOVERY] = down
    provider = provider_of(server)
    assert await provider.end_session_url(id_token_hint="idt") is None
    assert await provider.revoke("rt") is False


# -- the issuer of a callback ---------------------------------------------------------------------


async def test_a_callback_of_another_issuer_is_a_mix_up(server: OpenIDServer) -> None:
    provider = provider_of(server)
    await provider.check_issuer(ISSUER)
    await provider.check_issuer(None)
    for iss in ("https://evil.example", f"{ISSUER}/", "", "\ud800"):
        with pytest.raises(IdentityRejected, match="iss"):
            await provider.check_issuer(iss)


async def test_iss_must_be_there_where_the_provider_sends_it(server: OpenIDServer) -> None:
    server.metadata["authorization_response_iss_parameter_supported"] = True
    provider = provider_of(server)
    await provider.check_issuer(ISSUER)
    with pytest.raises(IdentityRejected, match="no iss"):
        await provider.check_issuer(None)


# -- how one is made ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told_about"),
    [
        ({"issuer": "http://op.example"}, "issuer must begin with https"),
        ({"issuer": "https://op.example/#a"}, "issuer"),
        ({"issuer": "https://op.example/?a=b"}, "issuer has a query"),
        ({"issuer": ""}, "issuer"),
        ({"scope": "email"}, "openid"),
        ({"scope": ["profile"]}, "openid"),
        ({"id_token_signed_response_alg": "none"}, "id_token_signed_response_alg"),
        ({"id_token_signed_response_alg": "HS512"}, "id_token_signed_response_alg"),
        (
            {"id_token_signed_response_alg": "HS256", "client_secret": None},
            "needs a client_secret",
        ),
        ({"authorization_params": {"max_age": "soon"}}, "max_age"),
        ({"authorization_params": {"nonce": "n"}}, "may not hold nonce"),
        ({"client_secret": "with a newline\n"}, "client_secret"),
    ],
)
def test_what_could_not_work_is_refused_at_once(options: dict[str, Any], told_about: str) -> None:
    settings: dict[str, Any] = {
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        **options,
    }
    with pytest.raises(ConfigurationError, match=told_about) as caught:
        OpenIDProvider(**settings)
    assert CLIENT_SECRET not in told(caught.value)


def test_a_provider_shows_no_secret() -> None:
    provider = OpenIDProvider(ISSUER, CLIENT_ID, CLIENT_SECRET)
    assert repr(provider) == f"OpenIDProvider(issuer={ISSUER!r}, client_id={CLIENT_ID!r})"


WITHOUT_JOSERFC = """
import sys
sys.modules["joserfc"] = None  # what an import finds where it is not installed
from fastapi_ideal_auth import ConfigurationError, OAuth2Provider, OpenIDProvider
OAuth2Provider("https://op.example/token", "app", "secret")
for make in (
    lambda: OpenIDProvider("https://op.example", "app", "secret"),
    lambda: OAuth2Provider("https://op.example/token", "app", dpop_key="key"),
):
    try:
        make()
    except ConfigurationError as error:
        print(error)
"""


def test_without_the_oidc_extra_only_what_signs_is_missing() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_JOSERFC], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("pip install 'fastapi_ideal_auth[oidc]'") == 2


def test_importing_the_package_does_not_import_joserfc() -> None:
    code = "import sys, fastapi_ideal_auth; print('joserfc' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "False\n"
