"""Leaving: here, at the provider, and when the provider says so."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, MemoryStore, OpenIDProvider, RefreshStore

from .openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIDServer, key, signed
from .support import SECRET, CountingStore, User, app_of

APP = "https://testserver"
AFTER = f"{APP}/goodbye"


class Site:
    """An app, its provider, and a browser that is signed in as ``ada``."""

    def __init__(self, store: RefreshStore | None = None, **options: Any) -> None:
        self.op = OpenIDServer()
        self.op.metadata["end_session_endpoint"] = f"{self.op.issuer}/end"
        self.op.in_id_token["sid"] = "op-session"
        self.clock = self.op.clock
        self.store = CountingStore(store or MemoryStore())
        self.options = options
        self.auth = self.worker()
        self.browser = self.new_browser()
        self.sign_in(self.browser)

    def worker(self) -> IdealAuth[User]:
        provider = OpenIDProvider(
            self.op.issuer,
            CLIENT_ID,
            CLIENT_SECRET,
            clock=self.clock,
            post_logout_redirect_uri=AFTER,
        )
        options: dict[str, Any] = {"check_ended_every": 30, **self.options}
        return IdealAuth(
            User,
            secret=SECRET,
            provider=provider,
            store=self.store,
            clock=self.clock,
            http_client=self.op.client(httpx),
            **options,
        )

    def new_browser(self, auth: IdealAuth[User] | None = None) -> TestClient:
        auth = auth or self.auth
        app = app_of(auth)
        app.include_router(auth.router)
        return TestClient(app, base_url=APP, follow_redirects=False)

    def sign_in(self, browser: TestClient) -> None:
        location = browser.get("/login").headers["location"]
        assert browser.get(self.op.approve(location)).status_code == 303
        assert browser.get("/me").status_code == 200

    def tell(self, token: str, browser: TestClient | None = None) -> Any:
        """What the provider does, from elsewhere and without a cookie."""
        server = browser or self.new_browser()
        return server.post("/backchannel-logout", data={"logout_token": token})

    def is_in(self, browser: TestClient | None = None) -> bool:
        return (browser or self.browser).get("/me").status_code == 200


@pytest.fixture(params=["cookie", "store"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(tokens=request.param)


# -- RP-initiated logout --------------------------------------------------------------------------


def test_signing_out_goes_on_to_the_provider_with_the_id_token_as_a_hint(site: Site) -> None:
    response = site.browser.post("/logout")
    assert response.status_code == 303
    parts = urlsplit(response.headers["location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{site.op.issuer}/end"
    query = parse_qs(parts.query)
    assert query.keys() == {"id_token_hint", "client_id", "post_logout_redirect_uri"}
    assert query["post_logout_redirect_uri"] == [AFTER]
    assert query["client_id"] == [CLIENT_ID]
    assert query["id_token_hint"][0].count(".") == 2


def test_signing_out_ends_the_session_here_and_its_grant_there(site: Site) -> None:
    copy = dict(site.browser.cookies)
    site.browser.post("/logout")
    assert not site.is_in()
    assert len(site.op.revoked) == 1
    other = site.new_browser(site.worker())
    other.cookies.update(copy)
    assert not site.is_in(other)


def test_signing_out_works_while_the_provider_is_away() -> None:
    site = Site()
    browser = site.new_browser(site.worker())  # one that has not asked for the endpoints yet
    browser.cookies.update(dict(site.browser.cookies))
    for path in ("/revoke", "/.well-known/openid-configuration"):
        site.op.faults[path] = lambda _: httpx.Response(500)
    assert browser.post("/logout?next=/bye").headers["location"] == "/bye"
    assert not site.is_in(browser)


def test_who_is_signed_out_is_not_sent_to_the_provider(site: Site) -> None:
    site.browser.cookies.clear()
    assert site.browser.post("/logout?next=/bye").headers["location"] == "/bye"


def test_where_the_provider_has_no_such_endpoint_it_is_next() -> None:
    site = Site()
    del site.op.metadata["end_session_endpoint"]
    auth = site.worker()
    browser = site.new_browser(auth)
    site.sign_in(browser)
    assert browser.post("/logout?next=/bye").headers["location"] == "/bye"


def test_an_id_token_too_long_for_a_url_stays_out_of_it() -> None:
    site = Site(tokens="store")
    site.op.in_id_token["groups"] = ["g" * 36] * 200
    site.sign_in(site.browser)
    query = parse_qs(urlsplit(site.browser.post("/logout").headers["location"]).query)
    assert "id_token_hint" not in query
    assert query["client_id"] == [CLIENT_ID]


def test_the_page_that_asks_lets_its_form_lead_on_to_the_provider(site: Site) -> None:
    policy = site.browser.get("/logout").headers["content-security-policy"]
    assert "form-action" not in policy  # browsers hold redirects of a form against it
    assert "default-src 'none'" in policy


# -- back-channel logout --------------------------------------------------------------------------


def test_the_provider_ends_a_session_within_the_time_that_is_documented(site: Site) -> None:
    response = site.tell(site.op.logout_token())
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert not site.is_in()


def test_another_worker_notices_within_check_ended_every(site: Site) -> None:
    other = site.new_browser(site.worker())
    other.cookies.update(dict(site.browser.cookies))
    assert site.is_in(other)
    site.tell(site.op.logout_token())
    site.clock.advance(31)
    assert not site.is_in(other)


def test_without_the_check_it_ends_when_the_token_is_due() -> None:
    site = Site(check_ended_every=None)
    site.tell(site.op.logout_token())
    assert site.is_in()
    site.clock.advance(299)
    assert not site.is_in()
    site.browser.cookies.clear()


def test_its_refresh_token_is_revoked_too() -> None:
    site = Site(check_ended_every=None)
    site.tell(site.op.logout_token())
    site.clock.advance(299)
    with site.browser:
        assert not site.is_in()
    assert len(site.op.revoked) == 1


def test_a_session_of_another_sid_stays(site: Site) -> None:
    site.tell(site.op.logout_token(sid="another-session"))
    assert site.is_in()


def test_a_subject_alone_ends_every_session_of_it(site: Site) -> None:
    site.op.in_id_token["sid"] = "a second one"
    phone = site.new_browser()
    site.sign_in(phone)
    assert site.tell(site.op.logout_token(without="sid")).status_code == 200
    assert not site.is_in()
    assert not site.is_in(phone)


def test_another_subject_stays(site: Site) -> None:
    site.tell(site.op.logout_token(without="sid", sub="grace"))
    assert site.is_in()


def test_a_session_whose_sid_was_never_told_ends_with_its_subject() -> None:
    site = Site()
    del site.op.in_id_token["sid"]
    site.sign_in(site.browser)
    site.tell(site.op.logout_token())
    assert not site.is_in()


def test_signing_in_afterwards_works(site: Site) -> None:
    site.tell(site.op.logout_token(without="sid"))
    site.sign_in(site.browser)
    assert site.is_in()


def test_a_logout_token_is_good_once(site: Site) -> None:
    token = site.op.logout_token()
    assert site.tell(token).status_code == 200
    site.sign_in(site.browser)
    site.clock.advance(2)
    assert site.tell(token).status_code == 400
    assert site.is_in()


def test_a_token_that_could_not_be_written_down_is_good_still(site: Site) -> None:
    token = site.op.logout_token()
    site.store.fault = OSError("gone")
    assert site.tell(token).status_code == 503
    site.store.fault = None
    assert site.tell(token).status_code == 200
    assert not site.is_in()


def test_a_key_set_that_cannot_be_had_is_503() -> None:
    site = Site()
    site.op.key = key("RSA", "rsa-of-tomorrow")
    site.op.faults["/jwks"] = lambda _: httpx.Response(500)
    assert site.tell(site.op.logout_token()).status_code == 503
    assert site.is_in()


FORGERIES: dict[str, Callable[[OpenIDServer], str]] = {
    "an ID token": lambda op: op.id_token("at", sid="op-session"),
    "another audience": lambda op: op.logout_token(aud="another"),
    "another issuer": lambda op: op.logout_token(iss="https://evil.example"),
    "with a nonce": lambda op: op.logout_token(nonce="n"),
    "no events": lambda op: op.logout_token(without="events"),
    "no jti": lambda op: op.logout_token(without="jti"),
    "neither sub nor sid": lambda op: op.logout_token(without="sub sid"),
    "old": lambda op: op.logout_token(iat=int(op.clock()) - 3600, exp=int(op.clock()) - 3000),
    "another key": lambda op: signed(
        {"iss": op.issuer, "aud": CLIENT_ID}, key("RSA", "evil"), "RS256", kid="rsa-1"
    ),
    "no signature": lambda op: op.logout_token().rpartition(".")[0] + ".",
    "no token": lambda _: "x",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_logout_token_ends_nothing(
    site: Site, forge: Callable[[OpenIDServer], str]
) -> None:
    response = site.tell(forge(site.op))
    assert response.status_code == 400
    assert response.json() == {"error": "invalid_request"}
    assert site.is_in()


@pytest.mark.parametrize(
    "body", ["", "logout_token=", "logout_token=a&logout_token=b", "x" * 70_000]
)
def test_what_is_no_logout_token_is_400(site: Site, body: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = site.new_browser().post("/backchannel-logout", content=body, headers=headers)
    assert answer.status_code == 400


def test_the_token_is_not_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = site.op.logout_token(aud="another")
    site.tell(token)
    assert "a logout token was refused" in caplog.text
    assert token.split(".")[1] not in caplog.text
    assert token.split(".")[2] not in caplog.text
