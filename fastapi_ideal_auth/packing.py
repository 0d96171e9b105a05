"""Tokens to fewer bytes and back, byte for byte: what is base64url becomes the bytes it stands for.

A JWT shrinks by a quarter. It is no compression: the length says nothing of the content, so there
is no oracle in it. Knows nothing of what a token means.

    kind 0:  raw UTF-8
    kind n:  n segments that dots joined, each with its length (a varint) and its bytes
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from typing import Final

from .seal import b64decode, b64encode

_RAW: Final = b"\x00"
_MOST_SEGMENTS: Final = 255


def pack_token(token: str) -> bytes:
    """The shorter of the two kinds."""
    raw = _RAW + token.encode("utf-8", "surrogatepass")
    segments = token.split(".")
    if len(segments) > _MOST_SEGMENTS:
        return raw
    parts = [bytes((len(segments),))]
    try:
        for segment in segments:
            data = b64decode(segment)
            parts += (_varint(len(data)), data)
    except ValueError:
        return raw
    packed = b"".join(parts)
    return packed if len(packed) < len(raw) else raw


def unpack_token(packed: bytes) -> str:
    """Raises ``ValueError`` for bytes that are no packed token."""
    if not packed:
        raise ValueError("no packed token")
    count, size = packed[0], len(packed)
    if count == 0:
        return _text(packed[1:])
    segments: list[str] = []
    at = 1
    for _ in range(count):
        start, end = _extent(packed, at)
        if end > size:
            raise ValueError("a packed token that ends early")
        segments.append(b64encode(packed[start:end]))
        at = end
    if at != size:
        raise ValueError("a packed token with a tail")
    return ".".join(segments)


def unpack_token_as_json(packed: bytes) -> str:
    """The token as a string of JSON. Raises ``ValueError`` for bytes that are no packed token."""
    token = unpack_token(packed)
    # base64url and dots need no escaping, and a JWT is long.
    return encode_basestring_ascii(token) if packed[:1] == _RAW else f'"{token}"'


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        pass
    raise ValueError("a packed token that is not UTF-8")  # the other error holds the token


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit where more follow (LEB128)."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where the segment begins and ends whose length stands at ``at``."""
    number = shift = 0
    while at < len(data) and shift < 28:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80 and (byte or not shift):  # one spelling: no zeros on top
            return at, at + number
        shift += 7
    raise ValueError("a packed token with a broken length")
