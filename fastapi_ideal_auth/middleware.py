"""Pure ASGI, around everything: gives each request its session and writes the cookie at its start.

It sits outside the app's whole stack, the handler of unhandled errors included, so there is no
response that the cookie could miss.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .cookies import read
from .errors import AuthError
from .session import Session

if TYPE_CHECKING:
    from .auth import IdealAuth

log = logging.getLogger("fastapi_ideal_auth")

STARTS: Final = frozenset(
    ("http.response.start", "websocket.accept", "websocket.http.response.start")
)
_DENIAL: Final = "websocket.http.response"


class SessionMiddleware:
    """One per `IdealAuth` and app; `IdealAuth.install` puts it in place."""

    def __init__(self, app: ASGIApp, auth: IdealAuth[Any]) -> None:
        self.app = app
        self.auth = auth

    # No coroutine of its own, nor has the send that it hands on: what goes through untouched, as
    # nearly all does, costs no frame.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        kind, auth = scope["type"], self.auth
        if kind == "lifespan":
            return self._lifespan(scope, receive, send)
        if kind not in ("http", "websocket") or auth.scope_key in scope:
            return self.app(scope, receive, send)  # a mounted app with the same auth: once will do
        websocket = kind == "websocket"
        denial = _DENIAL in (scope.get("extensions") or ()) if websocket else None
        cookies = read(_cookie_header(scope["headers"]), auth.cookies)
        method = "GET" if websocket else scope["method"]
        refusal = auth.guard.check(method, scope["headers"], websocket=websocket)
        if refusal is not None and cookies:
            log.info(
                "%s to %r was refused: it came from a page of another origin (trusted_origins "
                "would let it through)",
                kind,
                scope["path"],
            )
            return _refuse(refusal, denial, receive, send)
        session: Session[Any] = Session(auth, cookies, denial)
        scope[auth.scope_key] = session

        def send_with_cookie(message: Message) -> Awaitable[None]:
            if message["type"] in STARTS and session._start():
                return _send_with_cookie(session, message, send)
            return send(message)

        return self.app(scope, receive, send_with_cookie)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def opening() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.auth.open()
                except AuthError as error:
                    # Said in the protocol's words: servers take a bare exception here for an app
                    # that knows no lifespan, and go on.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
            return message

        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.auth.aclose()
            await send(message)

        await self.app(scope, opening, closing)


def _cookie_header(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    found: bytes | None = None
    for name, value in headers:
        if name == b"cookie":
            # HTTP/2 may split the header into one a cookie (RFC 9113 §8.2.3).
            found = value if found is None else b"; ".join((found, value))
    return found


async def _send_with_cookie(session: Session[Any], message: Message, send: Send) -> None:
    lines = await session._lines()
    if lines:
        message = {**message, "headers": _with_cookies(message, lines)}
    await send(message)


def _with_cookies(message: Message, lines: list[str]) -> list[tuple[bytes, bytes]]:
    """The response's headers with the cookie, and so in no cache (RFC 9111 §5.2.2.5)."""
    headers = [
        (name, value)
        for name, value in message.get("headers") or ()
        if name.lower() not in (b"cache-control", b"expires")
    ]
    headers.append((b"cache-control", b"no-store"))
    headers.extend((b"set-cookie", line.encode("latin-1")) for line in lines)
    return headers


async def _refuse(reason: str, denial: bool | None, receive: Receive, send: Send) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if denial is None:
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await receive()  # websocket.connect
    if denial:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
