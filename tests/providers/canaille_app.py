"""Serves PyPI canaille with one person and one client; what tests steer is ``/_test``.

It runs as ``python -m tests.providers.canaille_app`` and prints its port. canaille decides
everything else; the facts are in canaille_server.py.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import canaille
from canaille.app import models
from canaille.app.flask import csrf
from canaille.backends import Backend
from canaille.oidc.provider import get_jwt_config
from flask import Flask, Response, jsonify, request
from joserfc import jwt
from werkzeug.serving import make_server

SCOPE = ["openid", "profile", "email"]
settings = {"access_token_ttl": 3600, "patient": True}  # the former in seconds


def lifetime_of(client: object, grant_type: str) -> int:
    """Authlib asks for it at every token, and finds it by its name."""
    return settings["access_token_ttl"]


class Turns:
    """Lets one token request into each second: canaille's answer to a second one is 500."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def wait(self) -> None:
        with self._lock:
            while int(time.time()) <= self._taken:
                time.sleep(0.02)
            self._taken = int(time.time())


def create_app(
    port: int, *, database_uri: str, client_id: str, client_secret: str, user: dict[str, Any]
) -> Flask:
    app = canaille.create_app(
        config={
            "SECRET_KEY": secrets.token_hex(32),
            "SERVER_NAME": f"127.0.0.1:{port}",
            "PREFERRED_URL_SCHEME": "http",
            "OAUTH2_TOKEN_EXPIRES_IN": f"{__name__}.lifetime_of",
            "CANAILLE": {"DATABASE": "sql", "JAVASCRIPT": False, "HTMX": False},
            "CANAILLE_SQL": {
                "DATABASE_URI": database_uri,
                "PASSWORD_HASH_PARAMS": {"pbkdf2_sha512__rounds": 1000},  # no secret worth more
            },
            "CANAILLE_OIDC": {},
        }
    )
    with app.app_context(), Backend.instance.session():
        Backend.instance.save(models.User(**user))
        client = models.Client(
            client_id=client_id,
            client_secret=client_secret,
            client_name="The app of the tests",
            client_uri="http://127.0.0.1/",  # a trusted domain, so nobody is asked to consent
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            scope=SCOPE,
            token_endpoint_auth_method="client_secret_basic",
            client_id_issued_at=datetime.now(UTC),
        )
        Backend.instance.save(client)
        client.audience = [client]
        Backend.instance.save(client)
    _add_controls(app, client_id)
    return app


def _add_controls(app: Flask, client_id: str) -> None:
    counts: Counter[str] = Counter()
    turns = Turns()

    @app.before_request
    def wait_for_a_turn() -> None:
        if request.path == "/oauth/token" and settings["patient"]:
            turns.wait()

    @app.after_request
    def count(answer: Response) -> Response:
        if request.path == "/oauth/token":
            counts[f"{request.form.get('grant_type')}:{answer.status_code}"] += 1
        return answer

    @app.post("/_test/reset")
    @csrf.exempt
    def reset() -> Response:
        """Forget the counts; lay the body over what the client registered."""
        wanted = request.get_json()
        counts.clear()
        settings.update({name: wanted.pop(name) for name in settings})
        client = Backend.instance.get(models.Client, client_id=client_id)
        Backend.instance.update(client, **wanted)
        Backend.instance.save(client)
        return jsonify(True)

    @app.post("/_test/sign")
    @csrf.exempt
    def sign() -> Response:
        """A JWT over the body, signed with the key that signs the client's ID tokens."""
        client = Backend.instance.get(models.Client, client_id=client_id)
        signing = get_jwt_config(client)
        header = {"alg": signing["alg"], "kid": signing["kid"]}
        return jsonify(jwt.encode(header, request.get_json(), signing["key"]))

    @app.get("/_test/counts")
    def shown() -> Response:
        return jsonify(dict(counts))


def main() -> None:
    # The issuer names the port, so it is chosen before the app is made.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    app = create_app(port, **json.loads(os.environ["HARNESS_CONFIG"]))
    # Threads: a browser opens connections that it does not use yet.
    server = make_server("127.0.0.1", port, app, threaded=True)
    print(json.dumps({"ready": True, "port": port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
