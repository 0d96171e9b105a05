"""What a client signs with its own key, and a look into what others signed."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeyParameters, KeySet, RSAKey

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
Key = ECKey | RSAKey


def new_key(alg: str = "ES256") -> Key:
    """A private key for ES256 or RS256 that names its algorithm and has a key id."""
    named: KeyParameters = {"alg": alg, "use": "sig", "kid": secrets.token_hex(8)}
    if alg == "RS256":
        return RSAKey.generate_key(2048, named)
    return ECKey.generate_key("P-256", named)


def public_jwk(key: Key) -> dict[str, Any]:
    """What of the key may be registered and shown."""
    return dict(key.as_dict(private=False))


def client_assertion(key: Key, client_id: str, audience: str, **claims: Any) -> dict[str, str]:
    """The form fields of ``private_key_jwt`` (RFC 7523 §2.2), good for a minute and once."""
    now = int(time.time())
    made = {"iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now + 60}
    made |= {"jti": secrets.token_urlsafe(16)} | claims
    header = {"alg": str(key.get("alg")), "kid": str(key.get("kid"))}
    assertion = jwt.encode(header, made, key)
    return {"client_assertion_type": JWT_BEARER, "client_assertion": assertion}


def dpop_proof(
    key: Key,
    method: str,
    url: str,
    *,
    nonce: str | None = None,
    access_token: str | None = None,
    **claims: Any,
) -> str:
    """A proof of possession for one request (RFC 9449 §4.2), to be sent in the ``DPoP`` header."""
    made: dict[str, Any] = {"htm": method, "htu": url, "iat": int(time.time())}
    made["jti"] = secrets.token_urlsafe(16)
    if nonce is not None:
        made["nonce"] = nonce
    if access_token is not None:
        digest = hashlib.sha256(access_token.encode()).digest()
        made["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    jwk = {name: public_jwk(key)[name] for name in ("kty", "crv", "x", "y")}
    return jwt.encode({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}, made | claims, key)


def header_of(token: str) -> dict[str, Any]:
    """The protected header, unverified."""
    return dict(jws.extract_compact(token.encode()).headers())


def claims_of(token: str) -> dict[str, Any]:
    """The claims, unverified."""
    claims: dict[str, Any] = json.loads(jws.extract_compact(token.encode()).payload)
    return claims


def verified(token: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """The claims, of a token that one key of the set signed; a joserfc error otherwise."""
    return dict(jwt.decode(token, KeySet.import_key_set({"keys": jwks["keys"]})).claims)
