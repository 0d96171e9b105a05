"""The ready-made registrations: what they send, how answers are taken, where facts are from."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from datetime import date
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_ideal_auth import (
    ConfigurationError,
    OAuth2Provider,
    OpenIDProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    providers,
)
from fastapi_ideal_auth.client import OAuthClient
from fastapi_ideal_auth.metadata import discovery_url
from fastapi_ideal_auth.providers import Registration

from .provider_wire import DIALECTS, TENANT, Answer, Dialect

SECRET = "the s3cret+of/this:client"
REGISTRATIONS: dict[str, Registration] = {
    name: value for name, value in vars(providers).items() if isinstance(value, Registration)
}
NAMED = pytest.mark.parametrize("name", sorted(REGISTRATIONS))


class Wire:
    """The server of a registration: its discovery document, and the answer it is told to give."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.answer = Answer(500, "")
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        issuer = self.dialect.issuer
        if issuer is not None and str(request.url) == discovery_url(issuer):
            return httpx.Response(200, json=self.dialect.metadata())
        self.requests.append(request)
        body = self.answer.body
        content = body if isinstance(body, str) else json.dumps(body)
        return httpx.Response(self.answer.status, content=content, headers=self.answer.headers)


def made(name: str, wire: Wire | None = None, **options: Any) -> OAuthClient:
    dialect = DIALECTS[name]
    transport = httpx.MockTransport(wire or Wire(dialect))
    given = {
        "client_secret": SECRET,
        "http_client": httpx.AsyncClient(transport=transport),
        **dialect.fields,
        **options,
    }
    return REGISTRATIONS[name].provider(client_id="the-client", **given)


# -- on the wire ----------------------------------------------------------------------------------


@NAMED
async def test_a_sign_in_and_a_refresh_bring_tokens(name: str) -> None:
    wire = Wire(DIALECTS[name])
    provider = made(name, wire)
    wire.answer, signed_in = wire.dialect.sign_in
    tokens = await provider.exchange_code(
        "c0de", redirect_uri="https://app.example/callback", code_verifier="v" * 43
    )
    assert tokens == signed_in
    assert tokens.refresh_token is not None
    wire.answer, refreshed = wire.dialect.refresh
    assert await provider.refresh(tokens.refresh_token) == refreshed
    assert {str(request.url) for request in wire.requests} == {wire.dialect.token_endpoint}


@NAMED
async def test_the_client_authenticates_as_the_registration_says(name: str) -> None:
    wire = Wire(DIALECTS[name])
    wire.answer, _ = wire.dialect.refresh
    await made(name, wire).refresh("rt")
    (request,) = wire.requests
    form = parse_qs(request.content.decode())
    if REGISTRATIONS[name].token_endpoint_auth_method == "client_secret_post":
        assert form["client_secret"] == [SECRET]
        assert "authorization" not in request.headers
    else:
        pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        assert parse_qsl(pair.replace(":", "=")) == [("the-client", SECRET)]
        assert "client_secret" not in form


def answers(which: Callable[[Dialect], tuple[Any, ...]]) -> list[Any]:
    return [
        pytest.param(name, answer, id=f"{name}-{number}")
        for name, dialect in DIALECTS.items()
        for number, answer in enumerate(which(dialect))
    ]


@pytest.mark.parametrize(("name", "answer"), answers(lambda dialect: dialect.dead))
async def test_a_dead_grant_is_a_rejection(name: str, answer: Answer) -> None:
    wire = Wire(DIALECTS[name])
    wire.answer = answer
    with pytest.raises(RefreshRejected):
        await made(name, wire).refresh("rt")


@pytest.mark.parametrize(("name", "answer"), answers(lambda dialect: dialect.misconfigured))
async def test_a_misconfigured_client_signs_nobody_out(name: str, answer: Answer) -> None:
    wire = Wire(DIALECTS[name])
    wire.answer = answer
    with pytest.raises(ProviderMisconfigured):
        await made(name, wire).refresh("rt")


@pytest.mark.parametrize(("name", "answer"), answers(lambda dialect: dialect.unavailable))
async def test_a_server_that_is_busy_signs_nobody_out(
    name: str, answer: tuple[Answer, float | None]
) -> None:
    wire = Wire(DIALECTS[name])
    wire.answer, seconds = answer
    with pytest.raises(ProviderUnavailable) as caught:
        await made(name, wire).refresh("rt")
    assert (caught.value.retry_after, caught.value.refused) == (seconds, False)


SIGN_IN = {
    "GOOGLE": {"scope": "openid profile email", "access_type": "offline", "prompt": "consent"},
    "ENTRA_ID": {"scope": "openid profile email offline_access"},
    "AUTH0": {"scope": "openid profile email offline_access"},
    "OKTA": {"scope": "openid profile email offline_access"},
    "OKTA_CUSTOM": {"scope": "openid profile email offline_access"},
    "KEYCLOAK": {"scope": "openid profile email"},
    "COGNITO": {"scope": "openid profile email"},
    "GITHUB_APP": {},
    "GITLAB": {"scope": "openid profile email"},
    "SLACK": {"user_scope": "users:read"},
    "SALESFORCE": {"scope": "openid refresh_token"},
    "HUBSPOT": {"scope": "oauth"},
    "ATLASSIAN": {
        "scope": "read:me offline_access",
        "audience": "api.atlassian.com",
        "prompt": "consent",
    },
}
PROTOCOL = {
    "response_type": "code",
    "client_id": "the-client",
    "redirect_uri": "https://app.example/callback",
    "state": "s",
    "code_challenge": "c",
    "code_challenge_method": "S256",
}


@NAMED
async def test_signing_in_asks_for_a_refresh_token(name: str) -> None:
    url = await made(name).authorization_request(
        state="s", code_challenge="c", nonce=None, redirect_uri="https://app.example/callback"
    )
    assert url.partition("?")[0] == DIALECTS[name].authorization_endpoint
    assert dict(parse_qsl(urlsplit(url).query)) == {**PROTOCOL, **SIGN_IN[name]}


@NAMED
async def test_who_signs_out_is_sent_on_only_where_the_standard_is_kept(name: str) -> None:
    url = await made(name).end_session_url(id_token_hint="a.b.c")
    assert (url is not None) == (REGISTRATIONS[name].rp_initiated_logout is True)


# -- what it may be given -------------------------------------------------------------------------


def test_there_is_one_for_each_of_the_twelve() -> None:
    assert REGISTRATIONS.keys() == DIALECTS.keys() == SIGN_IN.keys()
    assert len(REGISTRATIONS) == 13  # Okta has two kinds of authorization server
    assert len({registration.name for registration in REGISTRATIONS.values()}) == 13


@NAMED
def test_an_issuer_makes_an_openid_provider_and_endpoints_another(name: str) -> None:
    provider = made(name)
    issuer = DIALECTS[name].issuer
    assert type(provider) is (OAuth2Provider if issuer is None else OpenIDProvider)
    assert provider.issuer == issuer
    assert SECRET not in repr(provider)


@NAMED
def test_fields_that_are_missing_are_named(name: str) -> None:
    registration = REGISTRATIONS[name]
    assert set(registration.fields) == DIALECTS[name].fields.keys()
    for field in registration.fields:
        others = {key: text for key, text in DIALECTS[name].fields.items() if key != field}
        with pytest.raises(ConfigurationError, match=rf"needs {field}= \("):
            registration.provider(client_id="c", client_secret=SECRET, **others)


def test_fields_that_are_missing_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"^Keycloak needs host= \(.+\) and realm= \("):
        providers.KEYCLOAK.provider(client_id="c", client_secret=SECRET)


@NAMED
@pytest.mark.parametrize("unknown", ["tenant_name", "issuer", "token_endpoint", "client_idd"])
def test_what_is_unknown_is_named(name: str, unknown: str) -> None:
    with pytest.raises(ConfigurationError, match=f"does not take {unknown}") as caught:
        made(name, **{unknown: SECRET})
    assert SECRET not in str(caught.value)


def test_an_endpoint_that_is_not_registered_may_be_given() -> None:
    address = "https://app.example/claims"
    provider = made("HUBSPOT", userinfo_endpoint=address)
    assert isinstance(provider, OAuth2Provider)
    assert provider.userinfo_endpoint == address
    with pytest.raises(ConfigurationError, match="does not take userinfo_endpoint"):
        made("GITHUB_APP", userinfo_endpoint=address)


@NAMED
def test_a_secret_is_not_left_out_by_accident(name: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a client_secret"):
        made(name, client_secret=None)
    public = made(name, client_secret=None, token_endpoint_auth_method="none")
    assert public.token_endpoint_auth_method == "none"


BENT = [
    "",
    " ",
    ".",
    "..",
    "/",
    "a/b",
    "a/../b",
    "a?b",
    "a#b",
    "a@b.example",
    "user:pw@a",
    "a:b",
    "a\\b",
    "a%2fb",
    "a%00",
    "a b",
    "a\nb",
    "a\n",
    "a\r\nhost: b",
    "a\tb",
    "[::1]",
    "é",
    "\u212a",  # becomes "k" in lower case
    "\uff0e\uff0e",  # full-width dots
    "{realm}",
    "{0}",
    ".a",
    "a.",
    "a..b/",
    None,
    7,
    b"a",
    ["a"],
]
FIELDS = [(name, field) for name, dialect in DIALECTS.items() for field in dialect.fields]


@pytest.mark.parametrize("bent", BENT, ids=repr)
@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_no_field_can_bend_an_address(name: str, field: str, bent: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{field}= is"):
        made(name, **{field: bent})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ENTRA_ID", "tenant", "common"),
        ("ENTRA_ID", "tenant", "organizations"),
        ("ENTRA_ID", "tenant", "contoso.onmicrosoft.com"),
        ("ENTRA_ID", "tenant", TENANT.upper()),
        ("AUTH0", "domain", "https://example.eu.auth0.com"),
        ("AUTH0", "domain", "Example.eu.auth0.com"),
        ("KEYCLOAK", "host", "sso.example:0"),
        ("KEYCLOAK", "host", "sso.example:port"),
        ("COGNITO", "region", "eu-west-1.evil.example"),
        ("COGNITO", "user_pool_id", "AbC123dEf"),
    ],
)
def test_a_field_takes_nothing_but_what_it_is_for(name: str, field: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{field}= is"):
        made(name, **{field: value})


@pytest.mark.parametrize("host", ["sso.example:8443", "localhost", "10.0.0.7", "a-b.example"])
def test_a_host_may_have_a_port(host: str) -> None:
    assert made("KEYCLOAK", host=host).issuer == f"https://{host}/realms/main"


@given(host=st.text(max_size=20), realm=st.text(max_size=20))
def test_whatever_is_given_stands_in_its_own_place_or_is_refused(host: str, realm: str) -> None:
    try:
        provider = made("KEYCLOAK", host=host, realm=realm)
    except ConfigurationError:
        return
    assert provider.issuer is not None
    parts = urlsplit(provider.issuer)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", host, f"/realms/{realm}")
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)


def test_what_is_refused_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        made("KEYCLOAK", realm=SECRET)
    assert SECRET not in str(caught.value)


# -- options --------------------------------------------------------------------------------------


def test_a_scope_takes_the_place_of_the_registered_one() -> None:
    assert made("KEYCLOAK", scope="openid offline_access").scope == "openid offline_access"
    assert made("GITHUB_APP").scope is None


def test_parameters_add_to_the_registered_ones_and_none_takes_one_out() -> None:
    def params(**given: object) -> object:
        return made("GOOGLE", authorization_params=given).authorization_params

    assert params() == {"access_type": "offline", "prompt": "consent"}
    assert params(hd="example.com", prompt="select_account consent") == {
        "access_type": "offline",
        "prompt": "select_account consent",
        "hd": "example.com",
    }
    assert params(prompt=None) == {"access_type": "offline"}


def test_rejection_codes_add_to_the_registered_ones() -> None:
    registration = replace(providers.SLACK, rejection_codes=frozenset({"gone"}))
    provider = registration.provider(client_id="c", client_secret="s", rejection_codes=["dead"])
    assert provider.rejection_codes == {"gone", "dead"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("authorization_params", "prompt=consent"), ("rejection_codes", "gone"), ("scope", 7)],
)
def test_an_option_of_the_wrong_shape_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        made("GOOGLE", **{option: value})


def test_other_options_are_passed_on() -> None:
    provider = made(
        "OKTA",
        redirect_uri="https://app.example/callback",
        token_endpoint_auth_method="client_secret_post",
        timeout=2,
    )
    assert provider.redirect_uri == "https://app.example/callback"
    assert provider.token_endpoint_auth_method == "client_secret_post"
    assert provider.timeout == 2


def test_a_registration_can_be_changed_only_into_another() -> None:
    registration: Any = providers.KEYCLOAK
    with pytest.raises(FrozenInstanceError):
        registration.issuer = "https://evil.example"
    parameters: Any = providers.GOOGLE.authorization_params
    with pytest.raises(TypeError):
        parameters["prompt"] = "none"
    mine = replace(providers.KEYCLOAK, issuer="https://{host}/auth/realms/{realm}")
    provider = mine.provider(client_id="c", client_secret="s", host="sso.example", realm="main")
    assert provider.issuer == "https://sso.example/auth/realms/main"


# -- facts ----------------------------------------------------------------------------------------

FACTS = {field.name for field in fields(Registration)} - {"name", "sources"}
UNSAID: dict[str, object] = {
    "token_endpoint_auth_method": None,  # always a fact
    "authorization_params": {},
    "rejection_codes": frozenset(),
    "scope": (),
}


@NAMED
def test_each_fact_has_a_source(name: str) -> None:
    registration = REGISTRATIONS[name]
    sourced = {fact for source in registration.sources for fact in source.facts}
    said = {fact for fact in FACTS if getattr(registration, fact) not in (None, UNSAID.get(fact))}
    assert said <= sourced, "a fact without a source"
    assert sourced <= FACTS, "a source of something that is no fact here"


@NAMED
def test_a_source_is_an_address_and_the_day_it_was_read(name: str) -> None:
    for source in REGISTRATIONS[name].sources:
        parts = urlsplit(source.url)
        assert parts.scheme in ("https", "http")
        assert "." in parts.netloc
        assert date.fromisoformat(source.read) <= date.today()


@NAMED
def test_times_are_seconds_that_make_sense(name: str) -> None:
    registration = REGISTRATIONS[name]
    assert registration.grace is None or registration.grace >= 0
    lifetime = registration.refresh_token_lifetime
    idle = registration.refresh_token_idle_lifetime
    assert all(seconds is None or seconds > 3600 for seconds in (lifetime, idle))
    assert lifetime is None or idle is None or idle < lifetime
