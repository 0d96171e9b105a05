"""Starts PyPI canaille, an OpenID provider that shares no code with npm oidc-provider.

What canaille 0.3.6 on Authlib 1.9 does, found by trying; tests/test_harness_canaille.py shows it.

Discovery, PKCE, RFC 9207
    Metadata at the usual place; ``iss`` in every callback. A confidential client may leave PKCE
    out; a challenge, once given, is held against its verifier. A nonce is demanded.
Client authentication
    ``client_secret_basic``, ``client_secret_post``, ``private_key_jwt``, ``none`` at the token
    endpoint; at the revocation endpoint Basic alone. Basic credentials are percent-decoded, but
    ``+`` is not read as a space: a secret with a space cannot be sent as RFC 6749 §2.3.1 has it.
ID token
    Signed with RS256 only where the client registered that; otherwise with any algorithm its RSA
    key can do (RS512 was seen). ``aud`` is a list of one, ``auth_time`` has a fraction, ``at_hash``
    and ``amr`` are there, ``sid`` is not. It lives for an hour.
Refreshing
    A refresh token comes without ``offline_access``, rotates, and dies with its access token. The
    answer has no ID token. The old access token lives on; the old refresh token is
    ``invalid_grant``, and using it harms nothing else. Access tokens are JWTs without a ``jti``:
    the second of one person in the same second answers 500.
Revocation
    Of either token ends both.
Signing out
    ``end_session_endpoint`` asks nothing when the hint is good. It goes to a registered
    ``post_logout_redirect_uri`` only if ``client_id`` is sent beside the hint, because Authlib
    finds no client by an ``aud`` that is a list. Tokens stay alive.
It lacks
    Back-channel logout, front-channel logout, pushed requests, DPoP, resource indicators.

Its database is SQLite. With its memory backend a query by two fields finds what has either, so
that a code that was never exchanged is mistaken for another.
"""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import httpx
import pytest

from ..processes import ROOT, NotReady, Process, missing, start

READY = re.compile(r'^\{"ready": true, "port": (\d+)\}$', re.MULTILINE)


CLIENT_ID = "app"
# On purpose full of signs that Basic credentials must encode first (RFC 6749 §2.3.1).
CLIENT_SECRET = "a_secret_with_signs:+&%:/="
USER = "ada"
PASSWORD = "the password of the tests"
EMAIL = "ada@example.test"


@dataclass(frozen=True, slots=True)
class CanailleServer:
    """The running provider. Every method is one short blocking call."""

    process: Process
    port: int
    _control: httpx.Client = field(repr=False)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def discovery(self) -> str:
        """Where the metadata is (OpenID Connect Discovery §4)."""
        return f"{self.issuer}/.well-known/openid-configuration"

    def reset(
        self,
        *,
        redirect_uris: Sequence[str] = (),
        post_logout_redirect_uris: Sequence[str] = (),
        token_endpoint_auth_method: str = "client_secret_basic",
        id_token_signed_response_alg: str = "RS256",
        access_token_ttl: int = 3600,
        patient: bool = True,
    ) -> None:
        """Forget the counts, and let the one client have registered these.

        ``patient``
            Whether a token request waits for a second of its own, as it must; see above.
        """
        wanted = {
            "redirect_uris": list(redirect_uris),
            "post_logout_redirect_uris": list(post_logout_redirect_uris),
            "token_endpoint_auth_method": token_endpoint_auth_method,
            "id_token_signed_response_alg": id_token_signed_response_alg,
            "access_token_ttl": access_token_ttl,
            "patient": patient,
        }
        self._control.post(f"{self.issuer}/_test/reset", json=wanted).raise_for_status()

    def send_logout_token(self, url: str, login: str = USER) -> None:
        """Do what canaille does not: tell a client, with canaille's key, that a person left.

        Like its ID tokens it has no ``sid``, and its ``aud`` is a list of one; and no ``typ`` but
        ``JWT``, which Back-Channel Logout §2.4 lets pass.
        """
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": [CLIENT_ID], "sub": login, "iat": now}
        claims |= {"exp": now + 120, "jti": secrets.token_urlsafe(16)}
        claims["events"] = {"http://schemas.openid.net/event/backchannel-logout": {}}
        signed = self._control.post(f"{self.issuer}/_test/sign", json=claims)
        form = {"logout_token": signed.raise_for_status().json()}
        self._control.post(url, data=form).raise_for_status()

    def counts(self) -> dict[str, int]:
        """Token requests since the last reset: ``grant_type:status`` → number."""
        counts: dict[str, int] = self._control.get(f"{self.issuer}/_test/counts").json()
        return counts


@contextmanager
def canaille_provider() -> Iterator[CanailleServer]:
    """Run the provider until the block ends; skip, with the reason, where it is not installed."""
    if importlib.util.find_spec("canaille") is None:
        missing("not installed: canaille (pip)")
    person = {
        "user_name": USER,
        "password": PASSWORD,
        "emails": [EMAIL],
        "formatted_name": "Ada Lovelace",
        "family_name": "Lovelace",
    }
    config: dict[str, object] = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "user": person,
    }
    cmd = [sys.executable, "-m", "tests.providers.canaille_app"]
    with TemporaryDirectory(prefix="fastapi_ideal_auth-") as directory:
        config["database_uri"] = f"sqlite:///{directory}/canaille.sqlite"
        env = {"HARNESS_CONFIG": json.dumps(config)}
        with (
            start(cmd, ready=READY, env=env, cwd=ROOT, timeout=40) as process,
            httpx.Client(trust_env=False, timeout=10) as control,
        ):
            found = READY.search(process.output())
            if found is None:
                raise NotReady(process.output())
            yield CanailleServer(process, int(found[1]), control)


@pytest.fixture(scope="session")
def canaille_server() -> Iterator[CanailleServer]:
    """One provider for the whole test run; `CanailleServer.reset` first, it is shared."""
    with canaille_provider() as server:
        yield server
