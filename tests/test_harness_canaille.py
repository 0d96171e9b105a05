"""The second provider behaves as the tests that lean on it assume; raw HTTP, no code of ours."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

import httpx
import pytest

from .providers.canaille_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    EMAIL,
    PASSWORD,
    USER,
    CanailleServer,
)
from .providers.client_keys import claims_of, header_of, verified
from .test_harness import follow_to, pkce

REDIRECT_URI = "http://localhost:8000/callback"
HOME = "http://localhost:8000/"


@pytest.fixture
def op(canaille_server: CanailleServer) -> CanailleServer:
    canaille_server.reset(redirect_uris=[REDIRECT_URI], post_logout_redirect_uris=[HOME])
    return canaille_server


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def metadata(op: CanailleServer, http: httpx.Client) -> dict[str, Any]:
    metadata: dict[str, Any] = http.get(op.discovery).json()
    return metadata


def as_client(http: httpx.Client, url: str, form: dict[str, str]) -> httpx.Response:
    # Percent-encoded, and so with no "+" for a space: Authlib would take that for a plus sign.
    return http.post(url, data=form, auth=(CLIENT_ID, quote(CLIENT_SECRET, safe="")))


def ask(http: httpx.Client, metadata: dict[str, Any], **more: str) -> httpx.Response:
    """An authorization request; what answers it may be a page or a redirect."""
    parameters = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": "openid email profile",
        "state": "the state",
        "nonce": secrets.token_urlsafe(8),
    }
    return http.get(metadata["authorization_endpoint"], params=parameters | more)


def filled(page: httpx.Response, **values: str) -> dict[str, str]:
    """The fields of the page's form, some of them filled in."""
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", page.text):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        fields[attributes["name"]] = attributes.get("value", "")
    return fields | values


def sign_in(
    http: httpx.Client, metadata: dict[str, Any], password: str = PASSWORD, **more: str
) -> httpx.Response:
    """Name and password on two pages; the answer to the second."""
    first = http.get(urljoin(metadata["issuer"], ask(http, metadata, **more).headers["location"]))
    second = http.post(first.url, data=filled(first, login=USER), follow_redirects=True)
    return http.post(second.url, data=filled(second, password=password))


def tokens_of(http: httpx.Client, metadata: dict[str, Any], **more: str) -> dict[str, Any]:
    """The whole authorization code flow with PKCE."""
    verifier, challenge = pkce()
    more |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    back = follow_to(REDIRECT_URI, http, sign_in(http, metadata, **more))
    assert (back["state"], back["iss"]) == ("the state", metadata["issuer"])
    form = {"grant_type": "authorization_code", "code": back["code"]}
    form |= {"redirect_uri": REDIRECT_URI, "code_verifier": verifier}
    answer = as_client(http, metadata["token_endpoint"], form)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def refresh(http: httpx.Client, metadata: dict[str, Any], refresh_token: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return as_client(http, metadata["token_endpoint"], form)


def alive(http: httpx.Client, metadata: dict[str, Any], tokens: dict[str, Any]) -> bool:
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    return http.get(metadata["userinfo_endpoint"], headers=bearer).status_code == 200


def test_discovery_says_what_it_has_and_what_it_lacks(
    op: CanailleServer, metadata: dict[str, Any]
) -> None:
    assert metadata["issuer"] == op.issuer
    assert metadata["authorization_response_iss_parameter_supported"] is True
    for present in ("end_session_endpoint", "revocation_endpoint", "jwks_uri"):
        assert metadata[present].startswith(op.issuer)
    absent = ("backchannel_logout_supported", "pushed_authorization_request_endpoint")
    for field in (*absent, "dpop_signing_alg_values_supported"):
        assert field not in metadata


def test_signing_in_takes_two_pages_and_no_consent(
    op: CanailleServer, http: httpx.Client, metadata: dict[str, Any]
) -> None:
    tokens = tokens_of(http, metadata, nonce="the nonce of this sign-in")
    claims = verified(tokens["id_token"], http.get(metadata["jwks_uri"]).json())
    assert header_of(tokens["id_token"])["alg"] == "RS256"
    assert (claims["iss"], claims["sub"], claims["email"]) == (op.issuer, USER, EMAIL)
    assert claims["nonce"] == "the nonce of this sign-in"
    assert claims["aud"] == [CLIENT_ID], "a list of one"
    assert isinstance(claims["auth_time"], float), "a number that is no whole one"
    assert "at_hash" in claims
    assert "sid" not in claims
    assert tokens["refresh_token"], "without being asked for offline_access"
    assert alive(http, metadata, tokens)


def test_an_id_token_of_a_client_that_named_no_algorithm_has_any(
    op: CanailleServer, http: httpx.Client, metadata: dict[str, Any]
) -> None:
    """Not RS256, which OpenID Connect Registration §2 has for the default; RS512 was seen."""
    op.reset(redirect_uris=[REDIRECT_URI], id_token_signed_response_alg="")
    alg = header_of(tokens_of(http, metadata)["id_token"])["alg"]
    assert alg in metadata["id_token_signing_alg_values_supported"]


def test_a_wrong_password_asks_again(http: httpx.Client, metadata: dict[str, Any]) -> None:
    again = sign_in(http, metadata, "a wrong one")
    assert (again.status_code, "Login failed" in again.text) == (200, True)


def test_a_verifier_is_held_against_its_challenge(
    http: httpx.Client, metadata: dict[str, Any]
) -> None:
    challenge = {"code_challenge": pkce()[1], "code_challenge_method": "S256"}
    back = follow_to(REDIRECT_URI, http, sign_in(http, metadata, **challenge))
    form = {"grant_type": "authorization_code", "code": back["code"]}
    form |= {"redirect_uri": REDIRECT_URI, "code_verifier": pkce()[0]}
    answer = as_client(http, metadata["token_endpoint"], form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_nonce_is_demanded(http: httpx.Client, metadata: dict[str, Any]) -> None:
    answer = sign_in(http, metadata, nonce="")
    assert follow_to(REDIRECT_URI, http, answer)["error"] == "invalid_request"


def test_a_refresh_rotates_and_keeps_what_was_issued_before(
    op: CanailleServer, http: httpx.Client, metadata: dict[str, Any]
) -> None:
    first = tokens_of(http, metadata)
    second = refresh(http, metadata, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert "id_token" not in second
    assert claims_of(second["access_token"])["iat"] > claims_of(first["access_token"])["iat"]
    assert alive(http, metadata, second)

    reused = refresh(http, metadata, first["refresh_token"])
    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    assert alive(http, metadata, second), "the family lives on"
    assert refresh(http, metadata, second["refresh_token"]).status_code == 200
    assert op.counts() == {
        "authorization_code:200": 1,
        "refresh_token:200": 2,
        "refresh_token:400": 1,
    }


def test_a_refresh_token_dies_with_its_access_token(
    op: CanailleServer, http: httpx.Client, metadata: dict[str, Any]
) -> None:
    op.reset(redirect_uris=[REDIRECT_URI], access_token_ttl=1)
    tokens = tokens_of(http, metadata)
    assert tokens["expires_in"] == 1
    time.sleep(1.2)
    assert not alive(http, metadata, tokens)
    assert refresh(http, metadata, tokens["refresh_token"]).json()["error"] == "invalid_grant"


def test_two_tokens_of_one_second_are_an_error_that_spends_nothing(
    op: CanailleServer, http: httpx.Client, metadata: dict[str, Any]
) -> None:
    first = tokens_of(http, metadata)["refresh_token"]
    op.reset(redirect_uris=[REDIRECT_URI], patient=False)
    time.sleep(1.01 - time.time() % 1)
    second = refresh(http, metadata, first).json()["refresh_token"]
    assert refresh(http, metadata, second).status_code == 500
    op.reset(redirect_uris=[REDIRECT_URI])
    time.sleep(1.01 - time.time() % 1)
    assert refresh(http, metadata, second).status_code == 200


def test_revoking_ends_the_pair(http: httpx.Client, metadata: dict[str, Any]) -> None:
    tokens = tokens_of(http, metadata)
    form = {"token": tokens["refresh_token"], "token_type_hint": "refresh_token"}
    assert as_client(http, metadata["revocation_endpoint"], form).status_code == 200
    assert not alive(http, metadata, tokens)
    assert refresh(http, metadata, tokens["refresh_token"]).json()["error"] == "invalid_grant"


def test_the_way_out_asks_nothing_and_leads_back_for_a_client_that_names_itself(
    http: httpx.Client, metadata: dict[str, Any]
) -> None:
    tokens = tokens_of(http, metadata)
    asked = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": HOME, "state": "s"}

    def end_session(**more: str) -> httpx.Response:
        return http.get(metadata["end_session_endpoint"], params=asked | more)

    anonymous = end_session()
    assert anonymous.headers["location"] == "/", "Authlib finds no client by an aud that is a list"
    elsewhere = end_session(client_id=CLIENT_ID, post_logout_redirect_uri=f"{HOME}elsewhere")
    assert elsewhere.headers["location"] == "/"
    done = end_session(client_id=CLIENT_ID)
    assert (done.status_code, done.headers["location"]) == (302, f"{HOME}?state=s")

    silent = follow_to(REDIRECT_URI, http, ask(http, metadata, prompt="none"))
    assert silent["error"] == "login_required"
    assert alive(http, metadata, tokens), "signing out there revokes nothing"
    assert refresh(http, metadata, tokens["refresh_token"]).status_code == 200
