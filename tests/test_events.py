"""Events: each kind once, with a hashed session id, and no token in any."""

import asyncio
import functools
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import (
    ConfigurationError,
    Event,
    EventKind,
    MemoryStore,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)

from .support import World, app_of
from .test_rotation import DUE, EXPIRED, Cluster, new_cookie, token


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def cluster(events: list[Event]) -> Cluster:
    return Cluster(MemoryStore(), on_event=events.append)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.value for event in events]


async def test_a_refresh_is_told_with_its_duration(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    assert events == []
    token(await cluster.request(cookie))
    assert events == []  # a fresh token is no event
    cluster.clock.advance(EXPIRED)
    token(await cluster.request(cookie))
    (event,) = events
    assert (event.kind, event.generation) == (EventKind.REFRESHED, 2)
    assert event.seconds is not None
    assert event.seconds >= cluster.provider.latency
    assert len(event.session) == 12


async def test_joined_in_the_process_and_from_another_worker(
    cluster: Cluster, events: list[Event]
) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    await asyncio.gather(*(cluster.request(cookie, n) for n in (0, 0, 1)))
    assert sorted(kinds(events)) == ["joined", "joined", "refreshed"]
    assert len({event.session for event in events}) == 1


async def test_handed_over(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    await cluster.request(cookie)
    await cluster.request(cookie, 1)
    assert kinds(events) == ["refreshed", "handed over"]


async def test_in_doubt_unavailable_and_rejected(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(in_doubt=True), times=2)
    await cluster.request(cookie)
    assert kinds(events) == ["in doubt", "in doubt", "unavailable"]
    events.clear()
    cluster.clock.advance(5)
    cluster.provider.lose_next_answer()
    await cluster.request(cookie)
    assert kinds(events) == ["in doubt", "rejected"]


async def test_what_took_time_is_told_with_it(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    cluster.provider.latency = 0.02
    cluster.clock.advance(EXPIRED)
    await asyncio.gather(*(cluster.request(cookie, n) for n in (0, 0, 1)))
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(in_doubt=True), times=2)
    await cluster.request(cookie)
    cluster.clock.advance(5)
    cluster.provider.fail_next(RefreshRejected())
    await cluster.request(cookie)
    seconds = {event.kind.value: event.seconds for event in events}
    assert seconds.keys() == {"refreshed", "joined", "in doubt", "unavailable", "rejected"}
    assert all(took is not None and took >= 0 for took in seconds.values())
    assert min(event.seconds or 0 for event in events if event.kind is EventKind.JOINED) > 0.01


async def test_replayed(cluster: Cluster, events: list[Event]) -> None:
    stolen = cookie = cluster.cookie()
    for _ in range(2):
        cluster.clock.advance(DUE)
        cookie = new_cookie(await cluster.request(cookie))
    cluster.clock.advance(61)
    events.clear()
    await cluster.request(stolen)
    assert kinds(events) == ["replayed", "handed over"]
    assert events[0].generation == 1


async def test_store_down(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.store.fault = StoreUnavailable("down")
    await cluster.request(cookie)
    assert kinds(events) == ["store down"]


async def test_a_broken_listener_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise ValueError("a secret of the listener's")

    cluster = Cluster(MemoryStore(), on_event=broken)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    token(await cluster.request(cookie))
    assert "on_event raised ValueError" in caplog.text
    assert "a secret" not in caplog.text


@pytest.mark.parametrize("instrument", ["counter", "histogram", "span"])
async def test_broken_instruments_lose_nothing(
    instrument: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The application's views, readers and span processors run inside of them."""
    told: list[Event] = []
    cluster = Cluster(MemoryStore(), on_event=told.append)
    for worker in cluster.workers:
        monkeypatch.setattr(worker.rotation._emit, *BROKEN[instrument])
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    response = await cluster.request(cookie)
    assert cluster.provider.is_alive(token(response))
    assert "set-cookie" in response.headers
    assert kinds(told) == ["refreshed"]
    assert "ValueError" in caplog.text
    assert "a secret" not in caplog.text


class Broken:
    def __getattr__(self, name: str) -> Any:
        raise ValueError("a secret of the instrument's")


BROKEN = {
    "counter": ("_events", Broken()),
    "histogram": ("_duration", Broken()),
    "span": ("_trace", Broken()),
}


async def nobody_awaits(event: Event) -> None:
    raise AssertionError("never")


class Listener:
    async def __call__(self, event: Event) -> None:
        raise AssertionError("never")


@pytest.mark.parametrize(
    "hook", [nobody_awaits, Listener(), functools.partial(nobody_awaits), "print", 5]
)
def test_a_hook_that_would_never_hear_is_refused(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event"):
        Cluster(MemoryStore(), on_event=hook)


async def test_a_hook_that_returns_a_coroutine_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(MemoryStore(), on_event=lambda event: nobody_awaits(event))
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    token(await cluster.request(cookie))
    assert "returned a coroutine" in caplog.text


async def test_a_hook_may_begin_work_of_its_own(events: list[Event]) -> None:
    """Such as to end a session whose cookie was replayed; it runs when the loop gets to it."""
    ended: list[asyncio.Task[Any]] = []
    world: list[Cluster] = []

    def ends(event: Event) -> None:
        events.append(event)
        if event.kind is EventKind.REFRESHED:
            leave = world[0].request(cookie, 1, "/leave", "POST")
            ended.append(asyncio.get_running_loop().create_task(leave))

    world.append(Cluster(MemoryStore(), on_event=ends))
    cookie = world[0].cookie()
    world[0].clock.advance(EXPIRED)
    await world[0].request(cookie)
    await asyncio.gather(*ended)
    assert (await world[0].request(cookie, 2)).status_code == 401
    assert kinds(events) == ["refreshed"]


async def test_no_event_holds_a_token_or_an_id(cluster: Cluster, events: list[Event]) -> None:
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    auth = cluster.workers[0]
    from fastapi_ideal_auth.cookies import read

    generation: Any = auth.opened(read(cookie, auth.cookies), now=cluster.clock())
    assert newest not in repr(events)
    assert generation.sid.hex() not in repr(events)


async def test_opentelemetry_counts_and_times() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    await cluster.request(cookie)
    await cluster.request(cookie)
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    counted = {
        point.attributes["event"]: point.value
        for point in found["fastapi_ideal_auth.session.events"].data.data_points
    }
    assert counted == {"refreshed": 1, "handed over": 1}
    assert found["fastapi_ideal_auth.refresh.duration"].unit == "s"


# -- with the tokens in the store -----------------------------------------------------------------


@pytest.fixture
def world(events: list[Event]) -> World:
    return World(store=MemoryStore(), tokens="store", on_event=events.append)


def elsewhere(world: World, events: list[Event]) -> TestClient:
    """A worker that has read nothing yet."""
    auth = world.another_auth(tokens="store", on_event=events.append)
    client = world.browser(app_of(auth))
    client.cookies = world.client.cookies
    return client


@pytest.mark.parametrize("path", ["/token", "/session"])
def test_a_store_that_is_down_when_the_tokens_are_looked_for(
    world: World, events: list[Event], path: str
) -> None:
    world.sign_in()
    world.store.fault = StoreUnavailable("down")
    assert elsewhere(world, events).get(path).status_code == 503
    assert kinds(events) == ["store down"]


@pytest.mark.parametrize(
    ("later", "told"),
    [(0, ["replayed", "handed over"]), (EXPIRED, ["replayed", "refreshed"])],
    ids=["the newest is fresh", "the newest is due too"],
)
def test_a_replay_is_told_once_where_the_tokens_are_looked_for(
    world: World, events: list[Event], later: int, told: list[str]
) -> None:
    world.sign_in()
    stolen = world.cookie
    assert stolen is not None
    for _ in range(2):
        world.clock.advance(DUE)
        world.client.get("/token")
    world.clock.advance(61)
    world.clock.advance(later)
    events.clear()
    assert world.present(stolen).status_code == 200
    assert kinds(events) == told
