"""The native seal, from two sides: what the module writes, and what the format says.

``python -m tests.test_seal`` writes the vectors anew; a change of them is a change of the format.
"""

from __future__ import annotations

import base64
import hmac
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_ideal_auth import AESGCMSealer, ConfigurationError, InvalidCookie, seal
from fastapi_ideal_auth.seal import KeyRing, Sealer, b64decode, b64encode, new_secret

SECRET = "one secret of these tests, long enough"
OTHER = "another secret of these tests, as long"
VECTORS = Path(__file__).parent / "vectors" / "seal-v1.json"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def sealer(*secrets: str) -> Sealer:
    return AESGCMSealer().bind(KeyRing(secrets or SECRET))


def refusal(attempt: Callable[[], object]) -> tuple[Any, ...]:
    """All that an outsider could learn from a refusal."""
    with pytest.raises(InvalidCookie) as caught:
        attempt()
    error = caught.value
    return type(error), str(error), error.args, vars(error), error.__cause__, error.__context__


THE_REFUSAL = (InvalidCookie, "the session cookie is not valid", None, None)


def is_the_one_refusal(attempt: Callable[[], object]) -> bool:
    kind, text, args, attributes, cause, context = refusal(attempt)
    return (kind, text, cause, context) == THE_REFUSAL and args == (text,) and not attributes


# -- the format, written down a second time -------------------------------------------------------


def hkdf(secret: str, info: bytes, length: int) -> bytes:
    """RFC 5869 by the other door: one class that extracts and expands."""
    kdf = HKDF(hashes.SHA512(), length, salt=b"fastapi_ideal_auth", info=info)
    return kdf.derive(secret.encode())


def hkdf_by_hand(secret: str, info: bytes, length: int) -> bytes:
    """RFC 5869 with nothing but HMAC; up to 64 bytes of output are one block."""
    prk = hmac.digest(b"fastapi_ideal_auth", secret.encode(), "sha512")
    return hmac.digest(prk, info + b"\x01", "sha512")[:length]


def context_of(purpose: str, binding: bytes) -> bytes:
    name = purpose.encode()
    return b"\x01" + bytes([len(name)]) + name + len(binding).to_bytes(2, "big") + binding


def opened_by_the_book(
    sealed: str,
    secret: str,
    purpose: str,
    binding: bytes,
    *,
    kdf: Callable[[str, bytes, int], bytes] = hkdf,
) -> bytes:
    raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    version, key_id, salt, commitment = raw[:1], raw[1:5], raw[5:21], raw[21:53]
    body, tag = raw[53:-16], raw[-16:]
    context = context_of(purpose, binding)
    okm = kdf(secret, b"message" + context + salt, 64)
    assert version == b"\x01"
    assert key_id == kdf(secret, b"key id", 4)
    assert commitment == okm[32:]
    decryptor = Cipher(algorithms.AES(okm[:32]), modes.GCM(bytes(12), tag)).decryptor()
    decryptor.authenticate_additional_data(context)
    return decryptor.update(body) + decryptor.finalize()


def sealed_by_the_book(
    data: bytes, secret: str, purpose: str, binding: bytes, *, commitment: bytes | None = None
) -> bytes:
    salt = b"a salt of 16 by."
    context = context_of(purpose, binding)
    okm = hkdf(secret, b"message" + context + salt, 64)
    body = AESGCM(okm[:32]).encrypt(bytes(12), data, context)
    return b"\x01" + hkdf(secret, b"key id", 4) + salt + (commitment or okm[32:]) + body


# -- vectors --------------------------------------------------------------------------------------

INPUTS: list[tuple[str, str, str, str, bytes]] = [
    ("nothing inside", SECRET, "session", "__Host-ideal_session", b""),
    ("a few bytes", SECRET, "session", "__Host-ideal_session", b"a session"),
    ("every byte", SECRET, "session", "ideal_session", bytes(range(256))),
    ("another secret", OTHER, "session", "__Host-ideal_session", b"a session"),
    ("another purpose", SECRET, "login", "__Host-ideal_session", b"a session"),
    ("no binding", SECRET, "record", "", b"a session"),
    ("a secret beyond ASCII", "Geheimnis · 秘密 · секрет · 🔑 · mystère", "record", "ü", b"\x00"),
]


def vectors() -> list[dict[str, str]]:
    """The vectors as the module makes them, each with a salt that counts up."""
    made: list[dict[str, str]] = []
    for n, (name, secret, purpose, binding, plaintext) in enumerate(INPUTS):
        salt = bytes(range(n, n + 16))
        with patch.object(seal, "_random_bytes", lambda size, salt=salt: salt[:size]):
            sealed = KeyRing(secret).seal(plaintext, purpose=purpose, binding=binding.encode())
        made.append(
            {
                "name": name,
                "secret": secret,
                "purpose": purpose,
                "binding": binding,
                "salt": salt.hex(),
                "plaintext": plaintext.hex(),
                "sealed": b64encode(sealed),
            }
        )
    return made


COMMITTED: list[dict[str, str]] = json.loads(VECTORS.read_text()) if VECTORS.exists() else []
each_vector = pytest.mark.parametrize("vector", COMMITTED, ids=lambda vector: vector["name"])


def test_the_committed_vectors_are_what_the_module_writes() -> None:
    assert vectors() == COMMITTED


@each_vector
@pytest.mark.parametrize("kdf", [hkdf, hkdf_by_hand])
def test_a_vector_opens_by_the_book(
    vector: dict[str, str], kdf: Callable[[str, bytes, int], bytes]
) -> None:
    opened = opened_by_the_book(
        vector["sealed"],
        vector["secret"],
        vector["purpose"],
        vector["binding"].encode(),
        kdf=kdf,
    )
    assert opened.hex() == vector["plaintext"]


@each_vector
def test_a_vector_opens_with_the_module(vector: dict[str, str]) -> None:
    opened = KeyRing(vector["secret"]).open(
        b64decode(vector["sealed"]),
        purpose=vector["purpose"],
        binding=vector["binding"].encode(),
    )
    assert opened.hex() == vector["plaintext"]


def test_what_the_book_seals_the_module_opens() -> None:
    sealed = sealed_by_the_book(b"data", SECRET, "session", b"name")
    assert KeyRing(SECRET).open(sealed, purpose="session", binding=b"name") == b"data"


def test_a_seal_takes_69_bytes_more_than_its_content() -> None:
    assert len(KeyRing(SECRET).seal(b"x" * 100, purpose="session", binding=b"")) == 169


# -- one use, one seal ----------------------------------------------------------------------------


def test_a_seal_opens_as_it_was_made() -> None:
    text = sealer().seal(b"data", purpose="session", name="a")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert sealer().open(text, purpose="session", name="a") == b"data"


def test_two_seals_of_the_same_data_share_nothing_but_version_and_key_id() -> None:
    one, two = (KeyRing(SECRET).seal(b"x" * 64, purpose="p", binding=b"") for _ in range(2))
    assert one[:5] == two[:5]
    assert not {one[at : at + 8] for at in range(5, 120)} & {
        two[at : at + 8] for at in range(5, 120)
    }


@pytest.mark.parametrize(
    ("purpose", "name"),
    [
        ("login", "a"),
        ("session", "b"),
        ("session", ""),
        ("", "a"),
        ("session", "a\0"),
        ("sessio", "na"),
        ("sessiona", ""),
        ("SESSION", "a"),
    ],
)
def test_a_seal_opens_in_no_other_use(purpose: str, name: str) -> None:
    text = sealer().seal(b"data", purpose="session", name="a")
    assert is_the_one_refusal(lambda: sealer().open(text, purpose=purpose, name=name))


@given(
    st.tuples(st.text(max_size=3), st.binary(max_size=3)),
    st.tuples(st.text(max_size=3), st.binary(max_size=3)),
)
@example(("p\0", b""), ("p", b"\0"))
@example(("", b"\0\0"), ("\0", b"\0"))
def test_no_two_uses_read_the_same(one: tuple[str, bytes], two: tuple[str, bytes]) -> None:
    ring = KeyRing(SECRET)
    sealed = ring.seal(b"data", purpose=one[0], binding=one[1])
    if one == two:
        assert ring.open(sealed, purpose=two[0], binding=two[1]) == b"data"
    else:
        assert is_the_one_refusal(lambda: ring.open(sealed, purpose=two[0], binding=two[1]))


@pytest.mark.parametrize("version", [v for v in range(256) if v != 1])
def test_another_version_is_refused(version: int) -> None:
    ring = KeyRing(SECRET)
    sealed = bytes([version]) + ring.seal(b"data", purpose="p", binding=b"")[1:]
    assert is_the_one_refusal(lambda: ring.open(sealed, purpose="p", binding=b""))


def test_the_version_is_authenticated_too() -> None:
    # What a version 2 of the same layout would write: its context begins with its own number.
    ring = KeyRing(SECRET)
    sealed = bytearray(ring.seal(b"data", purpose="p", binding=b""))
    salt = bytes(sealed[5:21])
    context = b"\x02" + context_of("p", b"")[1:]
    okm = hkdf(SECRET, b"message" + context + salt, 64)
    sealed[21:] = okm[32:] + AESGCM(okm[:32]).encrypt(bytes(12), b"data", context)
    assert is_the_one_refusal(lambda: ring.open(bytes(sealed), purpose="p", binding=b""))


# -- the ring -------------------------------------------------------------------------------------


def test_the_first_secret_seals() -> None:
    text = sealer(SECRET, OTHER).seal(b"data", purpose="p", name="a")
    assert sealer(SECRET).open(text, purpose="p", name="a") == b"data"
    assert is_the_one_refusal(lambda: sealer(OTHER).open(text, purpose="p", name="a"))


def test_every_secret_of_the_ring_opens_wherever_it_stands() -> None:
    ring = [new_secret() for _ in range(5)]
    for secret in ring:
        text = sealer(secret).seal(b"data", purpose="p", name="a")
        assert sealer(*ring).open(text, purpose="p", name="a") == b"data"


def test_a_dropped_secret_opens_nothing() -> None:
    text = sealer(OTHER).seal(b"data", purpose="p", name="a")
    assert sealer(SECRET, OTHER).open(text, purpose="p", name="a") == b"data"
    assert is_the_one_refusal(lambda: sealer(SECRET).open(text, purpose="p", name="a"))


# Found by search: of some 2**16 secrets two share the four bytes of their key id.
TWINS = (
    "two secrets whose key ids collide: 009238",
    "two secrets whose key ids collide: 022578",
)


def test_two_secrets_with_one_key_id_both_open() -> None:
    seals = [sealer(secret).seal(secret.encode(), purpose="p", name="a") for secret in TWINS]
    assert b64decode(seals[0])[:5] == b64decode(seals[1])[:5]
    for ring in (TWINS, TWINS[::-1]):
        opened = [sealer(*ring).open(text, purpose="p", name="a") for text in seals]
        assert opened == [secret.encode() for secret in TWINS]


def test_a_secret_whose_key_id_is_in_the_ring_by_chance_opens_nothing() -> None:
    text = sealer(TWINS[0]).seal(b"data", purpose="p", name="a")
    assert is_the_one_refusal(lambda: sealer(TWINS[1]).open(text, purpose="p", name="a"))


# -- damage ---------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused() -> None:
    ring = KeyRing(SECRET)
    sealed = ring.seal(b"a session", purpose="p", binding=b"a")
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        flipped = bytes(damaged)
        assert is_the_one_refusal(
            lambda flipped=flipped: ring.open(flipped, purpose="p", binding=b"a")
        )


def test_every_truncation_and_every_tail_is_refused() -> None:
    mine = sealer()
    text = mine.seal(b"a session", purpose="p", name="a")
    for damaged in (
        *(text[:at] for at in range(len(text))),
        *(text[at:] for at in range(1, len(text))),
        *(text + letter for letter in ALPHABET),
        text + text,
    ):
        assert is_the_one_refusal(lambda damaged=damaged: mine.open(damaged, purpose="p", name="a"))


def mutated(text: str, chance: random.Random) -> str:
    """The text after one to four cuts, swaps, insertions or replacements."""
    letters = list(text)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(letters))
        match chance.randrange(4):
            case 0:
                letters[at] = chance.choice(ALPHABET)
            case 1:
                letters.insert(at, chance.choice(ALPHABET + "+/= \n\0é€"))
            case 2:
                del letters[at]
            case _:
                other = chance.randrange(len(letters))
                letters[at], letters[other] = letters[other], letters[at]
    return "".join(letters)


def test_twenty_thousand_mutations_are_refused_alike() -> None:
    chance = random.Random(20_000)
    mine = sealer(SECRET, OTHER)
    text = mine.seal(b"a session", purpose="p", name="a")
    refused = 0
    while refused < 20_000:
        damaged = mutated(text, chance)
        if damaged != text:
            assert is_the_one_refusal(
                lambda damaged=damaged: mine.open(damaged, purpose="p", name="a")
            )
            refused += 1


@given(st.text())
def test_no_text_at_all_opens_or_raises_anything_else(text: str) -> None:
    assert is_the_one_refusal(lambda: sealer().open(text, purpose="p", name="a"))


def functions_called(attempt: Callable[[], object]) -> list[str]:
    called: list[str] = []

    def note(frame: FrameType, event: str, function: object) -> None:
        # The cipher is a built-in, or Python around one, as cryptography's version has it.
        if event == "c_call":
            called.append(getattr(function, "__name__", ""))
        elif event == "call":
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        attempt()
    finally:
        sys.setprofile(before)
    return called


def test_a_ciphertext_under_the_right_key_with_another_commitment_is_not_even_decrypted() -> None:
    ring = KeyRing(SECRET)
    good = sealed_by_the_book(b"data", SECRET, "p", b"")
    crafted = sealed_by_the_book(b"data", SECRET, "p", b"", commitment=bytes(32))
    assert "decrypt" in functions_called(lambda: ring.open(good, purpose="p", binding=b""))
    called = functions_called(
        lambda: is_the_one_refusal(lambda: ring.open(crafted, purpose="p", binding=b""))
    )
    assert "compare_digest" in called
    assert "decrypt" not in called


# -- one spelling a value -------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_base64url_agrees_with_the_standard_library(data: bytes) -> None:
    text = b64encode(data)
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert b64decode(text) == data


@given(st.text(st.sampled_from(ALPHABET + "+/=\n é"), max_size=12))
def test_what_decodes_is_the_one_spelling_of_it(text: str) -> None:
    try:
        data = b64decode(text)
    except ValueError:
        return
    assert b64encode(data) == text


@given(st.binary(min_size=1, max_size=40))
def test_of_the_last_characters_exactly_one_is_taken(data: bytes) -> None:
    text = b64encode(data)
    spellings = [text[:-1] + last for last in ALPHABET]
    same = [each for each in spellings if _lenient(each) == data]
    assert len(same) == {0: 1, 2: 16, 3: 4}[len(text) % 4]
    assert [each for each in same if _takes(each)] == [text]


def _lenient(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _takes(text: str) -> bool:
    try:
        b64decode(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA==",
        "AAA=",
        "AAAA=",
        "AAAA====",
        "=",
        "+A",
        "/w",
        "_+8",
        " AA",
        "AA ",
        "A A",
        "AA\n",
        "AA\nAA",
        "AA\r\n",
        "\tAAA",
        "AA\0A",
        "AA.A",
        "AA,A",
        "é",
        "AAAé",
        "ＡＡ",
        "AAA\u00ad",
        "AA\ud800A",
        "AB",
        "AAB",
    ],
)
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # its kinds are three, its message is no promise
        b64decode(text)


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text + "=" * (-len(text) % 4 or 4),
        lambda text: base64.b64encode(b64decode(text)).decode().rstrip("="),
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text[:60] + "\n" + text[60:],
        lambda text: f'"{text}"',
        lambda text: text.replace("-", "%2D").replace("_", "%5F") + "%",
    ],
)
def test_a_good_seal_in_another_spelling_is_refused(respell: Callable[[str], str]) -> None:
    mine = sealer()
    text = ""
    while not {"-", "_"} <= set(text):
        text = mine.seal(b"a session of some length", purpose="p", name="a")
    damaged = respell(text)
    assert damaged != text
    assert is_the_one_refusal(lambda: mine.open(damaged, purpose="p", name="a"))


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("", "has 0 characters and needs 32"),
        ("x" * 31, "has 31 characters and needs 32"),
        ([], "secret= is empty"),
        ((), "secret= is empty"),
        ([SECRET, "short"], "has 5 characters and needs 32"),
        ([SECRET, ""], "has 0 characters and needs 32"),
        (SECRET.encode(), "this one is bytes"),
        ({SECRET, OTHER}, "this one is set"),
        (None, "this one is NoneType"),
        ([SECRET.encode()], "one is bytes"),
        ([None], "one is NoneType"),
        ([SECRET, 5], "one is int"),
    ],
)
def test_a_bad_secret_is_refused_with_what_to_do(secret: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        KeyRing(secret)
    assert "xxx" not in str(caught.value)


def test_a_secret_of_exactly_32_characters_will_do() -> None:
    KeyRing("abcd" * 8)


def test_a_secret_may_hold_any_character() -> None:
    odd = "🔑" * 20 + "ü\ud800\0" * 5
    text = sealer(odd).seal(b"data", purpose="p", name="a")
    assert sealer(odd).open(text, purpose="p", name="a") == b"data"


def test_new_secrets_are_long_url_safe_and_different() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{64}", secret) for secret in made)
    KeyRing(sorted(made))


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
def test_no_repr_shows_a_secret(show: Callable[[object], str]) -> None:
    for thing in (KeyRing([SECRET, OTHER]), sealer(SECRET, OTHER), AESGCMSealer()):
        shown = show(thing)
        assert SECRET not in shown
        assert OTHER not in shown
        assert len(shown) < 100
    assert repr(KeyRing([SECRET, OTHER])) == "<KeyRing of 2>"


def test_a_sealer_without_secrets_says_where_they_come_from() -> None:
    bare = AESGCMSealer()
    with pytest.raises(ConfigurationError, match="IdealAuth"):
        bare.seal(b"", purpose="p", name="a")
    with pytest.raises(ConfigurationError, match="IdealAuth"):
        bare.open("", purpose="p", name="a")


def test_binding_a_sealer_leaves_the_first_as_it_was() -> None:
    bare = AESGCMSealer()
    one, two = bare.bind(KeyRing(SECRET)), bare.bind(KeyRing(OTHER))
    text = one.seal(b"data", purpose="p", name="a")
    assert one.open(text, purpose="p", name="a") == b"data"
    assert is_the_one_refusal(lambda: two.open(text, purpose="p", name="a"))
    with pytest.raises(ConfigurationError):
        bare.open(text, purpose="p", name="a")


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(vectors(), indent=2, ensure_ascii=False) + "\n", "utf-8")
