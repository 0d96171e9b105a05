"""The real provider offers what OpenID Connect clients use, as the tests that lean on it assume."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from .providers.client_keys import (
    claims_of,
    client_assertion,
    dpop_proof,
    header_of,
    new_key,
    public_jwk,
    verified,
)
from .providers.harness import (
    BASIC,
    PUBLIC,
    REDIRECT_URI,
    RESOURCES,
    OIDCServer,
    oidc_provider,
)
from .providers.listener import Listener, listening
from .test_harness import as_client, authorize, first_form, follow_to, pkce, sign_in

HOME = "http://127.0.0.1:8000/"
API, FILES, MAIL = RESOURCES
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture(scope="module")
def running() -> Iterator[OIDCServer]:
    with oidc_provider() as server:
        yield server


@pytest.fixture
def op(running: OIDCServer) -> OIDCServer:
    running.reset()
    return running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5) as client:
        yield client


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def metadata_of(op: OIDCServer, http: httpx.Client) -> dict[str, Any]:
    metadata: dict[str, Any] = http.get(op.discovery).json()
    return metadata


def jwks_of(op: OIDCServer, http: httpx.Client) -> dict[str, Any]:
    jwks: dict[str, Any] = http.get(metadata_of(op, http)["jwks_uri"]).json()
    return jwks


def exchange(
    op: OIDCServer,
    http: httpx.Client,
    form: dict[str, str],
    headers: dict[str, str] | None = None,
    client_id: str = PUBLIC,
) -> httpx.Response:
    """A token request of a client that has no secret."""
    return http.post(op.token_endpoint, data={**form, "client_id": client_id}, headers=headers)


def refresh_form(tokens: dict[str, Any], **more: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], **more}


# ---- discovery


def test_everything_is_found_through_discovery(op: OIDCServer, http: httpx.Client) -> None:
    metadata = metadata_of(op, http)
    assert metadata["issuer"] == op.issuer
    assert metadata["token_endpoint"] == op.token_endpoint
    assert metadata["revocation_endpoint"] == op.revocation_endpoint
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert metadata["authorization_response_iss_parameter_supported"] is True
    assert metadata["backchannel_logout_supported"] is True
    assert metadata["backchannel_logout_session_supported"] is True
    assert set(metadata["id_token_signing_alg_values_supported"]) == {"RS256", "ES256"}
    assert "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"]
    assert "ES256" in metadata["dpop_signing_alg_values_supported"]
    for endpoint in ("end_session_endpoint", "pushed_authorization_request_endpoint"):
        assert metadata[endpoint].startswith(op.issuer)
    assert op.stats()["requests"] == {"/.well-known/openid-configuration": 1}


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("rp_initiated_logout", "end_session_endpoint"),
        ("backchannel_logout", "backchannel_logout_supported"),
        ("pushed_authorization_requests", "pushed_authorization_request_endpoint"),
        ("dpop", "dpop_signing_alg_values_supported"),
    ],
)
def test_a_feature_can_be_switched_off_and_a_reset_brings_it_back(
    op: OIDCServer, http: httpx.Client, setting: str, field: str
) -> None:
    session = op.session()
    op.settings(**{setting: False})
    assert field not in metadata_of(op, http)
    assert op.alive(session["access_token"])
    op.reset()
    assert field in metadata_of(op, http)


# ---- signing keys


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_id_tokens_are_signed_as_the_client_registered(
    op: OIDCServer, http: httpx.Client, alg: str
) -> None:
    op.client(
        f"signed-{alg}",
        redirect_uris=[REDIRECT_URI],
        token_endpoint_auth_method="none",
        id_token_signed_response_alg=alg,
    )
    tokens = op.session("ada", f"signed-{alg}", nonce="the nonce")
    assert header_of(tokens["id_token"])["alg"] == alg
    claims = verified(tokens["id_token"], jwks_of(op, http))
    assert (claims["iss"], claims["aud"]) == (op.issuer, f"signed-{alg}")
    assert (claims["sub"], claims["nonce"]) == ("ada", "the nonce")


@pytest.mark.parametrize("forget", [False, True])
def test_keys_are_rotated_on_demand(op: OIDCServer, http: httpx.Client, forget: bool) -> None:
    before = op.session()
    old = header_of(before["id_token"])["kid"]
    kids = op.rotate_keys(forget=forget)
    published = [key["kid"] for key in jwks_of(op, http)["keys"]]
    assert published == kids
    assert (old in published) is not forget
    after = op.session()
    assert header_of(after["id_token"])["kid"] == kids[0] != old
    verified(after["id_token"], jwks_of(op, http))
    answer = as_client(http, op.token_endpoint, refresh_form(before))
    assert answer.status_code == 200, "a grant outlives the keys"


def test_the_provider_signs_whatever_a_test_makes_up(op: OIDCServer, http: httpx.Client) -> None:
    for alg in ("RS256", "ES256"):
        token = op.sign({"iss": op.issuer, "sub": "mallory"}, alg=alg, typ="logout+jwt")
        assert header_of(token)["typ"] == "logout+jwt"
        assert verified(token, jwks_of(op, http))["sub"] == "mallory"


def test_an_id_token_may_be_short_lived(op: OIDCServer) -> None:
    op.settings(id_token_ttl=1)
    claims = claims_of(op.session()["id_token"])
    assert claims["exp"] - claims["iat"] == 1


def test_a_refresh_gives_an_id_token_of_the_same_sign_in(
    op: OIDCServer, http: httpx.Client
) -> None:
    op.client(BASIC, require_auth_time=True)
    tokens = op.session(sid="the sid", nonce="the nonce")
    first = claims_of(tokens["id_token"])
    again = claims_of(as_client(http, op.token_endpoint, refresh_form(tokens)).json()["id_token"])
    for claim in ("iss", "sub", "aud", "auth_time", "sid"):
        assert again[claim] == first[claim]


# ---- private_key_jwt


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_a_client_may_authenticate_with_its_key(
    op: OIDCServer, http: httpx.Client, alg: str
) -> None:
    key = new_key(alg)
    client_id = f"keyed-{alg}"
    op.client(
        client_id,
        redirect_uris=[REDIRECT_URI],
        token_endpoint_auth_method="private_key_jwt",
        token_endpoint_auth_signing_alg=alg,
        jwks={"keys": [public_jwk(key)]},
    )
    tokens = op.session("ada", client_id, form=client_assertion(key, client_id, op.issuer))
    assertion = client_assertion(key, client_id, op.issuer)
    answer = exchange(op, http, refresh_form(tokens) | assertion, client_id=client_id)
    assert answer.status_code == 200, answer.text

    again = exchange(op, http, refresh_form(answer.json()) | assertion, client_id=client_id)
    assert again.json()["error"] == "invalid_client", "an assertion is good once"
    other = client_assertion(new_key(alg), client_id, op.issuer)
    forged = exchange(op, http, refresh_form(answer.json()) | other, client_id=client_id)
    assert forged.json()["error"] == "invalid_client"


# ---- pushed authorization requests


def test_a_pushed_request_can_be_demanded(op: OIDCServer, http: httpx.Client) -> None:
    op.settings(require_pushed_authorization_requests=True)
    metadata = metadata_of(op, http)
    assert metadata["require_pushed_authorization_requests"] is True
    verifier, challenge = pkce()
    form = {
        "client_id": BASIC,
        "response_type": "code",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid offline_access",
        "prompt": "consent",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    plain = http.get(metadata["authorization_endpoint"], params=form)
    assert follow_to(REDIRECT_URI, http, plain)["error"] == "invalid_request"

    endpoint = metadata["pushed_authorization_request_endpoint"]
    pushed = as_client(http, endpoint, form).json()
    assert pushed["expires_in"] > 0
    asked = {"client_id": BASIC, "request_uri": pushed["request_uri"]}
    page = http.get(f"{op.issuer}/auth", params=asked, follow_redirects=True)
    back = follow_to(REDIRECT_URI, http, http.post(page.url, data={"login": "ada"}))
    form = {"grant_type": "authorization_code", "code": back["code"]}
    form |= {"redirect_uri": REDIRECT_URI, "code_verifier": verifier}
    assert as_client(http, op.token_endpoint, form).json()["refresh_token"]


# ---- DPoP


def test_a_proof_binds_the_tokens_to_its_key(op: OIDCServer, http: httpx.Client) -> None:
    key = new_key()
    proof = dpop_proof(key, "POST", op.token_endpoint)
    tokens = op.session("ada", PUBLIC, headers={"DPoP": proof})
    assert tokens["token_type"] == "DPoP"

    unproven = exchange(op, http, refresh_form(tokens))
    assert unproven.json()["error"] == "invalid_grant"
    replayed = exchange(op, http, refresh_form(tokens), {"DPoP": proof})
    assert replayed.json()["error"] == "invalid_grant"
    other = {"DPoP": dpop_proof(new_key(), "POST", op.token_endpoint)}
    assert exchange(op, http, refresh_form(tokens), other).json()["error"] == "invalid_grant"
    mine = {"DPoP": dpop_proof(key, "POST", op.token_endpoint)}
    assert exchange(op, http, refresh_form(tokens), mine).json()["token_type"] == "DPoP"


def test_a_nonce_can_be_demanded_in_the_proof(op: OIDCServer, http: httpx.Client) -> None:
    key = new_key()
    op.client("bound", redirect_uris=[REDIRECT_URI], token_endpoint_auth_method="none")
    bound = dpop_proof(key, "POST", op.token_endpoint)
    tokens = op.session("ada", "bound", headers={"DPoP": bound})
    op.settings(dpop_nonce_required=True)

    bare = {"DPoP": dpop_proof(key, "POST", op.token_endpoint)}
    refused = exchange(op, http, refresh_form(tokens), bare, "bound")
    assert (refused.status_code, refused.json()["error"]) == (400, "use_dpop_nonce")
    nonce = refused.headers["dpop-nonce"]
    good = {"DPoP": dpop_proof(key, "POST", op.token_endpoint, nonce=nonce)}
    assert exchange(op, http, refresh_form(tokens), good, "bound").status_code == 200
    assert op.stats()["token_calls"] == {"refresh_token": {"use_dpop_nonce": 1, "ok": 1}}


def test_the_api_wants_a_proof_for_a_bound_token(op: OIDCServer, http: httpx.Client) -> None:
    key = new_key()
    proof = dpop_proof(key, "POST", op.token_endpoint)
    token = op.session("ada", PUBLIC, headers={"DPoP": proof})["access_token"]

    def status(scheme: str, proof: str = "") -> int:
        headers = {"Authorization": f"{scheme} {token}"} | ({"DPoP": proof} if proof else {})
        return http.get(op.resource, headers=headers).status_code

    assert status("DPoP", dpop_proof(key, "GET", op.resource, access_token=token)) == 200
    assert status("Bearer") == 401
    assert status("DPoP") == 401
    assert status("DPoP", "no proof at all") == 401
    assert status("DPoP", dpop_proof(key, "GET", op.resource)) == 401
    assert status("DPoP", dpop_proof(key, "GET", op.resource, access_token="another")) == 401
    assert status("DPoP", dpop_proof(key, "POST", op.resource, access_token=token)) == 401
    assert status("DPoP", dpop_proof(new_key(), "GET", op.resource, access_token=token)) == 401


# ---- resource indicators


def test_each_resource_has_an_access_token_of_its_own(op: OIDCServer, http: httpx.Client) -> None:
    tokens = op.session("ada", PUBLIC, resource=[API, FILES])
    assert claims_of(tokens["access_token"])["aud"] == API
    answer = exchange(op, http, refresh_form(tokens, resource=FILES)).json()
    assert claims_of(answer["access_token"])["aud"] == FILES

    for resource, status in ((API, 401), (FILES, 200), (MAIL, 401)):
        bearer = {"Authorization": f"Bearer {answer['access_token']}"}
        got = http.get(op.issuer + RESOURCES[resource], headers=bearer)
        assert got.status_code == status
    assert op.alive(tokens["access_token"])
    assert op.alive(answer["access_token"])


@pytest.mark.parametrize("resource", [MAIL, "urn:test:nothing"])
def test_asking_for_a_resource_that_was_not_granted_spends_the_refresh_token(
    op: OIDCServer, http: httpx.Client, resource: str
) -> None:
    tokens = op.session("ada", PUBLIC, resource=[API, FILES])
    refused = exchange(op, http, refresh_form(tokens, resource=resource))
    assert refused.json()["error"] == "invalid_target"
    assert exchange(op, http, refresh_form(tokens)).json()["error"] == "invalid_grant"
    assert op.stats()["grants_revoked"] == 1


# ---- signing out


def test_the_way_out_is_one_button_and_leads_back(op: OIDCServer, http: httpx.Client) -> None:
    op.client(BASIC, post_logout_redirect_uris=[HOME])
    tokens = sign_in(op, http, "ada")
    endpoint = metadata_of(op, http)["end_session_endpoint"]
    hint = {"id_token_hint": tokens["id_token"], "state": "the state"}
    page = http.get(endpoint, params={**hint, "post_logout_redirect_uri": HOME})
    assert page.text.count("<button") == 1
    form = {**first_form(page.text), "logout": "yes"}
    done = http.post(f"{endpoint}/confirm", data=form)
    assert urlsplit(done.headers["location"])._replace(query="").geturl() == HOME
    assert parse_qs(urlsplit(done.headers["location"]).query) == {"state": ["the state"]}
    asked_again = first_form(authorize(op, http, pkce()[1]).text)
    assert asked_again == {"login": ""}, "nobody is signed in at the provider"


def test_the_way_out_leads_to_no_place_that_is_not_registered(
    op: OIDCServer, http: httpx.Client
) -> None:
    op.client(BASIC, post_logout_redirect_uris=[HOME])
    tokens = sign_in(op, http, "ada")
    endpoint = metadata_of(op, http)["end_session_endpoint"]
    elsewhere = "http://127.0.0.1:8000/elsewhere"
    asked = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": elsewhere}
    page = http.get(endpoint, params=asked)
    assert (page.status_code, "post_logout_redirect_uri not registered" in page.text) == (400, True)


def test_a_hint_still_counts_after_its_end_and_after_new_keys(
    op: OIDCServer, http: httpx.Client
) -> None:
    op.client(BASIC, post_logout_redirect_uris=[HOME])
    now = int(claims_of(op.session()["id_token"])["iat"])
    tokens = {"iss": op.issuer, "sub": "ada", "aud": BASIC, "iat": now - 99, "exp": now - 9}
    hint = op.sign(tokens)
    op.rotate_keys()
    endpoint = metadata_of(op, http)["end_session_endpoint"]
    asked = {"id_token_hint": hint, "post_logout_redirect_uri": HOME}
    assert http.get(endpoint, params=asked).status_code == 200


@pytest.mark.parametrize("with_sid", [True, False])
def test_a_client_is_told_over_the_back_channel(
    op: OIDCServer, http: httpx.Client, listener: Listener, with_sid: bool
) -> None:
    op.client(
        "told",
        redirect_uris=[REDIRECT_URI],
        token_endpoint_auth_method="none",
        backchannel_logout_uri=listener.url,
        backchannel_logout_session_required=with_sid,
    )
    tokens = sign_in(op, http, "ada", "told")
    assert op.end_sessions("grace") == {}
    assert op.end_sessions("ada") == {"told": "ok"}

    (form,) = listener.forms
    assert header_of(form["logout_token"])["typ"] == "logout+jwt"
    claims = verified(form["logout_token"], jwks_of(op, http))
    assert (claims["iss"], claims["aud"], claims["sub"]) == (op.issuer, "told", "ada")
    assert claims["events"] == {LOGOUT_EVENT: {}}
    assert claims["exp"] > claims["iat"]
    assert claims["jti"]
    assert "nonce" not in claims
    assert claims.get("sid") == claims_of(tokens["id_token"]).get("sid")
    assert ("sid" in claims) is with_sid
    assert op.end_sessions("ada") == {}


def test_a_logout_token_can_be_sent_for_a_session_without_a_browser(
    op: OIDCServer, listener: Listener
) -> None:
    client_id = f"told-{secrets.token_hex(4)}"
    with pytest.raises(ValueError, match="no backchannel_logout_uri"):
        op.backchannel_logout(client_id)
    op.client(
        client_id,
        redirect_uris=[REDIRECT_URI],
        token_endpoint_auth_method="none",
        backchannel_logout_uri=listener.url,
        backchannel_logout_session_required=True,
    )
    tokens = op.session("ada", client_id, sid="the sid")
    assert claims_of(tokens["id_token"])["sid"] == "the sid"
    op.backchannel_logout(client_id, "ada", "the sid")
    assert claims_of(listener.forms[0]["logout_token"])["sid"] == "the sid"
    listener.status = 503
    with pytest.raises(ValueError, match="503"):
        op.backchannel_logout(client_id, "ada", "the sid")
