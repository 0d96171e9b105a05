"""Sign-out: here, at the provider (RP-Initiated Logout), and from there (Back-Channel Logout)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from .client import OAuthClient
from .errors import ProviderError, ProviderUnavailable, StoreUnavailable
from .idtoken import LogoutToken
from .openapi import RESPONSES
from .origin import local_path
from .pages import form_schema, onward, page, posted
from .session import Session, session_of

if TYPE_CHECKING:
    from .auth import IdealAuth

log = logging.getLogger("fastapi_ideal_auth")

LONGEST_HINT: Final = 6_000
"""Characters of an ID token that still goes into a URL; servers refuse 8 KB of them."""


def add_logout(routes: APIRouter, auth: IdealAuth[Any]) -> None:
    """Add ``GET /logout``, which asks, and ``POST /logout``, which signs out."""

    @routes.get(
        "/logout",
        summary="Ask whether to sign out",
        response_class=HTMLResponse,
        responses={303: {"description": "Nobody is signed in"}, 403: RESPONSES[403]},
    )
    async def confirm_logout(request: Request, next: str | None = None) -> Response:  # noqa: A002 - wire name
        session: Session[Any] = session_of(request, auth)
        session._open()
        if session.user is None:
            return onward(local_path(next))
        # A GET that signed out would let any page on the web do it with an image (logout CSRF).
        return page(
            "Sign out?",
            "You are signed in.",
            '<form method="post"><button>Sign out</button></form>',
            policy="",  # the form may lead on to the provider
        )

    @routes.post(
        "/logout",
        summary="Sign out, here and at the provider",
        status_code=303,
        response_class=RedirectResponse,
        responses={403: RESPONSES[403]},
    )
    async def logout(request: Request, next: str | None = None) -> Response:  # noqa: A002 - wire name
        session: Session[Any] = session_of(request, auth)
        session._open()
        if session.user is None:
            await session.logout()
            return onward(local_path(next))
        id_token = await session._id_token()
        await session.logout()
        return onward(await _end_session_url(auth.provider, id_token) or local_path(next))


async def _end_session_url(provider: object, id_token: str | None) -> str | None:
    if not isinstance(provider, OAuthClient):
        return None
    hint = id_token if id_token and len(id_token) <= LONGEST_HINT else None
    return await provider.end_session_url(id_token_hint=hint)


def add_backchannel_logout(routes: APIRouter, auth: IdealAuth[Any], provider: OAuthClient) -> None:
    """Add ``POST /backchannel-logout`` (OpenID Connect Back-Channel Logout 1.0 §2.5)."""

    @routes.post(
        "/backchannel-logout",
        summary="The provider says that somebody signed out there",
        openapi_extra=form_schema("logout_token"),
        responses={
            400: {"description": "Not a logout token for this application, or used before"},
            503: {"description": "It could not be verified or written down just now"},
        },
    )
    async def backchannel_logout(request: Request) -> Response:
        text = await posted(request, "logout_token")
        if text is None:
            return _answer(400, "invalid_request")
        try:
            token = await provider.logout_token(text, now=auth.clock())
            return await _ended(auth, token)
        except (ProviderUnavailable, StoreUnavailable) as error:
            log.warning("a back-channel logout was not carried out: %s", error)
            return _answer(503, "temporarily_unavailable")
        except ProviderError as error:
            log.warning("a logout token was refused: %s", error)
            return _answer(400, "invalid_request")


async def _ended(auth: IdealAuth[Any], token: LogoutToken) -> Response:
    endings = auth.rotation.endings
    if await endings.is_used(token.issuer, token.jti):
        return _answer(400, "invalid_request")
    await endings.end_at_provider(token.issuer, token.subject, token.sid)
    # Afterwards: were the end not written down, the provider's second try must get through.
    await endings.use(token.issuer, token.jti, until=int(token.expires_at) + 60)
    return _answer(200)


def _answer(status: int, error: str | None = None) -> Response:
    return JSONResponse(
        {} if error is None else {"error": error}, status, {"Cache-Control": "no-store"}
    )
