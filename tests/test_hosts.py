"""Two hosts that share nothing but a Redis on a third, at a provider that revokes on reuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import httpx
import pytest

from examples.dashboard.authorization_server import AuthorizationServer, Client, create_app

from .hosts import Gate, Host, Site, site
from .support import SECRET
from .test_workers import CLIENT_SECRET, cookie_of

Cookie = dict[str, str]

CABLES = ["the cable is pulled", "the cable is dead"]
CUTS = [*CABLES, "Redis is stopped"]


@dataclass(frozen=True, slots=True)
class World:
    """The two hosts and the provider they share."""

    first: Host
    second: Host
    site: Site
    gate: Gate
    server: AuthorizationServer
    before: tuple[int, int]

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.first, self.second

    def cookie(self, *, expires_in: int, who: str = "ada") -> Cookie:
        """A new session's, with a token that is due or has expired."""
        return cookie_of(self.server.new_session(who), expires_in=expires_in, who=who)

    def calls(self) -> tuple[int, int]:
        """Since the test began: refreshes, and spent tokens that were presented."""
        refreshes, reused = counts(self.server)
        return refreshes - self.before[0], reused - self.before[1]

    def is_alive(self, access_token: str) -> bool:
        return bool(self.server.userinfo(access_token))

    def cut(self, how: str, host: Host) -> AbstractContextManager[None]:
        ways = [host.cable.pulled, host.cable.dead, self.site.redis_stopped]
        return ways[CUTS.index(how)]()


def counts(server: AuthorizationServer) -> tuple[int, int]:
    stats = server.stats()
    return stats["refreshes"], stats["reuse_detected"]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Site, Gate, AuthorizationServer]]:
    client = Client(client_id="app", redirect_uris=(), client_secret=CLIENT_SECRET)
    app = create_app(clients=[client], access_token_ttl=300)
    gate = Gate(app)
    env = {"SESSION_SECRET": SECRET, "CLIENT_ID": "app", "CLIENT_SECRET": CLIENT_SECRET}
    with site(gate, env) as both:
        yield both, gate, app.state.server


@pytest.fixture
def world(running: tuple[Site, Gate, AuthorizationServer]) -> World:
    both, gate, server = running
    server.access_token_ttl = 300
    first, second = both.hosts
    return World(first, second, both, gate, server, counts(server))


async def ask(host: Host, cookie: Cookie) -> httpx.Response:
    async with host.client() as client:
        return await client.get("/token", headers=cookie)


async def storm(hosts: Sequence[Host], cookies: Sequence[Cookie]) -> list[httpx.Response]:
    """All at once, the first to the first host, the next to the next, and round again."""
    clients = [host.client(connections=len(cookies)) for host in hosts]
    try:
        asked = [
            clients[number % len(clients)].get("/token", headers=cookie)
            for number, cookie in enumerate(cookies)
        ]
        return await asyncio.gather(*asked)
    finally:
        for client in clients:
            await client.aclose()


async def ask_until_answered(host: Host, cookie: Cookie, seconds: float = 10) -> httpx.Response:
    """As a browser does that is told to try later."""
    deadline = time.monotonic() + seconds
    response = await ask(host, cookie)
    while is_refused(response) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        response = await ask(host, cookie)
    return response


def token_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    token = response.json()["access_token"]
    assert isinstance(token, str)
    return token


def is_refused(response: httpx.Response) -> bool:
    """Asked to try later, the cookie untouched."""
    if response.status_code != 503:
        return False
    assert int(response.headers["retry-after"]) > 0
    return is_untouched(response)


def is_untouched(response: httpx.Response) -> bool:
    return "set-cookie" not in response.headers


# -- together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("expires_in", [20, -1], ids=["inside the buffer", "expired"])
async def test_200_requests_on_both_hosts_make_one_call(world: World, expires_in: int) -> None:
    cookie = world.cookie(expires_in=expires_in)
    responses = await storm(world.hosts, [cookie] * 200)
    tokens = {token_of(response) for response in responses}
    assert len(tokens) == 1
    assert not any(is_untouched(response) for response in responses)
    assert {len(workers_of(responses[n::2])) for n in (0, 1)} <= {1, 2}
    assert workers_of(responses[0::2]).isdisjoint(workers_of(responses[1::2]))
    assert world.calls() == (1, 0)
    assert world.is_alive(tokens.pop())


def workers_of(responses: Sequence[httpx.Response]) -> set[int]:
    return {response.json()["worker"] for response in responses}


async def test_30_sessions_of_8_requests_make_30_calls_and_never_meet(world: World) -> None:
    people = [f"person-{n}" for n in range(30)]
    cookies = [world.cookie(expires_in=-1, who=who) for who in people]
    responses = await storm(world.hosts, [cookie for cookie in cookies for _ in range(8)])
    tokens = [token_of(response) for response in responses]
    each = [set(tokens[n : n + 8]) for n in range(0, 240, 8)]
    assert [len(one) for one in each] == [1] * 30
    assert len(set.union(*each)) == 30
    assert [world.server.userinfo(token).sub for token in tokens[::8]] == people
    assert [response.json()["id"] for response in responses[::8]] == people
    assert world.calls() == (30, 0)


async def test_a_late_request_on_the_other_host_is_handed_what_the_first_got(world: World) -> None:
    cookie = world.cookie(expires_in=-1)
    newest = token_of(await ask(world.first, cookie))
    late = await storm([world.second], [cookie] * 8)
    assert {token_of(response) for response in late} == {newest}
    assert not any(is_untouched(response) for response in late)
    assert world.calls() == (1, 0)


async def test_a_browser_wanders_between_the_hosts_and_its_first_cookie_leads_home(
    world: World,
) -> None:
    first = cookie = world.cookie(expires_in=-1)
    for turn in range(3):
        world.server.access_token_ttl = 1 if turn < 2 else 300
        response = await ask(world.hosts[turn % 2], cookie)
        newest = token_of(response)
        cookie = {"cookie": response.headers["set-cookie"].partition(";")[0]}
        if turn < 2:
            await asyncio.sleep(1.1)
    late = await storm(world.hosts, [first, first, cookie, cookie])
    assert {token_of(response) for response in late} == {newest}
    assert [is_untouched(response) for response in late] == [False, False, True, True]
    assert world.calls() == (3, 0)


# -- apart ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", CUTS)
async def test_a_host_cut_off_from_redis_serves_what_is_good_and_asks_nobody(
    world: World, how: str
) -> None:
    first, second = world.hosts
    fresh, due, expired = (world.cookie(expires_in=seconds) for seconds in (200, 20, -1))
    # Before: both hosts have connections, which the cut will leave behind.
    before = await storm(world.hosts, [world.cookie(expires_in=-1) for _ in range(8)])
    assert {response.status_code for response in before} == {200}
    elsewhere = 0
    with world.cut(how, first):
        began = time.monotonic()
        responses = await storm([first], [fresh] * 4 + [due] * 8 + [expired] * 8)
        assert time.monotonic() - began < 8  # a store's time-out of 2 s, not a lease's 30 s
        assert len({token_of(response) for response in responses[:12]}) == 2
        assert all(is_untouched(response) for response in responses[:12])
        assert all(is_refused(response) for response in responses[12:])
        assert world.calls() == (8, 0)
        if how in CABLES:  # The other host goes on meanwhile, with the same two sessions.
            there = await storm([second], [due, expired])
            newest = [token_of(response) for response in there]
            elsewhere = 2
            assert world.calls() == (10, 0)
    # Back: what the other host got is handed over; where nobody asked, this host does.
    back = [await ask_until_answered(first, cookie) for cookie in (expired, due)]
    tokens = [token_of(response) for response in back]
    assert not any(is_untouched(response) for response in back)
    assert world.calls() == (10, 0)
    if elsewhere:
        assert tokens == newest[::-1]
    assert all(world.is_alive(token) for token in tokens)
    assert is_untouched(await ask(first, fresh))


@pytest.mark.parametrize("how", CUTS)
async def test_a_host_cut_off_while_the_provider_answers_hands_out_and_publishes_later(
    world: World, how: str
) -> None:
    cookie = world.cookie(expires_in=-1)
    with ExitStack() as cut:
        with world.gate.closed():
            leader = asyncio.create_task(ask(world.first, cookie))
            await asyncio.to_thread(world.gate.arrived.wait, 5)
            cut.enter_context(world.cut(how, world.first))
        newest = token_of(await leader)
        assert not is_untouched(await leader)
        others = asyncio.create_task(storm([world.second], [cookie] * 4))
        await asyncio.sleep(0.5)
    # Who waits for the lease is handed the tokens as soon as they are published.
    waited = await others
    if how in CABLES:
        assert {token_of(response) for response in waited} == {newest}
    assert token_of(await ask_until_answered(world.second, cookie)) == newest
    assert world.calls() == (1, 0)
    assert world.is_alive(newest)


@pytest.mark.parametrize("how", CABLES)
async def test_a_host_cut_off_while_it_waits_for_the_other_learns_the_outcome_when_it_is_back(
    world: World, how: str
) -> None:
    cookie = world.cookie(expires_in=-1)
    with world.gate.closed():
        leader = asyncio.create_task(ask(world.first, cookie))
        await asyncio.to_thread(world.gate.arrived.wait, 5)
        waiters = asyncio.create_task(storm([world.second], [cookie] * 4))
        await asyncio.sleep(0.3)
        with world.cut(how, world.second):
            assert all(is_refused(response) for response in await waiters)
    newest = token_of(await leader)
    assert token_of(await ask_until_answered(world.second, cookie)) == newest
    assert world.calls() == (1, 0)
