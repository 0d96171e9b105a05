"""``uvicorn --workers 4`` with no configuration, at providers that revoke on reuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest

from examples.dashboard.authorization_server import AuthorizationServer, Client, create_app
from fastapi_ideal_auth import IdealAuth, MemoryStore
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin

from .processes import Server, in_thread, uvicorn
from .providers import harness
from .providers.harness import OIDCServer
from .support import SECRET, User

CLIENT_SECRET = "the client's secret"


class StrictServer(Protocol):
    """What the two authorization servers have in common here."""

    token_endpoint: str
    client_id: str
    client_secret: str

    def session(self, who: str = "ada") -> dict[str, Any]: ...
    def refreshes(self) -> int: ...
    def reused(self) -> int: ...
    def is_alive(self, access_token: str) -> bool: ...


@dataclass
class Embedded:
    """The dashboard example's own server."""

    server: AuthorizationServer
    token_endpoint: str
    client_id: str = "app"
    client_secret: str = CLIENT_SECRET

    def session(self, who: str = "ada") -> dict[str, Any]:
        return self.server.new_session(who)

    def refreshes(self) -> int:
        count = self.server.stats()["refreshes"]
        assert isinstance(count, int)
        return count

    def reused(self) -> int:
        count = self.server.stats()["reuse_detected"]
        assert isinstance(count, int)
        return count

    def is_alive(self, access_token: str) -> bool:
        return bool(self.server.userinfo(access_token))


@dataclass
class Certified:
    """npm oidc-provider."""

    op: OIDCServer
    client_id: str = harness.BASIC
    client_secret: str = harness.SECRET

    @property
    def token_endpoint(self) -> str:
        return self.op.token_endpoint

    def session(self, who: str = "ada") -> dict[str, Any]:
        return self.op.session(who)

    def refreshes(self) -> int:
        calls = self.op.stats()["token_calls"]
        return sum(count for key, count in _flat(calls) if "refresh_token" in key)

    def reused(self) -> int:
        count = self.op.stats()["spent_presented"]
        assert isinstance(count, int)
        return count

    def is_alive(self, access_token: str) -> bool:
        return self.op.alive(access_token)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}/{key}")
    elif isinstance(value, int):
        yield path, value


@pytest.fixture(params=["embedded", "oidc-provider"])
def provider(request: pytest.FixtureRequest) -> Iterator[StrictServer]:
    if request.param == "embedded":
        client = Client(client_id="app", redirect_uris=(), client_secret=CLIENT_SECRET)
        app = create_app(clients=[client], access_token_ttl=300)
        with in_thread(app) as port:
            yield Embedded(app.state.server, f"http://127.0.0.1:{port}/token")
    else:
        op: OIDCServer = request.getfixturevalue("oidc_server")
        op.reset()
        op.settings(access_token_ttl=300)
        yield Certified(op)


@pytest.fixture
def served(provider: StrictServer) -> Iterator[Server]:
    env = {
        "SESSION_SECRET": SECRET,
        "TOKEN_ENDPOINT": provider.token_endpoint,
        "CLIENT_ID": provider.client_id,
        "CLIENT_SECRET": provider.client_secret,
    }
    with uvicorn("tests.served:app", workers=4, env=env) as server:
        yield server


def cookie_of(tokens: dict[str, Any], *, expires_in: int, who: str = "ada") -> dict[str, str]:
    """A browser's cookie whose access token, good for 300 s in all, runs out in ``expires_in``."""
    now = time.time()
    auth = IdealAuth(User, secret=SECRET, store=MemoryStore(), cookie_secure=False)
    user = User(
        id=who,
        access_token=tokens["access_token"],
        refresh_token=tokens["refresh_token"],
        expires_at=int(now) + expires_in,
    )
    generation = begin(user, now=now - 300, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    return {"cookie": "; ".join(line.split(";")[0] for line in lines)}


async def storm(server: Server, requests: list[dict[str, str]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(requests))
    async with httpx.AsyncClient(
        base_url=server.url, limits=limits, timeout=30, trust_env=False
    ) as client:
        return await asyncio.gather(*(client.get("/token", headers=each) for each in requests))


@pytest.mark.parametrize("expires_in", [20, -1], ids=["inside the buffer", "expired"])
async def test_200_concurrent_requests_on_4_workers_make_one_call(
    provider: StrictServer, served: Server, expires_in: int
) -> None:
    cookie = cookie_of(provider.session(), expires_in=expires_in)
    responses = await storm(served, [cookie] * 200)
    assert [response.status_code for response in responses] == [200] * 200
    bodies = [response.json() for response in responses]
    assert len({body["access_token"] for body in bodies}) == 1
    assert len({body["worker"] for body in bodies}) > 1
    assert all("set-cookie" in response.headers for response in responses)
    assert (provider.refreshes(), provider.reused()) == (1, 0)
    assert provider.is_alive(bodies[0]["access_token"])
    # Late requests with the old cookie, on whichever worker takes them, make none.
    late = await storm(served, [cookie] * 8)
    assert {response.json()["access_token"] for response in late} == {bodies[0]["access_token"]}
    assert (provider.refreshes(), provider.reused()) == (1, 0)


async def test_30_sessions_of_8_requests_make_30_calls_and_never_meet(
    provider: StrictServer, served: Server
) -> None:
    people = [f"person-{n}" for n in range(30)]
    cookies = [cookie_of(provider.session(who), expires_in=-1, who=who) for who in people]
    responses = await storm(served, [cookie for cookie in cookies for _ in range(8)])
    assert {response.status_code for response in responses} == {200}
    assert [response.json()["id"] for response in responses[::8]] == people
    tokens = [response.json()["access_token"] for response in responses]
    each = [set(tokens[n : n + 8]) for n in range(0, 240, 8)]
    assert [len(one) for one in each] == [1] * 30
    assert len(set.union(*each)) == 30
    if isinstance(provider, Embedded):
        assert [provider.server.userinfo(token).sub for token in tokens[::8]] == people
    assert (provider.refreshes(), provider.reused()) == (30, 0)
