"""``Fe26.2``, the seal of @hapi/iron and iron-session, to the letter; it knows not what is inside.

::

    Fe26.2 * password id * salt * iv * ciphertext * expiry * MAC salt * MAC ~2

Both salts are 32 random bytes as 64 hex digits, and that *text* is the salt of PBKDF2-HMAC-SHA1
(RFC 8018 §5.2; one iteration, 32 bytes). The plaintext is AES-256-CBC with PKCS#7 padding; the MAC
is HMAC-SHA256 over all that stands before the MAC's salt. Bytes are base64url without padding. The
expiry is in Unix milliseconds, or empty for none, and 60 seconds of skew are granted. The ``~2``
that iron-session appends is authenticated by nothing: it is written, and what is after a ``~`` is
ignored, as iron-session 9 does.

Where the readers differ, the strictest of them is followed: one spelling a value (@hapi/iron
compares the MAC as text), no expiry that begins with a zero (iron-webcrypto 2).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .errors import InvalidCookie
from .seal import Failed, b64decode, b64encode

PREFIX: Final = "Fe26.2"
VERSION: Final = "~2"
SALT_BYTES: Final = 32
IV_BYTES: Final = 16
SKEW: Final = 60_000
"""Milliseconds for which an expired seal is still taken."""
LONGEST: Final = 4 * 4096
"""Characters: what four cookies can carry. Nothing longer is looked at."""

_BLOCK_BITS: Final = 128
_SEAL: Final = re.compile(
    rf"({re.escape(PREFIX)}\*(\w+)\*([0-9a-f]{{64}})\*([\w-]{{22}})\*([\w-]+)\*([1-9][0-9]{{0,20}})?)"
    r"\*([0-9a-f]{64})\*([\w-]{43})",
    re.ASCII,
)

RandomBytes = Callable[[int], bytes]


class Password(NamedTuple):
    """One entry of iron-session's password map."""

    id: str
    secret: bytes

    def __repr__(self) -> str:  # error reporters show local variables
        return f"<password {self.id}>"


def seal(
    data: bytes, *, password: Password, expires_at: int | None, random_bytes: RandomBytes
) -> str:
    """``expires_at`` is in Unix milliseconds; ``None`` (iron's ttl 0): never."""
    salt = random_bytes(SALT_BYTES).hex()
    iv = random_bytes(IV_BYTES)
    mac_salt = random_bytes(SALT_BYTES).hex()
    body = _encrypted(data, _derived(password.secret, salt), iv)
    expiry = "" if expires_at is None else str(expires_at)
    head = "*".join((PREFIX, password.id, salt, b64encode(iv), b64encode(body), expiry))
    return f"{head}*{mac_salt}*{_mac(password.secret, mac_salt, head)}{VERSION}"


def unseal(text: str, *, passwords: Iterable[Password], any_id: bool, now: float) -> bytes:
    """Open with the password that the seal names; with ``any_id``, with any whose MAC fits.

    ``now`` is in Unix seconds. Raises `InvalidCookie`, always the same.
    """
    opened = examine(text, passwords=passwords, any_id=any_id, now=now)
    if isinstance(opened, Failed):
        raise InvalidCookie
    return opened


def examine(
    text: str, *, passwords: Iterable[Password], any_id: bool, now: float
) -> bytes | Failed:
    """The same, with the check that failed: for whoever holds the secret, and nobody else."""
    text = text.partition("~")[0] if len(text) <= LONGEST else ""
    found = _SEAL.fullmatch(text)
    if found is None:
        return Failed.FORM
    head, password_id, salt, iv, body, expiry, mac_salt, mac = found.groups()
    if expiry is not None and int(expiry) <= now * 1000 - SKEW:
        return Failed.EXPIRED
    named = [each for each in passwords if any_id or each.id == password_id]
    if not named:
        return Failed.KEY
    # Each of a MAC of its own: which one fits is the seal's id in another guise, and no secret.
    for password in named:
        if hmac.compare_digest(_mac(password.secret, mac_salt, head), mac):
            opened = _decrypted(body, _derived(password.secret, salt), iv)
            return Failed.CIPHERTEXT if opened is None else opened
    return Failed.MAC


def password_id(text: str) -> str | None:
    """The id that a seal names; ``None`` for what is no seal of this format."""
    found = _SEAL.fullmatch(text.partition("~")[0])
    return None if found is None else found[2]


def expiry(text: str) -> int | None:
    """When a seal of this format ends, in Unix milliseconds; ``None``: never."""
    found = _SEAL.fullmatch(text.partition("~")[0])
    return None if found is None or found[6] is None else int(found[6])


def _derived(secret: bytes, salt: str) -> bytes:
    # One iteration and SHA-1 are the format's; a secret of full entropy needs no more.
    return hashlib.pbkdf2_hmac("sha1", secret, salt.encode("ascii"), 1, 32)


def _mac(secret: bytes, salt: str, head: str) -> str:
    return b64encode(hmac.digest(_derived(secret, salt), head.encode("ascii"), "sha256"))


def _encrypted(data: bytes, key: bytes, iv: bytes) -> bytes:
    pad = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(pad.update(data) + pad.finalize()) + encryptor.finalize()


def _decrypted(body: str, key: bytes, iv: str) -> bytes | None:
    """Only for what a MAC has vouched for: the padding is checked in the open."""
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(b64decode(iv))).decryptor()
        padded = decryptor.update(b64decode(body)) + decryptor.finalize()
        unpad = padding.PKCS7(_BLOCK_BITS).unpadder()
        return unpad.update(padded) + unpad.finalize()
    except ValueError:  # another's spelling of base64url, no whole blocks, no padding
        return None
