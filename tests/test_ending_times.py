"""How soon a session is over, by every door and in every process: docs/signing-out.md's table."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, MemoryStore, OpenIDProvider
from fastapi_ideal_auth.testing import Clock

from .openid_provider import CLIENT_ID, CLIENT_SECRET, ISSUER, OpenIDServer
from .support import SECRET, CountingStore, User, app_of

APP = "https://testserver"
BYE = f"{APP}/bye"
HERE, FROM_AFAR = "sign-out", "back-channel"


class Site:
    """Two workers of one app, an OpenID provider, and somebody with a browser."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.server = OpenIDServer(self.clock)
        self.server.metadata["end_session_endpoint"] = f"{ISSUER}/end"
        self.server.in_id_token["sid"] = "op-session"
        self.store = CountingStore(MemoryStore())
        self.options = options
        self.auth, self.browser = self.worker()
        self.other_auth, self.elsewhere = self.worker()

    def worker(self) -> tuple[IdealAuth[User], TestClient]:
        auth = IdealAuth(
            User,
            secret=SECRET,
            store=self.store,
            clock=self.clock,
            http_client=self.server.client(httpx),
            provider=OpenIDProvider(
                ISSUER,
                CLIENT_ID,
                CLIENT_SECRET,
                post_logout_redirect_uri=BYE,
                clock=self.clock,
            ),
            **self.options,
        )
        app = app_of(auth)
        app.include_router(auth.router)
        return auth, TestClient(app, base_url=APP, follow_redirects=False)

    def sign_in(self) -> str:
        """The session's cookie, of which the other worker gets a copy."""
        back = self.server.approve(self.browser.get("/login").headers["location"])
        assert self.browser.get(back).status_code == 303
        return self.browser.cookies.get(self.auth.cookie_name) or ""  # a large one is cut

    def status(self, cookie: str, *, elsewhere: bool = False) -> int:
        """What a request gets that carries the cookie and nothing else."""
        client = self.elsewhere if elsewhere else self.browser
        client.cookies.clear()
        headers = {"cookie": f"{self.auth.cookie_name}={cookie}"}
        answer = client.get("/token", headers=headers)
        client.cookies.clear()
        return answer.status_code

    def leave(self, client: TestClient | None = None) -> dict[str, str]:
        """Where /logout leads to: what the provider is told."""
        where = (client or self.browser).post("/logout").headers["location"]
        assert where.startswith(f"{ISSUER}/end?")
        return {name: value for name, (value,) in parse_qs(urlsplit(where).query).items()}

    def told(self, token: str | None = None, **claims: Any) -> httpx.Response:
        """The provider says that somebody signed out."""
        token = token or self.server.logout_token(**claims)
        answer = self.browser.post("/backchannel-logout", data={"logout_token": token})
        assert answer.headers["cache-control"] == "no-store"
        return answer


def ended(site: Site, how: str, cookie: str) -> None:
    if how == HERE:
        headers = {"cookie": f"{site.auth.cookie_name}={cookie}"}
        assert site.browser.post("/leave", headers=headers).status_code == 200
    elif how == FROM_AFAR:
        assert site.told().status_code == 200
    else:
        asyncio.run(site.auth.end_sessions(user_id="ada"))


NOW, WITHIN, DUE = "at once", "within check_ended_every", "when due"


@pytest.mark.parametrize(
    ("how", "tokens", "every", "here", "there"),
    [
        # tokens in the cookie; ``here`` is the process that was told, ``there`` every other
        (HERE, "cookie", None, DUE, DUE),
        ("everywhere", "cookie", None, DUE, DUE),
        (FROM_AFAR, "cookie", None, DUE, DUE),
        (HERE, "cookie", 30, NOW, WITHIN),
        ("everywhere", "cookie", 30, NOW, WITHIN),
        (FROM_AFAR, "cookie", 30, NOW, WITHIN),
        # tokens in the store
        (HERE, "store", None, NOW, DUE),
        ("everywhere", "store", None, DUE, DUE),
        (FROM_AFAR, "store", None, DUE, DUE),
        (HERE, "store", 30, NOW, WITHIN),
        ("everywhere", "store", 30, NOW, WITHIN),
        (FROM_AFAR, "store", 30, NOW, WITHIN),
        # looked up each time
        (HERE, "cookie", 0, NOW, NOW),
        ("everywhere", "cookie", 0, NOW, NOW),
        (FROM_AFAR, "store", 0, NOW, NOW),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "there"])
def test_a_copied_cookie_is_refused_as_soon_as_the_table_says(
    how: str, tokens: str, every: float | None, here: str, there: str, elsewhere: bool
) -> None:
    site = Site(tokens=tokens, check_ended_every=every)
    cookie = site.sign_in()
    for where in (False, True):
        assert site.status(cookie, elsewhere=where) == 200  # both have looked just now
    ended(site, how, cookie)
    expected = there if elsewhere else here
    assert site.status(cookie, elsewhere=elsewhere) == (401 if expected == NOW else 200)
    site.clock.advance(31)
    assert site.status(cookie, elsewhere=elsewhere) == (200 if expected == DUE else 401)
    site.clock.advance(260)
    assert site.status(cookie, elsewhere=elsewhere) == 401


def test_a_worker_that_has_not_read_the_tokens_yet_refuses_at_once() -> None:
    site = Site(tokens="store")
    cookie = site.sign_in()
    ended(site, HERE, cookie)
    assert site.status(cookie, elsewhere=True) == 401


# -- what is left behind ---------------------------------------------------------------------------


def test_the_id_token_goes_into_no_other_address_and_no_response() -> None:
    site = Site()
    site.sign_in()
    hint = site.leave()["id_token_hint"]
    site.sign_in()
    for path in ("/me", "/session", "/logout", "/maybe"):
        answer = site.browser.get(path)
        assert hint not in answer.text
        assert hint not in str(answer.headers)


def test_a_store_shows_nobody_that_was_signed_out() -> None:
    store = MemoryStore()
    site = Site()
    site.store.inner = store
    site.sign_in()
    site.told()
    asyncio.run(site.auth.end_sessions(user_id="ada"))
    told = repr(store._records)
    for hidden in ("ada", "op-session", ISSUER):
        assert hidden not in told
