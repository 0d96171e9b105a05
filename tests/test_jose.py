"""Signatures: what counts as the provider's, and what a key of this client's signs."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from fastapi_ideal_auth import jose
from fastapi_ideal_auth.errors import ConfigurationError, IdentityRejected
from fastapi_ideal_auth.proof import client_assertion, dpop_proof, server_of

from .openid_provider import b64, hs256, key, opened, public, signed, unsigned
from .test_oauth import chain, told

CLAIMS = {"sub": "ada"}
RSA, EC, ED = key("RSA", "rsa-1"), key("EC", "ec-1"), key("OKP", "ed-1")


def keys(*given: Any) -> jose.Keys:
    found = jose.read_key_set(json.dumps(public(*given)).encode())
    assert found is not None
    return found


def verified(token: str, known: jose.Keys) -> jose.Signed:
    read = jose.read_signed(token)
    assert read.alg in jose.ASYMMETRIC
    jose.verify(read, jose.matching(read, known))
    return read


@pytest.mark.parametrize(
    ("by", "alg"),
    [
        (RSA, "RS256"),
        (RSA, "RS512"),
        (RSA, "PS256"),
        (EC, "ES256"),
        (key("EC", "ec-384", "P-384"), "ES384"),
        (key("EC", "ec-521", "P-521"), "ES512"),
        (ED, "EdDSA"),
        (ED, "Ed25519"),
    ],
)
def test_a_providers_signature_is_verified(by: Any, alg: str) -> None:
    token = signed(CLAIMS, by, alg, kid=by.kid, typ="application/JWT", extra="is ignored")
    read = verified(token, keys(RSA, EC, ED, by))
    assert (read.claims, read.typ, read.kid) == (CLAIMS, "jwt", by.kid)


def test_a_header_as_long_as_some_are_is_read() -> None:
    token = signed(CLAIMS, RSA, "RS256", kid=RSA.kid, x5c=["A" * 3000])
    assert verified(token, keys(RSA)).claims == CLAIMS


def test_without_a_kid_every_key_that_fits_is_tried() -> None:
    other = key("RSA", "rsa-2")
    assert verified(signed(CLAIMS, other, "RS256"), keys(RSA, EC, other)).claims == CLAIMS


@pytest.mark.parametrize("change", [0, 1, 2])
def test_a_token_that_was_changed_is_refused(change: int) -> None:
    parts = signed(CLAIMS, RSA, "RS256", kid="rsa-1").split(".")
    other = signed({"sub": "eve"}, key("RSA", "rsa-2"), "RS256", kid="rsa-1", typ="JWT").split(".")
    parts[change] = other[change]
    with pytest.raises(IdentityRejected, match="signature"):
        verified(".".join(parts), keys(RSA))


def test_a_key_of_another_kind_is_no_match() -> None:
    read = jose.read_signed(signed(CLAIMS, EC, "ES256", kid="rsa-1"))
    assert jose.matching(read, keys(RSA)) == ()


def test_a_key_that_is_for_another_algorithm_is_no_match() -> None:
    (only,) = keys(RSA)
    bound = jose.VerifyKey(only.kty, only.kid, "PS256", only.key)
    assert jose.matching(jose.read_signed(signed(CLAIMS, RSA, "RS256")), (bound,)) == ()


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "HS512", "ES256K", "dir", ""])
def test_what_only_the_provider_can_make_is_the_whole_list(alg: str) -> None:
    assert alg not in jose.ASYMMETRIC


def test_a_public_key_is_no_secret() -> None:
    """HS256 with the public key as the secret: it is not even looked for."""
    pem = RSA.as_pem(private=False)  # type: ignore[union-attr]  # an asymmetric key has one
    read = jose.read_signed(hs256(CLAIMS, pem, kid="rsa-1"))
    assert jose.matching(read, keys(RSA)) == ()
    with pytest.raises(IdentityRejected):
        jose.verify(read, keys(RSA))


def raw(header: bytes, payload: bytes) -> str:
    return f"{b64(header)}.{b64(payload)}.AA"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c",
        unsigned(CLAIMS),
        "e30.e30.e30",
        raw(b"[]", b"{}"),
        raw(b'{"alg": 7}', b"{}"),
        raw(b'{"alg":"RS256","alg":"none"}', b"{}"),
        raw(b'{"alg":"RS256"}', b'{"exp":NaN}'),
        raw(b'{"alg":"RS256"}', b"7"),
        raw(b'{"alg":"RS256"}', b"{}").replace(".", "=.", 1),
        raw(b'{"alg":"RS256"}', b"[" * 20000),
        "é.é.é",
        "A" * 200_000,
        signed(CLAIMS, RSA, "RS256", crit=["exp"], exp=1),
        signed(CLAIMS, RSA, "RS256", b64=True),
    ],
)
def test_what_is_no_signed_jwt_is_refused(token: str) -> None:
    with pytest.raises(IdentityRejected) as caught:
        jose.read_signed(token)
    assert chain(caught.value) == [caught.value]


def test_an_encrypted_token_says_what_to_do() -> None:
    with pytest.raises(IdentityRejected, match="is encrypted"):
        jose.read_signed("a.b.c.d.e")


@given(st.text(), st.binary(max_size=40))
def test_whatever_is_read_nothing_else_is_raised(text: str, data: bytes) -> None:
    for token in (text, f"{b64(data)}.{b64(data)}.{b64(data)}"):
        try:
            jose.verify(jose.read_signed(token), keys(RSA))
        except IdentityRejected:
            continue
        raise AssertionError("it was believed")


# -- key sets -------------------------------------------------------------------------------------


def test_keys_that_are_not_understood_are_left_out() -> None:
    (good,) = public(EC)["keys"]
    strange = [
        7,
        None,
        {},
        {"kty": "AKP", "alg": "ML-DSA-44"},
        {"kty": "oct", "k": "AAAA"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["sign"]},
        {**good, "key_ops": "verify"},
        {**good, "x": "!"},
        {**good, "crv": "P-999"},
        EC.as_dict(private=True),
        key("RSA", "rsa-1").as_dict(private=True),
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
    ]
    found = jose.read_key_set(json.dumps({"keys": [*strange, good]}).encode())
    assert found is not None
    assert [one.kid for one in found] == ["ec-1"]


def test_a_set_of_many_keys_is_read_so_far() -> None:
    found = jose.read_key_set(json.dumps({"keys": public(ED)["keys"] * 1000}).encode())
    assert found is not None
    assert len(found) == 64


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": {}}', b"<html>", b"\xff"])
def test_what_is_no_key_set_is_none(body: bytes) -> None:
    assert jose.read_key_set(body) is None


@pytest.fixture
def weak() -> RSAKey:
    """joserfc warns of it; where warnings are no errors, nothing else would stop it."""
    warnings.simplefilter("ignore")
    return RSAKey.generate_key(1024, {"kid": "weak"})


def test_a_key_that_can_be_factored_is_left_out(weak: RSAKey) -> None:
    assert keys(weak) == ()


# -- this client's keys ---------------------------------------------------------------------------


def pem(private: Any, encryption: Any = None) -> bytes:
    made: bytes = private.raw_value.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )
    return made


ALL = ("RSA", "EC", "OKP")


@pytest.mark.parametrize(
    ("private", "alg"),
    [
        (RSA, "RS256"),
        (EC, "ES256"),
        (key("EC", "ec-384", "P-384"), "ES384"),
        (key("EC", "ec-521", "P-521"), "ES512"),
        (ED, "EdDSA"),
    ],
)
@pytest.mark.parametrize("form", ["pem", "text", "jwk", "json"])
def test_a_private_key_is_read_from_pem_and_from_a_jwk(private: Any, alg: str, form: str) -> None:
    given: Any = {
        "pem": lambda: pem(private),
        "text": lambda: pem(private).decode(),
        "jwk": lambda: private.as_dict(private=True),
        "json": lambda: json.dumps({**private.as_dict(private=True), "use": "sig"}),
    }[form]()
    read = jose.read_signing_key("client_key", given, types=ALL)
    header, claims = opened(read.sign(read.header, CLAIMS), private)
    assert (header["alg"], claims) == (alg, CLAIMS)
    assert header.get("kid") == (private.kid if form in ("jwk", "json") else None)
    assert read.thumbprint == private.thumbprint()
    assert read.public.keys() <= {"kty", "crv", "x", "y", "n", "e"}


def test_an_algorithm_can_be_asked_for() -> None:
    read = jose.read_signing_key("client_key", pem(RSA), types=ALL, alg="PS256")
    assert opened(read.sign({}, CLAIMS), RSA)[0]["alg"] == "PS256"
    jwk = {**RSA.as_dict(private=True), "alg": "RS512"}
    assert jose.read_signing_key("client_key", jwk, types=ALL).alg == "RS512"


PLANTED = "pl4nted"


@pytest.mark.parametrize(
    "given",
    [
        "",
        PLANTED,
        b"\xff" + PLANTED.encode(),
        7,
        {"kty": "EC", "d": PLANTED},
        {"kty": "oct", "k": PLANTED},
        json.dumps({"kty": "RSA", "d": PLANTED}),
        "{" + PLANTED,
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n",
        EC.as_dict(private=False),
        pem(EC, serialization.BestAvailableEncryption(b"x")),
        RSA.as_pem(private=False),  # type: ignore[union-attr]  # an asymmetric key has one
    ],
)
def test_what_is_no_private_key_is_refused_and_not_shown(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="client_key is a private key") as caught:
        jose.read_signing_key("client_key", given, types=ALL)
    assert chain(caught.value) == [caught.value]
    assert PLANTED not in told(caught.value)


@pytest.mark.parametrize(
    ("private", "alg"),
    [(RSA, "ES256"), (EC, "ES384"), (EC, "RS256"), (ED, "ES256"), (EC, "HS256"), (RSA, "none")],
)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(private: Any, alg: str) -> None:
    with pytest.raises(ConfigurationError, match=f"does not sign with {alg}"):
        jose.read_signing_key("client_key", pem(private), types=ALL, alg=alg)


def test_a_private_key_that_can_be_factored_is_refused(weak: RSAKey) -> None:
    for form in (pem(weak), weak.as_dict(private=True)):
        with pytest.raises(ConfigurationError, match="2048 bits"):
            jose.read_signing_key("client_key", form, types=ALL)


def test_a_dpop_key_is_no_rsa_key() -> None:
    with pytest.raises(ConfigurationError, match="EC or OKP"):
        jose.read_signing_key("dpop_key", pem(RSA), types=("EC", "OKP"))


def test_a_keys_repr_shows_nothing_of_it() -> None:
    read = jose.read_signing_key("client_key", EC.as_dict(private=True), types=ALL)
    assert repr(read) == "SigningKey(alg='ES256')"
    assert repr(keys(EC)[0]) == "VerifyKey(kty='EC', kid='ec-1', alg=None)"
    assert "ada" not in repr(jose.read_signed(signed(CLAIMS, EC, "ES256")))


# -- proofs ---------------------------------------------------------------------------------------


def test_a_client_assertion_says_who_and_to_whom_and_not_for_long() -> None:
    signing = jose.read_signing_key("client_key", EC.as_dict(private=True), types=ALL)
    made = client_assertion(
        signing, client_id="app", audience="https://op.example", now=1000.9, jti="j"
    )
    header, claims = opened(made, EC)
    assert header == {"alg": "ES256", "kid": "ec-1"}
    assert claims == {
        "iss": "app",
        "sub": "app",
        "aud": "https://op.example",
        "jti": "j",
        "iat": 1000,
        "exp": 1060,
    }


def test_a_dpop_proof_is_of_one_request() -> None:
    signing = jose.read_signing_key("dpop_key", EC.as_dict(private=True), types=("EC", "OKP"))
    made = dpop_proof(
        signing,
        method="GET",
        url="https://api.example/a?b=c#d",
        now=1000.9,
        jti="j",
        nonce="n",
        access_token="Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
    )
    header, claims = opened(made, EC)
    assert header["typ"] == "dpop+jwt"
    assert header["jwk"] == {n: v for n, v in EC.as_dict(private=False).items() if n != "kid"}
    assert claims == {
        "jti": "j",
        "htm": "GET",
        "htu": "https://api.example/a",
        "iat": 1000,
        "nonce": "n",
        "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",  # RFC 9449 §7.1
    }


def test_a_server_is_its_scheme_host_and_port() -> None:
    assert server_of("https://OP.example/a?b") == server_of("https://op.example:443/c")
    assert server_of("https://op.example/") != server_of("https://op.example:8443/")


def test_the_kinds_of_keys_are_those_of_the_standards() -> None:
    for kind in (RSAKey, ECKey, OKPKey):
        assert kind.key_type in ALL
    assert OctKey.key_type not in ALL
