"""The demo's authorization server keeps the rules of RFC 6749, 6750, 7009 and 7636."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from examples.dashboard.authorization_server import CODE_LIFETIME, Client, create_app

CALLBACK = "https://app.example/callback"
VERIFIER = "v" * 43
SECRET = "a secret: with + signs & %"
CLIENTS = (
    Client("dashboard", (CALLBACK, "https://app.example/other"), SECRET),
    Client("native", ("https://native.example/callback?from=op",)),
    Client("stranger", ("https://stranger.example/callback",), "another secret"),
)


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """The server, a browser in front of it, and the clock it reads."""

    app: FastAPI
    http: TestClient
    clock: Clock

    def session(self, sub: str = "noor") -> dict[str, Any]:
        answer: dict[str, Any] = self.app.state.server.new_session(sub)
        return answer

    def token(self, **form: str) -> Any:
        return self.http.post("/token", data={"client_id": "dashboard", **form})

    def refresh(self, refresh_token: str, **form: str) -> Any:
        return self.token(
            grant_type="refresh_token",
            refresh_token=refresh_token,
            **{"client_secret": SECRET, **form},
        )

    def exchange(self, code: str, **form: str) -> Any:
        defaults = {
            "client_secret": SECRET,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        }
        return self.token(grant_type="authorization_code", code=code, **{**defaults, **form})

    def revoke(self, token: str, **form: str) -> Any:
        defaults = {"client_id": "dashboard", "client_secret": SECRET}
        return self.http.post("/revoke", data={"token": token, **defaults, **form})

    def userinfo(self, access_token: str) -> Any:
        return self.http.get("/userinfo", headers={"Authorization": f"Bearer {access_token}"})

    def stats(self) -> Any:
        return self.http.get("/stats").json()

    def authorize(self, **changes: str | None) -> Any:
        return self.http.get("/authorize", params=request_for_a_code(**changes))

    def sign_in(self, **changes: str | None) -> Any:
        form = {**request_for_a_code(**changes), "person": "noor"}
        return self.http.post("/authorize", data=form)

    def code(self) -> str:
        return answer_of(self.sign_in())["code"]


@pytest.fixture
def server() -> Iterator[Running]:
    clock = Clock()
    app = create_app(clients=CLIENTS, access_token_ttl=15, clock=clock)
    with TestClient(app, base_url="https://testserver", follow_redirects=False) as http:
        yield Running(app, http, clock)


def challenge_of(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def request_for_a_code(**changes: str | None) -> dict[str, str]:
    query = {
        "response_type": "code",
        "client_id": "dashboard",
        "redirect_uri": CALLBACK,
        "scope": "profile",
        "state": "as it came",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
        **changes,
    }
    return {name: value for name, value in query.items() if value is not None}


def answer_of(response: Any) -> dict[str, str]:
    assert response.status_code == 303
    query = parse_qs(urlsplit(response.headers["location"]).query)
    return {name: values[0] for name, values in query.items()}


def error_of(response: Any, status: int = 400) -> str:
    assert response.status_code == status
    assert response.headers["cache-control"] == "no-store"
    error: str = response.json()["error"]
    return error


# -- signing in ----------------------------------------------------------------------------


def test_the_page_offers_three_people_and_a_name(server: Running) -> None:
    page = server.authorize()
    assert page.status_code == 200
    assert re.findall(r'name="person" value="(\w+)"', page.text) == ["noor", "tomas", "mei"]
    assert 'name="name"' in page.text


def test_the_page_lets_its_form_lead_to_the_client_and_nowhere_else(server: Running) -> None:
    policy = server.authorize().headers["content-security-policy"]
    assert "form-action 'self' https://app.example" in policy
    assert "default-src 'none'" in policy


def test_what_the_request_carries_is_escaped_on_the_page(server: Running) -> None:
    page = server.authorize(state='"><script>alert(1)</script>')
    assert "<script>" not in page.text


def test_a_code_becomes_tokens_that_name_the_person(server: Running) -> None:
    tokens = server.exchange(server.code())
    assert tokens.headers["cache-control"] == "no-store"
    assert set(tokens.json()) == {
        "access_token",
        "token_type",
        "expires_in",
        "refresh_token",
        "scope",
    }
    assert tokens.json()["expires_in"] == 15
    assert tokens.json()["scope"] == "profile"
    assert server.userinfo(tokens.json()["access_token"]).json() == {
        "sub": "noor",
        "name": "Noor Haddad",
        "email": "noor@demo.example",
    }


def test_a_typed_name_becomes_a_person_and_the_same_one_the_next_time(server: Running) -> None:
    def sign_in(name: str) -> Any:
        answer = server.http.post("/authorize", data={**request_for_a_code(), "name": name})
        tokens = server.exchange(answer_of(answer)["code"]).json()
        return server.userinfo(tokens["access_token"]).json()

    first = sign_in("  Zoë   <b>Quist</b> ")
    assert first["name"] == "Zoë <b>Quist</b>"
    assert sign_in("zoë <B>quist</B>") == first


@pytest.mark.parametrize("name", ["", "   ", "x" * 61])
def test_a_name_that_is_none_is_asked_for_again(server: Running, name: str) -> None:
    page = server.http.post("/authorize", data={**request_for_a_code(), "name": name})
    assert page.status_code == 400
    assert "1 to 60 characters" in page.text


@pytest.mark.parametrize("state", ["plain", "a&b=c", "ünïcode +%2B", "x" * 500])
def test_state_comes_back_as_it_was_sent(server: Running, state: str) -> None:
    assert answer_of(server.sign_in(state=state))["state"] == state


def test_a_request_without_state_gets_none_back(server: Running) -> None:
    assert set(answer_of(server.sign_in(state=None))) == {"code"}


def test_a_redirect_uri_keeps_its_own_query(server: Running) -> None:
    answer = server.sign_in(
        client_id="native", redirect_uri="https://native.example/callback?from=op"
    )
    assert answer.headers["location"].startswith("https://native.example/callback?from=op&code=")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": None},
        {"client_id": "nobody"},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": CALLBACK + "/"},
        {"redirect_uri": CALLBACK + "?x=1"},
        {"redirect_uri": CALLBACK.upper()},
        {"redirect_uri": "https://stranger.example/callback"},
    ],
)
def test_nobody_is_sent_to_an_address_that_is_not_registered(
    server: Running, changes: dict[str, str | None]
) -> None:
    for response in (server.authorize(**changes), server.sign_in(**changes)):
        assert response.status_code == 400
        assert "location" not in response.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
    ],
)
def test_a_faulty_request_goes_back_to_its_client(
    server: Running, changes: dict[str, str | None], error: str
) -> None:
    for response in (server.authorize(**changes), server.sign_in(**changes)):
        answer = answer_of(response)
        assert (answer["error"], answer["state"]) == (error, "as it came")
        assert "code" not in answer


def test_a_repeated_parameter_is_refused(server: Running) -> None:
    query = urlencode([*request_for_a_code().items(), ("state", "second")])
    assert error_of(server.http.get(f"/authorize?{query}")) == "invalid_request"


# -- codes ---------------------------------------------------------------------------------


def test_a_code_that_is_used_twice_ends_what_it_gave(server: Running) -> None:
    code = server.code()
    tokens = server.exchange(code).json()
    assert error_of(server.exchange(code)) == "invalid_grant"
    assert server.userinfo(tokens["access_token"]).status_code == 401
    assert error_of(server.refresh(tokens["refresh_token"])) == "invalid_grant"


@pytest.mark.parametrize(("age", "status"), [(CODE_LIFETIME - 1, 200), (CODE_LIFETIME, 400)])
def test_a_code_lives_a_minute(server: Running, age: int, status: int) -> None:
    code = server.code()
    server.clock.now += age
    assert server.exchange(code).status_code == status


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"code": "unknown"}, "invalid_grant"),
        ({"code": ""}, "invalid_request"),
        ({"redirect_uri": "https://app.example/other"}, "invalid_grant"),
        ({"code_verifier": "w" * 43}, "invalid_grant"),
        ({"code_verifier": "v" * 42}, "invalid_request"),
        ({"code_verifier": ""}, "invalid_request"),
        ({"client_id": "stranger", "client_secret": "another secret"}, "invalid_grant"),
    ],
)
def test_a_code_is_good_only_with_what_it_was_asked_with(
    server: Running, form: dict[str, str], error: str
) -> None:
    code = server.code()
    assert error_of(server.exchange(**{"code": code, **form})) == error
    assert server.exchange(code).status_code == 200


# -- refreshing ----------------------------------------------------------------------------


def test_a_refresh_replaces_both_tokens(server: Running) -> None:
    old = server.session()
    new = server.refresh(old["refresh_token"]).json()
    assert new["access_token"] != old["access_token"]
    assert new["refresh_token"] != old["refresh_token"]
    assert server.userinfo(new["access_token"]).status_code == 200


def test_reuse_of_a_spent_token_ends_the_family_with_the_winners_tokens(server: Running) -> None:
    first = server.session()
    winner = server.refresh(first["refresh_token"]).json()
    assert error_of(server.refresh(first["refresh_token"])) == "invalid_grant"
    assert server.userinfo(winner["access_token"]).status_code == 401
    assert error_of(server.refresh(winner["refresh_token"])) == "invalid_grant"
    assert server.stats()["reuse_detected"] == 1
    assert server.stats()["live_families"] == 0


def test_reuse_in_one_family_leaves_the_others_alone(server: Running) -> None:
    spent, other = server.session(), server.session()
    server.refresh(spent["refresh_token"])
    server.refresh(spent["refresh_token"])
    assert server.refresh(other["refresh_token"]).status_code == 200


def test_another_client_can_neither_use_nor_end_a_family(server: Running) -> None:
    tokens = server.session()
    stranger = {"client_id": "stranger", "client_secret": "another secret"}
    assert error_of(server.refresh(tokens["refresh_token"], **stranger)) == "invalid_grant"
    assert server.refresh(tokens["refresh_token"]).status_code == 200
    assert error_of(server.refresh(tokens["refresh_token"], **stranger)) == "invalid_grant"
    assert server.stats()["live_families"] == 1


def test_a_refresh_asks_for_no_more_than_was_granted(server: Running) -> None:
    tokens = server.session()
    assert error_of(server.refresh(tokens["refresh_token"], scope="admin")) == "invalid_scope"
    assert server.refresh(tokens["refresh_token"], scope="email").status_code == 200


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "unknown"}, "invalid_grant"),
    ],
)
def test_the_token_endpoint_says_what_is_wrong(
    server: Running, form: dict[str, str], error: str
) -> None:
    assert error_of(server.token(client_secret=SECRET, **form)) == error


def test_the_token_endpoint_takes_forms_alone(server: Running) -> None:
    assert error_of(server.http.post("/token", json={"grant_type": "refresh_token"})) == (
        "invalid_request"
    )


# -- clients -------------------------------------------------------------------------------


def test_a_client_signs_itself_in_by_basic_with_its_halves_form_encoded(server: Running) -> None:
    joined = f"{quote_plus('dashboard')}:{quote_plus(SECRET)}"
    answer = server.http.post(
        "/token",
        data={"grant_type": "refresh_token", "refresh_token": server.session()["refresh_token"]},
        headers={"Authorization": f"Basic {base64.b64encode(joined.encode()).decode()}"},
    )
    assert answer.status_code == 200


def test_a_public_client_needs_its_name_only(server: Running) -> None:
    tokens = server.app.state.server.new_session("mei", "native")
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    answer = server.http.post("/token", data={"client_id": "native", **form})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        {"client_id": "dashboard", "client_secret": "wrong"},
        {"client_id": "dashboard"},
        {"client_id": "nobody", "client_secret": "wrong"},
        {"client_id": "native", "client_secret": "it has none"},
    ],
)
def test_a_client_with_the_wrong_secret_spends_no_token(
    server: Running, form: dict[str, str]
) -> None:
    tokens = server.session()
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    answer = server.http.post("/token", data={**refresh, **form})
    assert error_of(answer, 401) == "invalid_client"
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert server.refresh(tokens["refresh_token"]).status_code == 200


@pytest.mark.parametrize("header", ["Basic", "Basic %%%", "Basic bm9jb2xvbg==", "Bearer YTpi"])
def test_a_malformed_basic_header_is_no_client(server: Running, header: str) -> None:
    answer = server.http.post(
        "/token", data={"grant_type": "refresh_token"}, headers={"Authorization": header}
    )
    assert error_of(answer, 401) == "invalid_client"


def test_a_client_authenticates_in_one_way_at_a_time(server: Running) -> None:
    basic = base64.b64encode(f"dashboard:{quote_plus(SECRET)}".encode()).decode()
    answer = server.http.post(
        "/token",
        data={"grant_type": "refresh_token", "client_secret": SECRET},
        headers={"Authorization": f"Basic {basic}"},
    )
    assert error_of(answer) == "invalid_request"


# -- revoking and using --------------------------------------------------------------------


def test_revoking_a_refresh_token_takes_the_family_along(server: Running) -> None:
    first = server.session()
    newest = server.refresh(first["refresh_token"]).json()
    assert server.revoke(first["refresh_token"]).status_code == 200
    assert server.userinfo(newest["access_token"]).status_code == 401
    assert error_of(server.refresh(newest["refresh_token"])) == "invalid_grant"
    assert server.stats()["reuse_detected"] == 0


def test_revoking_an_access_token_leaves_the_refresh_token(server: Running) -> None:
    tokens = server.session()
    assert server.revoke(tokens["access_token"]).status_code == 200
    assert server.userinfo(tokens["access_token"]).status_code == 401
    assert server.refresh(tokens["refresh_token"]).status_code == 200


def test_revoking_what_is_not_known_is_fine_and_a_missing_token_is_not(server: Running) -> None:
    assert server.revoke("unknown").status_code == 200
    assert error_of(server.revoke("")) == "invalid_request"


def test_only_the_client_itself_revokes(server: Running) -> None:
    tokens = server.session()
    assert error_of(server.revoke(tokens["refresh_token"], client_secret="wrong"), 401) == (
        "invalid_client"
    )
    stranger = {"client_id": "stranger", "client_secret": "another secret"}
    assert error_of(server.revoke(tokens["refresh_token"], **stranger)) == "invalid_grant"
    assert server.userinfo(tokens["access_token"]).status_code == 200


@pytest.mark.parametrize(("age", "status"), [(14.999, 200), (15, 401)])
def test_an_access_token_lives_fifteen_seconds(server: Running, age: float, status: int) -> None:
    tokens = server.session()
    server.clock.now += age
    assert server.userinfo(tokens["access_token"]).status_code == status


def test_a_bad_access_token_is_told_from_none(server: Running) -> None:
    bad = server.userinfo("unknown")
    assert bad.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    none = server.http.get("/userinfo")
    assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")


# -- what people look at -------------------------------------------------------------------


def test_the_counts_tell_calls_from_refreshes(server: Running) -> None:
    tokens = server.exchange(server.code()).json()
    server.refresh(tokens["refresh_token"])
    server.refresh("unknown")
    stats = server.stats()
    assert stats["token_calls"] == {"authorization_code": 1, "refresh_token": 2}
    assert (stats["refreshes"], stats["live_families"], stats["family"]) == (1, 1, None)


def test_the_counts_of_one_family_are_found_by_any_of_its_access_tokens(server: Running) -> None:
    tokens = server.session()
    server.session()
    server.refresh(tokens["refresh_token"])
    server.clock.now += 3600
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert server.http.get("/stats", headers=headers).json()["family"] == {"refreshes": 1}


def test_the_events_tell_the_story_and_hold_no_token(server: Running) -> None:
    tokens = server.session()
    newest = server.refresh(tokens["refresh_token"]).json()
    server.refresh(tokens["refresh_token"])
    events = server.http.get("/events")
    assert [(event["number"], event["kind"], event["generation"]) for event in events.json()] == [
        (1, "signed_in", 0),
        (2, "refreshed", 1),
        (3, "reuse_detected", 1),
    ]
    for token in (*tokens.values(), *newest.values()):
        if isinstance(token, str) and len(token) > 20:
            assert token not in events.text


def test_two_servers_share_nothing(server: Running) -> None:
    other = create_app(clients=CLIENTS)
    tokens = other.state.server.new_session("noor")
    assert server.userinfo(tokens["access_token"]).status_code == 401
