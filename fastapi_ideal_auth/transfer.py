"""Signed in on one domain, arriving signed in on another: a sealed ticket in a form post.

Both domains are one application: they share secret, store and user model, and list each other in
``transfer_origins``. The session stays one: refreshed on either side, signed out on both.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import struct
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .errors import InvalidCookie, StoreUnavailable
from .generation import Generation
from .openapi import RESPONSES
from .origin import is_host, local_path, normal_origin
from .pages import failure, form_field, form_schema, landing, page, posted
from .seal import b64decode, b64encode
from .session import Session, session_of

if TYPE_CHECKING:
    from .auth import IdealAuth

log = logging.getLogger("fastapi_ideal_auth")

TICKET_SECONDS: Final = 60
_PURPOSE: Final = "transfer"
_HEAD: Final = struct.Struct(">16sIH")
_SUBMIT: Final = "document.forms[0].submit()"
_SUBMIT_HASH: Final = base64.b64encode(hashlib.sha256(_SUBMIT.encode()).digest()).decode()

NO_TICKET: Final = "This transfer is not valid here, or not any more. Please start again."
NOT_NOW: Final = "The transfer cannot be completed just now. Please try again in a moment."


class _Ticket(NamedTuple):
    id: bytes
    expires_at: int
    next: str
    session: bytes

    def __repr__(self) -> str:  # error reporters show local variables
        return "<ticket>"


def add_transfer(routes: APIRouter, auth: IdealAuth[Any]) -> None:
    """Add ``GET /transfer``, which sends a browser on, and ``POST /transfer``, which takes it."""

    @routes.get(
        "/transfer",
        summary="Go on, signed in, at another domain of this application",
        response_class=HTMLResponse,
        responses={
            400: {"description": "Not one of transfer_origins, or not a browser on its way"},
            401: RESPONSES[401],
        },
    )
    async def leave(request: Request, to: str, next: str | None = None) -> Response:  # noqa: A002 - wire name
        session: Session[Any] = session_of(request, auth)
        origin = normal_origin(to)
        if origin is None or origin not in auth.transfer_origins:
            raise HTTPException(400, "to is none of this application's transfer_origins")
        # In a script's hands it would be the session, out of the browser in spite of HttpOnly.
        if request.headers.get("sec-fetch-dest", "document") != "document":
            raise HTTPException(400, "a browser goes here, no script and no frame")
        await session._decide()
        session._user_or_raise()
        generation = session._pristine()
        assert generation is not None  # there is a user
        ticket = _sealed(auth, generation, origin, local_path(next))
        # In a form, not in a URL: those end up in logs, histories and Referer headers.
        target = escape(f"{origin}{request.url.path}", quote=True)
        return page(
            "Signing you in",
            "Your browser is being sent on.",
            f'<form method="post" action="{target}">{form_field("ticket", ticket)}'
            f"<noscript><button>Continue</button></noscript></form>"
            f"<script>{_SUBMIT}</script>",
            # Whatever the application's own Referrer-Policy: without one the form has no Origin.
            head='<meta name="referrer" content="origin">',
            policy=f"; form-action {origin}; script-src 'sha256-{_SUBMIT_HASH}'",
            # Nor does a script that opened the page in a window look into it.
            headers={"Cross-Origin-Opener-Policy": "same-origin"},
        )

    @routes.post(
        "/transfer",
        summary="Where another domain of this application sends a browser to",
        status_code=303,
        response_class=RedirectResponse,
        openapi_extra=form_schema("ticket"),
        responses={
            400: {"description": "Not a ticket for this domain, or used, or too old"},
            503: {"description": "The store does not answer"},
        },
    )
    async def arrive(request: Request) -> Response:
        session: Session[Any] = session_of(request, auth)
        text = await posted(request, "ticket")
        ticket = None if text is None else _opened(auth, request, text)
        if ticket is None:
            return failure(request, 400, NO_TICKET)
        try:
            generation = await _redeemed(auth, ticket)
        except StoreUnavailable as error:
            log.warning("a transfer was not completed: %s", error)
            return failure(request, 503, NOT_NOW)
        if generation is None:
            return failure(request, 400, NO_TICKET)
        await session._go_on_with(generation)
        return landing(local_path(ticket.next), auth.cookies)


def _sealed(auth: IdealAuth[Any], generation: Generation[Any], origin: str, path: str) -> str:
    where = path.encode()
    until = int(auth.clock()) + TICKET_SECONDS
    head = _HEAD.pack(secrets.token_bytes(16), until, len(where))
    data = b"".join((head, where, auth.codec.pack(generation)))
    return b64encode(auth.ring.seal(data, purpose=_PURPOSE, binding=_binding(auth, origin)))


def _binding(auth: IdealAuth[Any], origin: str) -> bytes:
    return f"{auth.cookies.name} {origin}".encode()


def _opened(auth: IdealAuth[Any], request: Request, text: str) -> _Ticket | None:
    sender = normal_origin(request.headers.get("origin", ""))
    # Without this an attacker's page could sign its visitor in as the attacker (login CSRF).
    if sender is None or sender not in auth.transfer_origins:
        return None
    host = request.headers.get("host", "")
    for receiver in auth.transfer_origins:
        if not is_host(receiver, host):
            continue
        try:
            sealed = b64decode(text)
            data = auth.ring.open(sealed, purpose=_PURPOSE, binding=_binding(auth, receiver))
        except (InvalidCookie, ValueError):
            continue
        id_, expires_at, size = _HEAD.unpack_from(data)
        end = _HEAD.size + size
        ticket = _Ticket(id_, expires_at, data[_HEAD.size : end].decode(), data[end:])
        return ticket if ticket.expires_at > auth.clock() else None
    return None


async def _redeemed(auth: IdealAuth[Any], ticket: _Ticket) -> Generation[Any] | None:
    """The session that a ticket carries, once. Raises `StoreUnavailable`."""
    try:
        generation = auth.codec.unpack(ticket.session)
    except InvalidCookie:
        return None
    until = ticket.expires_at + TICKET_SECONDS  # a host's clock may be behind
    if not await auth.rotation.endings.use(_PURPOSE, ticket.id.hex(), until=until):
        return None
    return await auth.rotation.newest(generation)
