"""Signing in and out through ``auth.router``, against the dashboard example's server."""

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from examples.dashboard.authorization_server import Client, create_app
from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    TokenResponse,
)
from fastapi_ideal_auth.testing import Clock

from .support import SECRET, User, app_of

OP = "https://op.example"
APP = "https://testserver"


class Site:
    """An app with the router, the authorization server, and a person with a browser."""

    def __init__(
        self, prefix: str = "", *, provider: Mapping[str, Any] | None = None, **options: Any
    ):
        self.clock = Clock()
        registered = Client(
            client_id="app",
            redirect_uris=(f"{APP}{prefix}/callback",),
            client_secret="the client's secret",
        )
        self.op_app = create_app(clients=[registered], clock=self.clock)
        self.server = self.op_app.state.server
        self.prefix = prefix
        self.auth = IdealAuth(
            User,
            **{
                "secret": SECRET,
                "provider": OAuth2Provider(
                    f"{OP}/token",
                    "app",
                    "the client's secret",
                    authorization_endpoint=f"{OP}/authorize",
                    userinfo_endpoint=f"{OP}/userinfo",
                    revocation_endpoint=f"{OP}/revoke",
                    **(provider or {}),
                ),
                "store": MemoryStore(),
                "clock": self.clock,
                "http_client": httpx.AsyncClient(transport=httpx.ASGITransport(self.op_app)),
                **options,
            },
        )
        self.app = app_of(self.auth)
        self.app.include_router(self.auth.router, prefix=prefix)
        self.browser = self.new_browser()

    def new_browser(self) -> TestClient:
        return TestClient(self.app, base_url=APP, follow_redirects=False)

    def begin(self, query: str = "", browser: TestClient | None = None) -> str:
        """Where /login sends the browser."""
        response = (browser or self.browser).get(f"{self.prefix}/login{query}")
        assert response.status_code == 303
        location: str = response.headers["location"]
        assert location.startswith(f"{OP}/authorize?")
        return location

    def at_provider(self, location: str, person: str = "ada") -> str:
        """What the person does there; where the provider sends the browser back to."""
        with TestClient(self.op_app, base_url=OP, follow_redirects=False) as provider:
            page = provider.get(location)
            assert page.status_code == 200
            form = dict(re.findall(r'name="([a-z_]+)" value="([^"]*)"', page.text))
            form = {k: v.replace("&amp;", "&") for k, v in form.items()}
            form.pop("person", None)
            form["name"] = person
            back = provider.post("/authorize", data=form)
        assert back.status_code == 303, back.text
        where: str = back.headers["location"]
        assert where.startswith(APP)
        return where.removeprefix(APP)

    def sign_in(self, query: str = "", person: str = "Ada Lovelace") -> httpx.Response:
        return self.browser.get(self.at_provider(self.begin(query), person))


@pytest.fixture
def site() -> Site:
    return Site()


def test_signing_in_makes_a_session_from_the_userinfo_claims(site: Site) -> None:
    response = site.sign_in("?next=/me")
    assert (response.status_code, response.headers["location"]) == (303, "/me")
    me = site.browser.get("/me").json()
    assert me["name"] == "Ada Lovelace"
    assert me["email"]
    assert me["expires_at"] == int(site.clock()) + 15
    names = {cookie.name for cookie in site.browser.cookies.jar}
    assert names == {site.auth.cookie_name}  # the attempt's cookie is gone


def test_a_session_from_the_router_refreshes(site: Site) -> None:
    site.sign_in()
    first = site.browser.get("/token").json()["access_token"]
    for _ in range(3):
        site.clock.advance(14)
        second = site.browser.get("/token").json()["access_token"]
        assert second != first
        first = second
    assert site.server.stats()["reuse_detected"] == 0


def test_the_authorization_request_carries_pkce_and_state(site: Site) -> None:
    query = parse_qs(urlsplit(site.begin()).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    assert len(query["state"][0]) == 22
    assert query["redirect_uri"] == [f"{APP}/callback"]


def test_the_router_works_under_a_prefix() -> None:
    site = Site("/auth")
    assert site.sign_in("?next=/me").headers["location"] == "/me"
    assert site.browser.get("/me").status_code == 200


def test_two_tabs_can_sign_in_at_once(site: Site) -> None:
    first, second = site.begin("?next=/first"), site.begin("?next=/second")
    back_two = site.browser.get(site.at_provider(second, "Second"))
    back_one = site.browser.get(site.at_provider(first, "First"))
    assert (back_one.headers["location"], back_two.headers["location"]) == ("/first", "/second")
    assert site.browser.get("/me").json()["name"] == "First"  # the last to come back


def test_abandoned_attempts_do_not_crowd_the_headers(site: Site) -> None:
    for _ in range(10):
        site.begin()
    attempts = [c for c in site.browser.cookies.jar if "-login-" in c.name]
    assert len(attempts) <= 4
    assert site.sign_in().status_code == 303


def test_an_attempt_cookie_is_sealed_short_lived_and_host_only(site: Site) -> None:
    line = site.browser.get("/login").headers["set-cookie"]
    assert line.startswith("__Host-ideal_session-login-")
    for attribute in ("Path=/", "Max-Age=600", "HttpOnly", "Secure", "SameSite=Lax"):
        assert f"; {attribute}" in line


def test_signing_in_over_a_session_ends_the_old_one(site: Site) -> None:
    site.sign_in()
    old = site.browser.cookies[site.auth.cookie_name]
    site.sign_in()
    site.clock.advance(14)
    headers = {"cookie": f"{site.auth.cookie_name}={old}"}
    assert site.new_browser().get("/token", headers=headers).status_code == 401
    assert site.browser.get("/token").status_code == 200


def test_a_new_session_has_a_new_id(site: Site) -> None:
    """No session fixation: what a browser carried before sign-in names nothing afterwards."""
    from fastapi_ideal_auth.cookies import read

    ids = set()
    for _ in range(3):
        site.sign_in()
        value = site.browser.cookies[site.auth.cookie_name]
        cookies = read(f"{site.auth.cookie_name}={value}", site.auth.cookies)
        generation = site.auth.opened(cookies, now=site.clock())
        assert generation is not None
        ids.add(generation.sid)
    assert len(ids) == 3


# -- attacks --------------------------------------------------------------------------------------


def refused(response: httpx.Response) -> bool:
    lines = response.headers.get_list("set-cookie")
    return response.status_code == 400 and not any("ideal_session=" in line for line in lines)


def test_a_callback_from_another_browser_is_refused(site: Site) -> None:
    """Login CSRF: the attacker's own code, in the victim's browser."""
    assert refused(site.new_browser().get(site.at_provider(site.begin())))


def test_a_swapped_state_is_refused(site: Site) -> None:
    one, two = site.begin(), site.begin()
    state_two = parse_qs(urlsplit(two).query)["state"][0]
    back = site.at_provider(one)
    code = parse_qs(urlsplit(back).query)["code"][0]
    # PKCE: the code of one attempt is no good with the verifier of another.
    assert refused(site.browser.get("/callback", params={"code": code, "state": state_two}))


def test_a_replayed_callback_is_refused(site: Site) -> None:
    back = site.at_provider(site.begin())
    assert site.browser.get(back).status_code == 303
    assert refused(site.browser.get(back))


@pytest.mark.parametrize(
    "query", ["", "?state=", "?state=x", "?code=c", f"?state={'A' * 22}&code=c"]
)
def test_a_callback_nobody_asked_for_is_refused(site: Site, query: str) -> None:
    site.begin()
    assert refused(site.browser.get(f"/callback{query}"))


def test_an_expired_attempt_is_refused(site: Site) -> None:
    back = site.at_provider(site.begin())
    site.clock.advance(600)
    assert refused(site.browser.get(back))


def test_a_session_cookie_is_no_attempt_and_an_attempt_is_no_session(site: Site) -> None:
    """Purpose binding: both are sealed with the same secret."""
    site.begin()
    attempt = next(c for c in site.browser.cookies.jar if "-login-" in c.name)
    headers = {"cookie": f"{site.auth.cookie_name}={attempt.value}"}
    assert site.new_browser().get("/token", headers=headers).status_code == 401
    site.sign_in()
    session = site.browser.cookies[site.auth.cookie_name]
    headers = {"cookie": f"{attempt.name}={session}"}
    assert refused(site.new_browser().get(f"/callback?code=c&state={'A' * 22}", headers=headers))


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "@evil.example",
        "///evil.example",
        " //evil.example",
    ],
)
def test_next_leads_only_to_this_origin(site: Site, target: str) -> None:
    location = site.begin(f"?{httpx.QueryParams({'next': target})}")
    response = site.browser.get(site.at_provider(location))
    assert response.headers["location"] == "/"
    response = site.browser.post(f"/logout?{httpx.QueryParams({'next': target})}")
    assert response.headers["location"] == "/"


def test_an_error_from_the_provider_is_told_and_not_trusted(site: Site) -> None:
    state = parse_qs(urlsplit(site.begin()).query)["state"][0]
    response = site.browser.get(
        "/callback",
        params={"state": state, "error": "access_denied"},
        headers={"accept": "text/html"},
    )
    assert response.status_code == 400
    assert "access_denied" in response.text
    state = parse_qs(urlsplit(site.begin()).query)["state"][0]
    nasty = "<script>alert(1)</script>"
    response = site.browser.get(
        "/callback", params={"state": state, "error": nasty}, headers={"accept": "text/html"}
    )
    assert "<script>" not in response.text


def test_a_provider_that_does_not_answer_is_503() -> None:
    site = Site()
    back = site.at_provider(site.begin())

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    site.auth.provider.http._given = httpx.AsyncClient(  # type: ignore[union-attr]  # the site's provider is one of ours
        transport=httpx.MockTransport(down)
    )
    response = site.browser.get(back)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


# -- signing out ----------------------------------------------------------------------------------


def test_signing_out_clears_revokes_and_stays_out(site: Site) -> None:
    site.sign_in()
    copy = site.browser.cookies[site.auth.cookie_name]
    access_token = site.browser.get("/token").json()["access_token"]
    response = site.browser.post("/logout?next=/bye")
    assert (response.status_code, response.headers["location"]) == (303, "/bye")
    assert site.auth.cookie_name not in site.browser.cookies
    with TestClient(site.op_app, base_url=OP) as provider:
        headers = {"authorization": f"Bearer {access_token}"}
        assert provider.get("/userinfo", headers=headers).status_code == 401
    site.clock.advance(14)
    headers = {"cookie": f"{site.auth.cookie_name}={copy}"}
    assert site.new_browser().get("/token", headers=headers).status_code == 401


def test_a_get_of_logout_only_asks(site: Site) -> None:
    site.sign_in()
    page = site.browser.get("/logout")
    assert '<form method="post">' in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert site.browser.get("/token").status_code == 200
    site.browser.post("/logout")
    assert site.browser.get("/logout").status_code == 303  # nobody is signed in


def test_another_sites_page_cannot_sign_anybody_out(site: Site) -> None:
    site.sign_in()
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert site.browser.post("/logout", headers=headers).status_code == 403
    assert site.browser.get("/token").status_code == 200


def test_signing_out_works_while_provider_and_store_are_down(site: Site) -> None:
    from fastapi_ideal_auth import StoreUnavailable

    from .support import CountingStore

    store = CountingStore()
    site = Site(store=store)
    site.sign_in()
    store.fault = StoreUnavailable("down")

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    site.auth.provider.http._given = httpx.AsyncClient(  # type: ignore[union-attr]  # the site's provider is one of ours
        transport=httpx.MockTransport(down)
    )
    assert site.browser.post("/logout").status_code == 303
    assert site.browser.get("/token").status_code == 401


# -- who it is ------------------------------------------------------------------------------------


def test_user_from_claims_makes_the_user() -> None:
    async def make(claims: Mapping[str, Any], tokens: TokenResponse) -> dict[str, Any]:
        return {"id": f"tenant/{claims['sub']}", "email": "x@example.test", "name": "N"}

    site = Site(user_from_claims=make)
    site.sign_in()
    assert site.browser.get("/me").json()["id"].startswith("tenant/")


def test_claims_that_make_no_user_are_an_operators_error(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(user_from_claims=lambda claims, tokens: {"email": 5})
    response = site.sign_in()
    assert response.status_code == 503
    assert "do not make a User (id: missing" in caplog.text


def test_the_router_says_what_it_needs() -> None:
    bare = OAuth2Provider("https://op.example/token", "app")
    auth = IdealAuth(User, secret=SECRET, provider=bare, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="authorization_endpoint"):
        _ = auth.router
    nobody = OAuth2Provider(
        "https://op.example/token", "app", authorization_endpoint="https://op.example/authorize"
    )
    auth = IdealAuth(User, secret=SECRET, provider=nobody, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="userinfo_endpoint"):
        _ = auth.router


def test_a_strict_cookie_survives_the_way_back_from_the_provider() -> None:
    """The chain of redirects began on another site; a page that navigates by itself begins anew."""
    site = Site(cookie_samesite="strict")
    response = site.sign_in("?next=/me")
    assert response.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/me">' in response.text
    lines = response.headers.get_list("set-cookie")
    assert any("ideal_session=" in line and "SameSite=Strict" in line for line in lines)


# -- pages ----------------------------------------------------------------------------------------


def test_a_page_redirects_to_login_and_back(site: Site) -> None:
    response = site.browser.get("/page?tab=2&q=a%20b")
    assert response.status_code == 303
    assert response.headers["location"] == "/login?next=%2Fpage%3Ftab%3D2%26q%3Da%2520b"
    assert (
        site.sign_in("?" + urlsplit(response.headers["location"]).query).headers["location"]
        == "/page?tab=2&q=a%20b"
    )
    assert site.browser.get("/page").json() == "Ada Lovelace"


def test_a_path_that_was_encoded_leads_back_too(site: Site) -> None:
    @site.app.get("/files/{name}")
    async def file(name: str, user: Annotated[User, Depends(site.auth.user_or_login)]) -> str:
        return name

    location = site.browser.get("/files/my%20100%25%3F.txt").headers["location"]
    back = site.sign_in("?" + urlsplit(location).query).headers["location"]
    assert site.browser.get(back).json() == "my 100%?.txt"


def test_the_redirect_to_login_clears_a_dead_cookie(site: Site) -> None:
    site.sign_in()
    site.clock.advance(10_000_000)
    response = site.browser.get("/page")
    assert response.status_code == 303
    assert "Max-Age=0" in response.headers["set-cookie"]


def test_a_form_post_is_not_repeated_by_the_redirect() -> None:
    site = Site()
    app = FastAPI()
    site.auth.install(app)

    @app.post("/order")
    async def order(user: Annotated[User, Depends(site.auth.user_or_login)]) -> None:
        return None

    response = TestClient(app, base_url=APP, follow_redirects=False).post("/order")
    assert (response.status_code, response.headers["location"]) == (303, "/login")
