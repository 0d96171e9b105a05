"""Tokens to bytes and back, byte for byte; a JWT shrinks, and nothing else ever grows by much."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_ideal_auth.packing import pack_token, unpack_token
from fastapi_ideal_auth.seal import b64encode

JWT_LIKE = st.lists(st.binary(max_size=60).map(b64encode), max_size=6).map(".".join)


def jwt(size: int) -> str:
    """A token in three parts, with a payload of ``size`` bytes and an RS256 signature."""
    head = b64encode(json.dumps({"alg": "RS256", "typ": "JWT", "kid": "k1"}).encode())
    body = b64encode(json.dumps({"sub": "1", "roles": "r" * (size - 23)}).encode())
    return f"{head}.{body}.{b64encode(random.Random(size).randbytes(256))}"


@given(st.text(st.characters(exclude_categories=())))
@example("")
@example(".")
@example("..")
@example("." * 254)
@example("." * 255)
@example("." * 256)
@example("AA.AB")  # the second is no base64url in its one spelling
@example("AA==.AAAA")
@example("A.AAAA")
@example("\ud800\udc00")
@example("\0")
@example("gho_16C7e42F292c6912E7710c838347Ae178B4a")
def test_every_string_comes_back(token: str) -> None:
    assert unpack_token(pack_token(token)) == token


@given(JWT_LIKE)
def test_everything_shaped_like_a_jwt_comes_back(token: str) -> None:
    assert unpack_token(pack_token(token)) == token


@given(st.text())
def test_no_string_grows_by_more_than_a_byte(token: str) -> None:
    assert len(pack_token(token)) <= len(token.encode()) + 1


@pytest.mark.parametrize("size", [100, 400, 1_000, 4_000])
def test_a_jwt_shrinks_by_a_quarter(size: int) -> None:
    token = jwt(size)
    assert len(pack_token(token)) == pytest.approx(len(token) * 3 / 4, abs=6)


def test_an_encrypted_jwt_with_an_empty_part_shrinks_too() -> None:
    # RFC 7516 §7.1: five parts; the second is empty with direct encryption.
    token = ".".join(b64encode(bytes(size)) for size in (40, 0, 12, 900, 16))
    assert len(pack_token(token)) == pytest.approx(len(token) * 3 / 4, abs=6)
    assert unpack_token(pack_token(token)) == token


def test_the_length_depends_on_the_length_alone() -> None:
    # Compression would tell of the content: that is how CRIME and BREACH read secrets.
    chance = random.Random(1)
    sizes = {len(pack_token(b64encode(chance.randbytes(300)))) for _ in range(100)}
    sizes.add(len(pack_token(b64encode(bytes(300)))))
    assert len(sizes) == 1


@given(st.binary())
@example(b"")
@example(b"\x01")
@example(b"\x01\x05abc")
@example(b"\x01\x80")
@example(b"\x01\x80\x80\x80\x80\x00")
@example(b"\x02\x00")
@example(b"\xff")
@example(b"\x00\xff")
@example(b"\x01\xff\xff\xff\x7f")
def test_bytes_that_are_no_packed_token_raise_valueerror_and_nothing_else(packed: bytes) -> None:
    try:
        token = unpack_token(packed)
    except ValueError:
        return
    assert unpack_token(pack_token(token)) == token


@given(JWT_LIKE, st.data())
def test_damage_raises_valueerror_or_reads_as_another_token(
    token: str, data: st.DataObject
) -> None:
    packed = bytearray(pack_token(token))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(unpack_token(bytes(packed)), str)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"", "no packed token"),
        (b"\x01\x05abc", "ends early"),
        (b"\x01\x03abcd", "tail"),
        (b"\x02\x00", "broken length"),
        (b"\x01\x80\x80\x80\x80\x00", "broken length"),
    ],
)
def test_malformed_bytes_are_refused(packed: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        unpack_token(packed)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "token",
    ["A" * 1_000_000, "." * 1_000_000, "A." * 500_000, "é" * 500_000, ("A" * 4 + ".") * 254],
    ids=lambda token: f"{token[:3]}…",
)
def test_a_megabyte_takes_no_time(token: str) -> None:
    started = time.perf_counter()
    assert unpack_token(pack_token(token)) == token
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "packed",
    [b"\xff" * 1_000_000, b"\xff" + bytes(1_000_000), b"\x01" + b"\x80" * 1_000_000],
    ids=["all ones", "255 empty parts", "a length without end"],
)
def test_a_megabyte_of_malformed_bytes_takes_no_time(packed: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="a packed token"):
        unpack_token(packed)
    assert time.perf_counter() - started < 0.5
