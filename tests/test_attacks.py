"""What somebody clever tries against signing in, signing out and handing over."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from pydantic import ConfigDict, model_validator

from fastapi_ideal_auth import IdealAuth, MemoryStore, Session, TokenResponse
from fastapi_ideal_auth.cookies import Presented, read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.login import _Attempt, _attempt_cookie, _attempt_name, _Callback
from fastapi_ideal_auth.pages import failure
from fastapi_ideal_auth.seal import b64encode
from fastapi_ideal_auth.testing import Clock, RotatingProvider, login
from fastapi_ideal_auth.transfer import _Ticket

from . import test_logout, test_sign_in, test_transfer
from .openid_provider import key, public, signed
from .support import SECRET, User, World, app_of

# -- logout CSRF ----------------------------------------------------------------------------------


def test_a_form_of_another_site_that_carries_no_cookie_clears_none() -> None:
    """SameSite keeps the cookie out of the request, and the browser would still obey the answer."""
    site = test_sign_in.Site()
    answer = site.new_browser().post(
        "/logout", headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    )
    assert "set-cookie" not in answer.headers


def test_a_route_that_signs_out_clears_no_cookie_that_was_not_sent() -> None:
    world = World()
    assert "set-cookie" not in world.browser().post("/leave").headers


# -- a ticket in the wrong hands ------------------------------------------------------------------


@pytest.mark.parametrize("to", ["empty", "iframe", "script", "image"])
def test_a_script_on_one_domain_cannot_fetch_a_ticket_to_take_away(to: str) -> None:
    family = test_transfer.Family()
    answer = family.one.get(
        "/transfer", params={"to": test_transfer.TWO}, headers={"sec-fetch-dest": to}
    )
    assert answer.status_code == 400
    assert "ticket" not in answer.text


def test_a_page_that_is_opened_for_it_is_out_of_reach_of_its_opener() -> None:
    family = test_transfer.Family()
    headers = {"sec-fetch-dest": "document"}
    page = family.one.get("/transfer", params={"to": test_transfer.TWO}, headers=headers)
    assert page.status_code == 200
    assert page.headers["cross-origin-opener-policy"] == "same-origin"


# -- sessions that should have ended --------------------------------------------------------------


def test_clocks_that_differ_let_no_session_escape() -> None:
    """Half a minute is assumed between hosts: whoever ends sessions may be behind."""
    world = World(expires_in=3600, check_ended_every=0)
    login(world.client, world.auth, world.user())
    behind = world.another_auth(clock=lambda: world.clock() - 25)
    asyncio.run(behind.end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def test_who_is_sent_out_twice_in_a_second_stays_out() -> None:
    world = World(expires_in=3600, check_ended_every=0)

    @world.app.post("/sign-in")
    async def sign_in(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        await session.login(world.user())

    for _ in range(3):
        asyncio.run(world.auth.end_sessions(user_id="1"))
        world.clock.advance(0.1)
        world.client.post("/sign-in")
        assert world.client.get("/token").status_code == 200
    asyncio.run(world.auth.end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def test_a_clock_that_is_set_back_makes_no_look_last_longer() -> None:
    world = World(expires_in=36_000, check_ended_every=30)
    world.sign_in()
    world.clock.advance(7200)
    assert world.client.get("/token").status_code == 200
    world.clock.advance(-7000)
    asyncio.run(world.another_auth().end_sessions(user_id="1"))
    assert world.client.get("/token").status_code == 401


def without_id_token(claims: Mapping[str, Any], tokens: TokenResponse) -> User:
    """A user who keeps the cookie small."""
    return User(
        id=claims["sub"],
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=int(Clock()()) + 300,
    )


def test_a_logout_token_finds_who_does_not_carry_the_id_token() -> None:
    site = test_logout.Site(user_from_claims=without_id_token)
    assert site.tell(site.op.logout_token()).status_code == 200
    assert not site.is_in()


def test_a_refresh_of_somebody_else_is_noticed_without_the_id_token() -> None:
    site = test_logout.Site(user_from_claims=without_id_token)
    site.op.in_id_token["sub"] = "eve"
    site.clock.advance(400)
    assert not site.is_in()
    assert len(site.op.revoked) == 1
    assert site.op.revoked[0] in site.op.refresh_tokens  # the newest, not the spent one


def test_somebody_elses_token_for_a_resource_ends_the_session_too() -> None:
    site = test_sign_in.Site(resource=["https://one.example", "https://two.example"])

    @site.app.get("/two")
    async def two(session: Annotated[Session[User], Depends(site.auth.session)]) -> str:
        return await session.token_for("https://two.example")

    site.sign_in()
    site.server.in_id_token["sub"] = "eve"
    assert site.browser.get("/two").status_code == 401
    assert len(site.server.revoked) == 1
    assert site.server.revoked[0] in site.server.refresh_tokens  # the newest, not the spent one
    site.clock.advance(290)
    asked = len(site.server.asked_for("/token"))
    assert site.browser.get("/token").status_code == 401
    assert len(site.server.asked_for("/token")) == asked  # the spent one is not presented


# -- words of others in logs ----------------------------------------------------------------------


class Suspicious(User):
    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        raise ValueError(f"cannot read {given}")


class Forbidding(User):
    model_config = ConfigDict(extra="forbid")
    name: Literal["Ada"] = "Ada"


@pytest.mark.parametrize("model", [Suspicious, Forbidding])
def test_claims_that_make_no_user_are_not_repeated_in_the_log(
    model: type[User], caplog: pytest.LogCaptureFixture
) -> None:
    site = test_sign_in.Site()
    site.server.userinfo["name"] = "Eve\nERROR the session of root"
    auth = IdealAuth(
        model,
        secret=SECRET,
        provider=site.auth.provider,
        store=MemoryStore(),
        clock=site.clock,
        http_client=site.server.client(httpx),
        user_from_claims=lambda claims, tokens: {**claims, "id": claims["sub"], "a\nb": 1},
    )
    app = app_of(auth)
    app.include_router(auth.router)
    browser = TestClient(app, base_url=test_sign_in.APP, follow_redirects=False)
    back = site.server.approve(browser.get("/login").headers["location"])
    assert browser.get(back).status_code == 503
    assert f"do not make a {model.__name__}" in caplog.text
    written = [record.getMessage() for record in caplog.records]
    assert not any("Eve" in text or "\n" in text for text in written)
    assert not any(token in caplog.text for token in site.server.refresh_tokens)


def test_no_value_of_a_sign_in_or_a_transfer_shows_what_it_holds() -> None:
    shown = [
        _Attempt("state", "nonce", "verifier", "https://app.example", "/", None, 0),
        _Callback("code", None, None),
        _Ticket(b"id", 0, "/", b"session"),
    ]
    assert list(map(repr, shown)) == ["<attempt to sign in>", "<callback>", "<ticket>"]


# -- pages that lead on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "link"), [("", "/login"), ("/auth", "/auth/login"), ("//evil.example", "/")]
)
@pytest.mark.parametrize("route", ["login", "callback", "transfer"])
def test_a_page_that_says_no_leads_to_the_sign_in(route: str, prefix: str, link: str) -> None:
    app = FastAPI()

    @app.get("/{path:path}")
    async def refuse(request: Request) -> Response:
        return failure(request, 400, "no")

    browser = TestClient(app, base_url="https://testserver")
    url = f"https://testserver{prefix}/{route}"
    answer = browser.get(url, headers={"accept": "text/html"})
    assert f'href="{link}"' in answer.text


def test_a_cookie_that_begins_like_an_attempt_is_left_alone() -> None:
    site = test_sign_in.Site()
    others = [f"{site.auth.cookie_name}-login-{name}" for name in ("admin", "a-session", "x" * 9)]
    header = "; ".join(f"{name}=1" for name in (*others, *(f"{name}.0" for name in others)))
    answer = site.new_browser().get("/login", headers={"cookie": header})
    assert len(answer.headers.get_list("set-cookie")) == 1


# -- seals of one purpose for another -------------------------------------------------------------


def seals() -> dict[str, Any]:
    """What this application has sealed under its one secret, by what it is for."""
    family = test_transfer.Family()
    auth = family.auth
    user = family.world.user()
    generation = begin(user, now=family.clock(), remember=None, lifetimes=auth.lifetimes)
    attempt = _Attempt("A" * 22, "n", "v" * 43, f"{test_transfer.ONE}/callback", "/me", None, 2**31)
    namesake = family.world.another_auth(cookie_name="another")
    sealed = {
        "session": auth.cookie_lines(generation, Presented(), now=family.clock())[0],
        "another session": namesake.cookie_lines(generation, Presented(), now=family.clock())[0],
        "attempt": _attempt_cookie(auth, attempt),
        "another attempt": _attempt_cookie(namesake, attempt),
    }
    values = {name: line.split(";")[0].partition("=")[2] for name, line in sealed.items()}
    values["ticket"] = family.leave()[1]
    values["record"] = b64encode(auth.rotation._sealed(generation))
    return {"family": family, **values}


@pytest.mark.parametrize(
    "kind", ["session", "another session", "attempt", "another attempt", "ticket", "record"]
)
def test_a_seal_of_one_purpose_opens_for_no_other(kind: str) -> None:
    made = seals()
    family, value = made["family"], made[kind]
    auth, name = family.auth, family.auth.cookie_name
    browser = TestClient(family.apps[test_transfer.ONE], base_url=test_transfer.ONE)

    def status(path: str, cookie: str) -> int:
        return browser.get(path, headers={"cookie": f"{cookie}={value}"}).status_code

    assert (status("/me", name) == 200) == (kind == "session")
    # 503: the attempt was opened, and the provider asked about its code.
    opened = status(f"/callback?state={'A' * 22}&code=c", _attempt_name(auth, "A" * 22))
    assert (opened == 503) == (kind == "attempt")
    assert opened in (400, 503)
    arrived = family.arrive(value, family.browser(test_transfer.TWO)).status_code
    assert (arrived == 303) == (kind == "ticket")


# -- keys that a token brings along ---------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil.example/jwks"},
        {"jwk": key("RSA", "eve").as_dict(private=False)},
        {"x5u": "https://evil.example/cert"},
        {"kid": "../../../../dev/null"},
        {"kid": "rsa-1\x00"},
        {"kid": ""},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ],
    ids=lambda header: "-".join(header),
)
def test_a_token_chooses_no_key_of_its_own(header: dict[str, Any]) -> None:
    site = test_sign_in.Site()
    site.server.forge = lambda claims: signed(
        claims, key("RSA", "eve"), "RS256", **{"kid": "rsa-1", **header}
    )
    answer = site.sign_in()
    assert answer.status_code in (400, 503)  # 503: the kid was looked for, a moment ago
    assert site.browser.get("/token").status_code == 401
    assert {request.url.host for request in site.server.requests} == {"op.example"}


def test_a_key_for_encryption_signs_nothing() -> None:
    site = test_sign_in.Site()
    (jwk,) = public(key("RSA", "rsa-1"))["keys"]
    site.server.faults["/jwks"] = lambda _: site.server.json({"keys": [{**jwk, "use": "enc"}]})
    assert site.sign_in().status_code in (400, 503)
    assert site.browser.get("/token").status_code == 401


# -- two at once ----------------------------------------------------------------------------------


async def test_of_many_who_come_with_one_ticket_one_gets_in() -> None:
    family = test_transfer.Family()
    ticket = family.leave()[1]
    apps = [family.site() for _ in range(3)]  # workers, with one store

    async def arrive(number: int) -> int:
        transport = httpx.ASGITransport(apps[number % 3])
        async with httpx.AsyncClient(transport=transport, base_url=test_transfer.TWO) as client:
            answer = await client.post(
                "/transfer", data={"ticket": ticket}, headers={"origin": test_transfer.ONE}
            )
            return answer.status_code

    statuses = await asyncio.gather(*(arrive(number) for number in range(12)))
    assert sorted(statuses) == [303, *[400] * 11]


async def test_a_refresh_under_way_outlives_no_sign_out_beyond_its_own_token() -> None:
    provider, clock = RotatingProvider(expires_in=300, latency=0.05), Clock()
    auth = IdealAuth(User, secret=SECRET, provider=provider, store=MemoryStore(), clock=clock)
    client = httpx.Client(base_url="https://testserver")
    login(client, auth, provider.user(User, clock=clock, id="1"))
    clock.advance(290)
    presented = read(f"{auth.cookie_name}={client.cookies[auth.cookie_name]}", auth.cookies)
    waiting = asyncio.create_task(Session(auth, presented, None).fresh_user())
    await asyncio.sleep(0.02)
    await auth.end_sessions(user_id="1")
    await waiting
    clock.advance(290)
    with pytest.raises(HTTPException) as caught:
        await Session(auth, presented, None).fresh_user()
    assert caught.value.status_code == 401
    await auth.aclose()
    assert len(provider.revoked) == 1
    assert not provider.is_alive((await waiting).access_token)


# -- where a request says it goes -----------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver:8443"])
def test_a_host_that_was_made_up_changes_no_redirect_uri_that_is_given(host: str) -> None:
    site = test_sign_in.Site(redirect_uri="https://testserver/callback")
    answer = site.new_browser().get("/login", headers={"host": host, "x-forwarded-host": host})
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["redirect_uri"] == ["https://testserver/callback"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize(
    "there", ["http://api.example/", "https://api.example.:443/", "//evil.example"]
)
def test_a_token_follows_no_redirect_to_what_only_looks_like_its_host(
    library: Any, there: str
) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: Any) -> Any:
        seen.append((str(request.url), request.headers.get("authorization")))
        first = len(seen) == 1
        return library.Response(302 if first else 200, headers={"location": there} if first else {})

    user = User(id="1", access_token="the-access-token")
    client = library.Client(
        transport=library.MockTransport(answer),
        base_url="https://api.example/v1",
        auth=user.bearer("api.example"),
        follow_redirects=True,
    )
    with client, client.stream("GET", "/things") as response:
        assert response.status_code == 200
    assert [token for _, token in seen] == ["Bearer the-access-token", None]
    assert seen[0][0] == "https://api.example/v1/things"
