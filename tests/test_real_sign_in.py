"""A person at a real browser, two OpenID providers that share no code: in, fresh, and out again.

The app is on ``localhost`` and the provider on ``127.0.0.1``, so the two are truly cross-site; two
workers serve it. canaille has no back-channel logout: its half of that is a logout token that the
harness signs with canaille's key and sends in its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from .browser import chromium, sign_in, sign_out
from .processes import Server, free_port, uvicorn
from .providers import canaille_server as canaille
from .providers import harness
from .providers.canaille_server import CanailleServer
from .providers.client_keys import claims_of, new_key, public_jwk
from .providers.harness import RESOURCES, OIDCServer
from .support import SECRET

COOKIE = "__Host-ideal_session"
LOOK = 1.0  # the app's check_ended_every, in seconds


@dataclass(frozen=True, slots=True)
class At:
    """One provider as these tests need it."""

    issuer: str
    client_id: str
    client_secret: str | None
    password: str
    access_token_ttl: int  # seconds
    userinfo_endpoint: str
    options: dict[str, Any]  # arguments of OpenIDProvider beside those
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
        options={"authorization_params": {"prompt": "consent"}},  # offline access needs it
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
        options={},
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
def served(at: At, *, workers: int = 2, **more: str) -> Iterator[Server]:
    port = free_port()
    at.register(f"http://localhost:{port}")
    env = {
        "SESSION_SECRET": SECRET,
        "ISSUER": at.issuer,
        "CLIENT_ID": at.client_id,
        "HOME_URL": f"http://localhost:{port}/",
        "PROVIDER_OPTIONS": json.dumps(at.options),
    }
    env |= {"CLIENT_SECRET": at.client_secret} if at.client_secret else {}
    with uvicorn("tests.signing_app:app", port, workers=workers, env=env | more) as server:
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

    def refreshes(self, times: int, patience: float) -> list[str]:
        """The access tokens seen until there have been so many new ones, or patience ends."""
        tokens = [self.token()]
        deadline = time.monotonic() + patience
        while len(tokens) <= times and time.monotonic() < deadline:
            time.sleep(0.25)
            token = self.token()
            if token not in tokens:
                tokens.append(token)
        return tokens

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
def newcomer(browser: Any) -> Iterator[Callable[[At, Server], Person]]:
    contexts: list[Any] = []

    def new(at: At, app: Server) -> Person:
        contexts.append(browser.new_context())
        return Person(contexts[-1].new_page(), f"http://localhost:{app.port}/", at.password)

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def person(newcomer: Callable[[At, Server], Person], at: At, app: Server) -> Callable[[], Person]:
    return lambda: newcomer(at, app)


def test_a_person_signs_in_stays_fresh_and_signs_out_here_and_there(
    at: At, person: Callable[[], Person]
) -> None:
    ada = person()
    assert ada.sees() == "Signed out"
    ada.sign_in()
    assert ada.page.evaluate("fetch('/me').then(r => r.json())")["id"] == "ada"

    tokens = ada.refreshes(3, patience=5 * at.access_token_ttl)
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


def test_signing_out_works_when_the_provider_has_forgotten_the_person(
    at: At, person: Callable[[], Person]
) -> None:
    ada = person()
    ada.sign_in()
    ada.page.context.clear_cookies(domain="127.0.0.1")
    ada.page.goto(f"{ada.home}logout")
    ada.page.click("button")
    ada.page.wait_for_url(ada.home, timeout=10_000)
    assert ada.page.inner_text("h1") == "Signed out"


def test_an_id_token_may_be_signed_with_any_algorithm_that_the_provider_lists(
    canaille_server: CanailleServer, newcomer: Callable[[At, Server], Person]
) -> None:
    """canaille takes whichever its key can do for a client that registered none."""
    at = at_canaille(canaille_server)

    def register(origin: str) -> None:
        canaille_server.reset(redirect_uris=[f"{origin}/callback"], id_token_signed_response_alg="")

    with served(replace(at, register=register), workers=1) as app:
        newcomer(at, app).sign_in()


def test_signing_out_at_one_app_signs_out_of_the_other(
    oidc_server: OIDCServer, newcomer: Callable[[At, Server], Person]
) -> None:
    """The provider tells every app that the browser's session there was used for."""
    one = at_oidc_provider(oidc_server)

    def register(origin: str) -> None:
        oidc_server.client(
            "the-other",
            client_secret=harness.SECRET,
            redirect_uris=[f"{origin}/callback"],
            backchannel_logout_uri=f"{origin}/backchannel-logout",
            backchannel_logout_session_required=True,
        )

    other = replace(one, client_id="the-other", register=register)
    # Ports share cookies, so the apps need names of their own.
    with served(one) as app, served(other, COOKIE_NAME="other_session") as other_app:
        ada, elsewhere = newcomer(one, app), newcomer(other, other_app)
        there = replace(elsewhere, page=ada.page)
        ada.sign_in()
        there.sign_in()
        elsewhere.sign_in()
        sign_out(ada.page, f"{ada.home}logout")
        assert there.sees_within("Signed out", LOOK + 2)
        assert not elsewhere.sees_within("Signed out", 1.5 * LOOK), "another browser's session"


def test_new_signing_keys_are_fetched_when_they_first_show(
    oidc_server: OIDCServer, newcomer: Callable[[At, Server], Person]
) -> None:
    at = at_oidc_provider(oidc_server)
    with served(at, workers=1) as app:
        ada = newcomer(at, app)
        ada.sign_in()
        ada.refreshes(1, patience=9)
        assert oidc_server.stats()["requests"]["/jwks"] == 1
        oidc_server.rotate_keys(forget=True)
        ada.refreshes(2, patience=12)
        assert oidc_server.stats()["requests"]["/jwks"] == 2
        assert at.refreshed() == 3


def test_a_client_with_keys_for_secrets_pushes_its_requests_and_proves_each_token(
    oidc_server: OIDCServer, newcomer: Callable[[At, Server], Person]
) -> None:
    """private_key_jwt, PAR, DPoP with a nonce, ES256, two resources: all demanded at once."""
    api, files, _ = RESOURCES
    client_key, dpop_key = new_key("ES256"), new_key("ES256")

    def register(origin: str) -> None:
        oidc_server.reset()
        oidc_server.settings(
            access_token_ttl=3, require_pushed_authorization_requests=True, dpop_nonce_required=True
        )
        oidc_server.client(
            "all-keys",
            redirect_uris=[f"{origin}/callback"],
            post_logout_redirect_uris=[f"{origin}/"],
            token_endpoint_auth_method="private_key_jwt",
            token_endpoint_auth_signing_alg="ES256",
            jwks={"keys": [public_jwk(client_key)]},
            id_token_signed_response_alg="ES256",
            dpop_bound_access_tokens=True,
        )

    keyed = at_oidc_provider(oidc_server)
    options = {
        "token_endpoint_auth_method": "private_key_jwt",
        "client_key": client_key.as_dict(private=True),
        "dpop_key": dpop_key.as_dict(private=True),
        "id_token_signed_response_alg": "ES256",
        "resource": [api, files],
    }
    at = replace(
        keyed,
        client_id="all-keys",
        client_secret=None,
        register=register,
        options=keyed.options | options,
    )
    with served(at) as app:
        ada = newcomer(at, app)
        asked: list[str] = []
        ada.page.on("request", lambda request: asked.append(request.url))
        ada.sign_in()
        (url,) = [url for url in asked if url.startswith(f"{at.issuer}/auth?")]
        assert set(httpx.URL(url).params) == {"client_id", "request_uri"}

        def call(resource: str, path: str) -> dict[str, Any]:
            query = httpx.QueryParams(url=oidc_server.issuer + path, resource=resource)
            if resource == api:
                query = query.remove("resource")
            got: dict[str, Any] = ada.page.evaluate(f"fetch('/api?{query}').then(r => r.json())")
            return got

        tokens = ada.refreshes(3, patience=15)
        assert len(tokens) == 4
        assert all(claims_of(token)["cnf"]["jkt"] == dpop_key.thumbprint() for token in tokens)
        for resource in (api, files, api):
            answer = call(resource, RESOURCES[resource])
            assert (answer["status"], answer["said"]["aud"]) == (200, resource)
        assert call(files, RESOURCES[api])["status"] == 401, "a token for another API"
        assert oidc_server.stats()["spent_presented"] == 0

        last = ada.token()
        sign_out(ada.page, f"{ada.home}logout")
        assert ada.page.inner_text("h1") == "Signed out"
        assert not oidc_server.alive(last)


def test_asking_for_a_resource_that_was_not_granted_costs_no_session(
    oidc_server: OIDCServer, newcomer: Callable[[At, Server], Person]
) -> None:
    """oidc-provider answers invalid_target after it has spent the refresh token: never asked."""
    api, files, mail = RESOURCES
    plain = at_oidc_provider(oidc_server)

    def register(origin: str) -> None:
        plain.register(origin)
        oidc_server.settings(jwt_access_tokens=True)

    options = {"resource": [api, files], "dpop_key": new_key().as_dict(private=True)}
    at = replace(plain, register=register, options=plain.options | options)
    with served(at, workers=1) as app:
        ada = newcomer(at, app)
        ada.sign_in()
        query = httpx.QueryParams(url=oidc_server.issuer + RESOURCES[mail], resource=mail)
        assert ada.page.evaluate(f"fetch('/api?{query}').then(r => r.status)") >= 500
        time.sleep(at.access_token_ttl + 0.2)
        assert ada.sees() == "Signed in as ada@example.test"
