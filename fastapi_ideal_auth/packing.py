"""Tokens to fewer bytes and back, byte for byte: what is base64url becomes the bytes it stands for.

A JWT shrinks by a quarter. It is no compression: the length says nothing of the content, so there
is no oracle in it. Knows nothing of what a token means.

    kind 0:  raw UTF-8
    kind n:  n segments that dots joined, each with its length (a varint) and its bytes
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from typing import Final

from .seal import b64decode, b64encode_joined

_RAW: Final = b"\x00"
_MOST_SEGMENTS: Final = 255
_BROKEN: Final = "a packed token with a broken length"


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
    return _text(packed[1:]) if packed[:1] == _RAW else b64encode_joined(_segments(packed))


def unpack_token_as_json(packed: bytes) -> str:
    """The token as a string of JSON. Raises ``ValueError`` for bytes that are no packed token."""
    if packed[:1] == _RAW:
        return encode_basestring_ascii(_text(packed[1:]))
    return f'"{b64encode_joined(_segments(packed))}"'  # base64url and dots need no escaping


def _segments(packed: bytes) -> list[bytes]:
    if not packed:
        raise ValueError("no packed token")
    segments: list[bytes] = []
    at = 1
    try:
        for _ in range(packed[0]):
            length = byte = packed[at]
            shift = 0
            while byte > 0x7F and shift < 21:
                shift += 7
                at += 1
                byte = packed[at]
                length += (byte - 1) << shift  # less one: the bit that says "more" is no part of it
            if byte > 0x7F or (shift and not byte):  # one spelling: no zeros on top
                raise ValueError(_BROKEN)
            start = at + 1
            at = start + length
            segments.append(packed[start:at])
    except IndexError:
        raise ValueError(_BROKEN) from None
    if at != len(packed):
        ends = "with a tail" if at < len(packed) else "that ends early"
        raise ValueError(f"a packed token {ends}")
    return segments


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
