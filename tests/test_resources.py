"""Several resources a session: an access token each, refreshed on its own."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import parse_qs

import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    Session,
    TokenResponse,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.testing import Clock, RotatingProvider, login

from .support import BASE, SECRET, User, app_of

MAIL, FILES = "https://mail.example", "https://files.example"


class Site:
    def __init__(self, store: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.provider = RotatingProvider(expires_in=300)
        self.store = store or MemoryStore()
        self.options = options
        self.auth, self.app = self.worker()
        self.client = TestClient(self.app, base_url=BASE)
        login(self.client, self.auth, self.provider.user(User, clock=self.clock, id="1"))

    def worker(self) -> tuple[IdealAuth[User], FastAPI]:
        options = {"provider": self.provider, "clock": self.clock, **self.options}
        auth = IdealAuth(User, secret=SECRET, store=self.store, **options)
        app = app_of(auth)

        @app.get("/for")
        async def token_for(
            r: str, session: Annotated[Session[User], Depends(auth.session)]
        ) -> dict[str, str]:
            return {"token": await session.token_for(r)}

        @app.get("/both")
        async def both(
            user: Annotated[User, Depends(auth.fresh_user)],
            session: Annotated[Session[User], Depends(auth.session)],
        ) -> list[str]:
            tokens = [user.access_token, await session.token_for(MAIL)]
            return [*tokens, await session.token_for(FILES)]

        return auth, app

    def token_for(self, resource: str, client: TestClient | None = None) -> str:
        response = (client or self.client).get("/for", params={"r": resource})
        assert response.status_code == 200, response.text
        token: str = response.json()["token"]
        return token

    def own(self) -> str:
        token: str = self.client.get("/token").json()["access_token"]
        return token


@pytest.fixture(params=["cookie", "store"])
def site(request: pytest.FixtureRequest, store: Any) -> Site:
    return Site(store, tokens=request.param)


def test_each_resource_has_a_token_of_its_own(site: Site) -> None:
    own = site.own()
    mail, files = site.token_for(MAIL), site.token_for(FILES)
    assert len({own, mail, files}) == 3
    assert site.own() == own
    assert all(map(site.provider.is_alive, (own, mail, files)))
    assert site.provider.reused == 0


def test_a_fresh_one_is_not_asked_for_again(site: Site) -> None:
    mail = site.token_for(MAIL)
    calls = site.provider.calls
    assert site.token_for(MAIL) == mail
    assert site.provider.calls == calls


def test_each_is_refreshed_on_its_own(site: Site) -> None:
    site.clock.advance(200)
    mail, own = site.token_for(MAIL), site.own()
    site.clock.advance(90)  # the user's own is due; the other has 210 seconds left
    assert site.own() != own
    assert site.token_for(MAIL) == mail
    site.clock.advance(200)
    assert site.token_for(MAIL) != mail
    assert site.provider.reused == 0


def test_the_session_refreshes_on_after_it(site: Site) -> None:
    for _ in range(3):
        before = site.own()
        site.token_for(MAIL)
        site.token_for(FILES)
        site.clock.advance(299)
        assert site.own() != before
    assert site.provider.reused == 0


def test_a_late_cookie_leads_to_all_of_them(site: Site) -> None:
    old = site.client.cookies.get(site.auth.cookie_name)
    mail, files = site.token_for(MAIL), site.token_for(FILES)
    late = TestClient(site.worker()[1], base_url=BASE)
    late.headers["cookie"] = f"{site.auth.cookie_name}={old}"
    assert (site.token_for(MAIL, late), site.token_for(FILES, late)) == (mail, files)
    assert site.provider.reused == 0


async def test_concurrent_requests_for_several_make_one_call_each(site: Site) -> None:
    site.provider.latency = 0.02
    apps = [site.app, site.worker()[1]]
    headers = {"cookie": f"{site.auth.cookie_name}={site.client.cookies[site.auth.cookie_name]}"}
    site.clock.advance(299)

    async def get(n: int) -> list[str]:
        transport = httpx2.ASGITransport(apps[n % 2])
        async with httpx2.AsyncClient(
            transport=transport, base_url=BASE, headers=headers
        ) as client:
            answer = await client.get("/both")
            assert answer.status_code == 200, answer.text
            tokens: list[str] = answer.json()
            return tokens

    answers = await asyncio.gather(*(get(n) for n in range(20)))
    assert site.provider.calls == 3
    assert site.provider.reused == 0
    assert len({tuple(answer) for answer in answers}) == 1
    assert all(map(site.provider.is_alive, answers[0]))


@pytest.mark.parametrize("fault", [RefreshRejected(), ProviderMisconfigured("invalid_target")])
def test_a_resource_that_is_refused_ends_nothing(fault: Exception) -> None:
    site = Site()
    site.provider.fail_next(fault)  # type: ignore[arg-type]  # both are ProviderErrors
    refused = site.client.get("/for", params={"r": MAIL})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert site.client.get("/for", params={"r": MAIL}).status_code == 503
    assert site.provider.calls == 1  # it is left alone for a while
    assert site.token_for(FILES)
    site.clock.advance(290)
    assert site.own()
    assert site.token_for(MAIL)


def test_a_provider_that_does_not_answer_leaves_a_good_token_in_use() -> None:
    site = Site()
    mail = site.token_for(MAIL)
    site.clock.advance(250)
    site.provider.fail_next(ProviderUnavailable(retry_after=1))
    assert site.token_for(MAIL) == mail
    site.clock.advance(51)
    site.provider.fail_next(ProviderUnavailable(retry_after=1), times=2)
    assert site.client.get("/for", params={"r": MAIL}).status_code == 503


def test_signed_out_is_401() -> None:
    site = Site()
    site.client.cookies.clear()
    assert site.client.get("/for", params={"r": MAIL}).status_code == 401


def test_without_a_refresh_token_there_is_none_to_be_had() -> None:
    site = Site()
    user = site.provider.user(User, clock=site.clock, id="1", refresh_token=None)
    login(site.client, site.auth, user)
    assert site.client.get("/for", params={"r": MAIL}).status_code == 401


@pytest.mark.parametrize("wrong", ["mail", "/mail", "https://mail.example/#it", "https://a b", ""])
def test_what_is_no_resource_is_said(wrong: str) -> None:
    site = Site()
    with pytest.raises(ConfigurationError, match="absolute URI"):
        site.client.get("/for", params={"r": wrong})


def test_a_provider_that_takes_no_resource_is_said() -> None:
    async def refresh(refresh_token: str) -> TokenResponse:
        return TokenResponse("a")

    site = Site(provider=refresh)
    with pytest.raises(ConfigurationError, match="a keyword `resource`"):
        site.client.get("/for", params={"r": MAIL})


def test_what_was_not_named_is_never_asked_for() -> None:
    """oidc-provider spends the refresh token, and then says invalid_target."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        asked.extend(form["resource"])
        return httpx.Response(200, json={"access_token": "for:" + form["resource"][0]})

    provider = OAuth2Provider(
        "https://op.example/token",
        "tests",
        "tests-secret",
        resource=[FILES, MAIL],
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )
    site = Site(provider=provider)
    with pytest.raises(ConfigurationError, match=r"resource=\[...\]"):
        site.client.get("/for", params={"r": "https://other.example"})
    assert asked == []
    assert site.token_for(MAIL) == f"for:{MAIL}"
    assert site.token_for(FILES) == site.own()  # the first is the user's own
    assert asked == [MAIL]


def test_a_function_may_take_one() -> None:
    async def refresh(refresh_token: str, *, resource: str | None = None) -> TokenResponse:
        return TokenResponse(f"for {resource}", expires_in=60)

    site = Site(provider=refresh)
    assert site.token_for(MAIL) == f"for {MAIL}"


async def test_more_resources_than_a_session_holds_cost_no_refresh_token() -> None:
    clock, provider = Clock(), RotatingProvider(expires_in=300)
    auth = IdealAuth(
        User, secret=SECRET, provider=provider.refresh, store=MemoryStore(), clock=clock
    )
    client = httpx.Client(base_url=BASE)
    login(client, auth, provider.user(User, clock=clock, id="1"))
    cookie = f"{auth.cookie_name}={client.cookies[auth.cookie_name]}"
    session = Session(auth, read(cookie, auth.cookies), None)
    for number in range(300):
        assert provider.is_alive(await session.token_for(f"https://{number}.example"))
    clock.advance(290)
    assert provider.is_alive((await session.fresh_user()).access_token)


async def test_a_refresh_of_another_token_that_was_quicker_is_503() -> None:
    """A lease that lapsed: another worker published meanwhile, and nothing for this resource."""
    clock, store = Clock(), MemoryStore()

    async def refresh(refresh_token: str, *, resource: str | None = None) -> TokenResponse:
        if resource is None:
            return TokenResponse("at-2", refresh_token="rt-2", expires_in=300)
        (key,) = store._records
        clock.advance(900)
        await store.apply(key, lambda record: replace(record, lease=None), now=clock())  # type: ignore[type-var]  # there is a record by then
        await Session(other, presented, None).fresh_user()
        raise ProviderUnavailable

    auth, other = (
        IdealAuth(User, secret=SECRET, provider=refresh, store=store, clock=clock) for _ in "12"
    )
    client = httpx.Client(base_url=BASE)
    user = User(id="1", access_token="at-1", refresh_token="rt-1", expires_at=int(clock()) + 800)
    login(client, auth, user)
    cookie = f"{auth.cookie_name}={client.cookies[auth.cookie_name]}"
    presented = read(cookie, auth.cookies)
    with pytest.raises(HTTPException) as caught:
        await Session(auth, presented, None).token_for(MAIL)
    assert caught.value.status_code == 503
