"""An authorization server made with PyPI Authlib on Flask: a program of its own.

It decides what becomes of the old tokens at a refresh; Authlib judges requests, makes tokens and
words the answers. Two policies, changed while it runs:

``keep``
    A refresh answers with an access token alone: the refresh token stays, and so does the old
    access token until it expires.
``rotate``
    A refresh answers with a new pair, and the old access token dies at once. For ``grace``
    seconds the spent refresh token gets the very same pair again; after that it ends the grant.

It runs as ``python -m tests.providers.authlib_server`` and prints its port. What tests steer it
with is under ``/_test``.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin
from authlib.oauth2.rfc6749.grants import RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

DEFAULTS = {"policy": "keep", "grace": 10.0, "access_token_ttl": 300}


class Client(ClientMixin):  # type: ignore[misc]  # Authlib ships no types
    """The one client, authenticated by Basic or in the body."""

    client_id = "app"

    def __init__(self, client_secret: str) -> None:
        self._secret = client_secret

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self._secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "refresh_token"

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""


@dataclass(eq=False)
class Token(TokenMixin):  # type: ignore[misc]  # Authlib ships no types
    """What was issued together. A refresh under ``keep`` issues no refresh token."""

    grant: str
    access_token: str
    refresh_token: str | None
    expires_at: float
    access_token_revoked: bool = False
    spent_at: float | None = None
    successor: Token | None = None

    def check_client(self, client: Client) -> bool:
        return client.client_id == Client.client_id

    def get_scope(self) -> str:
        return "profile"

    def alive(self) -> bool:
        revoked = self.access_token_revoked or self.grant in state.ended
        return not revoked and time.time() < self.expires_at

    def answer(self) -> dict[str, Any]:
        """The token response, its ``expires_in`` counted from now."""
        left = int(self.expires_at - time.time())
        found = {"access_token": self.access_token, "token_type": "Bearer", "expires_in": left}
        return found | ({"refresh_token": self.refresh_token} if self.refresh_token else {})


@dataclass
class State:
    """Everything the server knows. One lock: a refresh is atomic, as in a database."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    tokens: list[Token] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def by(self, name: str, value: str) -> Token | None:
        return next((token for token in self.tokens if getattr(token, name) == value), None)

    def issue(self, grant: str, access_token: str, refresh_token: str | None) -> Token:
        expires_at = time.time() + self.settings["access_token_ttl"]
        token = Token(grant, access_token, refresh_token, expires_at)
        self.tokens.append(token)
        return token


state = State()


# -- the protocol, by Authlib ---------------------------------------------------------------------


class Refresh(RefreshTokenGrant):  # type: ignore[misc]  # Authlib ships no types
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:  # noqa: N802 - Authlib's name
        return bool(state.settings["policy"] == "rotate")

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        token = state.by("refresh_token", refresh_token)
        if token is None or token.grant in state.ended:
            return None
        if token.spent_at is not None and not _in_grace(token.spent_at):
            state.counts["reused"] += 1
            state.ended.add(token.grant)
            return None
        return token

    def authenticate_user(self, refresh_token: Token) -> str:
        return refresh_token.grant

    def issue_token(self, user: str, refresh_token: Token) -> dict[str, Any]:
        if refresh_token.successor is not None:
            state.counts["repeated"] += 1
            return refresh_token.successor.answer()
        made = super().issue_token(user, refresh_token)
        issued = state.issue(user, made["access_token"], made.get("refresh_token"))
        if issued.refresh_token is not None:
            refresh_token.successor = issued
        state.counts["refreshed"] += 1
        return issued.answer()

    def revoke_old_credential(self, refresh_token: Token) -> None:
        if state.settings["policy"] == "rotate" and refresh_token.spent_at is None:
            refresh_token.spent_at = time.time()
            refresh_token.access_token_revoked = True


def _in_grace(spent_at: float) -> bool:
    return time.time() - spent_at < float(state.settings["grace"])


class Revocation(RevocationEndpoint):  # type: ignore[misc]  # Authlib ships no types
    CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return state.by("refresh_token", token_string) or state.by("access_token", token_string)

    def revoke_token(self, token: Token, request: Any) -> None:
        state.counts["revoked" if token.spent_at is None else "revoked_spent"] += 1
        state.ended.add(token.grant)


def create_app(client_secret: str) -> Flask:
    app = Flask(__name__)
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    client = Client(client_secret)
    server = AuthorizationServer(
        app,
        query_client=lambda client_id: client if client_id == client.client_id else None,
        save_token=lambda token, request: None,  # `Refresh.issue_token` has kept it
    )
    server.register_grant(Refresh)
    server.register_endpoint(Revocation)

    @app.post("/token")
    def token() -> Response:
        with state.lock:
            state.counts["calls"] += 1
            fault = state.faults.pop(0) if state.faults else None
            answer: Response = server.create_token_response()
        if fault is not None:
            _lose(answer, whole=fault == "drop")
        return answer

    @app.post("/revoke")
    def revoke() -> Response:
        with state.lock:
            answer: Response = server.create_endpoint_response("revocation")
            return answer

    _add_controls(app)
    return app


def _lose(answer: Response, *, whole: bool) -> None:
    """The work is done, and the connection ends before the answer, or in the middle of it."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    if not whole:
        body = answer.get_data()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + body[: len(body) // 2])
    connection.shutdown(socket.SHUT_RDWR)


# -- what tests steer it with ---------------------------------------------------------------------


def _add_controls(app: Flask) -> None:
    @app.post("/_test/reset")
    def reset() -> Response:
        """Forget counts and faults; the body's settings are laid over the defaults."""
        with state.lock:
            state.settings = DEFAULTS | request.get_json()
            state.counts.clear()
            state.faults.clear()
        return jsonify(True)

    @app.post("/_test/faults")
    def faults() -> Response:
        """``drop`` or ``truncate`` for each of the next token calls."""
        state.faults.extend(request.get_json())
        return jsonify(True)

    @app.get("/_test/stats")
    def stats() -> Response:
        return jsonify(dict(state.counts))

    @app.post("/_test/session")
    def session() -> Response:
        with state.lock:
            issued = state.issue(*(secrets.token_urlsafe(24) for _ in range(3)))
            return jsonify(issued.answer())

    @app.post("/_test/alive")
    def alive() -> Response:
        """Whether an access token, or a refresh token that is not spent, is good."""
        presented = request.get_json()
        with state.lock:
            access = state.by("access_token", presented)
            if access is not None:
                return jsonify(access.alive())
            refresh = state.by("refresh_token", presented)
            good = refresh is not None and refresh.grant not in state.ended
            return jsonify(good and refresh is not None and refresh.spent_at is None)

    @app.post("/_test/end")
    def end() -> Response:
        """End the grant of a refresh token, as an operator may."""
        with state.lock:
            token = state.by("refresh_token", request.get_json())
            if token is not None:
                state.ended.add(token.grant)
        return jsonify(token is not None)


def main() -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # plain http, on loopback
    app = create_app(os.environ["CLIENT_SECRET"])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(json.dumps({"ready": True, "port": server.port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
