"""Sign-in: the authorization code flow with PKCE, from /login to /callback.

Each attempt to sign in has a short-lived sealed cookie of its own, so that two tabs can sign in at
once and a callback is good only in the browser that began it (no login CSRF).
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from collections.abc import Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from .client import OAuthClient
from .cookies import clear_cookie_line, set_cookie_line
from .errors import (
    AuthError,
    ConfigurationError,
    CookieTooLarge,
    IdentityRejected,
    InvalidCookie,
    ProviderError,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)
from .oauth import TokenResponse, code_challenge
from .origin import local_path
from .pages import add_cookie, failure, landing, onward
from .provider import OAuth2Provider
from .seal import b64decode, b64encode
from .session import Session, session_of
from .user import SessionUser

if TYPE_CHECKING:
    from .auth import IdealAuth

log = logging.getLogger("fastapi_ideal_auth")

ATTEMPT_SECONDS: Final = 600
"""How long a person may take at the provider's sign-in page."""
ATTEMPTS: Final = 4
"""Attempts one browser may have open; more would crowd the request's headers."""
_PURPOSE: Final = "login"
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 bits
_OURS: Final = re.compile(r"[A-Za-z0-9_-]{8}")  # another's cookie may begin as ours do
_ERROR_CODE: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}")  # RFC 6749 §4.1.2.1

NOT_PROVEN: Final = "It is not certain who signed in. Please start again."
UNKNOWN_ATTEMPT: Final = "This sign-in attempt is unknown here or has expired. Please start again."
NOT_NOW: Final = "The sign-in service does not answer just now. Please try again in a moment."

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The attempt is unknown, has expired, or was refused"},
    403: {"description": "A request from another origin"},
    503: {"description": "The provider does not answer, or not usably"},
}


class _Attempt(NamedTuple):
    """One attempt to sign in, from /login to /callback."""

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    next: str
    remember: bool | None
    expires_at: int

    def __repr__(self) -> str:  # error reporters show local variables
        return "<attempt to sign in>"


def add_login(routes: APIRouter, auth: IdealAuth[Any]) -> None:
    """Add ``/login`` and ``/callback``.

    Raises `ConfigurationError` where the provider cannot sign anybody in.
    """
    provider = _sign_in_provider(auth)

    @routes.get(
        "/login",
        summary="Sign in at the provider",
        status_code=303,
        response_class=RedirectResponse,
        responses={status: _RESPONSES[status] for status in (403, 503)},
    )
    async def login(
        request: Request,
        next: str | None = None,  # noqa: A002 - wire name
        remember: bool | None = None,
    ) -> Response:
        session_of(request, auth)  # without the middleware nobody could stay signed in
        attempt = _begin(auth, provider, request, next, remember)
        try:
            where = await _authorization_request(provider, attempt)
        except (ProviderError, ConfigurationError) as error:
            return _sign_in_failed(request, error)
        response = onward(where)
        for name in _open_attempts(auth, request)[: -(ATTEMPTS - 1)]:
            add_cookie(response, clear_cookie_line(name, auth.cookies))
        add_cookie(response, _attempt_cookie(auth, attempt))
        return response

    @routes.get(
        "/callback",
        summary="Where the provider sends the browser back to",
        status_code=303,
        response_class=RedirectResponse,
        responses=_RESPONSES,
    )
    async def callback(
        request: Request,
        state: str | None = None,
        code: str | None = None,
        error: str | None = None,
        iss: str | None = None,
    ) -> Response:
        session_of(request, auth)
        attempt = _opened_attempt(auth, request, state)
        if attempt is None:
            # At INFO: anybody can send one.
            log.info("a callback came without an attempt that this browser began")
            _warn_if_lost_on_plain_http(auth, request, state)
            return failure(request, 400, UNKNOWN_ATTEMPT)
        back = _Callback(code, error, iss)
        response = await _finish(auth, provider, request, attempt, back)
        add_cookie(response, clear_cookie_line(_attempt_name(auth, attempt.state), auth.cookies))
        return response


class _Callback(NamedTuple):
    """What the browser brought back from the provider (RFC 6749 §4.1.2, RFC 9207 §2)."""

    code: str | None
    error: str | None
    iss: str | None

    def __repr__(self) -> str:  # likewise, and it has the code
        return "<callback>"


def _sign_in_provider(auth: IdealAuth[Any]) -> OAuthClient:
    provider = auth.provider
    if not isinstance(provider, OAuthClient) or not _signs_in(provider):
        raise ConfigurationError(
            "auth.router signs in at the provider: give provider=OpenIDProvider(…), or "
            "OAuth2Provider(…, authorization_endpoint=…); with a provider of your own, write the "
            "login route and call session.login(user)"
        )
    if not _knows_who(provider) and auth.user_from_claims is None:
        raise ConfigurationError(
            "auth.router does not know who signs in: give OAuth2Provider(…, userinfo_endpoint=…), "
            "or IdealAuth(…, user_from_claims=…) that makes the user from the tokens"
        )
    return provider


def _signs_in(provider: OAuthClient) -> bool:
    return not isinstance(provider, OAuth2Provider) or provider.authorization_endpoint is not None


def _knows_who(provider: OAuthClient) -> bool:
    return not isinstance(provider, OAuth2Provider) or provider.userinfo_endpoint is not None


# -- an attempt -----------------------------------------------------------------------------------


def _begin(
    auth: IdealAuth[Any],
    provider: OAuthClient,
    request: Request,
    wanted: str | None,
    remember: bool | None,
) -> _Attempt:
    here = request.url
    callback = here.path.removesuffix("/login") + "/callback"
    return _Attempt(
        state=secrets.token_urlsafe(16),
        nonce=secrets.token_urlsafe(16),
        code_verifier=secrets.token_urlsafe(48),
        redirect_uri=provider.redirect_uri
        or str(here.replace(path=callback, query="", fragment="")),
        next=local_path(wanted),
        remember=remember,
        expires_at=int(auth.clock()) + ATTEMPT_SECONDS,
    )


async def _authorization_request(provider: OAuthClient, attempt: _Attempt) -> str:
    return await provider.authorization_request(
        redirect_uri=attempt.redirect_uri,
        state=attempt.state,
        # Where no ID token is looked at, nobody would look at it either.
        nonce=attempt.nonce if provider.checks_id_tokens else None,
        code_challenge=code_challenge(attempt.code_verifier),
    )


def _attempt_name(auth: IdealAuth[Any], state: str) -> str:
    return f"{auth.native_name}-login-{state[:8]}"


def _open_attempts(auth: IdealAuth[Any], request: Request) -> list[str]:
    prefix = f"{auth.native_name}-login-"
    return [
        name
        for name in request.cookies
        if name.startswith(prefix) and _OURS.fullmatch(name, len(prefix))
    ]


def _attempt_cookie(auth: IdealAuth[Any], attempt: _Attempt) -> str:
    name = _attempt_name(auth, attempt.state)
    data = json.dumps(attempt, separators=(",", ":"), ensure_ascii=False).encode()
    value = b64encode(auth.ring.seal(data, purpose=_PURPOSE, binding=name.encode()))
    # Lax, whatever the session's own: a Strict cookie is absent when the provider sends back.
    return set_cookie_line(name, value, auth.cookies, max_age=ATTEMPT_SECONDS, samesite="lax")


def _opened_attempt(auth: IdealAuth[Any], request: Request, state: str | None) -> _Attempt | None:
    if state is None or not _STATE.fullmatch(state):
        return None
    name = _attempt_name(auth, state)
    try:
        sealed = b64decode(request.cookies.get(name, ""))
        data = auth.ring.open(sealed, purpose=_PURPOSE, binding=name.encode())
        attempt = _Attempt(*json.loads(data))
    except (InvalidCookie, ValueError, TypeError):
        return None
    live = attempt.expires_at > auth.clock()
    return attempt if live and hmac.compare_digest(attempt.state, state) else None


async def _finish(
    auth: IdealAuth[Any],
    provider: OAuthClient,
    request: Request,
    attempt: _Attempt,
    back: _Callback,
) -> Response:
    try:
        await provider.check_issuer(back.iss)  # before anything it says is believed
        if back.error is not None or not back.code:
            return _not_completed(request, back.error)
        tokens = await provider.exchange_code(
            back.code, redirect_uri=attempt.redirect_uri, code_verifier=attempt.code_verifier
        )
        try:
            await _sign_in(auth, provider, request, attempt, tokens)
        except BaseException:
            auth.rotation.forsake(tokens.refresh_token)
            raise
    except (ProviderError, ConfigurationError, CookieTooLarge, StoreUnavailable) as error:
        return _sign_in_failed(request, error)
    return landing(attempt.next, auth.cookies)


async def _sign_in(
    auth: IdealAuth[Any],
    provider: OAuthClient,
    request: Request,
    attempt: _Attempt,
    tokens: TokenResponse,
) -> None:
    claims = await provider.claims(tokens, nonce=attempt.nonce, now=auth.clock())
    user = await _user(auth, claims, tokens)
    session: Session[Any] = session_of(request, auth)
    await session.login(
        user,
        attempt.remember,
        refresh_expires_in=tokens.refresh_expires_in,
        id_token=tokens.id_token if provider.checks_id_tokens else None,
    )
    _warn_if_never_refreshed(auth, user)


# Nothing fails where these two are told, or not yet; without them the cause is hard to find.


def _warn_if_lost_on_plain_http(auth: IdealAuth[Any], request: Request, state: str | None) -> None:
    plain = auth.cookies.secure and request.url.scheme == "http"
    begun = state is not None and _STATE.fullmatch(state)
    if plain and begun and not any(name.startswith(auth.native_name) for name in request.cookies):
        auth.warn_once(
            "a callback came over plain http without any cookie of this app: most clients keep no "
            "Secure cookie there. In development set cookie_secure=False, and begin under the host "
            "name that the redirect URI has (localhost and 127.0.0.1 are two)"
        )


def _warn_if_never_refreshed(auth: IdealAuth[Any], user: SessionUser) -> None:
    if user.expires_at is None and user.refresh_token is not None:
        auth.warn_once(
            "the provider does not say how long its access token lives, so nobody knows when to "
            "refresh it: give default_expires_in="
        )
    if user.expires_at is not None and user.refresh_token is None:
        auth.warn_once(
            "the provider gave no refresh token, so sessions end with their access token, this one "
            "in %d seconds. To get one, ask for the scope offline_access; some want authorization_"
            'params={"prompt": "consent"} with it, Google {"access_type": "offline", "prompt": '
            '"consent"} instead',
            user.expires_at - auth.clock(),
        )


def _not_completed(request: Request, error: str | None) -> Response:
    told = error if error and _ERROR_CODE.fullmatch(error) else "no code"
    log.info("a sign-in was not completed at the provider: %s", told)
    return failure(request, 400, f"The sign-in was not completed ({told}). Please start again.")


def _sign_in_failed(request: Request, error: AuthError) -> Response:
    match error:
        case RefreshRejected():
            log.info("a sign-in was refused: %s", error)
            return failure(request, 400, UNKNOWN_ATTEMPT)
        case IdentityRejected():
            log.warning("sign-in refused: %s", error)
            return failure(request, 400, NOT_PROVEN)
        case ProviderUnavailable() | StoreUnavailable():
            log.warning("sign-in failed: %s", error)
        case _:
            log.error("sign-in failed: %s", error)
    return failure(request, 503, NOT_NOW)


async def _user(
    auth: IdealAuth[Any], claims: Mapping[str, Any], tokens: TokenResponse
) -> SessionUser:
    make = auth.user_from_claims or _standard_claims
    made = make(claims, tokens)
    fields = (await made) if isawaitable(made) else made
    if isinstance(fields, SessionUser):
        return fields
    expires_in = tokens.expires_in
    problems: list[str]
    try:
        user: SessionUser = auth.user_model.model_validate(
            {
                **fields,
                "access_token": tokens.access_token,
                "refresh_token": tokens.refresh_token,
                "id_token": tokens.id_token,
                "expires_at": None if expires_in is None else int(auth.clock()) + expires_in,
            },
            by_name=True,
            by_alias=True,
        )
    except ValidationError as error:
        problems = _problems(error)
    else:
        return user
    raise ConfigurationError(
        f"the provider's claims do not make a {auth.user_model.__name__} ({'; '.join(problems)}); "
        f"ask for the scope that brings them, or map them with user_from_claims"
    )


def _problems(error: ValidationError) -> list[str]:
    """Which fields, and which rule. Texts may hold what was given: claims, which are somebody's
    words, and tokens, which a validator of the whole model sees."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = ["".join(map(str, each["loc"][:1])) for each in found]
    return [
        f"{place if place.isidentifier() else 'the model'}: {each['type']}"
        for place, each in zip(places, found, strict=True)
    ]


def _standard_claims(claims: Mapping[str, Any], tokens: TokenResponse) -> dict[str, Any]:
    """OpenID Connect Core §5.1; GitHub and others call the subject ``id``."""
    subject = claims.get("sub", claims.get("id"))
    found = {"id": subject, "email": claims.get("email"), "name": claims.get("name")}
    return {name: value for name, value in found.items() if value is not None}
