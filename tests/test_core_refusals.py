"""Small refusals of the core: odd types, odd spellings, and errors that hold nothing."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_ideal_auth.cookies import CookieSettings, read
from fastapi_ideal_auth.errors import ConfigurationError
from fastapi_ideal_auth.origin import CrossOriginGuard, local_path
from fastapi_ideal_auth.packing import unpack_token
from fastapi_ideal_auth.seal import KeyRing, b64decode

SECRET = "a secret of the tests, at least 32 characters long"


@pytest.mark.parametrize("secret", [None, 5, SECRET.encode(), {SECRET}, iter([SECRET])])
def test_what_is_no_sequence_of_secrets_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="a string or a sequence of strings"):
        KeyRing(secret)


def test_no_key_shows_in_a_local_variable() -> None:
    (key,) = KeyRing(SECRET)._keys
    assert repr(key.secret) not in repr(key)
    assert SECRET not in repr(key)


def test_what_is_no_base64url_is_refused_without_a_copy_of_it() -> None:
    with pytest.raises(ValueError, match="not base64url") as caught:
        b64decode("öäüß")
    assert not isinstance(caught.value, UnicodeError)


@pytest.mark.parametrize("packed", [b"\x01\x83\x00ABC", b"\x00a token\xff"])
def test_a_packed_token_is_read_strictly_and_never_held_by_the_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match="packed token") as caught:
        unpack_token(packed)
    assert not isinstance(caught.value, UnicodeError)


def test_cookie_values_are_not_shown() -> None:
    presented = read("s=told; s.0=told", CookieSettings.of(name="s", secure=False))
    assert "told" not in repr(presented)


@pytest.mark.parametrize(
    "options",
    [
        {"secure": "false"},
        {"name": None},
        {"name": "sid.0"},
        {"name": "__Http-sid"},
        {"domain": 5},
        {"path": None},
    ],
)
def test_an_option_of_the_wrong_kind_is_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CookieSettings.of(**options)


def test_quotes_are_taken_off_in_pairs() -> None:
    plain = CookieSettings.of(name="s", secure=False)
    assert read('s="a', plain).bare == '"a'
    assert read('s=""a""', plain).bare == '"a"'


@pytest.mark.parametrize("name", [b"Sec-Fetch-Site", b"SEC-FETCH-SITE"])
def test_a_server_that_keeps_the_case_of_names_does_not_disarm_the_guard(name: bytes) -> None:
    assert CrossOriginGuard().check("POST", [(name, b"cross-site")]) is not None


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_is_none_cannot_be_trusted(port: str) -> None:
    with pytest.raises(ConfigurationError):
        CrossOriginGuard.of([f"https://a.example:{port}"])


@pytest.mark.parametrize(
    "path", ["/\ud800", "/\xa0", "/\u3000x", "/\u202ex", "/\ufeff", "/" + "é" * 1500]
)
def test_next_holds_nothing_invisible_nothing_without_an_encoding_and_not_too_much(
    path: str,
) -> None:
    assert local_path(path) == "/"
