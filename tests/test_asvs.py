"""OWASP ASVS 5.0.0, as SECURITY.md answers it: each requirement once, each test it names there.

And the requirements that no other test was about.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, IdentityRejected, OpenIDProvider, TokenResponse
from fastapi_ideal_auth.testing import login

from .openid_provider import CLIENT_ID, CLIENT_SECRET, ISSUER, OpenIDServer, key, public, signed
from .support import BASE, SECRET, User, World, app_of

ROOT = Path(__file__).resolve().parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
TABLE = SECURITY[SECURITY.index("## OWASP ASVS 5.0") :]
CHAPTERS = {
    "7": {1: 3, 2: 4, 3: 2, 4: 5, 5: 3, 6: 2},
    "9": {1: 3, 2: 4},
    "10": {1: 2, 2: 3, 3: 5, 4: 16, 5: 5, 6: 2, 7: 3},
}
"""How many requirements each section of a chapter has."""

DAY = 86_400


def answered() -> list[str]:
    """The requirements that the rows are about; ``10.7.1–3`` is three."""
    found: list[str] = []
    for cell in re.findall(r"^\| ([\d., –]+) \|", TABLE, re.MULTILINE):
        for part in cell.split(", "):
            section, _, numbers = part.rpartition(".")
            first, _, last = numbers.partition("–")
            found += [f"{section}.{n}" for n in range(int(first), int(last or first) + 1)]
    return found


def test_each_requirement_has_its_answer() -> None:
    every = [
        f"{chapter}.{section}.{n}"
        for chapter, sections in CHAPTERS.items()
        for section, count in sections.items()
        for n in range(1, count + 1)
    ]
    assert sorted(answered()) == sorted(every)


def test_each_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", SECURITY)
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


def test_no_row_stands_without_a_test_or_a_reason() -> None:
    for row in re.findall(r"^\| \d.*$", TABLE, re.MULTILINE):
        answer = row.strip("|").split(" | ")[-1]
        assert "::" in answer or re.search(r"\b(application|provider|applicable)", answer), row


# -- requirements of our own ----------------------------------------------------------------------


def test_7_2_2_no_two_cookies_are_alike(world: World) -> None:
    """A session is never named by a constant: the same user, signed in twice in one second."""
    user = world.user()
    cookies = set()
    for _ in range(3):
        login(world.client, world.auth, user)
        cookies.add(world.cookie)
    assert len(cookies) == 3


@pytest.mark.parametrize(
    ("remember", "lives"), [(None, 7 * DAY), (False, 7 * DAY), (True, 30 * DAY)]
)
def test_7_3_1_a_session_that_is_not_used_ends(remember: bool | None, lives: int) -> None:
    for later, status in ((lives - 1, 200), (lives, 401)):
        world = World()
        login(world.client, world.auth, world.user(), remember=remember)
        cookie = world.cookie
        assert cookie is not None
        world.clock.advance(later)
        assert world.present(cookie).status_code == status


def test_7_3_2_a_session_that_is_used_ends_all_the_same() -> None:
    world = World(absolute_max_age=DAY)
    world.sign_in()
    for _ in range(11):
        world.clock.advance(DAY // 12)
        assert world.client.get("/token").status_code == 200
        assert world.client.post("/touch").status_code == 200
    cookie = world.cookie
    assert cookie is not None
    world.clock.advance(DAY // 12)
    assert world.present(cookie).status_code == 401


def test_7_4_5_dropping_the_secret_signs_everybody_out(world: World) -> None:
    world.sign_in()
    cookie = world.cookie
    renewed = world.another_auth(secret="another secret, that is long enough, of the tests")
    client = TestClient(app_of(renewed), base_url=BASE)
    headers = {"cookie": f"{renewed.cookie_name}={cookie}"}
    assert client.get("/token", headers=headers).status_code == 401
    kept = world.another_auth(secret=["another secret, that is long enough, of the tests", SECRET])
    client = TestClient(app_of(kept), base_url=BASE)
    assert client.get("/token", headers=headers).status_code == 200


def provider_of(server: OpenIDServer, **options: Any) -> OpenIDProvider:
    client = server.client(httpx)
    return OpenIDProvider(
        ISSUER, CLIENT_ID, CLIENT_SECRET, http_client=client, clock=server.clock, **options
    )


@pytest.mark.parametrize("header", ["jwk", "jku", "x5u", "x5c"])
@pytest.mark.parametrize("kid", ["rsa-1", "eve-1", None])
async def test_9_1_3_a_token_does_not_say_where_its_key_is(header: str, kid: str | None) -> None:
    server, eve = OpenIDServer(), key("RSA", "eve-1")
    server.faults["/evil"] = lambda _: httpx.Response(200, json=public(eve))
    where = {
        "jwk": eve.as_dict(private=False),
        "jku": f"{ISSUER}/evil",
        "x5u": f"{ISSUER}/evil",
        "x5c": ["MIIB"],
    }
    more = {header: where[header]} | ({} if kid is None else {"kid": kid})
    server.forge = lambda claims: signed(claims, eve, "RS256", **more)
    tokens = TokenResponse("at", id_token=server.id_token("at", "n"))
    with pytest.raises(IdentityRejected):
        await provider_of(server).claims(tokens, nonce="n", now=server.clock())
    assert "/evil" not in server.paths()


async def test_9_2_2_an_access_token_is_no_id_token() -> None:
    """RFC 9068's carries the same issuer, subject and signature, and could carry the audience."""
    server = OpenIDServer()
    server.forge = lambda claims: signed(claims, server.key, "RS256", kid="rsa-1", typ="at+jwt")
    tokens = TokenResponse("at", id_token=server.id_token("at", "n"))
    with pytest.raises(IdentityRejected, match="typ"):
        await provider_of(server).claims(tokens, nonce="n", now=server.clock())


async def test_10_2_3_nothing_is_asked_for_that_was_not_said() -> None:
    server = OpenIDServer()
    where = await provider_of(server, scope="openid").authorization_request(
        state="s", code_challenge="c", redirect_uri="https://app.example/callback", nonce="n"
    )
    query = parse_qs(urlsplit(where).query)
    assert query["scope"] == ["openid"]
    assert query.keys() == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce",
        "code_challenge", "code_challenge_method",
    }  # fmt: skip


async def test_10_4_10_every_request_of_the_client_is_authenticated() -> None:
    """Token, revocation and pushed requests: the server of these tests refuses any other."""
    server = OpenIDServer()
    server.metadata["pushed_authorization_request_endpoint"] = f"{ISSUER}/par"
    server.refresh_tokens["rt"] = "ada"
    provider = provider_of(server)
    await provider.authorization_request(
        state="s", code_challenge="c", redirect_uri="https://app.example/callback"
    )
    tokens = await provider.refresh("rt")
    assert tokens.refresh_token is not None
    assert await provider.revoke(tokens.refresh_token)
    for path in ("/par", "/token", "/revoke"):
        (request,) = server.asked_for(path)
        assert request.headers["authorization"].startswith("Basic ")


async def test_10_5_2_the_user_is_the_subject_whatever_the_address_says() -> None:
    server = OpenIDServer()
    auth = IdealAuth(User, secret=SECRET, provider=provider_of(server), clock=server.clock)
    app = app_of(auth)
    app.include_router(auth.router)
    seen = []
    for subject in ("ada", "eve"):
        server.in_id_token["sub"] = server.userinfo["sub"] = subject
        browser = TestClient(app, base_url=BASE, follow_redirects=False)
        browser.get(server.approve(browser.get("/login").headers["location"]))
        seen.append(json.loads(browser.get("/me").text))
    assert [user["id"] for user in seen] == ["ada", "eve"]
    assert seen[0]["email"] == seen[1]["email"]
