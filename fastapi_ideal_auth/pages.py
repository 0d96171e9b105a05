"""The small pages of signing in and out, and how a response gets cookies beside the session's.

Knows nothing of sessions or providers; every value that comes from outside is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from .cookies import CookieSettings
from .origin import local_path

LONGEST_FORM: Final = 65_536
"""Bytes of a posted form that are read."""
MOST_FIELDS: Final = 16

_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_NO_FORMS: Final = "; form-action 'self'"


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
    # The routes that fail are neighbours of /login. A path may itself begin like a host's name.
    again = local_path(request.url.path.rpartition("/")[0] + "/login")
    link = f'<p><a href="{escape(again, quote=True)}">Sign in</a></p>'
    return page("Not signed in", escape(message), link, status=status, headers=headers)


def page(
    title: str,
    text: str,
    body: str = "",
    *,
    head: str = "",
    policy: str = _NO_FORMS,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """``title`` is ours; ``text``, ``body`` and ``head`` are HTML that is escaped already.

    ``policy``: what the page's Content-Security-Policy says beside the general; browsers hold a
    form's redirects against its ``form-action`` too.
    """
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{head}'
        f"<title>{title}</title><h1>{title}</h1><p>{text}</p>{body}</html>",
        status_code=status,
        headers={
            "Content-Security-Policy": _POLICY + policy,
            "Cache-Control": "no-store",
            **(headers or {}),
        },
    )


def form_field(name: str, value: str) -> str:
    """A hidden field of a form."""
    return f'<input type="hidden" name="{escape(name, quote=True)}" value="{escape(value)}">'


async def posted(request: Request, name: str) -> str | None:
    """A field of a posted form that was given once; ``None`` for anything else."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            return None
    try:
        given = parse_qs(body.decode("ascii"), max_num_fields=MOST_FIELDS).get(name, [])
    except ValueError:
        return None
    return given[0] if len(given) == 1 else None


def form_schema(name: str) -> dict[str, Any]:
    """What OpenAPI says of such a form, for ``openapi_extra``."""
    schema = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    content = {"application/x-www-form-urlencoded": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def add_cookie(response: Response, line: str) -> None:
    """One more Set-Cookie line, and so no cache may keep the response."""
    response.headers.append("set-cookie", line)
    response.headers["cache-control"] = "no-store"
