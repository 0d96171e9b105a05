"""Design §6: acknowledged rotation, over every store, with a provider that forgives nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    ProviderUnavailable,
    RefreshRejected,
    RefreshStore,
    SQLiteStore,
    StoreUnavailable,
    TokenResponse,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.record import Change, Record, key_of
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import Clock, RotatingProvider

from .support import SECRET, CountingStore, User, app_of

DUE, EXPIRED = 290, 301


class Cluster:
    """Workers that share one store, and browsers' requests to them on one event loop."""

    def __init__(self, store: RefreshStore, *, latency: float = 0.01, **options: Any) -> None:
        self.clock = Clock()
        self.provider = RotatingProvider(latency=latency)
        self.store = CountingStore(store)
        self.options = options
        self._apps: dict[IdealAuth[User], FastAPI] = {}
        self.workers = [self.worker() for _ in range(4)]

    def worker(self, **options: Any) -> IdealAuth[User]:
        settings: dict[str, Any] = {
            "secret": SECRET,
            "provider": self.provider,
            "store": self.store,
            "clock": self.clock,
            **self.options,
            **options,
        }
        return IdealAuth(User, **settings)

    def cookie(self) -> str:
        """What the browser holds after a sign-in."""
        auth = self.workers[0]
        user = self.provider.user(User, clock=self.clock, id="1")
        now = self.clock()
        generation = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
        lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
        return lines[0].split(";")[0]

    async def request(
        self,
        cookie: str,
        worker: int | IdealAuth[User] = 0,
        path: str = "/token",
        method: str = "GET",
    ) -> httpx.Response:
        auth = self.workers[worker] if isinstance(worker, int) else worker
        if auth not in self._apps:
            self._apps[auth] = app_of(auth)
        transport = httpx.ASGITransport(app=self._apps[auth])
        async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
            return await client.request(method, path, headers={"cookie": cookie})


@pytest.fixture
async def cluster(store: RefreshStore) -> AsyncIterator[Cluster]:
    cluster = Cluster(store)
    yield cluster
    for worker in cluster.workers:
        await worker.rotation.aclose()


def token(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    found = response.json()["access_token"]
    assert isinstance(found, str)
    return found


def new_cookie(response: httpx.Response) -> str:
    return response.headers["set-cookie"].split(";")[0]


@pytest.mark.parametrize("later", [DUE, EXPIRED])
async def test_200_concurrent_requests_on_4_workers_make_one_call(
    cluster: Cluster, later: int
) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(later)
    responses = await asyncio.gather(*(cluster.request(cookie, n % 4) for n in range(200)))
    assert len({token(response) for response in responses}) == 1
    assert all("set-cookie" in response.headers for response in responses)
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)
    # A late request with the old cookie makes none.
    assert token(await cluster.request(cookie, 3)) == token(responses[0])
    assert cluster.provider.calls == 1


async def test_thirty_sessions_at_once_never_meet(cluster: Cluster) -> None:
    cookies = [cluster.cookie() for _ in range(30)]
    cluster.clock.advance(EXPIRED)
    responses = await asyncio.gather(
        *(cluster.request(cookie, n) for cookie in cookies for n in (0, 1, 2, 3, 0, 1, 2, 3))
    )
    tokens = [token(response) for response in responses]
    each = [set(tokens[n : n + 8]) for n in range(0, 240, 8)]
    assert all(len(one) == 1 for one in each)
    assert len(set.union(*each)) == 30
    assert cluster.provider.calls == 30


async def test_cancelling_one_caller_stops_nothing(cluster: Cluster) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    first = asyncio.create_task(cluster.request(cookie))
    second = asyncio.create_task(cluster.request(cookie))
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    first.cancel()
    assert cluster.provider.is_alive(token(await second))
    assert cluster.provider.calls == 1


async def test_cancelling_every_caller_in_mid_refresh_loses_nothing(cluster: Cluster) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    callers = [asyncio.create_task(cluster.request(cookie)) for _ in range(5)]
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    response = await cluster.request(cookie, 1)
    assert cluster.provider.is_alive(token(response))
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)


async def test_a_lost_answer_is_retried_once_at_once() -> None:
    """At a provider with a grace (here: it had not rotated) the retry saves the session."""
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(in_doubt=True))
    token(await cluster.request(cookie))
    assert cluster.provider.calls == 2


async def test_window_a_lost_answer_at_a_provider_without_grace_ends_the_session() -> None:
    """Named in the README: the provider committed, its answer was lost, and it has no grace."""
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.lose_next_answer()
    response = await cluster.request(cookie)
    assert (response.status_code, cluster.provider.reused) == (401, 1)


async def test_an_answer_in_doubt_twice_is_left_alone_for_the_cool_off(cluster: Cluster) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(in_doubt=True), times=2)
    assert (await cluster.request(cookie)).status_code == 503
    assert (await cluster.request(cookie, 2)).status_code == 503
    assert cluster.provider.calls == 2
    cluster.clock.advance(5)
    token(await cluster.request(cookie, 1))
    assert cluster.provider.calls == 3


async def test_a_retry_after_is_honoured_by_every_worker(cluster: Cluster) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(retry_after=40))
    first = await cluster.request(cookie)
    assert (first.status_code, first.headers["retry-after"]) == (503, "40")
    cluster.clock.advance(39)
    assert (await cluster.request(cookie, 2)).headers["retry-after"] == "1"
    cluster.clock.advance(1)
    token(await cluster.request(cookie, 3))
    assert cluster.provider.calls == 2


async def test_a_signed_out_session_stays_out_and_a_refresh_under_way_is_revoked(
    cluster: Cluster,
) -> None:
    cookie = cluster.cookie()
    cluster.provider.latency = 0.1
    cluster.clock.advance(EXPIRED)
    refreshing = asyncio.create_task(cluster.request(cookie))
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    await cluster.request(cookie, 1, "/leave", "POST")
    response = await refreshing
    assert response.status_code == 401
    assert "set-cookie" not in response.headers
    # What the refresh brought was revoked too, and nobody asks again.
    assert len(cluster.provider.revoked) == 2
    assert (await cluster.request(cookie, 2)).status_code == 401
    assert cluster.provider.calls == 1


async def test_sign_out_with_an_old_cookie_revokes_the_newest_refresh_token(
    cluster: Cluster,
) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    assert cluster.provider.is_alive(newest)
    await cluster.request(cookie, 1, "/leave", "POST")
    assert not cluster.provider.is_alive(newest)


async def test_a_rejection_is_overridden_by_a_later_publish(cluster: Cluster) -> None:
    """A leader whose lease lapsed holds good tokens; another was told invalid_grant meanwhile."""
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.latency = 0.15
    slow = asyncio.create_task(cluster.request(cookie, 0))
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    cluster.clock.advance(cluster.workers[0].timing.lease + 1)  # a host whose clock runs ahead

    async def rejecting(refresh_token: str) -> TokenResponse:
        raise RefreshRejected

    hasty = cluster.worker(provider=rejecting)
    assert (await cluster.request(cookie, hasty)).status_code == 401
    assert (await cluster.request(cookie, 1)).status_code == 401
    rescued = token(await slow)
    assert token(await cluster.request(cookie, 2)) == rescued


async def test_rotating_secrets_finds_the_records_again(store: RefreshStore) -> None:
    cluster = Cluster(store)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    rotated = cluster.worker(secret=["a new secret, of 32 characters or more", SECRET])
    assert token(await cluster.request(cookie, rotated)) == newest
    cluster.clock.advance(EXPIRED)
    newer = token(await cluster.request(cookie, rotated))
    assert newer != newest
    # The old secret dropped: what was re-sealed meanwhile still opens.
    response = await cluster.request(cookie, rotated)
    dropped = cluster.worker(secret="a new secret, of 32 characters or more")
    assert token(await cluster.request(new_cookie(response), dropped)) == newer
    assert (cluster.provider.calls, cluster.provider.reused) == (2, 0)


async def test_a_restart_finds_the_records_again(tmp_path: Any) -> None:
    path = tmp_path / "refresh.sqlite3"
    cluster = Cluster(SQLiteStore(path))
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    await cluster.store.aclose()
    reborn = cluster.worker(store=SQLiteStore(path))
    assert token(await cluster.request(cookie, reborn)) == newest
    await reborn.aclose()
    assert cluster.provider.calls == 1


class StubbornStore(CountingStore):
    """Takes leases, but no publish until it is told to."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.full = True

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        wants_publish = getattr(getattr(change, "func", None), "__name__", "") == "published"
        if self.full and wants_publish:
            self.calls += 1
            raise StoreUnavailable("disk full")
        return await super().apply(key, change, now=now)


async def test_a_publish_that_fails_is_retried_while_the_process_lives() -> None:
    store = StubbornStore()
    cluster = Cluster(store)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    response = await cluster.request(cookie)
    newest = token(response)
    assert "set-cookie" in response.headers
    # Not in the store yet; this process answers from what it holds, and asks nobody.
    assert token(await cluster.request(cookie)) == newest
    store.full = False
    await asyncio.wait_for(cluster.workers[0].rotation.aclose(), 5)
    assert token(await cluster.request(cookie, 1)) == newest
    assert cluster.provider.calls == 1


async def test_a_waiter_has_a_deadline_of_its_own(cluster: Cluster) -> None:
    async def hanging(refresh_token: str) -> TokenResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    auth = cluster.worker(provider=hanging)
    cookie = cluster.cookie()
    cluster.clock.advance(DUE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    # Counted from the flight's start: those who come later do not wait as long again.
    for _ in range(5):
        response = await cluster.request(cookie, auth)
        assert response.status_code == 200  # the present token, promptly
    assert loop.time() - began < 4
    for flight in auth.rotation._flights.values():
        flight.task.cancel()


async def test_a_provider_that_raises_anything_is_unavailable_and_its_words_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(refresh_token: str) -> TokenResponse:
        raise ValueError(f"cannot parse the answer for {refresh_token}")

    cluster = Cluster(MemoryStore())
    auth = cluster.worker(provider=broken)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    assert (await cluster.request(cookie, auth)).status_code == 503
    assert "ValueError" in caplog.text
    assert "rt-" not in caplog.text


async def test_a_bare_function_is_a_provider() -> None:
    async def rejecting(refresh_token: str) -> TokenResponse | None:
        return None

    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    response = await cluster.request(cookie, cluster.worker(provider=rejecting))
    assert response.status_code == 401

    async def granting(refresh_token: str) -> TokenResponse | None:
        return TokenResponse("new")

    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    assert token(await cluster.request(cookie, cluster.worker(provider=granting))) == "new"


def test_what_is_no_provider_is_refused() -> None:
    provider: Any = OAuth2Provider  # the class, not an instance
    with pytest.raises(ConfigurationError, match="provider="):
        IdealAuth(User, secret=SECRET, provider=provider, store=MemoryStore())


async def test_the_store_with_the_secret_opens_nothing(store: RefreshStore) -> None:
    """A record needs the session's id, and that is only in cookies."""
    from fastapi_ideal_auth import InvalidCookie

    cluster = Cluster(store)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    auth = cluster.workers[0]
    generation = auth.opened(read(cookie, auth.cookies), now=cluster.clock())
    assert generation is not None
    _, record = await store.apply(key_of(generation.sid), lambda r: r, now=cluster.clock())
    assert record is not None
    assert record.sealed is not None
    dump = record.to_bytes() + key_of(generation.sid).encode()
    assert newest.encode() not in dump
    assert generation.sid not in dump
    assert generation.sid.hex().encode() not in dump
    with pytest.raises(InvalidCookie):
        auth.ring.open(record.sealed, purpose="record", binding=b"\0" * 16)
    auth.ring.open(record.sealed, purpose="record", binding=generation.sid)


class LookingStore(CountingStore):
    """Answers no look until it is told to, and tells when somebody waits."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.answers = asyncio.Event()
        self.waited = asyncio.Event()

    async def look(self, keys: Sequence[str], *, now: float) -> list[Record | None]:
        await self.answers.wait()
        return await super().look(keys, now=now)

    async def wait(self, key: str, *, timeout: float) -> None:
        self.waited.set()
        await super().wait(key, timeout=timeout)


async def test_nothing_comes_between_seeing_the_lease_and_waiting_for_it() -> None:
    """A wake-up in between would be missed: the waiter slept for a second."""
    cluster = Cluster(MemoryStore(), latency=0.1)
    slow = LookingStore()
    slow.inner = cluster.store
    waiting = cluster.worker(store=slow)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    leader = asyncio.create_task(cluster.request(cookie))
    await asyncio.sleep(0.02)
    waiter = asyncio.create_task(cluster.request(cookie, waiting))
    async with asyncio.timeout(5):
        await slow.waited.wait()
    slow.answers.set()
    assert (await leader).json() == (await waiter).json()
    assert cluster.provider.calls == 1


async def test_all_who_waited_get_the_same_cookie_and_the_next_refresh_another() -> None:
    cluster = Cluster(MemoryStore())
    cookie, seen = cluster.cookie(), set()
    for _ in range(2):
        cluster.clock.advance(EXPIRED)
        answers = await asyncio.gather(*(cluster.request(cookie) for _ in range(20)))
        (line,) = {answer.headers["set-cookie"] for answer in answers}
        cookie = line.split(";")[0]
        seen.add(cookie)
    assert len(seen) == 2
