"""Bytes to sealed text and back, with a ring of secrets: the first seals, all open.

Knows what a seal is made for (its purpose and what it is bound to), and nothing of what is inside.

The native seal, version 1, is base64url without padding, read strictly, of::

    version 1 · key id 4 · salt 16 · key commitment 32 · AES-256-GCM ciphertext and tag

The message's key and commitment come from HKDF-SHA512 (RFC 5869) over the secret, the purpose, the
binding and the salt. The commitment is compared before anything is opened, so that no ciphertext
opens under two secrets. Purpose, binding and version are authenticated with the ciphertext too: a
seal made for one use opens in no other. Every failure is `InvalidCookie`, with no reason.
"""

from __future__ import annotations

import hmac
import os
import secrets as _secrets
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import ConfigurationError, InvalidCookie

_random_bytes = os.urandom

VERSION: Final = b"\x01"
KEY_ID_BYTES: Final = 4
_KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
COMMITMENT_BYTES: Final = 32
TAG_BYTES: Final = 16
SHORTEST_SECRET: Final = 32
"""Characters. Generated secrets have more; what a person types has less entropy a character."""

# Each message has a key of its own, so the nonce may be constant. Two messages share a key only
# when their salts collide: a chance of 2**-33 after 2**48 messages under one secret.
_NONCE: Final = bytes(12)
_LABEL: Final = b"fastapi_ideal_auth"
_SALT_AT: Final = 1 + KEY_ID_BYTES
_COMMITMENT_AT: Final = _SALT_AT + SALT_BYTES
_HEAD: Final = _COMMITMENT_AT + COMMITMENT_BYTES


def new_secret() -> str:
    """A secret of 384 random bits, as 64 URL-safe characters."""
    return _secrets.token_urlsafe(48)


class Failed(Enum):
    """The check that a seal failed. Whoever holds the secret may know; who sent it never does."""

    FORM = "it has not the form of such a seal: cut off, or of another format"
    VERSION = "it is of a version this library does not know"
    KEY = "none of the secrets has its key id"
    EXPIRED = "it has expired"
    COMMITMENT = "it was made for another purpose or cookie name, or its salt is damaged"
    MAC = "no secret gives its MAC: it was changed, or sealed with another secret"
    CIPHERTEXT = "its ciphertext is damaged"


class _Key(NamedTuple):
    id: bytes
    prk: HMAC
    """HKDF's pseudorandom key, already taken in by an HMAC of which each use takes a copy."""
    secret: bytes

    def __repr__(self) -> str:  # error reporters show local variables
        return f"<key {self.id.hex()}>"


class KeyRing:
    """Secrets, ready to seal and open. Raises `ConfigurationError` for a secret that is none."""

    __slots__ = ("_keys",)

    def __init__(self, secret: str | Sequence[str]) -> None:
        self._keys = [_key(_checked(each)) for each in _given(secret)]

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}>"

    @property
    def secrets(self) -> Sequence[bytes]:
        """The secrets themselves, for formats that derive their keys in another way."""
        return [key.secret for key in self._keys]

    @property
    def key_ids(self) -> Sequence[bytes]:
        """What the native seal calls them."""
        return [key.id for key in self._keys]

    def box(self, *, purpose: str, binding: bytes) -> Box:
        """What seals and opens for one use. ``binding``: what else must be the same to open."""
        return Box(self._keys, purpose, binding)

    def seal(self, data: bytes, *, purpose: str, binding: bytes) -> bytes:
        """`Box.seal` for a use that comes once."""
        return self.box(purpose=purpose, binding=binding).seal(data)

    def open(self, sealed: bytes, *, purpose: str, binding: bytes) -> bytes:
        """`Box.open` for a use that comes once. Raises `InvalidCookie`."""
        return self.box(purpose=purpose, binding=binding).open(sealed)

    def names(self, label: bytes) -> list[str]:
        """A name for ``label`` under each secret, the first one's first; without the secrets
        nobody can tell, or try, what it names."""
        return [_expanded(key.prk, b"name" + label)[:32].hex() for key in self._keys]


class Box:
    """A key ring for one purpose and binding: a seal made in one opens in no other."""

    __slots__ = ("_context", "_info", "_keys")

    def __init__(self, keys: Sequence[_Key], purpose: str, binding: bytes) -> None:
        self._keys = keys
        self._context = _context(purpose, binding)
        self._info = b"message" + self._context  # "message": apart from the key id

    def seal(self, data: bytes) -> bytes:
        """Seal with the first secret."""
        key = self._keys[0]
        salt = _random_bytes(SALT_BYTES)
        okm = _expanded(key.prk, self._info + salt)
        sealed = AESGCM(okm[:_KEY_BYTES]).encrypt(_NONCE, data, self._context)
        return b"".join((VERSION, key.id, salt, okm[_KEY_BYTES:], sealed))

    def open(self, sealed: bytes) -> bytes:
        """Open with whichever secret sealed it. Raises `InvalidCookie`, always the same."""
        data = self.examine(sealed)
        if isinstance(data, Failed):  # raised out here, so that no chained error tells more
            raise InvalidCookie
        return data

    def examine(self, sealed: bytes) -> bytes | Failed:
        """What `open` opens, or the check that failed: for whoever holds the secret."""
        if len(sealed) < _HEAD + TAG_BYTES:
            return Failed.FORM
        if sealed[:1] != VERSION:
            return Failed.VERSION
        key_id = sealed[1:_SALT_AT]
        failed = Failed.KEY
        for key in self._keys:
            if key.id != key_id:
                continue
            failed = Failed.COMMITMENT
            okm = _expanded(key.prk, self._info + sealed[_SALT_AT:_COMMITMENT_AT])
            if hmac.compare_digest(okm[_KEY_BYTES:], sealed[_COMMITMENT_AT:_HEAD]):
                try:
                    return AESGCM(okm[:_KEY_BYTES]).decrypt(_NONCE, sealed[_HEAD:], self._context)
                except InvalidTag:
                    return Failed.CIPHERTEXT
        return failed


def _given(secret: object) -> Sequence[object]:
    if isinstance(secret, str):
        return [secret]
    # No set: its order differs between workers, and so would the secret that seals.
    if not isinstance(secret, Sequence) or isinstance(secret, bytes):
        raise ConfigurationError(
            f"secret= takes a string or a sequence of strings; this one is "
            f"{type(secret).__name__}: make one with `python -m fastapi_ideal_auth secret`"
        )
    if not secret:
        raise ConfigurationError(
            "secret= is empty: give one made by `python -m fastapi_ideal_auth secret`"
        )
    return cast("Sequence[object]", secret)


def _checked(secret: object) -> str:
    if not isinstance(secret, str):
        raise ConfigurationError(
            f"secret= takes a string or a sequence of strings; one is {type(secret).__name__}"
        )
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"the secret has {len(secret)} characters and needs {SHORTEST_SECRET}: make one with "
            f"`python -m fastapi_ideal_auth secret`"
        )
    return secret


def _key(secret: str) -> _Key:
    data = secret.encode("utf-8", "surrogatepass")
    prk = HMAC(hmac.digest(_LABEL, data, "sha512"), SHA512())  # HKDF-Extract
    return _Key(_expanded(prk, b"key id")[:KEY_ID_BYTES], prk, data)


def _expanded(prk: HMAC, info: bytes) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3): 64 bytes of SHA-512 output, and what is shorter, are one HMAC.

    With the key taken in beforehand, less than half the time of ``hmac.digest``.
    """
    mac = prk.copy()
    mac.update(info + b"\x01")
    return mac.finalize()


def _context(purpose: str, binding: bytes) -> bytes:
    """Version, purpose and binding, each with its length: no two triples read the same."""
    name = purpose.encode()
    return b"".join((VERSION, bytes((len(name),)), name, len(binding).to_bytes(2), binding))


# -- text -----------------------------------------------------------------------------------------

# Pydantic's codec takes a quarter of binascii's time.
_BASE64: Final = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True
)
_ONE: Final = TypeAdapter(bytes, config=_BASE64)
_MANY: Final = TypeAdapter(list[bytes], config=_BASE64)
_encoded: Final[Callable[..., str]] = _ONE.serializer.to_python
_encoded_each: Final[Callable[..., list[str]]] = _MANY.serializer.to_python
_decoded: Final[Callable[..., bytes]] = _ONE.validator.validate_strings


def b64encode(data: bytes) -> str:
    """base64url without padding (RFC 4648 §5)."""
    return _encoded(data, mode="json").rstrip("=")


def b64encode_joined(parts: list[bytes]) -> str:
    """Each in base64url, and dots between them, as in a JWT (RFC 7515 §7.1)."""
    return ".".join(_encoded_each(parts, mode="json")).replace("=", "")


def b64decode(text: str) -> bytes:
    """The inverse, strictly: one spelling a value. Raises ``ValueError`` for any other."""
    # Pydantic takes the other alphabet and padding too; of spare bits it takes zeros alone.
    if "+" not in text and "/" not in text and "=" not in text:
        try:
            return _decoded(text)
        except ValidationError:
            pass
    raise ValueError("not base64url")  # the other error holds the text


class Sealer(Protocol):
    """How a cookie's value is sealed: bytes to text and back, for a purpose, under a name."""

    def seal(self, data: bytes, *, purpose: str, name: str) -> str: ...

    def open(self, text: str, *, purpose: str, name: str) -> bytes: ...


class AESGCMSealer:
    """The native seal, as a cookie's value. The secrets come from `IdealAuth`."""

    __slots__ = ("_boxes", "_ring")

    def __init__(self) -> None:
        self._ring: KeyRing | None = None
        self._boxes: dict[tuple[str, str], Box] = {}

    def bind(self, ring: KeyRing) -> Sealer:
        """A sealer with these secrets; this object stays as it is, and may be bound again."""
        bound = AESGCMSealer()
        bound._ring = ring
        return bound

    def seal(self, data: bytes, *, purpose: str, name: str) -> str:
        """Raises `ConfigurationError` without secrets."""
        return b64encode(self._box(purpose, name).seal(data))

    def open(self, text: str, *, purpose: str, name: str) -> bytes:
        """Raises `InvalidCookie`, always the same."""
        box = self._boxes.get((purpose, name)) or self._box(purpose, name)
        try:
            sealed = b64decode(text)
        except ValueError:
            sealed = b""
        return box.open(sealed)

    def _box(self, purpose: str, name: str) -> Box:
        if self._ring is None:
            raise ConfigurationError("a sealer gets its secrets from IdealAuth(sealer=…)")
        # Kept: an application has a purpose and a name or two, not what a request says.
        box = self._ring.box(purpose=purpose, binding=name.encode())
        return self._boxes.setdefault((purpose, name), box)
