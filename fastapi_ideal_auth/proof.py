"""What this client signs: assertions of who it is, and proofs that it holds a DPoP key.

Decides their claims. Does not know how a request is sent; time and randomness come in.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from .jose import SigningKey

ASSERTION_SECONDS: Final = 60
"""How long a client assertion is good for. One that is stolen on its way is worth no more."""


def client_assertion(
    key: SigningKey, *, client_id: str, audience: str, now: float, jti: str
) -> str:
    """The JWT of ``private_key_jwt`` (RFC 7523 §3, OpenID Connect Core §9).

    ``jti``: another one each time, servers refuse a second sight of it.
    """
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": jti,
        "iat": int(now),
        "exp": int(now) + ASSERTION_SECONDS,
    }
    return key.sign(key.header, claims)


def dpop_proof(
    key: SigningKey,
    *,
    method: str,
    url: str,
    now: float,
    jti: str,
    nonce: str | None = None,
    access_token: str | None = None,
) -> str:
    """The JWT of a ``DPoP`` header (RFC 9449 §4.2).

    ``nonce``: the one this server gave last. ``access_token``: the token beside it, for ``ath``.
    """
    claims: dict[str, Any] = {
        "jti": jti,
        "htm": method,
        "htu": urlunsplit(urlsplit(url)._replace(query="", fragment="")),
        "iat": int(now),
    }
    if nonce is not None:
        claims["nonce"] = nonce
    if access_token is not None:
        claims["ath"] = _hash(access_token)
    return key.sign({"typ": "dpop+jwt", "jwk": dict(key.public)}, claims)


def server_of(url: str) -> str:
    """Whose nonces these are: scheme, host and port (RFC 9449 §8.2 keeps them a server)."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _hash(token: str) -> str:
    digest = hashlib.sha256(token.encode("ascii", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
