"""Token requests built, token responses judged: RFC 6749 and the dialects of it in the wild.

Decides what an authorization server's answer says about a grant. Does not know how a request is
sent, what time it is, or what a session is.

An answer is judged by the first line that fits::

    status 3xx                                  ProviderMisconfigured   never followed
    2xx with an access token, no error          TokenResponse
    2xx with neither token nor error            ProviderUnavailable     in_doubt
    408, 425, 429, 5xx; a code in PASSING       ProviderUnavailable     retry_after
    a code in REJECTED or rejection_codes       RefreshRejected
    a code in REJECTED_IF_SAID that says so     RefreshRejected
    a code in MISCONFIGURED                     ProviderMisconfigured
    401 with a code in MISCONFIGURED_IF_401     ProviderMisconfigured
    404, 405, 410, 415                          ProviderMisconfigured
    401 with a Basic challenge and no code      ProviderMisconfigured
    2xx, 400, 401, 403 with any other code      ProviderUnavailable     refused
    400, 401 with JSON or nothing, no code      ProviderUnavailable     refused
    the rest: pages of HTML, 403, 409, ...      ProviderUnavailable

Nothing that came over the wire is ever put into a message, except a code of the tables below:
error texts, and even error codes, may echo the token (Fitbit, Intuit and UAA do so in theirs).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Literal, cast
from urllib.parse import SplitResult, parse_qsl, quote, quote_plus, urlencode, urlsplit, urlunsplit

from .errors import (
    ConfigurationError,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)

TokenEndpointAuthMethod = Literal[
    "client_secret_basic", "client_secret_post", "private_key_jwt", "none"
]
"""How the client authenticates (OpenID Connect Core §9)."""

Form = Mapping[str, str | Sequence[str]]
"""Parameters by name. One with several values is repeated (RFC 8707 §2 has ``resource`` so)."""

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 §2.2."""

# -- the tables; codes are compared in lower case -------------------------------------------------

REJECTED: Final = frozenset(
    {
        "invalid_grant",  # RFC 6749 §5.2
        "invalid_token",  # Cloud Foundry UAA, with status 401
        "bad_refresh_token",  # GitHub, with status 200; HubSpot, as `status`
        "invalid_refresh_token",  # Slack, Firebase, Yahoo
        "token_expired",  # Slack, Firebase
        "token_revoked",  # Slack
        "account_inactive",  # Slack
        "user_disabled",  # Firebase
        "user_not_found",  # Firebase, Supabase
        "user_banned",  # Supabase
        "refresh_token_not_found",  # Supabase, as `error_code`
        "refresh_token_already_used",  # Supabase
        "session_not_found",  # Supabase
        "session_expired",  # Supabase
        "invalid_code",  # Zoho, with status 200; Slack, of an authorization code
        "bad_verification_code",  # GitHub, of an authorization code, with status 200
        "code_already_used",  # Slack, of an authorization code
        "bad_auth_code",  # HubSpot, of an authorization code
        "expired_auth_code",  # HubSpot
        "interaction_required",  # OpenID Connect Core §3.1.2.6; Entra at its token endpoint
        "login_required",
        "consent_required",
    }
)
"""The grant is dead: only signing in again helps."""

MISCONFIGURED: Final[Mapping[str, str]] = {
    "invalid_client": "check client_id, client_secret and token_endpoint_auth_method",
    "incorrect_client_credentials": "check client_id and client_secret",  # GitHub
    "bad_client_id": "check client_id",  # HubSpot
    "invalid_client_id": "check client_id",  # Slack
    "bad_client_secret": "check client_secret",  # Slack, HubSpot
    "invalid_client_credentials": "check client_secret",  # Salesforce
    "deleted_client": "register the client again",  # Google
    "disabled_client": "enable the client at the authorization server",  # Google
    "unauthorized_client": "allow this client the grant at the authorization server",
    "unsupported_grant_type": "check token_endpoint, and the grants its server allows",
    "invalid_grant_type": "check token_endpoint, and the grants its server allows",  # Slack
    "invalid_scope": "check the scope that is asked for",
    "invalid_target": "check the resource or audience that is asked for",  # RFC 8707 §2
    "invalid_resource": "check the resource that is asked for",  # Entra
    "redirect_uri_mismatch": "register the redirect URI at the authorization server",  # GitHub
    "bad_redirect_uri": "register the redirect URI at the authorization server",  # Slack
    # RFC 9449 §5
    "invalid_dpop_proof": "give dpop_key=, or turn off DPoP for this client at the server; with "
    "dpop_key=, check this machine's clock",
    # RFC 9449 §8
    "use_dpop_nonce": "give dpop_key=, or turn off DPoP for this client at the server",
    "invalid_request_uri": "turn off pushed_authorization_requests",  # RFC 9126 §2.3
}
"""The client is set up wrongly: what to do, by error code."""

MISCONFIGURED_IF_401: Final[Mapping[str, str]] = {
    # Auth0 and Atlassian, of a wrong secret; with 403 a rule of the tenant denies this one user.
    "access_denied": "check client_id, client_secret and token_endpoint_auth_method",
}
"""Codes that are about the client only with status 401."""

PASSING: Final = frozenset(
    {
        "temporarily_unavailable",  # RFC 6749 §4.1.2.1
        "server_error",
        "slow_down",  # RFC 8628 §3.5
        "too_many_requests",  # Auth0
        "rate_limit_exceeded",  # Google, Salesforce
        "ratelimited",  # Slack
        "rate_limited",
        "internal_failure",  # Google
        "internal_error",  # Slack
        "fatal_error",  # Slack
        "service_unavailable",  # Slack
        "request_timeout",  # Slack
        "org_login_required",  # Slack, while a workspace moves
        "team_added_to_org",  # Slack, likewise
    }
)
"""The server is not well, or wants to be left alone."""

_DEAD = (
    r"(?:(?:in|not |no longer )valid|expired|revoked|unknown|not found|not active|inactive"
    r"|does not exist|already (?:been )?used)"
)
_FILLER = r"(?:[\s'\"`,]|or\b|is\b|was\b|has\b|have\b|been\b|already\b|either\b)*"
_NOT_OF_A_TOKEN = r"(?!\s+(?:endpoint|type|request))"  # noqa: S105 - a pattern, no secret


def _saying(token: str) -> re.Pattern[str]:
    after = rf"{token}\b{_FILLER}{_DEAD}"
    before = rf"{_DEAD}(?:{_FILLER}{_DEAD})*{_FILLER}{token}\b{_NOT_OF_A_TOKEN}"
    return re.compile(rf"\b(?:{after}|{before})", re.IGNORECASE)


REJECTED_IF_SAID: Final[Mapping[str, re.Pattern[str]]] = {
    # Atlassian: 403 unauthorized_client, "refresh_token is invalid"
    "unauthorized_client": _saying(r"refresh[ _-]?token"),
    # X: "Value passed for the token was invalid."; LemonLDAP; Passport: "The refresh token is
    # invalid."; Zoom, as `reason`: "Invalid Token!"
    "invalid_request": _saying(r"(?:refresh[ _-]?)?token"),
}
"""Codes that mean a dead grant only where the text beside them says so."""

_NAMED: Final = (
    REJECTED
    | MISCONFIGURED.keys()
    | MISCONFIGURED_IF_401.keys()
    | PASSING
    | REJECTED_IF_SAID.keys()
)
_PASSING_STATUS: Final = frozenset({408, 425, 429})
_WRONG_ADDRESS: Final = frozenset({404, 405, 410, 415})
_PHRASES: Final = frozenset(status.phrase.lower() for status in HTTPStatus)

LONGEST_LIFETIME: Final = 10 * 365 * 86_400
"""Seconds. A longer ``expires_in`` is cut to this, so that no sum of times overflows."""

LONGEST_RETRY_AFTER: Final = 86_400.0
"""Seconds. A longer ``Retry-After`` is cut to this."""

_LONGEST_TOKEN: Final = 65_536  # sixteen times what a browser's cookie holds


# -- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A successful token response (RFC 6749 §5.1). Its repr shows no token."""

    access_token: str = field(repr=False)
    """The access token."""

    token_type: str = "Bearer"  # noqa: S105 - a type, no secret
    """How the access token is used (RFC 6749 §7.1)."""

    expires_in: int | None = None
    """Seconds the access token lives from now. ``None``: the server did not say."""

    refresh_token: str | None = field(default=None, repr=False)
    """The next refresh token. ``None``: keep the old one (see `kept_refresh_token`)."""

    scope: str | None = None
    """The granted scope, space-separated. ``None``: the one asked for, or unchanged."""

    id_token: str | None = field(default=None, repr=False)
    """OpenID Connect Core §3.1.3.3. ``None``: the server gave none."""

    refresh_expires_in: int | None = None
    """Seconds the refresh token lives from now (Keycloak; GitHub, as
    ``refresh_token_expires_in``). ``None``: not said, or for ever."""


def kept_refresh_token(old: str | None, response: TokenResponse) -> str | None:
    """The refresh token to hold after ``response``: its own, else the old one (RFC 6749 §6)."""
    return response.refresh_token or old


def _is_text(token: object) -> bool:
    return token is None or isinstance(token, str)


def checked_response(response: object) -> TokenResponse:
    """What a provider of the application's answered, as a `TokenResponse` that can be kept.

    ``None`` raises `RefreshRejected`; what is no token response `ProviderMisconfigured`.
    """
    if response is None:
        raise RefreshRejected
    if not isinstance(response, TokenResponse):
        raise ProviderMisconfigured(
            f"the provider's refresh() returned {type(response).__name__}: it returns a "
            f"TokenResponse, or None for a dead grant"
        )
    held = (response.access_token, response.refresh_token, response.id_token)
    if not held[0] or not all(map(_is_text, held)):
        raise ProviderMisconfigured(
            "the provider's refresh() returned a TokenResponse whose tokens are no strings"
        )
    return replace(
        response,
        expires_in=_seconds(response.expires_in),
        refresh_expires_in=_seconds(response.refresh_expires_in) or None,
    )


def assumed_lifetime(response: TokenResponse, seconds: int | None) -> TokenResponse:
    """``response`` with ``expires_in`` ``seconds`` where the server does not say (Salesforce)."""
    return response if response.expires_in is not None else replace(response, expires_in=seconds)


# -- requests -------------------------------------------------------------------------------------


def refresh_form(refresh_token: str, extra: Form | None = None) -> Form:
    """The refresh request (RFC 6749 §6). ``extra`` may carry ``scope``, ``resource``..."""
    return {**(extra or {}), "grant_type": "refresh_token", "refresh_token": refresh_token}


def code_form(code: str, redirect_uri: str, code_verifier: str, extra: Form | None = None) -> Form:
    """The access token request for an authorization code (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
    return {
        **(extra or {}),
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": code_verifier,
    }


def revocation_form(token: str, token_type_hint: str) -> Form:
    """The revocation request (RFC 7009 §2.1)."""
    return {"token": token, "token_type_hint": token_type_hint}


def encode_form(form: Form) -> bytes:
    """``application/x-www-form-urlencoded``, UTF-8 (RFC 6749 appendix B)."""
    # A lone surrogate would raise an error that holds the whole token.
    return urlencode(form, doseq=True, errors="replace").encode("ascii")


def client_authentication(
    method: TokenEndpointAuthMethod,
    client_id: str,
    client_secret: str | None,
    assertion: str | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and form fields that authenticate the client (RFC 6749 §2.3.1, §3.2.1).

    ``assertion``: the signed JWT of ``private_key_jwt`` (RFC 7523 §2.2).
    """
    match method:
        case "private_key_jwt":
            return {}, {
                "client_id": client_id,
                "client_assertion_type": JWT_BEARER,
                "client_assertion": assertion or "",
            }
        case "client_secret_basic":
            # Both halves are form-encoded first, or a colon in the id would move the border.
            pair = f"{quote_plus(client_id)}:{quote_plus(client_secret or '')}"
            encoded = base64.b64encode(pair.encode("ascii")).decode("ascii")
            return {"authorization": f"Basic {encoded}"}, {}
        case "client_secret_post":
            return {}, {"client_id": client_id, "client_secret": client_secret or ""}
        case "none":
            return {}, {"client_id": client_id}


def is_bearer(token: str) -> bool:
    """Whether a token can stand in an ``Authorization`` header (RFC 6750 §2.1)."""
    return _token(token, lowest="!") is not None


def code_challenge(code_verifier: str) -> str:
    """The ``S256`` challenge of a PKCE verifier (RFC 7636 §4.2)."""
    digest = hashlib.sha256(code_verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def authorization_params(
    *,
    client_id: str,
    redirect_uri: str,
    scope: str | None,
    state: str,
    code_challenge: str,
    extra: Form | None = None,
) -> dict[str, str | Sequence[str]]:
    """The authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3). ``scope`` ``None`` sends none."""
    params: dict[str, str | Sequence[str]] = {
        **(extra or {}),
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": code_challenge,
        "code_challenge_method": "S256",
    }
    if scope is not None:
        params["scope"] = scope
    return params


def with_query(endpoint: str, params: Form) -> str:
    """``endpoint`` with ``params``. A query it already has is kept (RFC 6749 §3.1)."""
    parts = urlsplit(endpoint)
    # %20 is a space to every reader of a query; "+" is one to most.
    added = urlencode(params, doseq=True, quote_via=quote, errors="replace")
    query = "&".join(filter(None, [parts.query, added]))
    return urlunsplit(parts._replace(query=query))


def check_endpoint(name: str, url: str) -> str:
    """``url`` if credentials may go there: https, or http to this machine itself.

    Raises `ConfigurationError`, which names the endpoint and not the URL: what is wrong
    with it may be a password in it.
    """
    parts = _split(name, url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} holds a user name or a password: take it out")
    if "#" in url:
        raise ConfigurationError(f"{name} has a fragment: take out the # and what follows")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ConfigurationError(
            f"{name} must begin with https:// (http:// is for 127.0.0.1, [::1] and localhost): "
            f"tokens and secrets travel to it"
        )
    return url


def _split(name: str, url: object) -> SplitResult:
    try:
        # urlsplit drops tabs and newlines in silence, and readers differ about backslashes.
        if isinstance(url, str) and re.fullmatch(r"[!-\[\]-~]+", url):
            parts = urlsplit(url)
            if _is_host(parts.hostname or "") and parts.port != 0:
                return parts
    except ValueError:
        pass
    raise ConfigurationError(f"{name} is not a URL: give it whole, as in https://op.example/token")


def _is_host(host: str) -> bool:
    if ":" in host:
        return bool(ipaddress.IPv6Address(host))
    return re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", host) is not None


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return address in ipaddress.ip_network("127.0.0.0/8") or address == ipaddress.ip_address("::1")


# -- answers --------------------------------------------------------------------------------------


def judge_token_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    rejection_codes: Collection[str] = frozenset(),
    grant: str = "refresh token",
) -> TokenResponse:
    """The tokens in an answer of the token endpoint (RFC 6749 §5), or the error it amounts to.

    ``headers``
        By lower-case name, or a mapping that ignores case.
    ``now``
        Unix seconds, for a ``Retry-After`` that is a date.
    ``rejection_codes``
        Further error codes, in lower case, that mean a dead grant.
    ``grant``
        What was presented, for the message.

    Raises `RefreshRejected`, `ProviderUnavailable` or
    `ProviderMisconfigured`, as the table at the top of this module says.
    """
    if 300 <= status < 400:
        raise _redirected("token", status)
    answer = _read(body)
    refusal = _refusal(answer.fields)
    if 200 <= status < 300 and refusal is None:
        return _granted(answer.fields)
    refusal = refusal or _Refusal(None, "")
    raise (
        _passing(status, headers, refusal, now)
        or _rejected(refusal, rejection_codes, grant)
        or _misconfigured(status, headers, refusal)
        or _unclear(status, headers, refusal, now, machine=answer.machine)
    )


def judge_revocation(status: int) -> bool:
    """Whether the revocation endpoint's answer means the token is gone (RFC 7009 §2.2)."""
    return 200 <= status < 300


def judge_userinfo(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> Mapping[str, Any]:
    """The claims in an answer of the UserInfo endpoint (OpenID Connect Core §5.3.2).

    Raises `RefreshRejected` where the access token is refused (401),
    `ProviderMisconfigured` for a redirect, a wrong address, a missing scope (403) or a
    signed answer, else `ProviderUnavailable`.
    """
    if 300 <= status < 400:
        raise _redirected("userinfo", status)
    if status == 401:
        raise RefreshRejected("the userinfo endpoint rejected the access token")
    if status == 403:
        raise ProviderMisconfigured(
            "the userinfo endpoint answered 403: ask for the scope it needs (openid, profile...)"
        )
    if status in _WRONG_ADDRESS:
        raise _wrong_address("userinfo", status)
    claims = _read(body).fields
    # Claims may have any name, so only what no claim can mean is an error here (Slack: ok false).
    if 200 <= status < 300 and claims and not claims.get("error") and claims.get("ok") is not False:
        return claims
    if _header(headers, "content-type").lower().startswith("application/jwt"):
        raise ProviderMisconfigured(
            "the userinfo endpoint answers with a JWT: have the server answer this client in JSON"
        )
    raise ProviderUnavailable(
        f"the userinfo endpoint answered {status} without claims",
        retry_after=retry_after(_header(headers, "retry-after"), now),
    )


def judge_pushed_request(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> str:
    """The ``request_uri`` of a pushed authorization request (RFC 9126 §2.2).

    Raises `ProviderUnavailable` where trying later may help, else `ProviderMisconfigured`: nobody
    but this client wrote the request.
    """
    if 300 <= status < 400:
        raise _redirected("pushed_authorization_request", status)
    answer = _read(body)
    refusal = _refusal(answer.fields)
    request_uri = _token(answer.fields.get("request_uri"), lowest="!")
    if 200 <= status < 300 and refusal is None and request_uri is not None:
        return request_uri
    refusal = refusal or _Refusal(None, "")
    endpoint = "pushed authorization request"
    passing = _passing(status, headers, refusal, now, endpoint)
    if passing is not None:
        raise passing
    # A redirect URI that is not registered has no code of its own, and is the usual reason.
    advice = MISCONFIGURED.get(refusal.code or "") or (
        "register the redirect URI at the authorization server (this app's /callback, with scheme, "
        "host and port as the browser has them), and check scope= and authorization_params="
    )
    raise ProviderMisconfigured(
        f"the {endpoint} endpoint answered {_summary(status, refusal)}: {advice}"
    )


def asks_for_nonce(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a request is to be sent again with the server's nonce in its DPoP proof.

    An authorization server says so in the body (RFC 9449 §8), a protected resource in the
    challenge (§9). Nothing that the request carried has been spent.
    """
    if status not in (400, 401) or not _header(headers, "dpop-nonce"):
        return False
    challenge = _header(headers, "www-authenticate")
    if status == 401 and re.search(r"\bdpop\b.*\buse_dpop_nonce\b", challenge, re.I | re.S):
        return True
    refusal = _refusal(_read(body).fields)
    return refusal is not None and refusal.code == "use_dpop_nonce"


def retry_after(value: str, now: float) -> float | None:
    """Seconds that a ``Retry-After`` asks for (RFC 9110 §10.2.3); ``None`` if it says nothing."""
    text = value.strip()
    if re.fullmatch(r"[+-]?\d{1,20}(?:\.\d{0,20})?", text, re.ASCII):
        return min(max(float(text), 0.0), LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


# -- reading an answer ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Body:
    fields: Mapping[str, Any]
    machine: bool
    """JSON, a form or nothing at all; not a page for people from something in between."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str | None
    said: str


def _read(body: bytes) -> _Body:
    text = body.strip()
    if not text:
        return _Body({}, machine=True)
    try:
        value = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        fields = _read_form(text)
        return _Body(fields, machine=bool(fields))
    return _Body(_object(value), machine=True)


def _object(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _array(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()


def _integer(digits: str) -> int | float:
    # int() refuses more than 4,300 digits, and one silly number must not spoil the tokens.
    return int(digits) if len(digits) <= 20 else float(digits)


def _read_form(text: bytes) -> Mapping[str, Any]:
    # GitHub answers so unless asked for JSON. Blanks or angle brackets make it a page, in which
    # a link may well contain "&error=invalid_grant".
    if not re.fullmatch(rb"[!-;=?-~]+", text):
        return {}
    try:
        fields = dict(parse_qsl(text.decode("ascii"), max_num_fields=64))
    except ValueError:
        return {}
    return fields if fields.keys() & {"access_token", "error"} else {}


def _refusal(fields: Mapping[str, Any]) -> _Refusal | None:
    """What the server refuses with, or ``None`` if it does not."""
    code = next(_codes(fields), None)
    if code is None and not fields.get("error") and fields.get("ok") is not False:
        return None
    return _Refusal(code, _said(fields))


def _codes(fields: Mapping[str, Any]) -> Iterator[str]:
    error = fields.get("error")
    # A phrase of HTTP ("Forbidden") is a framework's word, not an authorization server's code.
    if isinstance(error, str) and error.strip() and error.strip().lower() not in _PHRASES:
        yield error.strip().lower()
    # Firebase: {"error": {"code": 400, "message": "TOKEN_EXPIRED", "status": ...}}
    yield from _worded(_object(error), "code", "message", "errorId", "status")
    if "access_token" not in fields:
        # Supabase: error_code. Okta: errorCode. HubSpot: {"status": "BAD_REFRESH_TOKEN"}.
        yield from _worded(fields, "error_code", "errorCode", "code", "status")
        # Fitbit: {"errors": [{"errorType": "invalid_grant", ...}], "success": false}
        for item in _array(fields.get("errors"))[:4]:
            yield from _worded(_object(item), "errorType", "code")


def _worded(fields: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str):
            word = re.match(r"\s*([A-Za-z]+(?:_[A-Za-z]+)+)(?![\w-])", value[:100])
            if word:
                yield word[1].lower()


def _said(fields: Mapping[str, Any]) -> str:
    names = ("error_description", "message", "hint", "reason")
    said = [fields.get(name) for name in names]
    return " | ".join(text[:500] for text in said if isinstance(text, str))


# -- judging it -----------------------------------------------------------------------------------


def _granted(answer: Mapping[str, Any]) -> TokenResponse:
    # Slack keeps the tokens of a user apart from those of the app's bot.
    fields = answer if answer.get("access_token") else _object(answer.get("authed_user")) or answer
    access_token = _token(fields.get("access_token"), lowest="!")
    refresh_token = _token(fields.get("refresh_token"), lowest=" ")
    if access_token is None or (refresh_token is None and fields.get("refresh_token")):
        # Not "no tokens were made": they may have been, and been lost on the way.
        raise ProviderUnavailable(
            "the token endpoint reported success, but its answer holds no usable tokens",
            in_doubt=True,
        )
    return TokenResponse(
        access_token=access_token,
        token_type=_token_type(fields.get("token_type")),
        expires_in=_seconds(fields.get("expires_in")),
        refresh_token=refresh_token,
        scope=_scope(fields.get("scope")),
        id_token=_token(fields.get("id_token"), lowest="!"),
        # Keycloak says 0 of an offline token: it does not expire.
        refresh_expires_in=_seconds(fields.get("refresh_expires_in"))
        or _seconds(fields.get("refresh_token_expires_in"))
        or None,
    )


def _token(value: object, lowest: str) -> str | None:
    # RFC 6749 appendix A.12 and A.17; a space cannot stand in a Bearer header (RFC 6750 §2.1).
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TOKEN:
        return None
    return value if all(lowest <= character <= "~" for character in value) else None


def _token_type(value: object) -> str:
    kind = _token(value, lowest="!")
    return "Bearer" if kind is None or kind.lower() == "bearer" else kind


def _seconds(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(?:\.\d*)?\s*", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return int(min(max(value, 0), LONGEST_LIFETIME))


def _scope(value: object) -> str | None:
    if isinstance(value, list):  # Twitch
        value = " ".join(item for item in _array(cast("object", value)) if isinstance(item, str))
    scope = _token(value, lowest=" ")
    return scope if scope and scope.strip() else None


def _redirected(endpoint: str, status: int) -> ProviderError:
    return ProviderMisconfigured(
        f"the {endpoint} endpoint redirects ({status}), and credentials do not follow a redirect: "
        f"name its final address as {endpoint}_endpoint"
    )


def _wrong_address(endpoint: str, status: int) -> ProviderError:
    return ProviderMisconfigured(
        f"the {endpoint} endpoint answered {status}: check the address in {endpoint}_endpoint"
    )


def _passing(
    status: int,
    headers: Mapping[str, str],
    refusal: _Refusal,
    now: float,
    endpoint: str = "token",
) -> ProviderError | None:
    if status not in _PASSING_STATUS and status < 500 and refusal.code not in PASSING:
        return None
    return ProviderUnavailable(
        f"the {endpoint} endpoint answered {_summary(status, refusal)}",
        retry_after=retry_after(_header(headers, "retry-after"), now),
    )


def _rejected(
    refusal: _Refusal, rejection_codes: Collection[str], grant: str
) -> ProviderError | None:
    code = refusal.code
    if code is None:
        return None
    said = REJECTED_IF_SAID.get(code)
    if code in REJECTED or code in rejection_codes or (said and said.search(refusal.said)):
        return RefreshRejected(f"the authorization server rejected the {grant} ({code})")
    return None


def _misconfigured(
    status: int, headers: Mapping[str, str], refusal: _Refusal
) -> ProviderError | None:
    code = refusal.code or ""
    advice = MISCONFIGURED.get(code) or (MISCONFIGURED_IF_401.get(code) if status == 401 else None)
    if advice is not None:
        return ProviderMisconfigured(f"the token endpoint answered {refusal.code}: {advice}")
    if status in _WRONG_ADDRESS:
        return _wrong_address("token", status)
    # RFC 6749 §5.2 has invalid_client answered so; Spring Security does, and leaves out the code.
    # Taken for a rejection, one wrong secret would sign every user out.
    if status == 401 and refusal.code is None and _challenges_client(headers):
        return ProviderMisconfigured(
            f"the token endpoint answered 401 and asks for Basic credentials: "
            f"{MISCONFIGURED['invalid_client']}"
        )
    return None


def _challenges_client(headers: Mapping[str, str]) -> bool:
    challenge = _header(headers, "www-authenticate")
    return re.search(r"(?:^|,)\s*basic\b", challenge, re.IGNORECASE) is not None


def _unclear(
    status: int, headers: Mapping[str, str], refusal: _Refusal, now: float, *, machine: bool
) -> ProviderError:
    if refusal.code is None:
        refused = machine and status in (400, 401)
    else:
        refused = 200 <= status < 300 or status in (400, 401, 403)
    return ProviderUnavailable(
        f"the token endpoint answered {_summary(status, refusal)}",
        retry_after=retry_after(_header(headers, "retry-after"), now),
        refused=refused,
    )


def _summary(status: int, refusal: _Refusal) -> str:
    if refusal.code is None:
        return str(status)
    return f"{status} ({refusal.code if refusal.code in _NAMED else 'an unknown error code'})"


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name) or ""
