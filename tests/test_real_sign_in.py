"""A person at a real browser, two OpenID providers that share no code: in, fresh, and out again.

The app is on ``localhost`` and the provider on ``127.0.0.1``, so the two are truly cross-site; two
workers serve it. canaille has no back-channel logout: its half of that is a logout token that the
harness signs with canaille's key and sends in its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from .browser import chromium, sign_in, sign_out
from .processes import Server, free_port, uvicorn
from .providers import canaille_server as canaille
from .providers import harness
from .providers.canaille_server import CanailleServer
from .providers.harness import OIDCServer
from .support import SECRET

COOKIE = "__Host-ideal_session"
LOOK = 1.0  # the app's check_ended_every, in seconds


@dataclass(frozen=True, slots=True)
class At:
    """One provider as these tests need it."""

    issuer: str
    client_id: str
    client_secret: str
    password: str
    access_token_ttl: int  # seconds
    userinfo_endpoint: str
    prompt_consent: bool
    register: Callable[[str], None]  # the app's origin
    refreshed: Callable[[], int]  # how often since then
    sign_out_there: Callable[[], object]  # and tell the app

    def alive(self, access_token: str) -> bool:
        bearer = {"Authorization": f"Bearer {access_token}"}
        got = httpx.get(self.userinfo_endpoint, headers=bearer, trust_env=False, timeout=10)
        return got.status_code == httpx.codes.OK


def at_oidc_provider(op: OIDCServer) -> At:
    client_id = "real-sign-in"

    def register(origin: str) -> None:
        op.reset()
        # The refresh token outlives the access token, so that an expired one can be refreshed.
        op.settings(access_token_ttl=3, jwt_access_tokens=False)
        op.client(
            client_id,
            client_secret=harness.SECRET,
            redirect_uris=[f"{origin}/callback"],
            post_logout_redirect_uris=[f"{origin}/"],
            backchannel_logout_uri=f"{origin}/backchannel-logout",
            backchannel_logout_session_required=True,
        )

    def refreshed() -> int:
        stats = op.stats()
        assert (stats["spent_presented"], stats["grants_revoked"]) == (0, 0)
        outcomes = stats["token_calls"].get("refresh_token", {})
        assert set(outcomes) <= {"ok"}
        return int(outcomes.get("ok", 0))

    def sign_out_there() -> None:
        assert op.end_sessions("ada") == {client_id: "ok"}

    return At(
        issuer=op.issuer,
        client_id=client_id,
        client_secret=harness.SECRET,
        password="",
        access_token_ttl=3,
        userinfo_endpoint=f"{op.issuer}/me",
        prompt_consent=True,
        register=register,
        refreshed=refreshed,
        sign_out_there=sign_out_there,
    )


def at_canaille(op: CanailleServer) -> At:
    def register(origin: str) -> None:
        op.reset(
            redirect_uris=[f"{origin}/callback"],
            post_logout_redirect_uris=[f"{origin}/"],
            # The refresh token dies with the access token: a quarter of this is the time to act.
            access_token_ttl=6,
        )
        told.append(f"{origin}/backchannel-logout")

    def refreshed() -> int:
        counts = op.counts()
        assert set(counts) <= {"authorization_code:200", "refresh_token:200"}
        return counts.get("refresh_token:200", 0)

    told: list[str] = []
    return At(
        issuer=op.issuer,
        client_id=canaille.CLIENT_ID,
        client_secret=canaille.CLIENT_SECRET,
        password=canaille.PASSWORD,
        access_token_ttl=6,
        userinfo_endpoint=f"{op.issuer}/oauth/userinfo",
        prompt_consent=False,
        register=register,
        refreshed=refreshed,
        sign_out_there=lambda: op.send_logout_token(told[-1]),
    )


@pytest.fixture(params=["oidc-provider", "canaille"])
def at(request: pytest.FixtureRequest) -> At:
    if request.param == "canaille":
        return at_canaille(request.getfixturevalue("canaille_server"))
    return at_oidc_provider(request.getfixturevalue("oidc_server"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@contextmanager
def served(at: At, **more: str) -> Iterator[Server]:
    port = free_port()
    at.register(f"http://localhost:{port}")
    env = {
        "SESSION_SECRET": SECRET,
        "ISSUER": at.issuer,
        "CLIENT_ID": at.client_id,
        "CLIENT_SECRET": at.client_secret,
        "HOME_URL": f"http://localhost:{port}/",
    }
    env |= {"PROMPT_CONSENT": "1"} if at.prompt_consent else {}
    with uvicorn("tests.signing_app:app", port, workers=2, env=env | more) as server:
        yield server


@pytest.fixture
def app(at: At) -> Iterator[Server]:
    with served(at) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at one browser of their own."""

    page: Any
    home: str
    password: str

    def sign_in(self) -> None:
        sign_in(self.page, f"{self.home}login?next=/", "ada", self.password)
        assert self.sees() == "Signed in as ada@example.test"

    def sees(self) -> str:
        self.page.goto(self.home)
        return str(self.page.inner_text("h1"))

    def sees_within(self, wanted: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (seen := self.sees()) != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        return seen == wanted

    def token(self) -> str:
        """Asked for by several requests at once, as a page does."""
        answers = self.page.evaluate(
            """async () => Promise.all(Array.from({length: 8}, async () => {
                const response = await fetch('/token');
                return [response.status, (await response.json()).access_token];
            }))"""
        )
        assert [status for status, _ in answers] == [200] * 8
        return str(answers[-1][1])


@pytest.fixture
def person(browser: Any, at: At, app: Server) -> Iterator[Callable[[], Person]]:
    contexts: list[Any] = []

    def new() -> Person:
        contexts.append(browser.new_context())
        return Person(contexts[-1].new_page(), f"http://localhost:{app.port}/", at.password)

    yield new
    for context in contexts:
        context.close()


def test_a_person_signs_in_stays_fresh_and_signs_out_here_and_there(
    at: At, person: Callable[[], Person]
) -> None:
    ada = person()
    assert ada.sees() == "Signed out"
    ada.sign_in()
    assert ada.page.evaluate("fetch('/me').then(r => r.json())")["id"] == "ada"

    tokens = [ada.token()]
    deadline = time.monotonic() + 5 * at.access_token_ttl
    while len(tokens) < 4 and time.monotonic() < deadline:
        time.sleep(0.25)
        token = ada.token()
        if token not in tokens:
            tokens.append(token)
    assert len(tokens) == 4, "refreshed three times"
    assert at.refreshed() == 3
    assert at.alive(tokens[-1])

    (cookie,) = [c for c in ada.page.context.cookies() if c["name"] == COOKIE]
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
    assert ada.page.evaluate("document.cookie") == ""

    sign_out(ada.page, f"{ada.home}logout")
    assert ada.page.url == ada.home, "the provider leads back"
    assert ada.page.inner_text("h1") == "Signed out"
    assert COOKIE not in [c["name"] for c in ada.page.context.cookies()]
    assert not at.alive(tokens[-1]), "revoked"
    ada.page.goto(f"{ada.home}login")
    assert ada.page.url.startswith(at.issuer), "nobody is signed in there either"
    assert ada.page.input_value("input[name=login]") == ""


def test_a_person_signs_out_everywhere_and_in_again(at: At, person: Callable[[], Person]) -> None:
    laptop, phone = person(), person()
    laptop.sign_in()
    phone.sign_in()
    cookies = phone.page.context.cookies()
    laptop.page.evaluate("fetch('/everywhere', {method: 'POST'})")
    for device in (laptop, phone):
        assert device.sees_within("Signed out", LOOK + 2)
    laptop.sign_in()
    phone.page.context.add_cookies(cookies)
    assert phone.sees() == "Signed out", "what was ended stays so"
    assert laptop.sees_within("Signed out", 1.5 * LOOK) is False


def test_who_signs_out_at_the_provider_is_signed_out_here(
    at: At, person: Callable[[], Person]
) -> None:
    ada = person()
    ada.sign_in()
    at.sign_out_there()
    assert ada.sees_within("Signed out", LOOK + 2)
    assert ada.page.evaluate("fetch('/me').then(r => r.status)") == 401
