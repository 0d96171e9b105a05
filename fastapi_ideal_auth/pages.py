"""The small pages of signing in and out, and how a response gets cookies beside the session's.

Knows nothing of sessions or providers; every value that comes from outside is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from .cookies import CookieSettings

_POLICY: Final = "default-src 'none'; form-action 'self'; frame-ancestors 'none'"


def landing(path: str, settings: CookieSettings) -> Response:
    """Where a sign-in ends: on to ``path`` of this origin."""
    if settings.samesite != "strict":
        return onward(path)
    # The chain of redirects began at the provider, another site: a Strict cookie would stay away
    # from its last hop too. A page that navigates by itself begins a chain of its own.
    target = escape(path, quote=True)
    return page(
        "Signed in",
        f'<a href="{target}">Continue</a>',
        head=f'<meta http-equiv="refresh" content="0;url={target}">',
    )


def onward(path: str) -> Response:
    """See other (RFC 9110 §15.4.4): the browser goes there with a GET."""
    return RedirectResponse(path, status_code=303)


def failure(request: Request, status: int, message: str) -> Response:
    """A page for a browser, the same as JSON for what does not ask for one."""
    headers = {"Retry-After": "5"} if status == 503 else None
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": message}, status, headers)
    again = request.url.path.removesuffix("/callback") + "/login"
    link = f'<p><a href="{escape(again, quote=True)}">Sign in</a></p>'
    return page("Not signed in", escape(message), link, status=status, headers=headers)


def page(
    title: str,
    text: str,
    body: str = "",
    *,
    head: str = "",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """``title`` is ours; ``text``, ``body`` and ``head`` are HTML that is escaped already."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{head}'
        f"<title>{title}</title><h1>{title}</h1><p>{text}</p>{body}</html>",
        status_code=status,
        headers={
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-store",
            **(headers or {}),
        },
    )


def add_cookie(response: Response, line: str) -> None:
    """One more Set-Cookie line, and so no cache may keep the response."""
    response.headers.append("set-cookie", line)
    response.headers["cache-control"] = "no-store"
