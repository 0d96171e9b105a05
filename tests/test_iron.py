"""``Fe26.2`` beside the real packages: what one side seals, the other opens, and nothing else.

``python -m tests.test_iron`` has @hapi/iron make the vectors anew.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_ideal_auth import InvalidCookie, iron
from fastapi_ideal_auth.iron import Password
from fastapi_ideal_auth.seal import Failed

from .providers.iron_node import (
    HAPI_IRON,
    PACKAGES,
    SESSIONS,
    NodeIron,
    Refused,
)

SECRET = "one secret of these tests, long enough"
OTHER = "another secret of these tests, as long"
VECTORS = Path(__file__).parent / "vectors" / "iron-fe26.2.json"
NOW = 1_800_000_000
ONE = [Password("1", SECRET.encode())]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_*~=. +/"


def randomness(seed: int) -> Callable[[int], bytes]:
    """A seal without chance."""
    return random.Random(seed).randbytes


def sealed(
    data: bytes = b'{"a":1}',
    *,
    password: Password = ONE[0],
    expires_at: int | None = None,
    seed: int = 1,
) -> str:
    return iron.seal(data, password=password, expires_at=expires_at, random_bytes=randomness(seed))


def opened(
    text: str, *, passwords: list[Password] = ONE, any_id: bool = False, now: float = NOW
) -> bytes:
    return iron.unseal(text, passwords=passwords, any_id=any_id, now=now)


def failed(text: str, **options: Any) -> bytes | Failed:
    return iron.examine(text, **{"passwords": ONE, "any_id": False, "now": NOW, **options})


def is_refused(text: str, **options: Any) -> bool:
    """Refused with the one error, which says nothing and hangs on nothing."""
    with pytest.raises(InvalidCookie) as caught:
        opened(text, **options)
    error = caught.value
    return (str(error), error.__cause__, error.__context__) == (
        "the session cookie is not valid",
        None,
        None,
    )


# -- vectors, made by @hapi/iron ------------------------------------------------------------------


def vectors() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(VECTORS.read_text())
    return found


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_a_vector_opens(vector: dict[str, Any]) -> None:
    password = Password(vector["id"], vector["secret"].encode())
    data = opened(vector["sealed"], passwords=[password], now=vector["now"])
    assert json.loads(data) == vector["data"]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_with_the_same_salts_the_seal_is_the_same_to_the_letter(vector: dict[str, Any]) -> None:
    _, password_id, salt, iv, _, expiry, mac_salt, _ = vector["sealed"].split("*")
    chance = iter((bytes.fromhex(salt), iron.b64decode(iv), bytes.fromhex(mac_salt)))
    ours = iron.seal(
        opened(
            vector["sealed"],
            passwords=[Password(password_id, vector["secret"].encode())],
            now=vector["now"],
        ),
        password=Password(password_id, vector["secret"].encode()),
        expires_at=int(expiry) if expiry else None,
        random_bytes=lambda _: next(chance),
    )
    assert ours == vector["sealed"] + "~2"


# -- both ways, with each package -----------------------------------------------------------------


def payloads() -> list[dict[str, Any]]:
    """A thousand: Unicode, empty, large, nested, and in between."""
    chance = random.Random(26)

    def text(length: int) -> str:
        planes = ((0x20, 0x7E), (0xA0, 0x2FF), (0x3040, 0x30FF), (0x1F300, 0x1F6FF), (0, 0x1F))
        chosen = (chance.choice(planes) for _ in range(length))
        return "".join(chr(chance.randint(*plane)) for plane in chosen)

    def value(depth: int) -> Any:
        kind = chance.randrange(8 if depth else 6)
        if kind == 6:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 7:
            return {text(5): value(depth - 1) for _ in range(chance.randrange(4))}
        number = chance.randint(-(2**53) + 1, 2**53 - 1)
        return (None, True, False, number, chance.uniform(-1e9, 1e9), text(chance.randrange(30)))[
            kind
        ]

    made: list[dict[str, Any]] = [{}, {"": ""}, {"token": "x" * 2500}, {"text": text(2500)}]
    deep: Any = "deep"
    for _ in range(60):
        deep = {"in": [deep]}
    made.append(deep)
    while len(made) < 1000:
        made.append({text(6): value(4) for _ in range(chance.randrange(12))})
    return made


PAYLOADS = payloads()


def as_json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_thousand_payloads_go_from_us_to_node(node_iron: NodeIron, package: str) -> None:
    soon = int(time.time() + 600) * 1000
    seals = [
        sealed(as_json(data), expires_at=(None, soon)[n % 2], seed=n)
        for n, data in enumerate(PAYLOADS)
    ]
    assert node_iron.unseals(package, seals, SECRET) == PAYLOADS


@pytest.mark.parametrize("package", PACKAGES)
def test_a_thousand_payloads_come_from_node_to_us(node_iron: NodeIron, package: str) -> None:
    seals = node_iron.seals(package, PAYLOADS[:500], SECRET)
    seals += node_iron.seals(package, PAYLOADS[500:], SECRET, ttl=0)
    assert [json.loads(opened(seal, now=time.time())) for seal in seals] == PAYLOADS


@pytest.mark.parametrize("package", SESSIONS)
def test_node_writes_the_mark_of_its_version_and_reads_ours(
    node_iron: NodeIron, package: str
) -> None:
    assert node_iron.seal(package, {"a": 1}, SECRET).endswith("~2")
    assert sealed().endswith("~2")
    assert node_iron.unseal(package, sealed(), SECRET) == {"a": 1}


# -- password maps --------------------------------------------------------------------------------

MAP = {"1": OTHER, "2": SECRET}
RING = [Password("2", SECRET.encode()), Password("1", OTHER.encode())]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_highest_number_seals_and_every_number_opens(node_iron: NodeIron, package: str) -> None:
    theirs = node_iron.seal(package, {"a": 1}, MAP)
    assert iron.password_id(theirs) == "2"
    assert opened(theirs, passwords=RING, now=time.time()) == b'{"a":1}'
    for password in RING:
        ours = sealed(password=password)
        assert node_iron.unseal(package, ours, MAP) == {"a": 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_bare_secret_is_number_1(node_iron: NodeIron, package: str) -> None:
    theirs = node_iron.seal(package, {"a": 1}, SECRET)
    assert iron.password_id(theirs) == "1"
    assert node_iron.unseal(package, sealed(), SECRET) == {"a": 1}


def test_a_number_that_is_not_in_the_map_is_refused() -> None:
    ours = sealed(password=Password("7", SECRET.encode()))
    assert is_refused(ours)
    assert failed(ours) is Failed.KEY


def test_with_any_id_whichever_secret_fits_the_mac_opens() -> None:
    ours = sealed(password=Password("7", SECRET.encode()))
    assert opened(ours, passwords=RING, any_id=True) == b'{"a":1}'
    assert is_refused(ours, passwords=[Password("7", OTHER.encode())], any_id=True)


@pytest.mark.parametrize("package", SESSIONS)
def test_node_refuses_a_number_it_does_not_know(node_iron: NodeIron, package: str) -> None:
    ours = sealed(password=Password("7", SECRET.encode()))
    assert node_iron.unseal(package, ours, SECRET) == {}


def test_the_right_number_with_another_secret_is_refused() -> None:
    assert failed(sealed(), passwords=[Password("1", OTHER.encode())]) is Failed.MAC


@pytest.mark.parametrize("secret", ["Geheimnis · 秘密 · секрет · 🔑 · mystère", "x" * 500])
@pytest.mark.parametrize("package", PACKAGES)
def test_a_secret_beyond_ascii_is_the_same_on_both_sides(
    node_iron: NodeIron, package: str, secret: str
) -> None:
    password = Password("1", secret.encode())
    assert node_iron.unseal(package, sealed(password=password), secret) == {"a": 1}
    theirs = node_iron.seal(package, {"a": 1}, secret)
    assert opened(theirs, passwords=[password], now=time.time()) == b'{"a":1}'


# -- expiry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "lives"),
    [(1, True), (0, False), (-1, False), (-60_000, False), (60_000, True), (10**15, True)],
)
def test_a_seal_lives_until_60_seconds_after_its_expiry(milliseconds: int, lives: bool) -> None:
    ours = sealed(expires_at=(NOW - 60) * 1000 + milliseconds)
    assert (failed(ours) == b'{"a":1}') is lives
    assert lives or (is_refused(ours) and failed(ours) is Failed.EXPIRED)


@pytest.mark.parametrize("package", PACKAGES)
def test_node_has_the_same_edge(node_iron: NodeIron, package: str) -> None:
    now = int(time.time() * 1000)
    gone, alive = sealed(expires_at=now - 60_000), sealed(expires_at=now - 40_000)
    answers = node_iron.ask(
        {"do": "unseal", "with": package, "password": SECRET, "text": text}
        for text in (gone, alive)
    )
    assert answers[0] == {} or isinstance(answers[0], Refused)
    assert answers[1] == {"a": 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_node_expires_in_milliseconds_and_never_with_ttl_0(
    node_iron: NodeIron, package: str
) -> None:
    before = time.time()
    theirs = node_iron.seal(package, {}, SECRET, ttl=100)
    expires_at = int(theirs.split("*")[5]) / 1000
    assert before + 99 < expires_at < time.time() + 101
    assert opened(theirs, now=expires_at + 59.9) == b"{}"
    assert is_refused(theirs, now=expires_at + 60)
    assert node_iron.seal(package, {}, SECRET, ttl=0).split("*")[5] == ""
    assert opened(node_iron.seal(package, {}, SECRET, ttl=0), now=10**12) == b"{}"


# -- tampering ------------------------------------------------------------------------------------


def test_no_single_character_can_be_changed() -> None:
    text = sealed(expires_at=(NOW + 100) * 1000)
    marked = len(text) - 1  # the 2 of ~2, which nothing authenticates
    changed = [
        text[:at] + sign + text[at + 1 :]
        for at in range(marked)
        for sign in ALPHABET
        if sign != text[at]
    ]
    assert len(changed) == marked * (len(ALPHABET) - 1)
    assert [each for each in changed if not isinstance(failed(each), Failed)] == []
    assert all(is_refused(each) for each in changed[::97])
    assert opened(text[:marked] + "3") == opened(text)


def test_no_single_character_can_be_left_out_or_put_in() -> None:
    text = sealed(expires_at=(NOW + 100) * 1000).removesuffix("~2")
    shorter = [text[:at] + text[at + 1 :] for at in range(len(text))]
    longer = [text[:at] + sign + text[at:] for at in range(len(text)) for sign in "0Aa*-="]
    longer += [text + sign for sign in "0Aa*-="]
    assert all(isinstance(failed(each), Failed) for each in shorter + longer)
    assert all(isinstance(failed(text[:at]), Failed) for at in range(len(text)))


@pytest.mark.parametrize("package", SESSIONS)
def test_node_refuses_what_we_refuse(node_iron: NodeIron, package: str) -> None:
    """One change in every part of a seal."""
    text = sealed(expires_at=int(time.time() + 600) * 1000)
    parts = text.removesuffix("~2").split("*")
    changed = []
    for n, part in enumerate(parts):
        other = "1" if part[0] != "1" else "2"
        changed.append("*".join([*parts[:n], other + part[1:], *parts[n + 1 :]]))
    assert all(isinstance(failed(each, now=time.time()), Failed) for each in changed)
    # iron-session 8 raises what it does not know by name.
    answers = node_iron.ask(
        {"do": "unseal", "with": package, "password": SECRET, "text": each} for each in changed
    )
    assert all(each == {} or isinstance(each, Refused) for each in answers)


def test_parts_of_two_seals_make_no_third() -> None:
    one = sealed(b'{"a":1}', seed=1).removesuffix("~2").split("*")
    two = sealed(b'{"b":2}', seed=2).removesuffix("~2").split("*")
    mixed = {
        "*".join(two[n] if taken >> n & 1 else one[n] for n in range(8)) for taken in range(256)
    }
    whole = {"*".join(one), "*".join(two)}
    assert len(mixed) == 2**5  # prefix, number and the empty expiry are the same in both
    assert all(isinstance(failed(each), Failed) for each in mixed - whole)
    assert all(isinstance(failed(each), bytes) for each in whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~2",
        "*******",
        "Fe26.2*******",
        "Fe26.1*1*a*b*c**d*e",
        "Fe26.2*1*" + "0" * 64,
        "é" * 300,
        "Fe26.2*1*" + "*" * 20_000,
        "Fe26.2*1*" + "0" * 64 + "*" + "A" * 22 + "*" + "A" * 20_000 + "**" + "0" * 64 + "*A",
    ],
)
def test_what_is_no_seal_is_refused(text: str) -> None:
    assert is_refused(text)
    assert failed(text) is Failed.FORM


def _resealed(**parts: str) -> str:
    """A seal that whoever has the secret might make: another part, and a MAC that fits it."""
    names = ("prefix", "id", "salt", "iv", "body", "expiry")
    held = dict(zip(names, sealed().split("*")[:6], strict=True)) | parts
    head = "*".join(held[name] for name in names)
    key = hashlib.pbkdf2_hmac("sha1", SECRET.encode(), b"0" * 64, 1, 32)
    mac = iron.b64encode(hmac.digest(key, head.encode(), "sha256"))
    return f"{head}*{'0' * 64}*{mac}~2"


@pytest.mark.parametrize(
    ("parts", "check"),
    [
        ({}, None),
        ({"prefix": "Fe26.1"}, Failed.FORM),
        ({"prefix": "fe26.2"}, Failed.FORM),
        ({"id": ""}, Failed.FORM),
        ({"id": "default"}, Failed.KEY),
        ({"id": "１"}, Failed.FORM),
        ({"salt": "A" * 64}, Failed.FORM),
        ({"salt": ""}, Failed.FORM),
        ({"salt": "0" * 64}, Failed.CIPHERTEXT),
        ({"iv": "A" * 22}, Failed.CIPHERTEXT),
        ({"iv": "A" * 21 + "B"}, Failed.CIPHERTEXT),
        ({"body": ""}, Failed.FORM),
        ({"body": "AAAA"}, Failed.CIPHERTEXT),
        ({"body": "A" * 22}, Failed.CIPHERTEXT),
        ({"expiry": "0"}, Failed.FORM),
        ({"expiry": "01900000000000"}, Failed.FORM),
        ({"expiry": "1900000000000.5"}, Failed.FORM),
        ({"expiry": "1e30"}, Failed.FORM),
        ({"expiry": "9" * 30}, Failed.FORM),
        ({"expiry": "1"}, Failed.EXPIRED),
    ],
)
def test_a_mac_that_fits_does_not_make_up_for_another_form(
    parts: dict[str, str], check: Failed | None
) -> None:
    found = failed(_resealed(**parts))
    assert found is check or (check is None and found == b'{"a":1}')


# -- small promises -------------------------------------------------------------------------------


@given(data=st.binary(max_size=200), seed=st.integers(0, 2**32))
def test_what_is_sealed_comes_back(data: bytes, seed: int) -> None:
    text = sealed(data, seed=seed)
    assert opened(text) == data
    assert re.fullmatch(r"[\w.*~-]+", text, re.ASCII)


def test_two_seals_of_the_same_are_different() -> None:
    assert sealed(seed=1) != sealed(seed=2)
    assert len({sealed(seed=n).split("*")[k] for n in range(20) for k in (2, 3, 4, 6)}) == 80


def test_a_password_shows_no_secret() -> None:
    assert repr(ONE) == "[<password 1>]"


# -- the vectors' making --------------------------------------------------------------------------

INPUTS: list[tuple[str, str, str, Any, float]] = [
    ("an empty object", "1", SECRET, {}, 0),
    ("a session of ideal-auth", "1", SECRET, {"uid": "1", "iat": 1, "exp": 2, "ttl": 1}, 0),
    ("a number of the map", "12", OTHER, {"a": [1, 2.5, None, True, {"b": "c"}]}, 0),
    ("beyond ASCII", "1", "Geheimnis · 秘密 · секрет · 🔑 · mystère", {"ключ": "Ada 🗝 秘密"}, 0),
    ("one that expires", "1", SECRET, {"a": 1}, 3600),
    ("2,500 characters", "1", SECRET, {"token": "t" * 2500}, 0),
]


def make_vectors(node: NodeIron) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for name, password_id, secret, data, ttl in INPUTS:
        now = int(time.time())
        text = node.seal(HAPI_IRON, data, {password_id: secret}, ttl)
        made.append(
            {"name": name, "id": password_id, "secret": secret, "now": now, "data": data}
            | {"sealed": text}
        )
    return made


if __name__ == "__main__":
    from .providers.iron_node import running

    with running() as node:
        made = json.dumps(make_vectors(node), indent=1, ensure_ascii=False)
    VECTORS.write_text(made + "\n")
    sys.stdout.write(f"wrote {VECTORS}\n")
