"""Sign-out: the routes by which a session ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .openapi import RESPONSES
from .origin import local_path
from .pages import onward, page
from .session import Session, session_of

if TYPE_CHECKING:
    from .auth import IdealAuth


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
        )

    @routes.post(
        "/logout",
        summary="Sign out",
        status_code=303,
        response_class=RedirectResponse,
        responses={403: RESPONSES[403]},
    )
    async def logout(request: Request, next: str | None = None) -> Response:  # noqa: A002 - wire name
        await session_of(request, auth).logout()
        return onward(local_path(next))
