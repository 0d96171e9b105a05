"""What each registered server answers, as its documentation shows it; the values are invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi_ideal_auth.oauth import TokenResponse

FORM = "application/x-www-form-urlencoded; charset=utf-8"
TENANT = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"


@dataclass(frozen=True)
class Answer:
    """``body``: what goes as JSON; a string goes as it is."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect:
    """One server: what it is registered with, its endpoints, and its answers."""

    fields: Mapping[str, str]
    authorization_endpoint: str
    token_endpoint: str
    sign_in: tuple[Answer, TokenResponse]
    refresh: tuple[Answer, TokenResponse]
    dead: tuple[Answer, ...]
    misconfigured: tuple[Answer, ...]
    unavailable: tuple[tuple[Answer, float | None], ...] = ()
    """With the seconds that the answer asks to be left alone."""

    issuer: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    """The other endpoints that its discovery document names."""

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": self.authorization_endpoint,
            "token_endpoint": self.token_endpoint,
            "jwks_uri": f"{self.issuer}/keys",
            **self.others,
        }


def ok(**body: object) -> Answer:
    return Answer(200, body)


def error(http_status: int, code: str, description: str = "", /, **more: object) -> Answer:
    return Answer(http_status, {"error": code, "error_description": description, **more})


LATER = {"retry-after": "30"}
SCOPE = "openid profile email"

GOOGLE = Dialect(
    fields={},
    issuer="https://accounts.google.com",
    authorization_endpoint="https://accounts.google.com/o/oauth2/v2/auth",
    token_endpoint="https://oauth2.googleapis.com/token",
    others={
        "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
    },
    sign_in=(
        ok(
            access_token="ya29.one",
            expires_in=3599,
            refresh_token="1//0one",
            scope=SCOPE,
            token_type="Bearer",
            id_token="a.b.c",
            refresh_token_expires_in=15551999,
        ),
        TokenResponse("ya29.one", "Bearer", 3599, "1//0one", SCOPE, "a.b.c", 15551999),
    ),
    refresh=(
        ok(access_token="ya29.two", expires_in=3599, scope=SCOPE, token_type="Bearer"),
        TokenResponse("ya29.two", "Bearer", 3599, None, SCOPE),
    ),
    dead=(error(400, "invalid_grant", "Token has been expired or revoked."),),
    misconfigured=(
        error(401, "invalid_client", "The provided client secret is invalid."),
        error(401, "deleted_client", "The OAuth client was deleted."),
    ),
    unavailable=(
        (error(500, "internal_failure", ""), None),
        (Answer(429, {"error": "rate_limit_exceeded"}, LATER), 30),
    ),
)

ENTRA_ID = Dialect(
    fields={"tenant": TENANT},
    issuer=f"https://login.microsoftonline.com/{TENANT}/v2.0",
    authorization_endpoint=f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/authorize",
    token_endpoint=f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
    others={
        "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
        "end_session_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/logout",
    },
    sign_in=(
        ok(
            token_type="Bearer",
            scope=SCOPE,
            expires_in=4021,
            ext_expires_in=4021,
            access_token="eyJ.one.sig",
            refresh_token="1.AXoA_one",
            id_token="a.b.c",
        ),
        TokenResponse("eyJ.one.sig", "Bearer", 4021, "1.AXoA_one", SCOPE, "a.b.c"),
    ),
    refresh=(
        ok(
            token_type="Bearer",
            scope=SCOPE,
            expires_in=3599,
            access_token="eyJ.two.sig",
            refresh_token="1.AXoA_two",
            id_token="a.b.d",
        ),
        TokenResponse("eyJ.two.sig", "Bearer", 3599, "1.AXoA_two", SCOPE, "a.b.d"),
    ),
    dead=(
        error(
            400,
            "invalid_grant",
            "AADSTS700082: The refresh token has expired due to inactivity.\r\nTrace ID: 00",
            error_codes=[700082],
            timestamp="2026-01-09 02:02:12Z",
        ),
        error(400, "interaction_required", "AADSTS50076: ...", error_codes=[50076]),
    ),
    misconfigured=(
        error(401, "invalid_client", "AADSTS7000215: ...", error_codes=[7000215]),
        error(400, "invalid_scope", "AADSTS70011: ...", error_codes=[70011]),
        error(400, "unauthorized_client", "AADSTS700016: ...", error_codes=[700016]),
    ),
    unavailable=(
        (error(400, "temporarily_unavailable", "AADSTS90033: ...", error_codes=[90033]), None),
        (Answer(429, "", LATER), 30),
    ),
)

AUTH0 = Dialect(
    fields={"domain": "example.eu.auth0.com"},
    issuer="https://example.eu.auth0.com/",
    authorization_endpoint="https://example.eu.auth0.com/authorize",
    token_endpoint="https://example.eu.auth0.com/oauth/token",
    others={
        "userinfo_endpoint": "https://example.eu.auth0.com/userinfo",
        "revocation_endpoint": "https://example.eu.auth0.com/oauth/revoke",
        "end_session_endpoint": "https://example.eu.auth0.com/oidc/logout",
    },
    sign_in=(
        ok(
            access_token="eyJ.one.sig",
            refresh_token="v1.one",
            id_token="a.b.c",
            scope=f"{SCOPE} offline_access",
            expires_in=86400,
            token_type="Bearer",
        ),
        TokenResponse("eyJ.one.sig", "Bearer", 86400, "v1.one", f"{SCOPE} offline_access", "a.b.c"),
    ),
    refresh=(
        ok(
            access_token="eyJ.two.sig",
            refresh_token="v1.two",
            id_token="a.b.d",
            scope=SCOPE,
            expires_in=86400,
            token_type="Bearer",
        ),
        TokenResponse("eyJ.two.sig", "Bearer", 86400, "v1.two", SCOPE, "a.b.d"),
    ),
    dead=(error(403, "invalid_grant", "Unknown or invalid refresh token."),),
    misconfigured=(
        error(401, "access_denied", "Unauthorized"),
        error(403, "unauthorized_client", "Grant type 'refresh_token' not allowed for the client."),
    ),
    unavailable=((Answer(429, {"error": "too_many_requests", "error_description": "..."}), None),),
)

OKTA = Dialect(
    fields={"domain": "example.okta.com"},
    issuer="https://example.okta.com",
    authorization_endpoint="https://example.okta.com/oauth2/v1/authorize",
    token_endpoint="https://example.okta.com/oauth2/v1/token",
    others={
        "userinfo_endpoint": "https://example.okta.com/oauth2/v1/userinfo",
        "revocation_endpoint": "https://example.okta.com/oauth2/v1/revoke",
        "end_session_endpoint": "https://example.okta.com/oauth2/v1/logout",
    },
    sign_in=(
        ok(
            access_token="eyJ.one.sig",
            token_type="Bearer",
            scope="offline_access openid",
            expires_in=3600,
            refresh_token="a9VpZDRCeFh3Nkk2VdYa",
            id_token="a.b.c",
        ),
        TokenResponse(
            "eyJ.one.sig", "Bearer", 3600, "a9VpZDRCeFh3Nkk2VdYa", "offline_access openid", "a.b.c"
        ),
    ),
    refresh=(
        ok(
            access_token="eyJ.two.sig",
            token_type="Bearer",
            scope="offline_access openid",
            expires_in=3600,
            refresh_token="b0WqaESCfGi4Oll3WeZb",
        ),
        TokenResponse(
            "eyJ.two.sig", "Bearer", 3600, "b0WqaESCfGi4Oll3WeZb", "offline_access openid"
        ),
    ),
    dead=(error(400, "invalid_grant", "The refresh token is invalid or expired."),),
    misconfigured=(
        error(401, "invalid_client", "Client authentication failed."),
        Answer(
            401,
            {
                "errorCode": "invalid_client",
                "errorSummary": "Invalid value for 'client_id' parameter.",
                "errorLink": "invalid_client",
                "errorId": "oae0",
                "errorCauses": [],
            },
        ),
    ),
    unavailable=(
        (
            Answer(
                429,
                {"errorCode": "E0000047", "errorSummary": "API call exceeded rate limit"},
                {"x-rate-limit-remaining": "0", "x-rate-limit-reset": "1767225600"},
            ),
            None,
        ),
    ),
)

OKTA_CUSTOM = Dialect(
    fields={"domain": "example.okta.com", "authorization_server": "default"},
    issuer="https://example.okta.com/oauth2/default",
    authorization_endpoint="https://example.okta.com/oauth2/default/v1/authorize",
    token_endpoint="https://example.okta.com/oauth2/default/v1/token",
    others={"end_session_endpoint": "https://example.okta.com/oauth2/default/v1/logout"},
    sign_in=OKTA.sign_in,
    refresh=OKTA.refresh,
    dead=OKTA.dead,
    misconfigured=OKTA.misconfigured,
    unavailable=OKTA.unavailable,
)

_REALM = "https://sso.example/realms/main/protocol/openid-connect"
KEYCLOAK = Dialect(
    fields={"host": "sso.example", "realm": "main"},
    issuer="https://sso.example/realms/main",
    authorization_endpoint=f"{_REALM}/auth",
    token_endpoint=f"{_REALM}/token",
    others={
        "userinfo_endpoint": f"{_REALM}/userinfo",
        "revocation_endpoint": f"{_REALM}/revoke",
        "end_session_endpoint": f"{_REALM}/logout",
    },
    sign_in=(
        Answer(
            200,
            {
                "access_token": "eyJ.one.sig",
                "expires_in": 300,
                "refresh_expires_in": 1800,
                "refresh_token": "eyJ.r1.sig",
                "token_type": "Bearer",
                "id_token": "a.b.c",
                "not-before-policy": 0,
                "session_state": "5f1b",
                "scope": SCOPE,
            },
        ),
        TokenResponse("eyJ.one.sig", "Bearer", 300, "eyJ.r1.sig", SCOPE, "a.b.c", 1800),
    ),
    refresh=(
        ok(
            access_token="eyJ.two.sig",
            expires_in=300,
            refresh_expires_in=1500,
            refresh_token="eyJ.r2.sig",
            token_type="Bearer",
            scope=SCOPE,
        ),
        TokenResponse("eyJ.two.sig", "Bearer", 300, "eyJ.r2.sig", SCOPE, None, 1500),
    ),
    dead=(
        error(400, "invalid_grant", "Token is not active"),
        error(400, "invalid_grant", "Maximum allowed refresh token reuse exceeded"),
    ),
    misconfigured=(
        error(401, "unauthorized_client", "Invalid client or Invalid client credentials"),
        Answer(404, {"error": "Realm does not exist"}),
    ),
    unavailable=(
        (Answer(503, "<html><body>503 Service Temporarily Unavailable</body></html>"), None),
    ),
)

_POOL = "https://example.auth.eu-west-1.amazoncognito.com"
COGNITO = Dialect(
    fields={"region": "eu-west-1", "user_pool_id": "eu-west-1_AbC123dEf"},
    issuer="https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC123dEf",
    authorization_endpoint=f"{_POOL}/oauth2/authorize",
    token_endpoint=f"{_POOL}/oauth2/token",
    others={
        "userinfo_endpoint": f"{_POOL}/oauth2/userInfo",
        "revocation_endpoint": f"{_POOL}/oauth2/revoke",
        "end_session_endpoint": f"{_POOL}/logout",
    },
    sign_in=(
        ok(
            access_token="eyJ.one.sig",
            refresh_token="eyJ..one.two.sig",
            id_token="a.b.c",
            token_type="Bearer",
            expires_in=3600,
        ),
        TokenResponse("eyJ.one.sig", "Bearer", 3600, "eyJ..one.two.sig", id_token="a.b.c"),
    ),
    refresh=(
        ok(access_token="eyJ.two.sig", id_token="a.b.d", token_type="Bearer", expires_in=3600),
        TokenResponse("eyJ.two.sig", "Bearer", 3600, id_token="a.b.d"),
    ),
    dead=(Answer(400, {"error": "invalid_grant"}),),
    misconfigured=(
        Answer(400, {"error": "invalid_client"}),
        Answer(400, {"error": "unauthorized_client"}),
    ),
    unavailable=(
        (Answer(429, {"message": "Rate exceeded"}), None),
        (Answer(403, {"message": "Forbidden"}), None),
    ),
)

GITHUB_APP = Dialect(
    fields={},
    authorization_endpoint="https://github.com/login/oauth/authorize",
    token_endpoint="https://github.com/login/oauth/access_token",
    sign_in=(
        ok(
            access_token="ghu_one",
            expires_in=28800,
            refresh_token="ghr_one",
            refresh_token_expires_in=15811200,
            scope="",
            token_type="bearer",
        ),
        TokenResponse("ghu_one", "Bearer", 28800, "ghr_one", refresh_expires_in=15811200),
    ),
    refresh=(
        Answer(
            200,
            "access_token=ghu_two&expires_in=28800&refresh_token=ghr_two"
            "&refresh_token_expires_in=15811200&scope=&token_type=bearer",
            {"content-type": FORM},
        ),
        TokenResponse("ghu_two", "Bearer", 28800, "ghr_two", refresh_expires_in=15811200),
    ),
    dead=(
        error(200, "bad_refresh_token", "The refresh token passed is incorrect or expired."),
        error(200, "bad_verification_code", "The code passed is incorrect or expired."),
    ),
    misconfigured=(
        error(200, "incorrect_client_credentials", "The client_id and/or client_secret ..."),
        error(200, "redirect_uri_mismatch", "The redirect_uri MUST match ..."),
        Answer(404, {"error": "Not Found"}),
    ),
    unavailable=((Answer(429, "", {"retry-after": "60"}), 60),),
)

GITLAB = Dialect(
    fields={"host": "gitlab.com"},
    issuer="https://gitlab.com",
    authorization_endpoint="https://gitlab.com/oauth/authorize",
    token_endpoint="https://gitlab.com/oauth/token",
    others={
        "userinfo_endpoint": "https://gitlab.com/oauth/userinfo",
        "revocation_endpoint": "https://gitlab.com/oauth/revoke",
    },
    sign_in=(
        ok(
            access_token="de67",
            token_type="bearer",
            expires_in=7200,
            refresh_token="8257",
            scope=SCOPE,
            created_at=1607635748,
            id_token="a.b.c",
        ),
        TokenResponse("de67", "Bearer", 7200, "8257", SCOPE, "a.b.c"),
    ),
    refresh=(
        ok(
            access_token="c97d",
            token_type="bearer",
            expires_in=7200,
            refresh_token="803c",
            created_at=1628711391,
        ),
        TokenResponse("c97d", "Bearer", 7200, "803c"),
    ),
    dead=(error(400, "invalid_grant", "The provided authorization grant is invalid, ..."),),
    misconfigured=(error(401, "invalid_client", "Client authentication failed ..."),),
    unavailable=((Answer(429, "Retry later\n", LATER), 30),),
)

SLACK = Dialect(
    fields={},
    authorization_endpoint="https://slack.com/oauth/v2/authorize",
    token_endpoint="https://slack.com/api/oauth.v2.access",
    sign_in=(
        ok(
            ok=True,
            app_id="A1",
            authed_user={
                "id": "U1",
                "scope": "users:read,channels:read",
                "access_token": "xoxe.xoxp-one",
                "token_type": "user",
                "expires_in": 43200,
                "refresh_token": "xoxe-1-one",
            },
            team={"id": "T1", "name": "Team"},
            enterprise=None,
            is_enterprise_install=False,
        ),
        TokenResponse("xoxe.xoxp-one", "user", 43200, "xoxe-1-one", "users:read,channels:read"),
    ),
    refresh=(
        ok(
            ok=True,
            access_token="xoxe.xoxp-two",
            token_type="user",
            expires_in=43200,
            refresh_token="xoxe-1-two",
            scope="users:read,channels:read",
            team={"id": "T1", "name": "Team"},
            enterprise=None,
        ),
        TokenResponse("xoxe.xoxp-two", "user", 43200, "xoxe-1-two", "users:read,channels:read"),
    ),
    dead=(
        ok(ok=False, error="invalid_refresh_token"),
        ok(ok=False, error="token_revoked"),
        ok(ok=False, error="account_inactive"),
        ok(ok=False, error="code_already_used"),
    ),
    misconfigured=(
        ok(ok=False, error="bad_client_secret"),
        ok(ok=False, error="invalid_client_id"),
        ok(ok=False, error="bad_redirect_uri"),
    ),
    unavailable=(
        (Answer(429, {"ok": False, "error": "ratelimited"}, LATER), 30),
        (ok(ok=False, error="internal_error"), None),
        (ok(ok=False, error="org_login_required"), None),
    ),
)

_ORG = "https://example.my.salesforce.com/services/oauth2"
SALESFORCE = Dialect(
    fields={"host": "example.my.salesforce.com"},
    authorization_endpoint=f"{_ORG}/authorize",
    token_endpoint=f"{_ORG}/token",
    sign_in=(
        ok(
            access_token="00Dx0000000BV7z!one",
            refresh_token="5Aep8614one",
            signature="SSSbLO/gBhmmyNUvN18ODBDFYHzakxOMgqYtu+hDPsc=",
            scope="refresh_token openid",
            id_token="a.b.c",
            instance_url="https://example.my.salesforce.com",
            id="https://login.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P",
            token_type="Bearer",
            issued_at="1278448384422",
        ),
        TokenResponse(
            "00Dx0000000BV7z!one", "Bearer", 900, "5Aep8614one", "refresh_token openid", "a.b.c"
        ),
    ),
    refresh=(
        ok(
            access_token="00Dx0000000BV7z!two",
            signature="c2lnbmF0dXJl",
            scope="refresh_token openid",
            instance_url="https://example.my.salesforce.com",
            id="https://login.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P",
            token_type="Bearer",
            issued_at="1278448384500",
        ),
        TokenResponse("00Dx0000000BV7z!two", "Bearer", 900, None, "refresh_token openid"),
    ),
    dead=(error(400, "invalid_grant", "expired access/refresh token"),),
    misconfigured=(
        error(400, "invalid_client", "invalid client credentials"),
        error(400, "invalid_client_id", "client identifier invalid"),
        error(400, "unsupported_grant_type", "grant type not supported"),
    ),
    unavailable=((error(400, "rate_limit_exceeded", ""), None),),
)

HUBSPOT = Dialect(
    fields={},
    authorization_endpoint="https://app.hubspot.com/oauth/authorize",
    token_endpoint="https://api.hubapi.com/oauth/2026-03/token",
    sign_in=(
        ok(
            token_type="bearer",
            refresh_token="na1-one",
            access_token="CJf_one",
            expires_in=1800,
            hub_id=1234567,
            scopes=["oauth"],
        ),
        TokenResponse("CJf_one", "Bearer", 1800, "na1-one"),
    ),
    refresh=(
        ok(token_type="bearer", refresh_token="na1-one", access_token="CJf_two", expires_in=1800),
        TokenResponse("CJf_two", "Bearer", 1800, "na1-one"),
    ),
    dead=(
        error(
            400,
            "invalid_grant",
            "refresh token is invalid, expired or revoked",
            status="BAD_REFRESH_TOKEN",
            message="refresh token is invalid, expired or revoked",
        ),
        Answer(400, {"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}),
    ),
    misconfigured=(
        error(400, "invalid_client", "...", status="BAD_CLIENT_SECRET", message="..."),
        Answer(400, {"status": "BAD_CLIENT_ID", "message": "missing or unknown client id"}),
    ),
    unavailable=(
        (
            Answer(
                429,
                {
                    "status": "error",
                    "message": "You have reached your ten_secondly_rolling limit.",
                    "errorType": "RATE_LIMIT",
                },
            ),
            None,
        ),
    ),
)

ATLASSIAN = Dialect(
    fields={},
    authorization_endpoint="https://auth.atlassian.com/authorize",
    token_endpoint="https://auth.atlassian.com/oauth/token",
    sign_in=(
        ok(
            access_token="eyJ.one.sig",
            refresh_token="eyJ.r1.sig",
            expires_in=3600,
            token_type="Bearer",
            scope="read:me offline_access",
        ),
        TokenResponse("eyJ.one.sig", "Bearer", 3600, "eyJ.r1.sig", "read:me offline_access"),
    ),
    refresh=(
        ok(
            access_token="eyJ.two.sig",
            refresh_token="eyJ.r2.sig",
            expires_in=3600,
            scope="read:me offline_access",
        ),
        TokenResponse("eyJ.two.sig", "Bearer", 3600, "eyJ.r2.sig", "read:me offline_access"),
    ),
    dead=(
        error(403, "invalid_grant", "Unknown or invalid refresh token."),
        error(403, "unauthorized_client", "refresh_token is invalid"),
    ),
    misconfigured=(error(401, "access_denied", "Unauthorized"),),
    unavailable=((Answer(429, "", LATER), 30), (Answer(403, "<html>blocked</html>"), None)),
)

DIALECTS: dict[str, Dialect] = {
    name: value for name, value in globals().items() if isinstance(value, Dialect)
}
