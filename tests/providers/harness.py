"""Installs, starts and steers npm oidc-provider for the tests; knows nothing of the library.

``oidc_provider(...)`` is a context manager that yields an `OIDCServer`; ``oidc_server`` is the
same as a fixture, one a test run. What the server does is written in oidc_provider/server.mjs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from ..processes import NotReady, Process, missing, require_program, start

HERE = Path(__file__).resolve().parent / "oidc_provider"
READY = re.compile(r'^\{"ready":true,"port":(\d+)\}$', re.MULTILINE)
INSTALL_TIMEOUT = 100  # seconds
OLDEST_NODE = 20
# On purpose full of signs that Basic credentials must encode first (RFC 6749 §2.3.1).
SECRET = "a secret with signs: + & % : / ="
REDIRECT_URI = "http://127.0.0.1:8000/callback"

BASIC = "basic"
POST = "post"
PUBLIC = "public"

# What a token can be asked for (RFC 8707), and the path of the API that takes it. The first is
# granted when none is asked for.
RESOURCES = {
    "urn:test:api": "/api/me",
    "urn:test:files": "/api/files",
    "urn:test:mail": "/api/mail",
}


def hash_of(token: str) -> str:
    """The name under which ``stats()["refresh_tokens"]`` counts a refresh token."""
    return hashlib.sha256(token.encode()).hexdigest()


def default_clients(redirect_uris: Sequence[str] = (REDIRECT_URI,)) -> list[dict[str, Any]]:
    """Two confidential clients and a public one, named after how they authenticate."""
    shared = {"redirect_uris": list(redirect_uris)}
    return [
        shared
        | {
            "client_id": BASIC,
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_basic",
        },
        shared
        | {
            "client_id": POST,
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_post",
        },
        shared | {"client_id": PUBLIC, "token_endpoint_auth_method": "none"},
    ]


@dataclass(frozen=True, slots=True)
class OIDCServer:
    """A running provider and its control API. Every method is one short blocking call."""

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

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    @property
    def revocation_endpoint(self) -> str:
        return f"{self.issuer}/token/revocation"

    @property
    def resource(self) -> str:
        """An API that answers 401 as soon as the access token or its grant is dead."""
        return f"{self.issuer}/api/me"

    def stats(self) -> dict[str, Any]:
        """What happened at the token endpoint since the last reset.

        ``token_calls``
            Grant type → outcome (``ok``, an error code, ``fault``) → number of calls.
        ``refresh_tokens``
            `hash_of` a refresh token → how often it was ``presented``, how often of these
            already ``spent``; ``spent_presented`` sums the latter.
        ``grants_revoked``, ``revocation_calls``, ``faults_fired``
            Numbers of each.
        ``requests``
            Path → number of requests, whatever their answer; ``/jwks`` for one.
        ``in_flight``, ``most_in_flight``
            Token calls under way, now and at the busiest moment.
        """
        stats: dict[str, Any] = self._call("GET", "stats")
        return stats

    def reset_stats(self) -> None:
        self._call("DELETE", "stats")

    def reset(self) -> None:
        """Forget statistics, faults and changed settings; keep clients, grants and tokens."""
        self._call("POST", "reset")

    def fault(
        self,
        where: Literal["before", "after"],
        kind: Literal["drop", "truncate", "delay", "status"],
        *,
        times: int = 1,
        status: int = 502,
        ms: int = 1000,
        body: str | Mapping[str, Any] = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next ``times`` token calls fail.

        ``where``
            Before the work nothing is rotated; after it the old refresh token is spent.
        ``kind``
            ``drop`` hangs up without an answer, ``truncate`` after half of one; ``delay`` waits
            ``ms`` milliseconds; ``status`` answers with ``status``, ``body`` and ``headers``.
        """
        wanted = {"status": status, "ms": ms, "body": body, "headers": dict(headers or {})}
        self._call("POST", "faults", {"where": where, "kind": kind, "times": times, **wanted})

    def clear_faults(self) -> None:
        self._call("DELETE", "faults")

    def settings(self, **changes: int | bool) -> None:
        """Change settings for what is issued from now on.

        ``access_token_ttl``, ``refresh_token_ttl``, ``id_token_ttl``
            Seconds.
        ``rotate_refresh_token``, ``jwt_access_tokens``
            Both true at first.
        ``rp_initiated_logout``, ``backchannel_logout``, ``pushed_authorization_requests``, ``dpop``
            What discovery offers: all of it at first.
        ``require_pushed_authorization_requests``, ``dpop_nonce_required``
            False at first. The latter demands a nonce in every proof (RFC 9449 §8).
        """
        self._call("POST", "settings", changes)

    def rotate_keys(self, *, forget: bool = False) -> list[str]:
        """Sign with new keys from now on; return the published key ids, the new ones first.

        ``forget``
            Whether the old keys vanish from the key set at once.
        """
        kids: list[str] = self._call("POST", "rotate-keys", {"forget": forget})["kids"]
        return kids

    def sign(self, claims: Mapping[str, Any], **header: str) -> str:
        """A JWT signed by this provider over any claims; ``alg`` RS256 if not ES256."""
        jwt: str = self._call("POST", "sign", {"claims": dict(claims), "header": header})["jwt"]
        return jwt

    def backchannel_logout(self, client_id: str, login: str = "ada", sid: str = "") -> None:
        """Send the client a logout token; `ValueError` when it answers neither 200 nor 204."""
        body = {"client_id": client_id, "login": login, "sid": sid}
        self._call("POST", "backchannel-logout", body)

    def end_sessions(self, login: str = "ada") -> dict[str, str]:
        """End a person's browser sessions, as an administrator would, and tell every client.

        Returns client id → ``ok`` or what went wrong.
        """
        told: dict[str, str] = self._call("POST", "end-sessions", {"login": login})["told"]
        return told

    def client(self, client_id: str, **metadata: Any) -> None:
        """Add a client, or change a known one, by the names of its registration metadata."""
        self._call("POST", "clients", {"client_id": client_id, **metadata})

    def session(
        self, login: str = "ada", client_id: str = BASIC, **parameters: Any
    ) -> dict[str, Any]:
        """Sign in without a browser; return the token response. Not counted, past all faults.

        ``parameters`` may be ``scope``, ``nonce``, ``sid``, ``resource`` (one or a list), and
        ``form`` and ``headers``, which go to the token endpoint beside the others.
        """
        body = {"login": login, "client_id": client_id, **parameters}
        tokens: dict[str, Any] = self._call("POST", "session", body)
        return tokens

    def alive(self, access_token: str) -> bool:
        """Whether the access token is unexpired and its grant not revoked."""
        answer = self._call("POST", "token-alive", {"access_token": access_token})
        return answer["alive"] is True

    def _call(self, method: str, path: str, body: object = None) -> Any:
        answer = self._control.request(method, f"{self.issuer}/_test/{path}", json=body)
        if answer.status_code != httpx.codes.OK:
            raise ValueError(answer.json()["error"])
        return answer.json()


@contextmanager
def oidc_provider(
    *,
    port: int = 0,
    redirect_uris: Sequence[str] = (REDIRECT_URI,),
    clients: Sequence[Mapping[str, Any]] = (),
    **settings: int | bool,
) -> Iterator[OIDCServer]:
    """Run a provider until the block ends; skip, with the reason, where none can be had.

    ``clients`` come beside `default_clients`; ``settings`` are those of `OIDCServer.settings`.
    """
    node = require_node()
    config = {
        "port": port,
        "clients": [*default_clients(redirect_uris), *map(dict, clients)],
        **settings,
    }
    env = {"HARNESS_ROOT": str(installed()), "HARNESS_CONFIG": json.dumps(config)}
    with start([node, HERE / "server.mjs"], ready=READY, env=env) as process:
        found = READY.search(process.output())
        if found is None:
            raise NotReady(process.output())
        with httpx.Client(trust_env=False, timeout=10) as control:
            yield OIDCServer(process, int(found[1]), control)


@pytest.fixture(scope="session")
def oidc_server() -> Iterator[OIDCServer]:
    """One provider for the whole test run; `OIDCServer.reset` first, it is shared."""
    with oidc_provider() as server:
        yield server


def require_node() -> str:
    """Return the path of a node that can run the provider."""
    node = require_program("node")
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < OLDEST_NODE:
        missing(f"node {OLDEST_NODE} or newer is needed, this is {version.strip() or 'none'}")
    return node


def installed(package: Path = HERE, name: str = "oidc-provider") -> Path:
    """Return a directory whose node_modules holds what ``package`` names, installing it if need
    be; by default the provider."""
    manifest = (package / "package.json").read_bytes()
    root = _cache() / f"{name}-{hashlib.sha256(manifest).hexdigest()[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        # Two test runs may begin at once; the second waits and finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "installed").exists():
            (root / "package.json").write_bytes(manifest)
            _npm_install(root)
            (root / "installed").touch()
    return root


def _cache() -> Path:
    named = os.environ.get("FASTAPI_IDEAL_AUTH_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastapi_ideal_auth"


def _npm_install(root: Path) -> None:
    cmd = [require_program("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund"]
    cmd += ["--ignore-scripts", "--no-update-notifier"]
    try:
        done = subprocess.run(
            cmd, cwd=root, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        missing(f"npm install took longer than {INSTALL_TIMEOUT} s")
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        missing(f"npm install failed: {'; '.join(errors[:4])}")
