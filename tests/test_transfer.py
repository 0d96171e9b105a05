"""Signed in on one domain, arriving signed in on another: once, soon, and at the right one."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_ideal_auth import ConfigurationError, IdealAuth, MemoryStore, OAuth2Provider
from fastapi_ideal_auth.testing import login

from .support import SECRET, User, World, app_of

ONE, TWO = "https://one.example", "https://two.example"
FAMILY = (ONE, TWO)
SIGN_IN = OAuth2Provider(
    "https://op.example/token",
    "tests",
    "tests-secret",
    authorization_endpoint="https://op.example/authorize",
    userinfo_endpoint="https://op.example/userinfo",
)


class Family:
    """One application on two domains, and a browser that is signed in on the first."""

    def __init__(self, **options: Any) -> None:
        self.world = World(provider=SIGN_IN, transfer_origins=FAMILY, **options)
        self.clock = self.world.clock
        self.apps = {ONE: self.site(), TWO: self.site()}
        self.auth = self.world.auth
        self.one, self.two = self.browser(ONE), self.browser(TWO)
        login(self.one, self.auth, self.world.user())

    def site(self, **options: Any) -> FastAPI:
        auth = self.world.another_auth(provider=SIGN_IN, **{"transfer_origins": FAMILY, **options})
        app = app_of(auth)
        app.include_router(auth.router)
        return app

    def browser(self, origin: str) -> TestClient:
        return TestClient(self.apps[origin], base_url=origin, follow_redirects=False)

    def leave(self, to: str = TWO, path: str = "/me") -> tuple[str, str]:
        """Where the page's form goes, and its ticket."""
        page = self.one.get("/transfer", params={"to": to, "next": path})
        assert page.status_code == 200, page.text
        action = re.search(r'action="([^"]+)"', page.text)
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        assert action is not None
        assert ticket is not None
        return action[1], ticket[1]

    def arrive(self, ticket: str, browser: TestClient | None = None, **headers: str) -> Any:
        return (browser or self.two).post(
            "/transfer",
            data={"ticket": ticket},
            headers={"origin": ONE, "sec-fetch-site": "cross-site", **headers},
        )


@pytest.fixture(params=["cookie", "store"])
def family(request: pytest.FixtureRequest) -> Family:
    return Family(tokens=request.param)


def test_a_person_arrives_signed_in_where_they_were_going(family: Family) -> None:
    action, ticket = family.leave(path="/me?tab=2")
    assert action == f"{TWO}:443/transfer" or action == f"{TWO}/transfer"
    arrived = family.arrive(ticket)
    assert (arrived.status_code, arrived.headers["location"]) == (303, "/me?tab=2")
    assert family.two.get("/me").json() == family.one.get("/me").json()


def test_it_is_one_session_refreshed_on_either_side(family: Family) -> None:
    family.arrive(family.leave()[1])
    for near, far in ((family.one, family.two), (family.two, family.one)) * 2:
        family.clock.advance(299)
        token = near.get("/token").json()["access_token"]
        assert far.get("/token").json()["access_token"] == token
    assert family.world.wire.provider.reused == 0
    assert family.world.wire.requests == 4


def test_signing_out_on_one_signs_out_on_both(family: Family) -> None:
    family.arrive(family.leave()[1])
    family.one.post("/leave")
    family.clock.advance(299)
    assert family.two.get("/token").status_code == 401


def test_the_page_is_kept_nowhere_and_may_post_to_that_domain_alone(family: Family) -> None:
    page = family.one.get("/transfer", params={"to": TWO})
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"form-action https://two\.example(:443)?;", policy)
    user = family.world.wire.provider
    assert not any(token in page.text for token in user._grants)


def test_a_ticket_is_good_once(family: Family) -> None:
    ticket = family.leave()[1]
    assert family.arrive(ticket).status_code == 303
    again = family.arrive(ticket, family.browser(TWO))
    assert again.status_code == 400
    assert "set-cookie" not in again.headers


def test_a_ticket_is_good_for_a_minute(family: Family) -> None:
    tickets = [family.leave()[1], family.leave()[1]]
    family.clock.advance(59)
    assert family.arrive(tickets[0]).status_code == 303
    family.clock.advance(1)
    assert family.arrive(tickets[1], family.browser(TWO)).status_code == 400


def test_a_ticket_for_one_domain_is_none_for_another(family: Family) -> None:
    other = family.site(transfer_origins=(ONE, TWO, "https://three.example"))
    three = TestClient(other, base_url="https://three.example", follow_redirects=False)
    assert family.arrive(family.leave()[1], three).status_code == 400


def test_a_session_cookie_is_no_ticket(family: Family) -> None:
    cookie = family.one.cookies[family.auth.cookie_name]
    assert family.arrive(cookie).status_code == 400


def test_another_secret_opens_no_ticket(family: Family) -> None:
    stranger = family.site(secret="quite another secret of 32 characters or more")
    two = TestClient(stranger, base_url=TWO, follow_redirects=False)
    assert family.arrive(family.leave()[1], two).status_code == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "https://one.example.evil"])
def test_login_csrf_a_page_of_another_origin_cannot_hand_over_its_own_ticket(
    family: Family, origin: str
) -> None:
    assert family.arrive(family.leave()[1], origin=origin).status_code in (400, 403)
    assert not family.two.cookies


@pytest.mark.parametrize(
    "to", ["https://evil.example", "https://two.example.evil", "//two.example", "", "two.example"]
)
def test_a_session_goes_to_no_origin_that_is_not_listed(family: Family, to: str) -> None:
    response = family.one.get("/transfer", params={"to": to})
    assert response.status_code == 400
    assert "ticket" not in response.text


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_next_leads_nowhere_else(family: Family, path: str) -> None:
    assert family.arrive(family.leave(path=path)[1]).headers["location"] == "/"


def test_who_is_signed_out_has_nothing_to_take_along(family: Family) -> None:
    family.one.cookies.clear()
    assert family.one.get("/transfer", params={"to": TWO}).status_code == 401


def test_who_signed_out_meanwhile_does_not_arrive(family: Family) -> None:
    ticket = family.leave()[1]
    family.one.post("/leave")
    assert family.arrive(ticket).status_code == 400


def test_a_session_that_was_there_ends(family: Family) -> None:
    login(family.two, family.auth, family.world.user(id="2"))
    old = family.two.cookies[family.auth.cookie_name]
    family.arrive(family.leave()[1])
    assert family.two.get("/token").json()["id"] == "1"
    family.clock.advance(299)
    assert family.world.present(old).status_code == 401


def test_a_store_that_is_down_is_503_and_the_ticket_stays_good(family: Family) -> None:
    ticket = family.leave()[1]
    family.world.store.fault = OSError("gone")
    assert family.arrive(ticket).status_code == 503
    family.world.store.fault = None
    assert family.arrive(ticket).status_code == 303


@pytest.mark.parametrize(
    "body", ["", "ticket=", "ticket=a&ticket=b", "x=1", "ticket=%ff", "a" * 70_000]
)
def test_what_is_no_form_with_a_ticket_is_400(family: Family, body: str) -> None:
    headers = {"origin": ONE, "content-type": "application/x-www-form-urlencoded"}
    assert family.two.post("/transfer", content=body, headers=headers).status_code == 400


def test_without_the_option_there_is_no_such_route() -> None:
    world = World(provider=SIGN_IN)
    assert "/transfer" not in {route.path for route in world.auth.router.routes}  # type: ignore[attr-defined]  # they have one


def test_strict_replay_detection_does_not_go_with_it() -> None:
    with pytest.raises(ConfigurationError, match="lenient"):
        IdealAuth(
            User,
            secret=SECRET,
            store=MemoryStore(),
            transfer_origins=FAMILY,
            replay_detection="strict",
        )


@pytest.mark.parametrize("wrong", ["https://one.example", ["one.example"], [7]])
def test_what_is_no_origin_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="origin"):
        IdealAuth(User, secret=SECRET, store=MemoryStore(), transfer_origins=wrong)
