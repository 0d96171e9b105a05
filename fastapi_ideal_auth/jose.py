"""Signed JWTs: opened with a provider's public keys, made with a private key of this client's.

Decides which algorithms and keys count. Does not know what a claim means, where keys come from, or
what time it is. The cryptography is ``joserfc``'s, an extra, imported when the first key is read.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from .errors import ConfigurationError, IdentityRejected
from .seal import b64decode

if TYPE_CHECKING:
    from joserfc.jwk import Key
    from joserfc.jws import JWSRegistry

_KEY_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
ASYMMETRIC: Final = frozenset(_KEY_TYPES)
"""The algorithms a provider's signature may have: what only the provider can make (RFC 8725 §3.1).
``none`` and the HMACs are not among them; who holds the client's secret is not the provider."""

_CURVES: Final[Mapping[str, str]] = {
    "P-256": "ES256",
    "P-384": "ES384",
    "P-521": "ES512",
    "Ed25519": "EdDSA",  # RFC 9864 would have it called Ed25519, and few servers know it by that
}
_MOST_KEYS: Final = 64
_LONGEST: Final = 131_072
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_EXTRA: Final = "pip install 'fastapi_ideal_auth[oidc]'"


def require(what: str) -> None:
    """Raises `ConfigurationError`, which says how to install it, where ``joserfc`` is missing."""
    try:
        found = importlib.import_module("joserfc.jws")
    except ImportError:
        found = None
    if found is None:
        raise ConfigurationError(f"{what} needs joserfc: {_EXTRA}")


# -- keys of the provider's -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key that may verify signatures (RFC 7517 §4)."""

    kty: str
    kid: str | None
    alg: str | None
    key: Key = field(repr=False)


Keys = tuple[VerifyKey, ...]


def read_key_set(body: bytes) -> Keys | None:
    """The keys of a JWK Set that verify signatures (RFC 7517 §5); ``None`` if it is none.

    A key that is not understood is left out, as the RFC has it: a set may hold tomorrow's.
    """
    document = read_object(body)
    listed = None if document is None else document.get("keys")
    if not isinstance(listed, list):
        return None
    read = map(_verify_key, cast("list[object]", listed)[:_MOST_KEYS])
    return tuple(key for key in read if key is not None)


def secret_keys(client_secret: str) -> Keys:
    """The one key of ``HS256``: the client's secret (OpenID Connect Core §10.1)."""
    from joserfc.jwk import OctKey

    # By its parts, or joserfc would warn of secrets of less than 112 bits.
    return (VerifyKey("oct", None, None, OctKey(client_secret.encode(), client_secret.encode())),)


def _verify_key(value: object) -> VerifyKey | None:
    jwk = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("kty") not in _KEY_TYPES.values()
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        return None
    key = _imported(jwk)
    if key is None or key.is_private:  # a private key that is published proves nothing any more
        return None
    return VerifyKey(jwk["kty"], _text(jwk.get("kid")), _text(jwk.get("alg")), key)


def _imported(data: dict[str, Any]) -> Key | None:
    from joserfc.jwk import JWKRegistry

    try:
        key = JWKRegistry.import_key(data)
    except Exception:  # whatever a stranger's JSON makes a parser raise
        return None
    return None if _is_weak(key) else key


def _is_weak(key: Key) -> bool:
    """RFC 7518 §3.3: 2048 bits or more. joserfc only warns."""
    from joserfc.jwk import RSAKey

    return isinstance(key, RSAKey) and key.raw_value.key_size < 2048


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


# -- a signed token -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """A JWT in JWS compact form (RFC 7515 §3.1) that was read, and not yet verified."""

    alg: str
    kid: str | None
    typ: str | None
    """In lower case, without ``application/`` (RFC 7515 §4.1.9)."""

    claims: Mapping[str, Any] = field(repr=False)
    token: str = field(repr=False)


def read_signed(token: str) -> Signed:
    """A JWT, unverified: good for choosing a key, and for what this side had verified before.

    Raises `IdentityRejected` for what is no signed JWT.
    """
    if token.count(".") == 4:
        raise IdentityRejected(
            "the token is encrypted: have the server sign tokens for this client, and no more"
        )
    if len(token) > _LONGEST or not _COMPACT.fullmatch(token):
        raise IdentityRejected("the token is not a signed JWT")
    head, payload, _ = token.split(".")
    header, claims = _segment(head), _segment(payload)
    if header is None or claims is None or not isinstance(header.get("alg"), str):
        raise IdentityRejected("the token is not a signed JWT")
    if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11: none of them is understood here
        raise IdentityRejected("the token's header asks for an extension")
    typ = _text(header.get("typ"))
    return Signed(
        alg=header["alg"],
        kid=_text(header.get("kid")),
        typ=None if typ is None else typ.lower().removeprefix("application/"),
        claims=claims,
        token=token,
    )


def matching(signed: Signed, keys: Keys) -> Keys:
    """The keys that the header may mean (RFC 7515 §6). Without a ``kid``: all that fit."""
    kty = _KEY_TYPES.get(signed.alg, "oct")
    return tuple(
        key
        for key in keys
        if key.kty == kty
        and key.alg in (None, signed.alg)
        and (signed.kid is None or key.kid in (None, signed.kid) or kty == "oct")
    )


def verify(signed: Signed, keys: Keys) -> None:
    """Raises `IdentityRejected` unless one of ``keys`` verifies the signature.

    The algorithm must have been checked against an allow-list: the header's own word is worth
    nothing (RFC 8725 §3.1).
    """
    if not any(_verifies(signed, key) for key in keys[:8]):
        raise IdentityRejected("the token's signature is not the provider's")


def _verifies(signed: Signed, key: VerifyKey) -> bool:
    from joserfc import jws

    try:
        jws.deserialize_compact(signed.token, key.key, registry=_registry(signed.alg))
    except Exception:  # a stranger's header and a stranger's key: whatever they break
        return False
    return True


def _registry(alg: str) -> JWSRegistry:
    registry = _registry_class()(algorithms=[alg], strict_check_header=False)
    registry.max_header_length = registry.max_payload_length = _LONGEST
    return registry


@functools.cache
def _registry_class() -> type[JWSRegistry]:
    from joserfc.errors import UnsupportedAlgorithmError
    from joserfc.jws import JWSRegistry

    class Registry(JWSRegistry):
        """One algorithm, of the allow-list; with no warning that EdDSA has a second name now."""

        def get_alg(self, name: str) -> Any:
            if not self.allowed or name not in self.allowed:
                raise UnsupportedAlgorithmError
            return self.algorithms[name]

    return Registry


def _segment(text: str) -> Mapping[str, Any] | None:
    try:
        data = b64decode(text)
    except ValueError:
        return None
    return read_object(data)


def read_object(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object in which no name stands twice (RFC 7515 §4); ``None`` if it is none."""
    try:
        value: object = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_refused, parse_int=_integer
        )
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name stands twice")
    return unique


def _refused(constant: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits)


# -- a key of this client's -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and how it signs. Its repr shows nothing of the key."""

    alg: str
    header: Mapping[str, str] = field(repr=False)
    """``kid``, ``x5t`` and ``x5t#S256``, where the JWK has them."""

    public: Mapping[str, str] = field(repr=False)
    """The public JWK, its required members only (RFC 7638 §3.2)."""

    thumbprint: str = field(repr=False)
    """RFC 7638, SHA-256."""

    key: Key = field(repr=False)

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """A JWT of ``claims`` in JWS compact form."""
        from joserfc import jws

        payload = json.dumps(dict(claims), separators=(",", ":"))
        protected = {"alg": self.alg, **header}
        return jws.serialize_compact(protected, payload, self.key, registry=_registry(self.alg))


def read_signing_key(
    name: str, value: object, *, types: Collection[str], alg: str | None = None
) -> SigningKey:
    """A private key: PEM (text or bytes), a JWK as a mapping, or one as JSON.

    ``types``: the ``kty`` it may have. ``alg``: how it signs; ``None``: the JWK's own ``alg``,
    else what fits the key. Raises `ConfigurationError`, which shows nothing of the key.
    """
    require(name)
    key = _private_key(value)
    if key is None or key.key_type not in types:
        raise ConfigurationError(
            f"{name} is a private key of type {' or '.join(sorted(types))}, as PEM or as a JWK; "
            f"an encrypted one must be decrypted first, and an RSA key has 2048 bits or more"
        )
    jwk = cast("dict[str, Any]", key.as_dict(private=False))
    wanted = alg or _text(jwk.get("alg")) or _CURVES.get(str(jwk.get("crv")), "RS256")
    if not _signs(key, wanted):
        raise ConfigurationError(f"{name} does not sign with {wanted}")
    members = [member for member in ("crv", "e", "kty", "n", "x", "y") if member in jwk]
    header = {part: jwk[part] for part in ("kid", "x5t", "x5t#S256") if _text(jwk.get(part))}
    return SigningKey(
        alg=wanted,
        header=header,
        public={member: jwk[member] for member in members},
        thumbprint=key.thumbprint(),
        key=key,
    )


def _private_key(value: object) -> Key | None:
    from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    if isinstance(value, bytes) and value.lstrip().startswith(b"{"):
        value = read_object(value)
    try:
        if isinstance(value, Mapping):
            jwk = dict(cast("Mapping[str, Any]", value))
            jwk.pop("use", None)
            jwk.pop("key_ops", None)
            found: Sequence[Key] = [JWKRegistry.import_key(jwk)]
        elif isinstance(value, bytes):
            found = [key for kind in (RSAKey, ECKey, OKPKey) if (key := _from_pem(kind, value))]
        else:
            found = []
        return next((key for key in found if key.is_private and not _is_weak(key)), None)
    except Exception:  # its message, or its chain, may hold the key
        return None


def _from_pem(kind: Any, pem: bytes) -> Key | None:
    try:
        key: Key = kind.import_key(pem)
        _ = key.dict_value  # a key of another kind is found out only when it is looked at
    except Exception:  # the same
        return None
    return key


def _signs(key: Key, alg: str) -> bool:
    if _KEY_TYPES.get(alg) != key.key_type:
        return False
    try:
        _registry(alg).get_alg(alg).sign(b"", key)
    except Exception:  # a wrong curve, a key that is too short
        return False
    return _curve_fits(key, alg)


def _curve_fits(key: Key, alg: str) -> bool:
    curve = _CURVES.get(str(key.dict_value.get("crv")))
    return key.key_type == "RSA" or curve == alg or (curve, alg) == ("EdDSA", "Ed25519")
