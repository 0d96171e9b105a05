"""Signing in at an OpenID provider through ``auth.router``, and ways to sign in somebody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, MemoryStore, OpenIDProvider
from fastapi_ideal_auth.testing import Clock

from .openid_provider import CLIENT_ID, CLIENT_SECRET, ISSUER, OpenIDServer, hs256, key, unsigned
from .openid_provider import signed as jws
from .support import SECRET, User, app_of

APP = "https://testserver"


class Site:
    """An app with the router and nothing configured but who it is; a provider; a browser."""

    def __init__(self, server: OpenIDServer | None = None, **provider: Any) -> None:
        self.clock = server.clock if server else Clock()
        self.server = server or OpenIDServer(self.clock)
        settings = {"clock": self.clock, **provider}
        self.auth = IdealAuth(
            User,
            secret=SECRET,
            provider=OpenIDProvider(self.server.issuer, CLIENT_ID, CLIENT_SECRET, **settings),
            store=MemoryStore(),
            clock=self.clock,
            http_client=self.server.client(httpx),
        )
        self.app = app_of(self.auth)
        self.app.include_router(self.auth.router)
        self.browser = self.new_browser()

    def new_browser(self) -> TestClient:
        return TestClient(self.app, base_url=APP, follow_redirects=False)

    def begin(self, query: str = "") -> str:
        response = self.browser.get(f"/login{query}")
        assert response.status_code == 303, response.text
        where: str = response.headers["location"]
        return where

    def sign_in(self, query: str = "", **changed: str) -> httpx.Response:
        return self.browser.get(self.server.approve(self.begin(query), **changed))


@pytest.fixture
def site() -> Site:
    return Site()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def refused(site: Site, response: httpx.Response, status: int = 400) -> bool:
    """Whether nobody is signed in."""
    lines = response.headers.get_list("set-cookie")
    return (
        response.status_code == status
        and not any("ideal_session=" in line for line in lines)
        and site.browser.get("/token").status_code == 401
    )


def test_issuer_client_id_and_secret_are_all_it_takes(site: Site) -> None:
    response = site.sign_in("?next=/me")
    assert (response.status_code, response.headers["location"]) == (303, "/me")
    me = site.browser.get("/me").json()
    assert (me["id"], me["email"], me["name"]) == ("ada", "ada@example.test", "Ada Lovelace")
    assert me["expires_at"] == int(site.clock()) + 300


def test_the_session_refreshes_with_verified_id_tokens(site: Site) -> None:
    site.sign_in()
    seen = set()
    for _ in range(3):
        site.clock.advance(280)
        response = site.browser.get("/token")
        assert response.status_code == 200
        seen.add(response.json()["access_token"])
    assert len(seen) == 3


def test_each_attempt_has_a_state_a_nonce_and_a_challenge_of_its_own(site: Site) -> None:
    queries = [parse_qs(urlsplit(site.begin()).query) for _ in range(3)]
    for name in ("state", "nonce", "code_challenge"):
        values = {query[name][0] for query in queries}
        assert len(values) == 3
        assert all(len(value) >= 22 for value in values)
    assert len({query["nonce"][0] for query in queries} & {q["state"][0] for q in queries}) == 0


def test_a_pushed_request_leaves_a_reference_in_the_address_bar() -> None:
    server = OpenIDServer()
    server.metadata["pushed_authorization_request_endpoint"] = f"{ISSUER}/par"
    server.metadata["require_pushed_authorization_requests"] = True
    site = Site(server)
    where = site.begin()
    assert parse_qs(urlsplit(where).query).keys() == {"client_id", "request_uri"}
    assert site.browser.get(server.approve(where)).status_code == 303
    assert site.browser.get("/me").json()["id"] == "ada"


def test_a_session_may_be_bound_to_a_key() -> None:
    site = Site(dpop_key=key("EC", "dpop-1").as_dict(private=True))
    site.server.dpop_nonce = "nonce-1"
    assert site.sign_in().status_code == 303
    site.clock.advance(280)
    assert site.browser.get("/token").status_code == 200
    assert len(site.server.bound) == 1


# -- attacks --------------------------------------------------------------------------------------


def with_another_key(claims: dict[str, Any]) -> str:
    return jws(claims, key("RSA", "eve-1"), "RS256", kid="rsa-1")


def with_the_public_key(claims: dict[str, Any]) -> str:
    return hs256(claims, key("RSA", "rsa-1").as_pem(private=False), kid="rsa-1")  # type: ignore[union-attr]  # an asymmetric key has one


def as_another(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda claims: jws({**claims, **changes}, key("RSA", "rsa-1"), "RS256", kid="rsa-1")


PAST = int(Clock()()) - 3600


@pytest.mark.parametrize(
    "forge",
    [
        with_another_key,
        unsigned,
        with_the_public_key,
        as_another(exp=PAST),
        as_another(aud="another"),
        as_another(aud=[CLIENT_ID, "another"]),
        as_another(iss="https://evil.example"),
        as_another(nonce="of another attempt"),
        as_another(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"),
    ],
    ids=["forged", "none", "hs256", "expired", "aud", "azp", "iss", "nonce", "at_hash"],
)
def test_an_id_token_that_does_not_hold_signs_nobody_in(
    site: Site, forge: Callable[[dict[str, Any]], str], caplog: pytest.LogCaptureFixture
) -> None:
    site.server.forge = forge
    assert refused(site, site.sign_in())
    assert "sign-in refused" in caplog.text


def test_userinfo_of_somebody_else_signs_nobody_in(site: Site) -> None:
    site.server.userinfo["sub"] = "eve"
    assert refused(site, site.sign_in())


def test_a_mixed_up_issuer_gets_no_code(site: Site) -> None:
    """The mix-up attack: the code of one provider is carried to another's token endpoint."""
    response = site.sign_in(iss="https://evil.example")
    assert refused(site, response)
    assert "/token" not in site.server.paths()


def test_an_error_of_another_issuer_is_not_believed(site: Site) -> None:
    state = parse_qs(urlsplit(site.begin()).query)["state"][0]
    iss = quote("https://evil.example", safe="")
    response = site.browser.get(f"/callback?state={state}&error=access_denied&iss={iss}")
    assert refused(site, response)
    assert "access_denied" not in response.text


def test_a_callback_without_iss_is_refused_where_the_provider_sends_it(site: Site) -> None:
    site.server.metadata["authorization_response_iss_parameter_supported"] = True
    assert site.sign_in().status_code == 303
    site.browser.cookies.clear()
    back = site.server.approve(site.begin())
    assert refused(site, site.browser.get(back.split("&iss=")[0]))


def test_a_code_of_another_transaction_is_refused(site: Site) -> None:
    """PKCE: the attacker's code in the victim's attempt, or the other way round."""
    mine, other = site.begin(), site.begin()
    code = parse_qs(urlsplit(site.server.approve(other)).query)["code"][0]
    state = parse_qs(urlsplit(mine).query)["state"][0]
    assert refused(site, site.browser.get(f"/callback?code={code}&state={state}"))


def test_a_swapped_state_is_refused(site: Site) -> None:
    back = site.server.approve(site.begin(), state="A" * 22)
    assert refused(site, site.browser.get(back))
    assert "/token" not in site.server.paths()


def test_a_callback_in_another_browser_is_refused(site: Site) -> None:
    """Login CSRF: the attacker's own callback, in the victim's browser."""
    back = site.server.approve(site.begin())
    victim = site.new_browser()
    assert victim.get(back).status_code == 400
    assert victim.get("/token").status_code == 401


def test_a_replayed_callback_is_refused(site: Site) -> None:
    back = site.server.approve(site.begin())
    assert site.browser.get(back).status_code == 303
    token = site.browser.get("/token").json()
    assert site.browser.get(back).status_code == 400
    assert site.browser.get("/token").json() == token
    assert site.server.paths().count("/token") == 1


def test_an_id_token_of_another_attempt_is_refused(site: Site) -> None:
    """Its nonce is of the attempt it was made for."""
    made: list[str] = []

    def keep(claims: dict[str, Any]) -> str:
        bare = {name: value for name, value in claims.items() if name != "at_hash"}
        made.append(as_another()(bare))
        return made[0]

    site.server.forge = keep
    assert site.sign_in().status_code == 303
    site.browser.cookies.clear()
    assert refused(site, site.sign_in())


# -- a provider that is not well ------------------------------------------------------------------


def down(request: Any) -> Any:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "fault", [down, lambda _: httpx.Response(503), lambda _: httpx.Response(200, text="<html>")]
)
def test_a_provider_that_cannot_be_found_is_503(site: Site, fault: Callable[[Any], Any]) -> None:
    site.server.faults["/.well-known/openid-configuration"] = fault
    response = site.browser.get("/login", headers={"accept": "text/html"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert 'href="/login"' in response.text
    assert "set-cookie" not in response.headers


def test_a_provider_that_goes_down_in_between_is_503(site: Site) -> None:
    back = site.server.approve(site.begin())
    site.server.faults["/jwks"] = down
    assert refused(site, site.browser.get(back), 503)


def test_an_issuer_that_is_written_otherwise_is_told_to_the_operator(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    site.server.metadata["issuer"] = f"{ISSUER}/"
    assert site.browser.get("/login").status_code == 503
    assert "exactly as the provider does" in caplog.text
    assert f"{ISSUER}/.well-known/openid-configuration" in caplog.text


def test_an_operator_is_told_once_that_no_refresh_token_came(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is wrong until the access token runs out, and then nobody looks at the sign-in."""
    site.server.withheld = {"refresh_token"}
    for _ in range(2):
        assert site.sign_in().status_code == 303
    (line,) = warnings(caplog)
    assert "no refresh token" in line
    assert "in 300 seconds" in line
    assert "offline_access" in line
    assert '"prompt": "consent"' in line


def test_an_operator_is_told_once_that_nobody_knows_when_to_refresh(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.server.withheld = {"expires_in"}
    for _ in range(2):
        assert site.sign_in().status_code == 303
    (line,) = warnings(caplog)
    assert "default_expires_in=" in line


def test_a_session_that_can_be_refreshed_is_no_matter_for_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.sign_in()
    assert warnings(caplog) == []


def test_a_token_that_never_ends_needs_no_refresh_token(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.server.withheld = {"refresh_token", "expires_in"}
    site.sign_in()
    assert warnings(caplog) == []


def test_an_operator_is_told_once_that_plain_http_loses_the_attempt(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the page says that the attempt is unknown, and the log nothing that one sees."""
    browser = TestClient(site.app, base_url="http://testserver", follow_redirects=False)
    for _ in range(2):
        where = browser.get("/login").headers["location"]
        assert browser.get(site.server.approve(where)).status_code == 400
    (line,) = warnings(caplog)
    assert "cookie_secure=False" in line
    assert "localhost" in line


@pytest.mark.parametrize("origin", [APP, "http://testserver"])
def test_a_strangers_callback_is_no_matter_for_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, origin: str
) -> None:
    browser = TestClient(site.app, base_url=origin, follow_redirects=False)
    assert browser.get("/callback?state=x&code=c").status_code == 400
    assert warnings(caplog) == []


def test_a_refresh_that_names_somebody_else_ends_the_session(site: Site) -> None:
    site.sign_in()
    site.server.in_id_token["sub"] = "eve"
    site.clock.advance(400)
    assert site.browser.get("/token").status_code == 401
    assert len(site.server.revoked) == 1
    assert site.server.revoked[0] in site.server.refresh_tokens  # the newest, not the spent one


def test_a_refresh_while_the_keys_are_down_keeps_the_session(site: Site) -> None:
    site.sign_in()
    site.server.key = key("RSA", "rsa-2")
    site.server.faults["/jwks"] = down
    site.clock.advance(400)
    assert site.browser.get("/token").status_code == 200


def test_the_router_of_a_provider_without_userinfo_needs_none() -> None:
    server = OpenIDServer()
    del server.metadata["userinfo_endpoint"]
    server.in_id_token |= {"email": "ada@example.test", "name": "Ada"}
    site = Site(server)
    assert site.sign_in().status_code == 303
    assert site.browser.get("/me").json()["name"] == "Ada"


@pytest.mark.parametrize(
    ("query", "max_age"),
    [("", 604_800), ("?remember=true", 2_592_000), ("?remember=false", None)],
)
def test_the_sign_in_may_be_remembered_or_end_with_the_browser(
    site: Site, query: str, max_age: int | None
) -> None:
    response = site.sign_in(query)
    (line,) = (line for line in response.headers.get_list("set-cookie") if "ideal_session=" in line)
    assert ("Max-Age=" in line) is (max_age is not None)
    assert max_age is None or f"Max-Age={max_age};" in line


@pytest.mark.parametrize("fault", ["a forged ID token", "a user that cannot be made"])
def test_a_sign_in_that_fails_leaves_no_grant_behind(site: Site, fault: str) -> None:
    if fault == "a forged ID token":
        site.server.forge = lambda claims: site.server.logout_token(**claims)
    else:
        site.auth.user_from_claims = lambda claims, tokens: 1 / 0
    with TestClient(site.app, base_url=APP, raise_server_exceptions=False) as browser:
        location = browser.get("/login", follow_redirects=False).headers["location"]
        answer = browser.get(site.server.approve(location), follow_redirects=False)
        assert answer.status_code >= 400
    assert site.server.revoked == list(site.server.refresh_tokens)
