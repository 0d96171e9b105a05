"""What an ID token, a refreshed one and a logout token must say, claim by claim."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_ideal_auth.errors import IdentityRejected
from fastapi_ideal_auth.idtoken import (
    BACKCHANNEL_LOGOUT,
    LEEWAY,
    LOGOUT_SECONDS,
    LogoutToken,
    check_at_hash,
    check_id_token,
    check_refreshed,
    check_userinfo,
    read_logout_token,
)

from .openid_provider import half_hash

NOW = 1_800_000_000
ID = {"iss": "https://op.example", "sub": "ada", "aud": "app", "iat": NOW, "exp": NOW + 300}
LOGOUT = {
    "iss": "https://op.example",
    "aud": "app",
    "iat": NOW,
    "exp": NOW + 120,
    "jti": "j",
    "sub": "ada",
    "sid": "s",
    "events": {BACKCHANNEL_LOGOUT: {}},
}
MISSING = object()


def changed(claims: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {**claims, **changes}
    return {name: value for name, value in merged.items() if value is not MISSING}


def check(changes: dict[str, Any], **options: Any) -> None:
    settings = {"issuer": "https://op.example", "client_id": "app", "now": NOW, **options}
    check_id_token(changed(ID, changes), **settings)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aud": ["app"]},
        {"azp": "app"},
        {"aud": ["app", "another"], "azp": "app"},
        {"exp": NOW - LEEWAY + 1},
        {"iat": NOW + LEEWAY},
        {"nbf": NOW + LEEWAY},
        {"exp": NOW + 0.5},
        {"nonce": "one that nobody asked for"},
    ],
)
def test_an_id_token_for_this_client_now_holds(changes: dict[str, Any]) -> None:
    check(changes)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": "https://op.example/"}, "iss"),
        ({"iss": MISSING}, "iss"),
        ({"iss": ["https://op.example"]}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": ["another"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": MISSING}, "aud"),
        ({"aud": {"app": True}}, "aud"),
        ({"aud": ["app", "another"]}, "azp"),
        ({"aud": ["app", 7]}, "azp"),
        ({"aud": ["app", "another"], "azp": "another"}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"azp": None}, "azp"),
        ({"exp": NOW - LEEWAY}, "exp"),
        ({"exp": MISSING}, "exp"),
        ({"exp": str(NOW + 300)}, "exp"),
        ({"exp": True}, "exp"),
        ({"iat": NOW + LEEWAY + 1}, "iat"),
        ({"iat": MISSING}, "iat"),
        ({"nbf": NOW + LEEWAY + 1}, "nbf"),
        ({"nbf": "soon"}, "nbf"),
        ({"sub": MISSING}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "x" * 600}, "sub"),
    ],
)
def test_an_id_token_that_does_not_hold_is_refused_by_its_claim(
    changes: dict[str, Any], claim: str
) -> None:
    with pytest.raises(IdentityRejected, match=rf"\b{claim}\b"):
        check(changes)


@pytest.mark.parametrize("nonce", [MISSING, "another", "", None, 7, "thé", "\ud800"])
def test_a_nonce_is_the_one_of_the_sign_in(nonce: Any) -> None:
    check({"nonce": "n"}, nonce="n")
    with pytest.raises(IdentityRejected, match="nonce"):
        check({"nonce": nonce}, nonce="n")


def test_max_age_is_looked_at_where_it_was_asked_for() -> None:
    check({"auth_time": NOW - 300}, max_age=300.0)
    for late in (NOW - 300 - LEEWAY - 1, MISSING, "now"):
        with pytest.raises(IdentityRejected, match="auth_time"):
            check({"auth_time": late}, max_age=300.0)


@pytest.mark.parametrize(
    ("alg", "name"),
    [
        ("RS256", "sha256"),
        ("ES384", "sha384"),
        ("PS512", "sha512"),
        ("EdDSA", "sha512"),
        ("Ed25519", "sha512"),
    ],
)
def test_an_at_hash_is_of_the_access_token_beside_it(alg: str, name: str) -> None:
    check_at_hash({"at_hash": half_hash("at", name)}, access_token="at", alg=alg)
    check_at_hash({}, access_token="at", alg=alg)
    for wrong in (half_hash("another", name), "", None, 7):
        with pytest.raises(IdentityRejected, match="at_hash"):
            check_at_hash({"at_hash": wrong}, access_token="at", alg=alg)


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": NOW + 9, "exp": NOW + 600},
        {"aud": ["app"]},
        {"auth_time": MISSING},
        {"nonce": "n"},
        {"nonce": MISSING},
    ],
)
def test_a_refreshed_id_token_may_change_its_times(changes: dict[str, Any]) -> None:
    before = {**ID, "auth_time": NOW, "nonce": "n"}
    check_refreshed(changed(before, changes), before)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"sub": "eve"}, "sub"),
        ({"sub": MISSING}, "sub"),
        ({"aud": "another"}, "aud"),
        ({"aud": ["app", "another"]}, "aud"),
        ({"auth_time": NOW + 1}, "auth_time"),
        ({"nonce": "another"}, "nonce"),
    ],
)
def test_a_refreshed_id_token_is_of_the_same_sign_in(changes: dict[str, Any], claim: str) -> None:
    before = {**ID, "auth_time": NOW, "nonce": "n"}
    with pytest.raises(IdentityRejected, match=claim):
        check_refreshed(changed(before, changes), before)


@pytest.mark.parametrize("sub", ["eve", None, 7, ""])
def test_the_userinfo_is_about_the_same_subject(sub: Any) -> None:
    check_userinfo({"sub": "ada", "name": "Ada"}, ID)
    with pytest.raises(IdentityRejected, match="sub"):
        check_userinfo({"sub": sub}, ID)


# -- logout tokens --------------------------------------------------------------------------------


def read(changes: dict[str, Any], typ: str | None = "logout+jwt", now: float = NOW) -> LogoutToken:
    claims = changed(LOGOUT, changes)
    return read_logout_token(claims, typ, issuer="https://op.example", client_id="app", now=now)


def test_a_logout_token_says_whose_sessions_end() -> None:
    assert read({}) == LogoutToken(
        issuer="https://op.example",
        subject="ada",
        sid="s",
        jti="j",
        issued_at=NOW,
        expires_at=NOW + 120 + LEEWAY,
    )


@pytest.mark.parametrize(
    ("changes", "subject", "sid"),
    [({"sid": MISSING}, "ada", None), ({"sub": MISSING}, None, "s")],
)
def test_one_of_sub_and_sid_will_do(
    changes: dict[str, Any], subject: str | None, sid: str | None
) -> None:
    token = read(changes)
    assert (token.subject, token.sid) == (subject, sid)


@pytest.mark.parametrize("typ", [None, "jwt", "logout+jwt"])
def test_a_logout_token_may_say_what_it_is(typ: str | None) -> None:
    read({}, typ)


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "secevent+jwt", ""])
def test_another_kind_of_token_is_no_logout_token(typ: str) -> None:
    with pytest.raises(IdentityRejected, match="typ"):
        read({}, typ)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": MISSING}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": MISSING}, "aud"),
        ({"aud": ["app", "another"]}, "azp"),
        ({"iat": MISSING}, "iat"),
        ({"iat": NOW + LEEWAY + 1}, "iat"),
        ({"iat": NOW - LOGOUT_SECONDS}, "too long ago"),
        ({"exp": NOW - LEEWAY}, "exp"),
        ({"exp": MISSING}, "exp"),
        ({"jti": MISSING}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": 7}, "jti"),
        ({"events": MISSING}, "events"),
        ({"events": {}}, "events"),
        ({"events": [BACKCHANNEL_LOGOUT]}, "events"),
        ({"events": {BACKCHANNEL_LOGOUT: None}}, "events"),
        ({"events": {BACKCHANNEL_LOGOUT: True}}, "events"),
        ({"events": {BACKCHANNEL_LOGOUT + "/": {}}}, "events"),
        ({"events": {"http://schemas.openid.net/event/frontchannel-logout": {}}}, "events"),
        ({"nonce": "n"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": MISSING, "sid": MISSING}, "neither"),
        ({"sub": ""}, "sub"),
        ({"sid": 7}, "sid"),
    ],
)
def test_a_logout_token_that_does_not_hold_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(IdentityRejected, match=told):
        read(changes)


@given(st.floats(min_value=-1000, max_value=1000), st.integers(1, 1000))
def test_a_jti_need_be_remembered_no_longer_than_it_says(age: float, lives: int) -> None:
    """Once ``expires_at`` has come the token is refused for its age."""
    try:
        token = read({"exp": NOW + lives}, now=NOW + age)
    except IdentityRejected:
        return
    assert token.expires_at > NOW + age
    with pytest.raises(IdentityRejected):
        read({"exp": NOW + lives}, now=token.expires_at)


@given(
    st.dictionaries(
        st.sampled_from([*LOGOUT, "azp", "nonce", "nbf"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
    )
)
def test_whatever_the_claims_are_nothing_else_is_raised(changes: dict[str, Any]) -> None:
    for judge in (lambda: check(changes), lambda: read(changes)):
        with suppress(IdentityRejected):
            judge()


def test_times_that_are_no_times_hold_nowhere() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(IdentityRejected):
            check({"exp": value, "iat": value})


@pytest.mark.parametrize(("one", "other"), [("ada\ud800", "ada?"), ("ada\ud800", "ada\udfff")])
def test_two_subjects_are_one_only_if_they_are_the_same(one: str, other: str) -> None:
    check_userinfo({"sub": one}, {"sub": one})
    with pytest.raises(IdentityRejected):
        check_userinfo({"sub": other}, {"sub": one})
