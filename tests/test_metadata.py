"""Whether what a provider says of itself can be believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastapi_ideal_auth.errors import ProviderMisconfigured, ProviderUnavailable
from fastapi_ideal_auth.metadata import Metadata, discovery_url, judge_metadata

from .test_oauth import chain

ISSUER = "https://op.example"
WHOLE: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://op.example/authorize",
    "token_endpoint": "https://op.example/token",
    "jwks_uri": "https://op.example/jwks",
}


def judged(
    changes: dict[str, Any] | None = None, issuer: str = ISSUER, without: str = ""
) -> Metadata:
    document = {**WHOLE, **(changes or {})}
    document.pop(without, None)
    body = json.dumps(document).encode()
    return judge_metadata(200, {}, body, issuer=issuer, now=0)


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://op.example", "https://op.example/.well-known/openid-configuration"),
        ("https://op.example/", "https://op.example/.well-known/openid-configuration"),
        ("https://op.example/a/b", "https://op.example/a/b/.well-known/openid-configuration"),
    ],
)
def test_the_metadata_is_where_the_issuer_says(issuer: str, url: str) -> None:
    assert discovery_url(issuer) == url


def test_the_least_that_a_provider_must_say_will_do() -> None:
    metadata = judged()
    assert metadata.token_endpoint == "https://op.example/token"
    assert metadata.userinfo_endpoint is None
    assert metadata.id_token_signing_alg_values_supported == {"RS256"}
    assert not metadata.require_pushed_authorization_requests
    assert not metadata.authorization_response_iss_parameter_supported


def test_what_else_it_says_is_read() -> None:
    metadata = judged(
        {
            "userinfo_endpoint": "https://op.example/userinfo",
            "revocation_endpoint": "https://op.example/revoke",
            "end_session_endpoint": "https://op.example/logout",
            "pushed_authorization_request_endpoint": "https://op.example/par",
            "require_pushed_authorization_requests": True,
            "authorization_response_iss_parameter_supported": True,
            "id_token_signing_alg_values_supported": ["ES256", "none", 7],
            "scopes_supported": ["openid"],
        }
    )
    assert metadata.end_session_endpoint == "https://op.example/logout"
    assert metadata.pushed_authorization_request_endpoint == "https://op.example/par"
    assert metadata.require_pushed_authorization_requests
    assert metadata.authorization_response_iss_parameter_supported
    assert metadata.id_token_signing_alg_values_supported == {"ES256", "none"}
    assert metadata.scopes_supported == {"openid"}


@pytest.mark.parametrize(
    "issuer",
    [
        "https://op.example/",
        "https://OP.example",
        "http://op.example",
        "https://op.example.evil.example",
        None,
        ["https://op.example"],
    ],
)
def test_another_issuer_is_refused_however_alike(issuer: Any) -> None:
    with pytest.raises(ProviderMisconfigured, match="exactly as the provider does"):
        judged({"issuer": issuer})


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
def test_without_an_endpoint_that_is_needed_it_is_no_use(name: str) -> None:
    with pytest.raises(ProviderMisconfigured, match=name):
        judged(without=name)


@pytest.mark.parametrize(
    "url",
    [
        "http://op.example/token",
        "http://127.0.0.1/token",  # of this machine, and the issuer is not
        "http://localhost/token",
        "https://user:password@op.example/token",
        "ftp://op.example/token",
        "/token",
        "",
        7,
        "https://op.example/#",
    ],
)
@pytest.mark.parametrize(
    "name", ["token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"]
)
def test_an_endpoint_that_tokens_must_not_go_to_is_refused(name: str, url: Any) -> None:
    with pytest.raises(ProviderMisconfigured, match=name) as caught:
        judged({name: url})
    assert "password@" not in str(caught.value)
    assert chain(caught.value) == [caught.value]


def test_an_issuer_of_this_machine_has_endpoints_on_it() -> None:
    here = {
        name: url.replace("https://op.example", "http://127.0.0.1:9000")
        for name, url in WHOLE.items()
    }
    assert judged(here, issuer="http://127.0.0.1:9000").jwks_uri == "http://127.0.0.1:9000/jwks"


@pytest.mark.parametrize(
    ("status", "headers", "body", "error", "told"),
    [
        (200, {"content-type": "text/html"}, b"x", ProviderUnavailable, "page of HTML"),
        (200, {}, b"  <!doctype html>", ProviderUnavailable, "page of HTML"),
        (200, {}, b"", ProviderUnavailable, "not a JSON object"),
        (200, {}, b"[]", ProviderUnavailable, "not a JSON object"),
        (200, {}, b'{"issuer": "a", "issuer": "b"}', ProviderUnavailable, "not a JSON object"),
        (404, {}, b"", ProviderMisconfigured, "check issuer="),
        (302, {}, b"", ProviderMisconfigured, "redirect"),
        (500, {}, b"", ProviderUnavailable, "answered 500"),
        (403, {"content-type": "text/html"}, b"<", ProviderMisconfigured, "403"),
    ],
)
def test_an_answer_that_is_no_metadata_says_what_it_is(
    status: int, headers: dict[str, str], body: bytes, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        judge_metadata(status, headers, body, issuer=ISSUER, now=0)


def test_a_provider_may_ask_to_be_left_alone() -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        judge_metadata(429, {"retry-after": "7"}, b"", issuer=ISSUER, now=0)
    assert caught.value.retry_after == 7
