"""What somebody clever tries against signing in, signing out and handing over."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient
from pydantic import ConfigDict, model_validator

from fastapi_ideal_auth import IdealAuth, MemoryStore, Session, TokenResponse
from fastapi_ideal_auth.login import _Attempt, _Callback
from fastapi_ideal_auth.pages import failure
from fastapi_ideal_auth.testing import Clock, login
from fastapi_ideal_auth.transfer import _Ticket

from . import test_logout, test_sign_in, test_transfer
from .support import SECRET, User, World, app_of

# -- logout CSRF ----------------------------------------------------------------------------------


def test_a_form_of_another_site_that_carries_no_cookie_clears_none() -> None:
    """SameSite keeps the cookie out of the request, and the browser would still obey the answer."""
    site = test_sign_in.Site()
    answer = site.new_browser().post(
        "/logout", headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    )
    assert "set-cookie" not in answer.headers


def test_a_route_that_signs_out_clears_no_cookie_that_was_not_sent() -> None:
    world = World()
    assert "set-cookie" not in world.browser().post("/leave").headers


# -- a ticket in the wrong hands ------------------------------------------------------------------


@pytest.mark.parametrize("to", ["empty", "iframe", "script", "image"])
def test_a_script_on_one_domain_cannot_fetch_a_ticket_to_take_away(to: str) -> None:
    family = test_transfer.Family()
    answer = family.one.get(
        "/transfer", params={"to": test_transfer.TWO}, headers={"sec-fetch-dest": to}
    )
    assert answer.status_code == 400
    assert "ticket" not in answer.text


def test_a_page_that_is_opened_for_it_is_out_of_reach_of_its_opener() -> None:
    family = test_transfer.Family()
    headers = {"sec-fetch-dest": "document"}
    page = family.one.get("/transfer", params={"to": test_transfer.TWO}, headers=headers)
    assert page.status_code == 200
    assert page.headers["cross-origin-opener-policy"] == "same-origin"


# -- sessions that should have ended --------------------------------------------------------------


def test_clocks_that_differ_let_no_session_escape() -> None:
    """Half a minute is assumed between hosts: whoever ends sessions may be behind."""
    world = World(expires_in=3600, check_ended_every=0)
    login(world.client, world.auth, world.user())
    behind = world.another_auth(clock=lambda: world.clock() - 25)
    asyncio.run(behind.end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def test_who_is_sent_out_twice_in_a_second_stays_out() -> None:
    world = World(expires_in=3600, check_ended_every=0)

    @world.app.post("/sign-in")
    async def sign_in(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        await session.login(world.user())

    for _ in range(3):
        asyncio.run(world.auth.end_sessions(user_id="1"))
        world.clock.advance(0.1)
        world.client.post("/sign-in")
        assert world.client.get("/token").status_code == 200
    asyncio.run(world.auth.end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def test_a_clock_that_is_set_back_makes_no_look_last_longer() -> None:
    world = World(expires_in=36_000, check_ended_every=30)
    world.sign_in()
    world.clock.advance(7200)
    assert world.client.get("/token").status_code == 200
    world.clock.advance(-7000)
    asyncio.run(world.another_auth().end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def without_id_token(claims: Mapping[str, Any], tokens: TokenResponse) -> User:
    """A user who keeps the cookie small."""
    return User(
        id=claims["sub"],
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=int(Clock()()) + 300,
    )


def test_a_logout_token_finds_who_does_not_carry_the_id_token() -> None:
    site = test_logout.Site(user_from_claims=without_id_token)
    assert site.tell(site.op.logout_token()).status_code == 200
    assert not site.is_in()


def test_a_refresh_of_somebody_else_is_noticed_without_the_id_token() -> None:
    site = test_logout.Site(user_from_claims=without_id_token)
    site.op.in_id_token["sub"] = "eve"
    site.clock.advance(400)
    assert not site.is_in()
    assert len(site.op.revoked) == 1
    assert site.op.revoked[0] in site.op.refresh_tokens  # the newest, not the spent one


def test_somebody_elses_token_for_a_resource_ends_the_session_too() -> None:
    site = test_sign_in.Site(resource=["https://one.example", "https://two.example"])

    @site.app.get("/two")
    async def two(session: Annotated[Session[User], Depends(site.auth.session)]) -> str:
        return await session.token_for("https://two.example")

    site.sign_in()
    site.server.in_id_token["sub"] = "eve"
    assert site.browser.get("/two").status_code == 401
    assert len(site.server.revoked) == 1
    assert site.server.revoked[0] in site.server.refresh_tokens  # the newest, not the spent one
    site.clock.advance(290)
    asked = len(site.server.asked_for("/token"))
    assert site.browser.get("/token").status_code == 401
    assert len(site.server.asked_for("/token")) == asked  # the spent one is not presented


# -- words of others in logs ----------------------------------------------------------------------


class Suspicious(User):
    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        raise ValueError(f"cannot read {given}")


class Forbidding(User):
    model_config = ConfigDict(extra="forbid")
    name: Literal["Ada"] = "Ada"


@pytest.mark.parametrize("model", [Suspicious, Forbidding])
def test_claims_that_make_no_user_are_not_repeated_in_the_log(
    model: type[User], caplog: pytest.LogCaptureFixture
) -> None:
    site = test_sign_in.Site()
    site.server.userinfo["name"] = "Eve\nERROR the session of root"
    auth = IdealAuth(
        model,
        secret=SECRET,
        provider=site.auth.provider,
        store=MemoryStore(),
        clock=site.clock,
        http_client=site.server.client(httpx),
        user_from_claims=lambda claims, tokens: {**claims, "id": claims["sub"], "a\nb": 1},
    )
    app = app_of(auth)
    app.include_router(auth.router)
    browser = TestClient(app, base_url=test_sign_in.APP, follow_redirects=False)
    back = site.server.approve(browser.get("/login").headers["location"])
    assert browser.get(back).status_code == 503
    assert f"do not make a {model.__name__}" in caplog.text
    written = [record.getMessage() for record in caplog.records]
    assert not any("Eve" in text or "\n" in text for text in written)
    assert not any(token in caplog.text for token in site.server.refresh_tokens)


def test_no_value_of_a_sign_in_or_a_transfer_shows_what_it_holds() -> None:
    shown = [
        _Attempt("state", "nonce", "verifier", "https://app.example", "/", None, 0),
        _Callback("code", None, None),
        _Ticket(b"id", 0, "/", b"session"),
    ]
    assert list(map(repr, shown)) == ["<attempt to sign in>", "<callback>", "<ticket>"]


# -- pages that lead on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "link"), [("", "/login"), ("/auth", "/auth/login"), ("//evil.example", "/")]
)
@pytest.mark.parametrize("route", ["login", "callback", "transfer"])
def test_a_page_that_says_no_leads_to_the_sign_in(route: str, prefix: str, link: str) -> None:
    app = FastAPI()

    @app.get("/{path:path}")
    async def refuse(request: Request) -> Response:
        return failure(request, 400, "no")

    browser = TestClient(app, base_url="https://testserver")
    url = f"https://testserver{prefix}/{route}"
    answer = browser.get(url, headers={"accept": "text/html"})
    assert f'href="{link}"' in answer.text


def test_a_cookie_that_begins_like_an_attempt_is_left_alone() -> None:
    site = test_sign_in.Site()
    others = [f"{site.auth.cookie_name}-login-{name}" for name in ("admin", "a-session", "x" * 9)]
    header = "; ".join(f"{name}=1" for name in (*others, *(f"{name}.0" for name in others)))
    answer = site.new_browser().get("/login", headers={"cookie": header})
    assert len(answer.headers.get_list("set-cookie")) == 1
