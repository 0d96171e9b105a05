"""``tokens="store"``: a small cookie, the same protocol, and the tokens where every worker is."""

import asyncio
import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_ideal_auth import (
    MemoryStore,
    RefreshStore,
    Session,
    SQLiteStore,
    StoreUnavailable,
    TokenResponse,
)
from fastapi_ideal_auth.record import Change
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import login

from .processes import Server, free_port, in_thread, listens, require_program, start
from .support import CountingStore, User, World
from .test_order import Browser

DUE, EXPIRED = 290, 301


@pytest.fixture
def world(store: RefreshStore) -> World:
    return World(store=store, tokens="store")


def jwt(size: int) -> str:
    """Something of a JWT's shape and about this size; random, so that it does not shrink."""
    segment = base64.urlsafe_b64encode(os.urandom(size)).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{segment[: size - 363]}.{segment[:342]}"


def large(world: World, **fields: Any) -> User:
    return world.user().model_copy(
        update={"access_token": jwt(3000), "id_token": jwt(2600), **fields}
    )


def set_cookie_bytes(response: httpx.Response) -> int:
    return sum(map(len, response.headers.get_list("set-cookie")))


def test_the_cookie_stays_under_600_bytes_and_carries_no_token(world: World) -> None:
    user = large(world)
    login(world.client, world.auth, user)
    assert world.cookie is not None
    assert len(world.cookie) < 600
    assert world.client.get("/token").json()["access_token"] == user.access_token


def test_after_the_first_read_a_fresh_token_costs_no_io(world: World) -> None:
    world.sign_in()
    elsewhere = world.another_auth(tokens="store")
    from .support import app_of

    client = world.browser(app_of(elsewhere))
    client.cookies = world.client.cookies
    calls = world.store.calls
    for _ in range(5):
        assert client.get("/token").status_code == 200
    assert world.store.calls == calls + 1
    for _ in range(5):
        assert world.client.get("/token").status_code == 200
    assert world.store.calls == calls + 1


@pytest.mark.parametrize("later", [DUE, EXPIRED])
def test_it_refreshes_and_hands_over(world: World, later: int) -> None:
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(later)
    newest = world.client.get("/token").json()["access_token"]
    assert world.wire.provider.is_alive(newest)
    for _ in range(3):
        assert world.present(old).json()["access_token"] == newest
    assert (world.wire.requests, world.wire.provider.reused) == (1, 0)
    world.clock.advance(later)
    assert world.client.get("/token").json()["access_token"] != newest
    assert world.present(old).status_code == 200
    assert (world.wire.requests, world.wire.provider.reused) == (2, 0)


def test_an_older_cookie_is_brought_up_to_date_though_it_is_fresh(world: World) -> None:
    """The store keeps the newest tokens alone: there are no others to serve."""
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(DUE)
    newest = world.client.get("/token").json()["access_token"]
    world.clock.advance(-DUE)
    response = world.present(old)
    assert response.json()["access_token"] == newest
    assert "set-cookie" in response.headers


def test_signing_out_ends_it_at_once_in_this_process(world: World) -> None:
    world.sign_in()
    copy = world.cookie
    assert copy is not None
    world.client.post("/leave")
    assert world.present(copy).status_code == 401


def test_an_older_cookie_of_a_rejected_session_is_left_alone(world: World) -> None:
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(EXPIRED)
    world.client.get("/token")
    world.clock.advance(EXPIRED)
    world.wire.fault = lambda _: httpx.Response(400, json={"error": "invalid_grant"})
    assert world.client.get("/token").status_code == 401
    response = world.present(old)
    assert (response.status_code, "set-cookie" in response.headers) == (401, False)


def test_a_sign_out_elsewhere_is_seen_where_the_tokens_are_read(world: World) -> None:
    from .support import app_of

    world.sign_in()
    elsewhere = [world.browser(app_of(world.another_auth(tokens="store"))) for _ in range(2)]
    for client in elsewhere:
        client.cookies = world.client.cookies
    copy = {"cookie": f"{world.auth.cookie_name}={world.cookie}"}
    assert elsewhere[0].get("/token").status_code == 200  # it has read them
    world.client.post("/leave")
    assert elsewhere[1].get("/token", headers=copy).status_code == 401
    assert elsewhere[0].get("/token", headers=copy).status_code == 200  # the window: still fresh
    world.clock.advance(DUE)
    assert elsewhere[0].get("/token", headers=copy).status_code == 401


def test_strict_detection_judges_an_older_cookie_as_its_tokens_are_looked_for() -> None:
    world = World(tokens="store", replay_detection="strict")
    world.sign_in()
    stolen = world.cookie
    assert stolen is not None
    world.clock.advance(DUE)
    world.client.get("/token")
    assert world.client.get("/token").status_code == 200  # presented
    world.clock.advance(61)
    response = world.present(stolen)
    assert (response.status_code, "set-cookie" in response.headers) == (401, False)
    assert world.client.get("/token").status_code == 401


def test_signing_out_revokes_the_token_that_only_the_store_has() -> None:
    world = World(tokens="store")
    provider = world.wire.provider
    world.auth = world.another_auth(tokens="store", provider=provider)
    from .support import app_of

    client = world.browser(app_of(world.auth))
    user = world.sign_in(client)
    elsewhere = world.browser(app_of(world.another_auth(tokens="store", provider=provider)))
    elsewhere.cookies = client.cookies
    assert elsewhere.post("/leave").status_code == 200
    assert provider.revoked == [user.refresh_token]


def test_a_store_that_lost_the_record_is_401_and_one_that_is_down_503() -> None:
    world = World(tokens="store")
    world.sign_in()
    fresh_process = world.another_auth(tokens="store")
    from .support import app_of

    client = world.browser(app_of(fresh_process))
    client.cookies = world.client.cookies
    world.store.fault = StoreUnavailable("down")
    response = client.get("/token")
    assert (response.status_code, "set-cookie" in response.headers) == (503, False)
    assert "retry-after" in response.headers
    world.store.fault = None
    assert client.get("/token").status_code == 200
    world.store.inner = MemoryStore()
    lost = world.browser(app_of(world.another_auth(tokens="store")))
    lost.cookies = world.client.cookies
    response = lost.get("/token")
    assert (response.status_code, "set-cookie" in response.headers) == (401, False)


def test_signing_in_while_the_store_is_down_fails_and_sets_nothing() -> None:
    world = World(tokens="store")
    told: list[str] = []

    @world.app.post("/in")
    async def sign_in(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        try:
            await session.login(world.user())
        except StoreUnavailable as error:
            told.append(str(error))

    world.store.fault = StoreUnavailable("down")
    assert "set-cookie" not in world.client.post("/in").headers
    assert told


def test_touching_keeps_the_tokens(store: RefreshStore) -> None:
    world = World(store=store, tokens="store", max_age=400)
    user = world.sign_in()
    world.clock.advance(210)
    assert "set-cookie" in world.client.post("/touch").headers
    world.clock.advance(80)  # due
    assert world.client.get("/token").json()["access_token"] != user.access_token
    world.clock.advance(250)
    assert world.client.get("/token").status_code == 200


def test_changing_the_place_of_the_tokens_signs_nobody_out() -> None:
    world = World()
    world.sign_in()
    from .support import app_of

    to_store = world.another_auth(tokens="store")
    moved = world.browser(app_of(to_store))
    moved.cookies = world.client.cookies
    assert moved.get("/token").status_code == 200
    world.clock.advance(EXPIRED)
    assert moved.get("/token").status_code == 200
    assert len(moved.cookies[world.auth.cookie_name]) < 600
    world.clock.advance(EXPIRED)
    back = world.browser()
    back.cookies = moved.cookies
    assert back.get("/token").status_code == 200
    world.clock.advance(10)
    assert back.get("/token").status_code == 200
    assert world.wire.provider.reused == 0


class FullStore(CountingStore):
    """Takes leases and tombstones, but no publish until it is told to."""

    full = False

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        if self.full and getattr(getattr(change, "func", None), "__name__", "") == "published":
            raise StoreUnavailable("disk full")
        return await super().apply(key, change, now=now)


async def test_a_cookie_does_not_lead_to_tokens_that_the_store_has_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another worker it would be a cookie of no session, and a page would clear it."""
    monkeypatch.setattr("fastapi_ideal_auth.rotation.PUBLISH_PATIENCE", 0.01)
    store = FullStore(MemoryStore())
    browser = Browser(store, tokens="store")
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    store.full = True
    responses = [await browser.asks(first, 0) for _ in range(2)]
    found = {response.json()["access_token"] for response in responses}
    assert [browser.workers[0].written(response) for response in responses] == [None, None]
    store.full = False
    await browser.workers[0].auth.rotation.aclose()
    elsewhere = await browser.asks(first, 1)
    assert {elsewhere.json()["access_token"]} == found
    browser.got(elsewhere)
    assert browser.jar != first
    assert len(found) == 1
    assert browser.provider.reused == 0


async def test_two_who_ask_for_one_request_at_once_both_get_the_tokens() -> None:
    world = World(store=SQLiteStore(), tokens="store")
    world.sign_in()
    auth = world.another_auth(tokens="store")
    app = FastAPI()
    auth.install(app)

    @app.get("/token")
    async def route(request: Request) -> list[str]:
        users = await asyncio.gather(*(auth.fresh_user(request) for _ in range(3)))
        return [user.access_token for user in users]

    transport = httpx.ASGITransport(app)
    headers = {"cookie": f"{world.auth.cookie_name}={world.cookie}"}
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        found = (await client.get("/token", headers=headers)).json()
    await world.store.aclose()
    assert len(found) == 3
    assert all(map(world.wire.provider.is_alive, found))


async def test_a_look_for_the_tokens_that_was_given_up_leaves_nobody_half_signed_in() -> None:
    """A route that allows the session a moment only, and asks again."""
    gate = asyncio.Event()

    class SlowStore(CountingStore):
        async def apply(self, key: str, change: Change, *, now: float) -> Applied:
            await gate.wait()
            return await super().apply(key, change, now=now)

    store = MemoryStore()
    world = World(store=store, tokens="store")
    world.sign_in()
    auth = world.another_auth(tokens="store", store=SlowStore(store))
    app = FastAPI()
    auth.install(app)

    @app.get("/token")
    async def route(request: Request) -> str | None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(auth.optional_user(request), 0.01)
        gate.set()
        user = await auth.optional_user(request)
        return None if user is None else user.access_token

    transport = httpx.ASGITransport(app)
    headers = {"cookie": f"{world.auth.cookie_name}={world.cookie}"}
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        response = await client.get("/token", headers=headers)
    assert world.wire.provider.is_alive(response.json())


# -- behind a stock nginx -------------------------------------------------------------------------

NGINX = """
daemon off; pid {directory}/pid; error_log {directory}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}
}}
"""


@contextmanager
def nginx(upstream: int, directory: Path) -> Iterator[Server]:
    """Debian's, with its default limits: 4 KB of response headers."""
    program = require_program("nginx")
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(NGINX.format(directory=directory, port=port, upstream=upstream))
    with start(
        [program, "-c", conf, "-e", directory / "error.log"], ready=lambda _: listens(port)
    ) as process:
        yield Server(process, port)


@pytest.mark.parametrize(("tokens", "passes"), [("store", True), ("cookie", False)])
def test_a_6_kb_session_behind_a_stock_nginx(tmp_path: Path, tokens: str, passes: bool) -> None:
    """Signs in, refreshes and signs out; with the tokens in the cookie nginx answers 502."""

    async def provider(refresh_token: str) -> TokenResponse:
        return TokenResponse(jwt(3000), refresh_token="next", id_token=jwt(2600), expires_in=300)

    world = World(tokens=tokens, provider=provider, cookie_secure=False)

    @world.app.post("/in")
    async def sign_in(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        await session.login(large(world))

    with (
        in_thread(world.app) as port,
        nginx(port, tmp_path) as proxy,
        httpx.Client(base_url=proxy.url, trust_env=False) as browser,
    ):
        response = browser.post("/in")
        assert (response.status_code == 200) is passes
        if not passes:
            assert response.status_code == 502
            return
        first = browser.get("/token").json()["access_token"]
        world.clock.advance(EXPIRED)
        second = browser.get("/token")
        assert second.json()["access_token"] != first
        assert set_cookie_bytes(second) < 700
        assert browser.post("/leave").status_code == 200
        assert browser.get("/token").status_code == 401
