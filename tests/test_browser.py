"""A real browser, a real provider: signed in for as long as the page is open.

The app is on ``localhost`` and the provider on ``127.0.0.1``, so the two are truly cross-site; the
cookie is Secure and has the ``__Host-`` prefix, which Chromium takes on loopback.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from .browser import chromium
from .processes import Server, free_port, uvicorn
from .providers import harness
from .providers.harness import OIDCServer
from .support import SECRET

TTL = 3
CLIENT = "browser-app"
COOKIE = "__Host-ideal_session"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def app(oidc_server: OIDCServer) -> Iterator[Server]:
    oidc_server.reset()
    oidc_server.settings(access_token_ttl=TTL, jwt_access_tokens=False)
    port = free_port()
    oidc_server.client(
        CLIENT,
        client_secret=harness.SECRET,
        redirect_uris=[f"http://localhost:{port}/callback"],
        grant_types=["authorization_code", "refresh_token"],
    )
    env = {
        "SESSION_SECRET": SECRET,
        "TOKEN_ENDPOINT": oidc_server.token_endpoint,
        "AUTHORIZATION_ENDPOINT": f"{oidc_server.issuer}/auth",
        "USERINFO_ENDPOINT": f"{oidc_server.issuer}/me",
        "REVOCATION_ENDPOINT": oidc_server.revocation_endpoint,
        "CLIENT_ID": CLIENT,
        "CLIENT_SECRET": harness.SECRET,
        "COOKIE_SECURE": "1",
    }
    with uvicorn("tests.served:app", port, workers=2, env=env) as server:
        yield server


def sign_in(page: Any, app: Server) -> None:
    page.goto(f"http://localhost:{app.port}/login?next=/")
    page.fill("input[name=login]", "ada")
    page.click("button")
    page.wait_for_url(f"http://localhost:{app.port}/")


PARALLEL = """async () => Promise.all(Array.from({length: 25}, async () => {
    const response = await fetch('/token');
    return [response.status, (await response.json()).access_token];
}))"""


def test_a_person_stays_signed_in_through_expiries_and_signs_out(
    browser: Any, app: Server, oidc_server: OIDCServer
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://localhost:{app.port}/")
    assert page.inner_text("h1") == "Signed out"
    sign_in(page, app)
    assert page.inner_text("h1") == "Signed in as ada@example.test"
    tokens = set()
    for _ in range(3):
        time.sleep(TTL + 0.2)
        answers = page.evaluate(PARALLEL)
        assert [status for status, _ in answers] == [200] * 25
        assert len({token for _, token in answers}) == 1
        tokens.add(answers[0][1])
        assert oidc_server.alive(answers[0][1])
    assert len(tokens) == 3
    stats = oidc_server.stats()
    assert (stats["spent_presented"], stats["grants_revoked"]) == (0, 0)

    cookie = next(cookie for cookie in context.cookies() if cookie["name"] == COOKIE)
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
    assert page.evaluate("document.cookie") == ""
    page.goto(f"http://localhost:{app.port}/logout")
    page.click("button")
    page.wait_for_url(f"http://localhost:{app.port}/")
    assert page.inner_text("h1") == "Signed out"
    assert context.cookies(f"http://localhost:{app.port}") == []
    assert not oidc_server.alive(answers[0][1])
    context.close()


def test_a_lost_response_costs_nothing(browser: Any, app: Server, oidc_server: OIDCServer) -> None:
    """The page is closed in mid-refresh, and the old cookie comes back."""
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, app)
    old = [cookie for cookie in context.cookies() if cookie["name"] == COOKIE]
    time.sleep(TTL + 0.2)
    first = page.evaluate("fetch('/token').then(r => r.json())")["access_token"]
    context.clear_cookies()
    context.add_cookies(old)
    again = page.evaluate("fetch('/token').then(r => r.json())")["access_token"]
    assert again == first
    assert oidc_server.stats()["spent_presented"] == 0
    context.close()


def test_another_sites_page_gets_no_unsafe_request_through(browser: Any, app: Server) -> None:
    """Logout CSRF from a page of the same host and another port: same-site, other origin."""
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, app)
    evil = context.new_page()
    evil.route(
        "http://localhost:1/*",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<form method="post" action="http://localhost:{app.port}/logout">'
            f"<button>Win a prize</button></form>",
        ),
    )
    evil.goto("http://localhost:1/")
    evil.click("button")
    evil.wait_for_url("**/logout")
    assert "Cross-origin request refused" in evil.content()
    page.reload()
    assert page.inner_text("h1") == "Signed in as ada@example.test"
    context.close()
