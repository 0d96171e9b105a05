"""What authorization servers answer, by name, and what it is taken for."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_ideal_auth.errors import (
    ConfigurationError,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)
from fastapi_ideal_auth.oauth import (
    LONGEST_LIFETIME,
    MISCONFIGURED,
    MISCONFIGURED_IF_401,
    PASSING,
    REJECTED,
    TokenEndpointAuthMethod,
    TokenResponse,
    assumed_lifetime,
    authorization_params,
    check_endpoint,
    client_authentication,
    code_challenge,
    code_form,
    encode_form,
    is_bearer,
    judge_revocation,
    judge_token_response,
    judge_userinfo,
    kept_refresh_token,
    refresh_form,
    retry_after,
    revocation_form,
    with_query,
)

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
PLANTED = "pl4nted-T0ken/of~the.test"


@dataclass(frozen=True)
class Unavailable:
    """The parts of a `ProviderUnavailable` that its catcher looks at."""

    retry_after: float | None = None
    in_doubt: bool = False
    refused: bool = False


IN_DOUBT = Unavailable(in_doubt=True)
REFUSED = Unavailable(refused=True)


def judged(
    status: int, body: object, headers: Mapping[str, str] | None = None, **options: Any
) -> object:
    """The tokens, the parts of the error, or its class. A body that is no bytes goes as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        return judge_token_response(status, headers or {}, raw, now=NOW, **options)
    except ProviderUnavailable as error:
        return Unavailable(error.retry_after, error.in_doubt, error.refused)
    except ProviderError as error:
        return type(error)


def good(**changes: object) -> dict[str, object]:
    return {"access_token": "at", "token_type": "Bearer", **changes}


FORM = {"content-type": "application/x-www-form-urlencoded"}
HTML = b"<!doctype html><html><body><h1>Blocked</h1></body></html>"


# -- success --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            good(expires_in=3600, refresh_token="rt", scope="openid", id_token="a.b.c"),
            TokenResponse("at", "Bearer", 3600, "rt", "openid", "a.b.c"),
            id="rfc6749-5.1",
        ),
        pytest.param({"access_token": "at"}, TokenResponse("at"), id="access-token-only"),
        pytest.param(
            {"access_token": "at", "expires_in": "3600", "refresh_token": "rt", "user_id": "7"},
            TokenResponse("at", expires_in=3600, refresh_token="rt"),
            id="firebase-expires-in-as-string",
        ),
        pytest.param(
            {
                "ok": True,
                "access_token": "xoxe.xoxb-1",
                "token_type": "bot",
                "expires_in": 43200,
                "refresh_token": "xoxe-1",
                "team": {"id": "T"},
            },
            TokenResponse("xoxe.xoxb-1", "bot", 43200, "xoxe-1"),
            id="slack",
        ),
        pytest.param(
            {
                "ok": True,
                "app_id": "A1",
                "authed_user": {
                    "id": "U1",
                    "scope": "users:read",
                    "access_token": "xoxe.xoxp-1",
                    "token_type": "user",
                    "expires_in": 43200,
                    "refresh_token": "xoxe-1",
                },
                "team": {"id": "T1"},
            },
            TokenResponse("xoxe.xoxp-1", "user", 43200, "xoxe-1", "users:read"),
            id="slack-of-a-user",
        ),
        pytest.param(
            good(authed_user={"id": "U1", "access_token": "not this one"}),
            TokenResponse("at"),
            id="slack-of-a-bot-beside-a-user",
        ),
        pytest.param(
            good(refresh_token="ghr_1", refresh_token_expires_in=15811200),
            TokenResponse("at", refresh_token="ghr_1", refresh_expires_in=15811200),
            id="github-refresh-token-expires-in",
        ),
        pytest.param(
            b"access_token=ghu_1&expires_in=28800&refresh_token=ghr_1&scope=&token_type=bearer",
            TokenResponse("ghu_1", expires_in=28800, refresh_token="ghr_1"),
            id="github-form",
        ),
        pytest.param(
            b"access_token=a%2Bt&scope=repo%2Cgist",
            TokenResponse("a+t", scope="repo,gist"),
            id="form-is-decoded",
        ),
        pytest.param(
            b"\xef\xbb\xbf" + json.dumps(good()).encode(), TokenResponse("at"), id="byte-order-mark"
        ),
        pytest.param(
            good(refresh_expires_in=0, refresh_token="offline", expires_in=300),
            TokenResponse("at", expires_in=300, refresh_token="offline"),
            id="keycloak-offline-does-not-expire",
        ),
        pytest.param(
            good(refresh_expires_in=1800),
            TokenResponse("at", refresh_expires_in=1800),
            id="keycloak-refresh-expires-in",
        ),
        pytest.param(
            good(scope=["user:read", "chat:read"]),
            TokenResponse("at", scope="user:read chat:read"),
            id="twitch-scope-as-list",
        ),
        pytest.param(
            good(error=None, error_description=None), TokenResponse("at"), id="error-null"
        ),
        pytest.param(good(error=""), TokenResponse("at"), id="error-empty"),
        pytest.param(good(status="SOME_STATUS"), TokenResponse("at"), id="status-beside-tokens"),
        pytest.param(good(id_token=7), TokenResponse("at"), id="id-token-is-no-string"),
        pytest.param(good(scope={"a": 1}), TokenResponse("at"), id="scope-is-no-string"),
        pytest.param(good(scope="a\r\nb"), TokenResponse("at"), id="scope-with-a-newline"),
        pytest.param(good(token_type="DPoP"), TokenResponse("at", "DPoP"), id="another-type"),
    ],
)
def test_a_successful_answer_gives_tokens(body: object, expected: TokenResponse) -> None:
    assert judged(200, body) == expected


@pytest.mark.parametrize(
    ("given_as", "seconds"),
    [
        (3600, 3600),
        (3599.9, 3599),
        ("3600", 3600),
        ("3600.0", 3600),
        (" 3600 ", 3600),
        ("+60", 60),
        (0, 0),
        ("0", 0),
        (-1, 0),
        ("-5", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("1_000", None),
        ("٣", None),
        ("0x10", None),
        (True, None),
        (False, None),
        ([], None),
        ({"seconds": 1}, None),
        (LONGEST_LIFETIME, LONGEST_LIFETIME),
        (LONGEST_LIFETIME + 1, LONGEST_LIFETIME),
        (10**30, LONGEST_LIFETIME),
        ("9" * 5000, LONGEST_LIFETIME),
        (float("inf"), LONGEST_LIFETIME),
        (float("nan"), None),
    ],
)
def test_expires_in_is_read_whatever_it_looks_like(given_as: object, seconds: int | None) -> None:
    assert judged(200, good(expires_in=given_as)) == TokenResponse("at", expires_in=seconds)


def test_expires_in_of_five_thousand_digits_does_not_spoil_the_tokens() -> None:
    body = b'{"access_token": "at", "expires_in": ' + b"9" * 5000 + b"}"
    assert judged(200, body) == TokenResponse("at", expires_in=LONGEST_LIFETIME)


@pytest.mark.parametrize(
    ("given_as", "kind"),
    [
        ("bearer", "Bearer"),
        ("BEARER", "Bearer"),
        (None, "Bearer"),
        (7, "Bearer"),
        ("a\nb", "Bearer"),
    ],
)
def test_token_type_is_read_in_any_case(given_as: object, kind: str) -> None:
    assert judged(200, good(token_type=given_as)) == TokenResponse("at", kind)


@pytest.mark.parametrize("absent", [{}, {"refresh_token": None}, {"refresh_token": ""}])
def test_an_absent_refresh_token_keeps_the_old_one(absent: dict[str, object]) -> None:
    response = judged(200, good(**absent))
    assert isinstance(response, TokenResponse)
    assert response.refresh_token is None
    assert kept_refresh_token("old", response) == "old"


def test_a_rotated_refresh_token_replaces_the_old_one() -> None:
    response = judged(200, good(refresh_token="new"))
    assert isinstance(response, TokenResponse)
    assert kept_refresh_token("old", response) == "new"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        b"null",
        b"[]",
        b'"at"',
        b"{}",
        b'{"access_token": "at", "refr',
        b'{"access_token": "\xff"}',
        b"[" * 100_000,
        b"at",
        b"<a href='?x=1&access_token=at'>",
        b"a=1&b=2",
        b"\x00\x01",
        {"access_token": ""},
        {"access_token": None},
        {"access_token": 7},
        {"access_token": ["at"]},
        {"access_token": {"value": "at"}},
        {"access_token": "a t"},
        {"access_token": "at\r\nset-cookie: a=b"},
        {"access_token": "a\x00t"},
        {"access_token": "tökén"},
        {"access_token": "\ud800"},
        {"access_token": "a" * 65_537},
        {"access_token": "at", "refresh_token": 7},
        {"access_token": "at", "refresh_token": "r\nt"},
        {"data": {"access_token": "at"}},
        {"ok": True, "authed_user": {"id": "U1"}},
        {"ok": True, "authed_user": ["at"]},
        {"status": "success"},
    ],
)
def test_success_without_usable_tokens_is_in_doubt(body: object) -> None:
    assert judged(200, body) == IN_DOUBT


# -- refusals, by who is known to answer so -------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # The grant is dead.
        pytest.param(400, {"error": "invalid_grant"}, RefreshRejected, id="rfc6749-5.2"),
        pytest.param(
            403,
            {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."},
            RefreshRejected,
            id="auth0-403",
        ),
        pytest.param(401, {"error": "invalid_grant"}, RefreshRejected, id="dead-grant-as-401"),
        pytest.param(404, {"error": "invalid_grant"}, RefreshRejected, id="dead-grant-as-404"),
        pytest.param(400, b"error=invalid_grant", RefreshRejected, id="form"),
        pytest.param(400, {"error": " Invalid_Grant "}, RefreshRejected, id="case-and-blanks"),
        pytest.param(
            200,
            {"error": "bad_refresh_token", "error_description": "The refresh token passed is..."},
            RefreshRejected,
            id="github-200",
        ),
        pytest.param(
            200,
            b"error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect",
            RefreshRejected,
            id="github-200-form",
        ),
        pytest.param(
            200, {"error": "bad_verification_code"}, RefreshRejected, id="github-authorization-code"
        ),
        pytest.param(
            200, {"ok": False, "error": "invalid_refresh_token"}, RefreshRejected, id="slack"
        ),
        pytest.param(
            200, {"ok": False, "error": "token_revoked"}, RefreshRejected, id="slack-revoked"
        ),
        pytest.param(
            400,
            {
                "error": {"code": 400, "message": "TOKEN_EXPIRED", "status": "INVALID_ARGUMENT"},
            },
            RefreshRejected,
            id="firebase-expired",
        ),
        pytest.param(
            400, {"error": {"message": "USER_DISABLED"}}, RefreshRejected, id="firebase-disabled"
        ),
        pytest.param(
            400, {"error": {"message": "USER_NOT_FOUND"}}, RefreshRejected, id="firebase-no-user"
        ),
        pytest.param(
            400,
            {"error": {"message": "INVALID_REFRESH_TOKEN"}},
            RefreshRejected,
            id="firebase-invalid",
        ),
        pytest.param(
            400,
            {"status": "BAD_REFRESH_TOKEN", "message": "missing or unknown refresh token"},
            RefreshRejected,
            id="hubspot",
        ),
        pytest.param(
            403,
            {"error": "unauthorized_client", "error_description": "refresh_token is invalid"},
            RefreshRejected,
            id="atlassian",
        ),
        pytest.param(
            400,
            {
                "error": "invalid_request",
                "error_description": "Value passed for the token was invalid.",
            },
            RefreshRejected,
            id="x",
        ),
        pytest.param(
            400,
            {"error": "invalid_request", "error_description": "Unknown refresh token"},
            RefreshRejected,
            id="lemonldap",
        ),
        pytest.param(
            401,
            {
                "error": "invalid_request",
                "message": "The refresh token is invalid.",
                "hint": "Token has been revoked",
            },
            RefreshRejected,
            id="laravel-passport",
        ),
        pytest.param(
            401,
            {"error": "invalid_request", "reason": "Invalid Token!"},
            RefreshRejected,
            id="zoom",
        ),
        pytest.param(
            400,
            {
                "error": "invalid_request",
                "error_description": (
                    "The provided authorization grant or refresh token is invalid, expired or "
                    "revoked."
                ),
            },
            RefreshRejected,
            id="linkedin",
        ),
        pytest.param(
            401,
            {"error": "invalid_token", "error_description": f"The token expired: {PLANTED}"},
            RefreshRejected,
            id="cloud-foundry-uaa",
        ),
        pytest.param(
            400,
            {"errors": [{"errorType": "invalid_grant", "message": f"invalid: {PLANTED}"}]},
            RefreshRejected,
            id="fitbit",
        ),
        pytest.param(
            400,
            {"code": 400, "error_code": "refresh_token_already_used", "msg": "..."},
            RefreshRejected,
            id="supabase",
        ),
        pytest.param(200, {"error": "invalid_code"}, RefreshRejected, id="zoho"),
        pytest.param(400, {"error": "interaction_required"}, RefreshRejected, id="entra-mfa"),
        pytest.param(
            200,
            {"ok": False, "error": "code_already_used"},
            RefreshRejected,
            id="slack-authorization-code",
        ),
        # An operator must look.
        pytest.param(401, {"error": "invalid_client"}, ProviderMisconfigured, id="invalid-client"),
        pytest.param(
            200,
            {"error": "incorrect_client_credentials"},
            ProviderMisconfigured,
            id="github-secret-200",
        ),
        pytest.param(
            200,
            {"ok": False, "error": "bad_client_secret"},
            ProviderMisconfigured,
            id="slack-secret",
        ),
        pytest.param(400, {"status": "BAD_CLIENT_ID"}, ProviderMisconfigured, id="hubspot-client"),
        pytest.param(
            200,
            {"ok": False, "error": "bad_redirect_uri"},
            ProviderMisconfigured,
            id="slack-redirect-uri",
        ),
        pytest.param(
            401,
            {"error": "access_denied", "error_description": "Unauthorized"},
            ProviderMisconfigured,
            id="auth0-secret",
        ),
        pytest.param(
            401,
            {"errorCode": "invalid_client", "errorSummary": "Invalid value for 'client_id'..."},
            ProviderMisconfigured,
            id="okta-client-id",
        ),
        pytest.param(
            400,
            {"error": "invalid_client_credentials", "error_description": "client secret invalid"},
            ProviderMisconfigured,
            id="salesforce-secret",
        ),
        pytest.param(
            401,
            {
                "error": "unauthorized_client",
                "error_description": "Invalid client or Invalid client credentials",
            },
            ProviderMisconfigured,
            id="keycloak-credentials",
        ),
        pytest.param(
            400,
            {
                "error": "unauthorized_client",
                "error_description": "Client may not use grant type refresh_token",
            },
            ProviderMisconfigured,
            id="grant-not-allowed",
        ),
        pytest.param(
            400, {"error": "unsupported_grant_type"}, ProviderMisconfigured, id="grant-type"
        ),
        pytest.param(400, {"error": "invalid_scope"}, ProviderMisconfigured, id="scope"),
        pytest.param(400, {"error": "invalid_target"}, ProviderMisconfigured, id="rfc8707"),
        pytest.param(301, b"", ProviderMisconfigured, id="moved"),
        pytest.param(302, HTML, ProviderMisconfigured, id="to-a-login-page"),
        pytest.param(307, {"error": "invalid_grant"}, ProviderMisconfigured, id="redirect-wins"),
        pytest.param(404, HTML, ProviderMisconfigured, id="wrong-path"),
        pytest.param(405, {"detail": "Method Not Allowed"}, ProviderMisconfigured, id="no-post"),
        # Refused, for no reason that is told.
        pytest.param(400, b"", REFUSED, id="glewlwyd-empty-400"),
        pytest.param(401, b" \r\n", REFUSED, id="empty-401"),
        pytest.param(
            400, {"message": "Invalid refresh token", "status": 400}, REFUSED, id="twitch"
        ),
        pytest.param(
            400,
            {"error": "Bad Request", "message": "Invalid refresh token", "status": 400},
            REFUSED,
            id="twitch-with-phrase",
        ),
        pytest.param(
            400,
            {"errors": [{"resource": "RefreshToken", "code": "invalid"}], "message": "Bad Request"},
            REFUSED,
            id="strava",
        ),
        pytest.param(401, {"detail": "who are you"}, REFUSED, id="json-401"),
        pytest.param(400, [], REFUSED, id="json-array"),
        pytest.param(400, {"error": "invalid_request"}, REFUSED, id="lemonldap-without-a-word"),
        pytest.param(
            400,
            {"error": "invalid_request", "error_description": "Missing parameter: refresh_token"},
            REFUSED,
            id="missing-parameter",
        ),
        pytest.param(
            400,
            {
                "error": "invalid_request",
                "error_description": (
                    "The request is missing a parameter, includes an invalid value, or is malformed"
                ),
                "hint": "Check the `refresh_token` parameter",
            },
            REFUSED,
            id="league-oauth2-server-generic",
        ),
        pytest.param(
            400,
            {"error": "invalid_request", "error_description": "Invalid token_type_hint"},
            REFUSED,
            id="invalid-something-of-a-token",
        ),
        pytest.param(
            400,
            {"error": "invalid_request", "error_description": "invalid token endpoint request"},
            REFUSED,
            id="invalid-token-endpoint",
        ),
        pytest.param(403, {"error": "access_denied"}, REFUSED, id="unknown-code-403"),
        pytest.param(200, {"ok": False, "error": "org_login_thing"}, REFUSED, id="slack-unknown"),
        # Not now.
        pytest.param(403, HTML, Unavailable(), id="firewall-403"),
        pytest.param(400, HTML, Unavailable(), id="firewall-400"),
        pytest.param(401, HTML, Unavailable(), id="firewall-401"),
        pytest.param(
            400,
            b"<a href='/login?x=1&error=invalid_grant&y=2'>sign in</a>",
            Unavailable(),
            id="page-with-a-link-that-speaks-of-a-grant",
        ),
        pytest.param(400, b"invalid_grant", Unavailable(), id="bare-text"),
        pytest.param(403, b"", Unavailable(), id="empty-403"),
        pytest.param(403, {"message": "Forbidden"}, Unavailable(), id="aws-gateway-403"),
        pytest.param(
            403,
            {"status": 403, "error": "Forbidden", "path": "/"},
            Unavailable(),
            id="spring-boot-403",
        ),
        pytest.param(409, {"message": "conflict"}, Unavailable(), id="fitbit-409"),
        pytest.param(422, {"detail": []}, Unavailable(), id="fastapi-422"),
        pytest.param(408, {"error": "invalid_grant"}, Unavailable(), id="408"),
        pytest.param(425, b"", Unavailable(), id="425"),
        pytest.param(429, {"error": "invalid_grant"}, Unavailable(), id="429-wins-over-the-code"),
        pytest.param(500, {"error": "invalid_grant"}, Unavailable(), id="500-wins-over-the-code"),
        pytest.param(500, {"error": "invalid_client"}, Unavailable(), id="500-whatever-it-says"),
        pytest.param(502, HTML, Unavailable(), id="gateway"),
        pytest.param(503, {"error": "temporarily_unavailable"}, Unavailable(), id="503"),
        pytest.param(400, {"error": "temporarily_unavailable"}, Unavailable(), id="entra-busy-400"),
        pytest.param(400, {"error": "server_error"}, Unavailable(), id="server-error-400"),
        pytest.param(400, {"error": "slow_down"}, Unavailable(), id="slow-down"),
        pytest.param(403, {"error": "rate_limit_exceeded"}, Unavailable(), id="google-403"),
        pytest.param(200, {"ok": False, "error": "ratelimited"}, Unavailable(), id="slack-limit"),
        pytest.param(
            200, {"ok": False, "error": "org_login_required"}, Unavailable(), id="slack-migration"
        ),
        pytest.param(200, good(error="some_error"), REFUSED, id="tokens-beside-an-error"),
        pytest.param(200, good(error=True), Unavailable(), id="tokens-beside-a-bare-error"),
        pytest.param(200, {"error": "Bad Request"}, Unavailable(), id="phrase-with-200"),
        pytest.param(200, {"ok": False}, Unavailable(), id="not-ok-and-no-more"),
        pytest.param(100, b"", Unavailable(), id="no-final-status"),
        pytest.param(999, b"", Unavailable(), id="no-status-at-all"),
    ],
)
def test_a_refusal_is_taken_for_what_it_means(status: int, body: object, expected: object) -> None:
    assert judged(status, body) == expected


def test_a_code_of_the_tables_stands_in_one_of_them() -> None:
    assert not REJECTED & MISCONFIGURED.keys()
    assert not MISCONFIGURED_IF_401.keys() & (REJECTED | PASSING | MISCONFIGURED.keys())
    assert not REJECTED & PASSING
    assert not PASSING & MISCONFIGURED.keys()
    assert {code.lower() for code in REJECTED | PASSING | MISCONFIGURED.keys()} == (
        REJECTED | PASSING | MISCONFIGURED.keys()
    )


def test_a_server_may_have_rejection_codes_of_its_own() -> None:
    body = {"error": "GRANT_GONE"}
    assert judged(400, body) == REFUSED
    assert judged(400, body, rejection_codes=frozenset({"grant_gone"})) is RefreshRejected
    assert judged(500, body, rejection_codes=frozenset({"grant_gone"})) == Unavailable()


def test_a_lifetime_is_assumed_only_where_the_server_says_none() -> None:
    silent = TokenResponse("at", refresh_token="rt", scope="openid")
    assert assumed_lifetime(silent, 3600) == TokenResponse("at", "Bearer", 3600, "rt", "openid")
    assert assumed_lifetime(silent, None) == silent
    for said in (0, 60):
        assert assumed_lifetime(TokenResponse("at", expires_in=said), 3600).expires_in == said


@pytest.mark.parametrize("challenge", ['Basic realm="op"', 'Bearer, basic realm="op"', "BASIC"])
def test_a_401_that_asks_for_basic_credentials_is_about_the_client(challenge: str) -> None:
    headers = {"www-authenticate": challenge}
    assert judged(401, b"", headers) is ProviderMisconfigured
    assert judged(401, {"message": "no"}, headers) is ProviderMisconfigured
    assert judged(401, {"error": "invalid_grant"}, headers) is RefreshRejected


def test_a_401_that_asks_for_a_bearer_token_is_a_refusal() -> None:
    assert judged(401, b"", {"www-authenticate": 'Bearer realm="basically"'}) == REFUSED


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1.5", 1.5),
        ("99999999", 86_400.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1984 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", 86_400.0),
        ("", None),
        ("soon", None),
        ("١٢", None),
        ("1e3", None),
        ("9" * 40, None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds
    for status in (429, 503, 403):
        assert judged(status, HTML, {"retry-after": value}) == Unavailable(retry_after=seconds)


# -- what is told -----------------------------------------------------------------------------


def error_of(status: int, body: object, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        judge_token_response(
            status, options.pop("headers", {}), json.dumps(body).encode(), now=NOW, **options
        )
    return caught.value


def test_the_message_names_the_code_and_what_to_do() -> None:
    assert str(error_of(401, {"error": "invalid_client"})) == (
        "the token endpoint answered invalid_client: check client_id, client_secret and "
        "token_endpoint_auth_method"
    )
    assert str(error_of(400, {"error": "invalid_grant"})) == (
        "the authorization server rejected the refresh token (invalid_grant)"
    )
    assert "authorization code" in str(
        error_of(400, {"error": "invalid_grant"}, grant="authorization code")
    )
    assert "redirects (302)" in str(error_of(302, {}))


def test_the_message_never_repeats_what_came_over_the_wire() -> None:
    body = {"error": PLANTED, "error_description": PLANTED, "message": PLANTED}
    assert str(error_of(400, body)) == "the token endpoint answered 400 (an unknown error code)"


def chain(error: BaseException) -> list[BaseException]:
    """The error and all it can be followed to."""
    seen: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        link = ahead.pop()
        if link is not None and link not in seen:
            seen.append(link)
            ahead += [link.__cause__, link.__context__]
    return seen


def told(error: BaseException) -> str:
    """All that a log or an error tracker could show of an error."""
    return " ".join(
        f"{link} {link!r} {link.args!r} {getattr(link, '__notes__', '')} "
        f"{vars(link) if hasattr(link, '__dict__') else ''}"
        for link in chain(error)
    )


WORDS = [
    "access_token",
    "refresh_token",
    "error",
    "error_description",
    "error_code",
    "errors",
    "errorType",
    "message",
    "status",
    "code",
    "ok",
    "expires_in",
    "token_type",
    "scope",
    "id_token",
    "refresh_expires_in",
    "refresh_token_expires_in",
    "authed_user",
    "errorCode",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([PLANTED, f"{PLANTED} is an invalid token", "invalid_request", "at"])
    | st.sampled_from(sorted(REJECTED | PASSING | MISCONFIGURED.keys())),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = (
    st.binary(max_size=200)
    | st.binary(max_size=40).map(lambda noise: noise + PLANTED.encode() + noise)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6).map(
        lambda value: json.dumps(value).encode()
    )
    | st.dictionaries(
        st.sampled_from(WORDS), st.sampled_from([PLANTED, "at", "invalid_grant", "7"])
    ).map(encode_form)
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "www-authenticate", "location"]),
    st.text(max_size=30) | st.sampled_from([PLANTED, "Basic", "3", "text/html"]),
)


@given(status=st.integers(100, 599) | st.integers(), headers=HEADERS, body=BODIES)
def test_whatever_comes_is_judged_and_no_token_is_told(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    for judge in (judge_token_response, judge_userinfo):
        answer: object
        try:
            answer = judge(status, headers, body, now=NOW)
        except ProviderError as error:
            answer = error
        if isinstance(answer, ProviderError):
            assert PLANTED not in told(answer)
            assert len(chain(answer)) == 1
        elif isinstance(answer, TokenResponse):
            assert is_bearer(answer.access_token)
            assert answer.expires_in is None or 0 <= answer.expires_in <= LONGEST_LIFETIME


@given(value=st.text())
def test_whatever_stands_in_retry_after_is_read_or_not(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= 86_400


def test_a_long_description_is_searched_in_no_time() -> None:
    body = {"error": "invalid_request", "error_description": "expired or " * 5000 + "token_"}
    assert judged(400, body) == REFUSED


def test_a_token_response_shows_no_token() -> None:
    response = TokenResponse(PLANTED, refresh_token=PLANTED, id_token=PLANTED, scope="openid")
    assert PLANTED not in repr(response)
    assert "openid" in repr(response)


def test_a_token_response_is_frozen_and_has_the_fields_of_the_rfc_in_order() -> None:
    assert [f.name for f in fields(TokenResponse)] == [
        "access_token",
        "token_type",
        "expires_in",
        "refresh_token",
        "scope",
        "id_token",
        "refresh_expires_in",
    ]
    response: Any = TokenResponse("at")
    with pytest.raises(FrozenInstanceError):
        response.scope = "more"


# -- requests -------------------------------------------------------------------------------------


def test_a_refresh_request_is_the_one_of_rfc_6749() -> None:
    assert refresh_form("rt") == {"grant_type": "refresh_token", "refresh_token": "rt"}
    assert refresh_form("rt", {"resource": "api", "grant_type": "password"}) == {
        "resource": "api",
        "grant_type": "refresh_token",
        "refresh_token": "rt",
    }


def test_a_code_request_carries_the_verifier() -> None:
    assert code_form("c", "https://app.example/callback", "v") == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "https://app.example/callback",
        "code_verifier": "v",
    }


def test_a_revocation_request_hints_at_the_kind_of_token() -> None:
    assert revocation_form("rt", "refresh_token") == {
        "token": "rt",
        "token_type_hint": "refresh_token",
    }


@given(form=st.dictionaries(st.text(min_size=1), st.text(min_size=1)))
def test_a_form_reads_back_as_it_was_written(form: dict[str, str]) -> None:
    written = encode_form(form).decode()
    assert dict(parse_qsl(written)) == {
        name.encode(errors="replace").decode(): value.encode(errors="replace").decode()
        for name, value in form.items()
    }


@pytest.mark.parametrize(
    ("client_id", "client_secret", "pair"),
    [
        ("dashboard", "secret", "dashboard:secret"),
        ("a:b", "c:d", "a%3Ab:c%3Ad"),
        ("100%", "1+1 =2", "100%25:1%2B1+%3D2"),
        ("café", "s/é&", "caf%C3%A9:s%2F%C3%A9%26"),
    ],
)
def test_basic_credentials_are_form_encoded_first(
    client_id: str, client_secret: str, pair: str
) -> None:
    headers, form = client_authentication("client_secret_basic", client_id, client_secret)
    scheme, _, encoded = headers["authorization"].partition(" ")
    sent = base64.b64decode(encoded).decode()
    assert (scheme, sent, form) == ("Basic", pair, {})
    assert [unquote_plus(half) for half in sent.split(":")] == [client_id, client_secret]


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("client_secret_post", {"client_id": "id", "client_secret": "s:+"}),
        ("none", {"client_id": "id"}),
    ],
)
def test_other_clients_authenticate_in_the_form(
    method: TokenEndpointAuthMethod, form: dict[str, str]
) -> None:
    assert client_authentication(method, "id", "s:+") == ({}, form)


def test_the_challenge_is_the_one_of_rfc_7636_appendix_b() -> None:
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_authorization_url_carries_every_parameter_once() -> None:
    params = authorization_params(
        client_id="id",
        redirect_uri="https://app.example/cb?x=1",
        scope="openid email",
        state="s",
        code_challenge="c",
        extra={"prompt": "consent", "state": "not this one"},
    )
    url = with_query("https://op.example/authorize?tenant=a%26b", params)
    assert url.startswith("https://op.example/authorize?tenant=a%26b&")
    assert "+" not in url
    assert parse_qs(urlsplit(url).query) == {
        "tenant": ["a&b"],
        "response_type": ["code"],
        "client_id": ["id"],
        "redirect_uri": ["https://app.example/cb?x=1"],
        "scope": ["openid email"],
        "state": ["s"],
        "code_challenge": ["c"],
        "code_challenge_method": ["S256"],
        "prompt": ["consent"],
    }


def test_no_scope_is_asked_for_by_asking_for_none() -> None:
    params = authorization_params(
        client_id="id",
        redirect_uri="https://app.example/cb",
        scope=None,
        state="s",
        code_challenge="c",
    )
    assert "scope" not in params


def test_a_parameter_may_stand_more_than_once() -> None:
    """RFC 8707 §2: one ``resource`` for each."""
    form = {"resource": ["https://a.example/", "https://b.example/"], "scope": "openid"}
    query = "resource=https%3A%2F%2Fa.example%2F&resource=https%3A%2F%2Fb.example%2F&scope=openid"
    assert encode_form(form) == query.encode()
    assert with_query("https://op.example/a", form) == f"https://op.example/a?{query}"


# -- endpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://op.example/token",
        "https://op.example",
        "HTTPS://OP.EXAMPLE/token",
        "https://op.example:8443/token?tenant=a",
        "https://xn--bcher-kva.example/token",
        "https://10.0.0.7/token",
        "https://[2001:db8::1]/token",
        "http://127.0.0.1:8000/token",
        "http://127.8.9.10/token",
        "http://[::1]:8000/token",
        "http://localhost/token",
        "http://LOCALHOST/token",
    ],
)
def test_an_endpoint_is_https_or_on_this_machine(url: str) -> None:
    assert check_endpoint("token_endpoint", url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://op.example/token",
        "http://10.0.0.7/token",
        "http://127.1/token",
        "http://0x7f000001/token",
        "http://127.0.0.1.op.example/token",
        "http://localhost.op.example/token",
        "http://op.example\\@127.0.0.1/token",
        "http://0.0.0.0/token",
        "http://[::]/token",
        "http://[::ffff:10.0.0.7]/token",
        "https://user:pw@op.example/token",
        "https://user@op.example/token",
        "https://@op.example/token",
        "https://op.example/token#part",
        "https://op.example/token#",
        "https:///token",
        "https://",
        "https:op.example",
        "//op.example/token",
        "op.example/token",
        "/token",
        "",
        "ftp://op.example/token",
        "file:///token",
        "https://op.example:0/token",
        "https://op.example:99999/token",
        "https://op.example:port/token",
        "https://[::1/token",
        "https://[op]/token",
        "https://op..example/token",
        "https://.op.example/token",
        "https://op exam.ple/token",
        "https://op.example/to ken",
        "https://op.example/to\\ken",
        "https://op.example/token\n",
        "https://bücher.example/token",
        "https://op<.example/token",
        None,
        7,
        b"https://op.example/token",
    ],
)
def test_any_other_endpoint_is_refused_by_name(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="token_endpoint") as caught:
        check_endpoint("token_endpoint", url)
    assert "pw" not in told(caught.value)


# -- the other endpoints --------------------------------------------------------------------------


def test_a_revocation_is_confirmed_by_any_success() -> None:
    assert [judge_revocation(status) for status in (200, 204, 302, 400, 401, 503)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_userinfo_may_hold_a_claim_of_any_name() -> None:
    claims = {"sub": "1", "status": "ON_LEAVE", "code": "some_code", "errors": []}
    assert judge_userinfo(200, {}, json.dumps(claims).encode(), now=NOW) == claims


def test_userinfo_gives_claims() -> None:
    assert judge_userinfo(200, {}, b'{"sub": "1", "email": "a@b"}', now=NOW) == {
        "sub": "1",
        "email": "a@b",
    }


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (401, {}, b'{"error": "invalid_token"}', RefreshRejected),
        (403, {}, b'{"error": "insufficient_scope"}', ProviderMisconfigured),
        (302, {}, b"", ProviderMisconfigured),
        (404, {}, HTML, ProviderMisconfigured),
        (200, {"content-type": "application/jwt"}, b"a.b.c", ProviderMisconfigured),
        (200, {}, b"", ProviderUnavailable),
        (200, {}, b"{}", ProviderUnavailable),
        (200, {}, b"[1]", ProviderUnavailable),
        (200, {}, HTML, ProviderUnavailable),
        (200, {}, b'{"ok": false, "error": "fatal_error"}', ProviderUnavailable),
        (500, {}, b'{"sub": "1"}', ProviderUnavailable),
    ],
)
def test_userinfo_without_claims_is_an_error(
    status: int, headers: dict[str, str], body: bytes, expected: type[ProviderError]
) -> None:
    with pytest.raises(expected):
        judge_userinfo(status, headers, body, now=NOW)


def test_userinfo_passes_on_when_to_come_back() -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        judge_userinfo(429, {"retry-after": "9"}, b"", now=NOW)
    assert caught.value.retry_after == 9


def test_a_bearer_token_is_visible_ascii() -> None:
    assert is_bearer("eyJ.a-b_c~d+e/f=")
    assert not any(map(is_bearer, ["", "a b", "a\r\nb", "é", "\ud800"]))
