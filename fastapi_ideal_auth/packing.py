"""Tokens to fewer bytes and back, byte for byte: what is base64url becomes the bytes it stands for.

A JWT shrinks by a quarter. It is no compression: the length says nothing of the content, so there
is no oracle in it. Knows nothing of what a token means.

    kind 0:  raw UTF-8
    kind n:  n segments that dots joined, each with its length (a varint) and its bytes
"""

from __future__ import annotations

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
    count = packed[0]
    if count == 0:
        return _text(packed[1:])
    segments: list[str] = []
    at = 1
    for _ in range(count):
        length, at = _read_varint(packed, at)
        end = at + length
        if end > len(packed):
            raise ValueError("a packed token that ends early")
        segments.append(b64encode(packed[at:end]))
        at = end
    if at != len(packed):
        raise ValueError("a packed token with a tail")
    return ".".join(segments)


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


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 28:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80 and (byte or not shift):  # one spelling: no zeros on top
            return number, at
        shift += 7
    raise ValueError("a packed token with a broken length")
