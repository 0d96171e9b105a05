"""Each fault at each step of a refresh: what is saved, and what falls into a named window.

`EXPECTED` is the matrix, `STORES` says over which stores a row is tried; every cell is a test.
*Saved* means that afterwards every cookie of the session leads to live tokens on every host, that
no spent refresh token was presented, and that the session can be refreshed again. A *window* is
asserted as exactly that: should it one day be closed, its cells fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from redis import Redis

from examples.dashboard.authorization_server import AuthorizationServer, Client, create_app
from fastapi_ideal_auth import IdealAuth, MemoryStore, RedisStore, RefreshStore, SQLiteStore
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin

from . import faults
from .faults import (
    CLIENT_ID,
    CLIENT_SECRET,
    DUE,
    EXPIRED,
    LEASE,
    PLACES,
    Answering,
    FileGates,
    Gate,
    GatedServer,
    Host,
    Hosts,
    Place,
    Step,
    StoreFault,
)
from .processes import ROOT, Process, free_port, in_thread, listens, start
from .support import SECRET, User

# -- the words of the matrix ----------------------------------------------------------------------


class Fault(Enum):
    CANCEL_ONE = "cancel one caller"
    CANCEL_ALL = "cancel all callers"
    DISCONNECT = "client disconnect"
    KILL = "kill -9 of the worker"
    RESTART = "worker restart"
    STOPPED = "the worker stands still past its lease"
    ANSWER_429 = "429"
    ANSWER_500 = "500"
    ANSWER_503 = "503"
    HTML = "HTML from a firewall"
    PORTAL = "HTML with status 200"
    TIME_OUT = "time-out"
    DROPPED = "connection dropped"
    DROPPED_WITH_GRACE = "connection dropped, at a provider with a grace"
    STORE_DOWN = "store down"
    STORE_SLOW = "store slow: it does what is asked, and says so too late"
    STORE_READ_ONLY = "store read-only"
    STORE_DISK_FULL = "store disk full"
    STORE_DOWN_PAST_LEASE = "store down for the leader, past its lease"
    LEASE_EXPIRES = "lease expiring under a slow provider"
    LEASE_EXPIRES_UNSEEN = "lease expiring, with nobody else to take it"
    CLOCK_AHEAD = "a host whose clock is 30 s ahead"
    CLOCK_BEHIND = "a host whose clock is 30 s behind"
    # Beside the faults, what people and operators do: the rest of the README's windows.
    SIGN_OUT = "sign-out on another host"
    SIGN_OUT_STORE_DOWN = "sign-out while the store is down"
    LATE_STRICT = "a late cookie, with strict detection"
    PATIENCE_ENDS = "a provider slower than a waiter's patience"
    OWN_STORE = "a host with a store of its own"
    MEMORY_RESTARTED = "kill -9 of the one worker of a MemoryStore"
    FAILOVER = "a Redis failover that loses the last writes"


class Window(Enum):
    """The README's *What is not guaranteed*: the bold words of each item."""

    ANSWER_LOST = "The provider rotated, its answer was lost, and it gives no grace"
    CRASH = "A crash between the provider's commit and the publish"
    LEASE_LAPSED = "A lease that lapses with the request on its way"
    STORE_DOWN = "The store is down from the lease to the publish"
    NOT_SHARED = "Hosts that do not share a store"
    SIGN_OUT_UNWRITTEN = "Signing out while the store is down"
    COPIED = "A copied cookie after sign-out"
    ON_THE_WIRE = "A response already on the wire"
    WAITER = "A waiter past its deadline"
    STRICT = "Strict replay detection"


@dataclass(frozen=True)
class Saved:
    """Nobody notices but for a 503 while the fault lasts; of a sign-out: it stays one."""


@dataclass(frozen=True)
class NotApplicable:
    reason: str


Outcome = Saved | Window | NotApplicable

# -- the matrix -----------------------------------------------------------------------------------

SAVED: Final = Saved()
OVER: Final = NotApplicable("nobody waits any more")
NO_NEWER: Final = NotApplicable("no newer generation is there that could have been presented")
LOST, CRASH, LAPSED, W = Window.ANSWER_LOST, Window.CRASH, Window.LEASE_LAPSED, Window

_FAILING: Final = (SAVED, SAVED, LOST, SAVED, SAVED, SAVED)

# fmt: off
ROWS: Final[dict[Fault, tuple[Outcome, ...]]] = {
    # before send, after send, after the provider answered,
    # after publish, before the response, after the response was dropped
    Fault.CANCEL_ONE: (SAVED, SAVED, SAVED, SAVED, SAVED, OVER),
    Fault.CANCEL_ALL: (SAVED, SAVED, SAVED, SAVED, SAVED, OVER),
    Fault.DISCONNECT: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.KILL: (SAVED, CRASH, CRASH, SAVED, SAVED, SAVED),
    Fault.RESTART: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STOPPED: (SAVED, LAPSED, LAPSED, SAVED, SAVED, SAVED),
    Fault.ANSWER_429: _FAILING,
    Fault.ANSWER_500: _FAILING,
    Fault.ANSWER_503: _FAILING,
    Fault.HTML: _FAILING,
    Fault.PORTAL: _FAILING,
    Fault.TIME_OUT: _FAILING,
    Fault.DROPPED: _FAILING,
    Fault.DROPPED_WITH_GRACE: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STORE_DOWN: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STORE_SLOW: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STORE_READ_ONLY: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STORE_DISK_FULL: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.STORE_DOWN_PAST_LEASE: (W.STORE_DOWN, W.STORE_DOWN, W.STORE_DOWN, SAVED, SAVED, SAVED),
    Fault.LEASE_EXPIRES: (SAVED, LAPSED, LAPSED, SAVED, SAVED, SAVED),
    Fault.LEASE_EXPIRES_UNSEEN: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.CLOCK_AHEAD: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.CLOCK_BEHIND: (SAVED, SAVED, SAVED, SAVED, SAVED, SAVED),
    Fault.SIGN_OUT: (SAVED, SAVED, SAVED, W.ON_THE_WIRE, W.ON_THE_WIRE, W.COPIED),
    Fault.SIGN_OUT_STORE_DOWN: (SAVED, SAVED, *(W.SIGN_OUT_UNWRITTEN,) * 4),
    Fault.LATE_STRICT: (NO_NEWER, NO_NEWER, NO_NEWER, W.STRICT, W.STRICT, W.STRICT),
    Fault.PATIENCE_ENDS: (SAVED, SAVED, W.WAITER, W.WAITER, SAVED, OVER),
    Fault.OWN_STORE: (W.NOT_SHARED,) * 6,
    Fault.MEMORY_RESTARTED: (SAVED, CRASH, CRASH, W.NOT_SHARED, W.NOT_SHARED, W.NOT_SHARED),
    Fault.FAILOVER: (W.NOT_SHARED,) * 6,
}
# fmt: on

EXPECTED: Final[dict[tuple[Fault, Step], Outcome]] = {
    (fault, step): outcome
    for fault, outcomes in ROWS.items()
    for step, outcome in zip(Step, outcomes, strict=True)
}

ALL: Final = ("memory", "sqlite", "redis")
STORES: Final[dict[Fault, tuple[str, ...]]] = dict.fromkeys(Fault, ALL) | {
    # A process has a MemoryStore to itself: that is the row MEMORY_RESTARTED.
    Fault.DISCONNECT: ("sqlite", "redis"),
    Fault.KILL: ("sqlite", "redis"),
    Fault.RESTART: ("sqlite", "redis"),
    Fault.STOPPED: ("sqlite", "redis"),
    Fault.MEMORY_RESTARTED: ("memory",),
    # Memory has no disk; the workers of one machine, which share the others, have one clock.
    Fault.STORE_READ_ONLY: ("sqlite", "redis"),
    Fault.STORE_DISK_FULL: ("sqlite", "redis"),
    Fault.CLOCK_AHEAD: ("redis",),
    Fault.CLOCK_BEHIND: ("redis",),
    Fault.FAILOVER: ("redis",),
}
PROCESSES: Final = (Fault.DISCONNECT, Fault.KILL, Fault.RESTART, Fault.STOPPED)

CELLS: Final = [
    pytest.param(fault, step, store, id=f"{fault.value}-{step.value}-{store}")
    for (fault, step), outcome in EXPECTED.items()
    if not isinstance(outcome, NotApplicable)
    for store in STORES[fault]
]
HERE: Final = [cell for cell in CELLS if cell.values[0] not in PROCESSES]
ELSEWHERE: Final = [cell for cell in CELLS if cell.values[0] in PROCESSES]
# A sign-out is seen as soon as the tokens are read, and without its record a session is gone: these
# rows are in tests/test_tokens_in_store.py, as what they are there.
OTHERWISE: Final = (
    Fault.SIGN_OUT,
    Fault.SIGN_OUT_STORE_DOWN,
    Fault.OWN_STORE,
    Fault.MEMORY_RESTARTED,
    Fault.FAILOVER,
)
IN_STORE: Final = [cell for cell in HERE if cell.values[0] not in OTHERWISE]
EMPTY: Final = [cell for cell, outcome in EXPECTED.items() if isinstance(outcome, NotApplicable)]


def test_every_fault_has_an_outcome_at_every_step() -> None:
    assert set(EXPECTED) == {(fault, step) for fault in Fault for step in Step}
    assert all(STORES[fault] for fault in Fault)
    assert len(HERE) + len(ELSEWHERE) == len(CELLS)
    # Nothing strikes in a way that no test drives.
    assert {*STRIKES, *PROCESS_STRIKES} >= set(Fault)


@pytest.mark.parametrize(("fault", "step"), EMPTY, ids=lambda value: value.value)
def test_a_cell_that_cannot_be_says_why(fault: Fault, step: Step) -> None:
    outcome = EXPECTED[fault, step]
    assert isinstance(outcome, NotApplicable)
    assert outcome.reason


def test_the_windows_are_the_ones_that_the_readme_names_and_each_is_hit() -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## What is *not* guaranteed")[2].partition("\n## ")[0]
    named = re.findall(r"^- \*\*(.+?)\.?\*\*", section, re.MULTILINE)
    assert named == [window.value for window in Window]
    assert set(EXPECTED.values()) >= set(Window)


# -- one cell in process --------------------------------------------------------------------------


@dataclass
class Scene:
    """A refresh that is held at a step, and who takes part in it. The first host leads."""

    hosts: Hosts
    cookie: str
    fault: Fault
    step: Step
    admin: Admin
    gate: Gate | None = None
    callers: list[asyncio.Task[httpx.Response]] = field(default_factory=list)
    responses: list[httpx.Response] = field(default_factory=list)
    """What the callers that were not cancelled got."""
    stranger: Host | None = None
    newest: str = ""

    @property
    def leader(self) -> Host:
        return self.hosts.all[0]

    async def begin(self, callers: int = 3) -> None:
        place = _place(self.fault, self.step)
        if place is not None:
            on_the_wire = place in (Place.ARRIVED, Place.ROTATED)
            gates = (self.hosts.wire if on_the_wire else self.leader).gates
            self.gate = gates.shut[place] = Gate(holds_all=place is Place.RESPONDING)
        loop = asyncio.get_running_loop()
        self.callers = [loop.create_task(self.leader.get(self.cookie)) for _ in range(callers)]
        if self.gate is None:
            await asyncio.wait(self.callers)
        else:
            await asyncio.wait_for(self.gate.reached.wait(), 10)

    async def go_on(self) -> None:
        """Let the refresh continue; until every caller has its answer."""
        if self.gate is not None:
            self.gate.go.set()
        answers = await asyncio.gather(*self.callers, return_exceptions=True)
        self.responses = [answer for answer in answers if isinstance(answer, httpx.Response)]

    @property
    def cookies(self) -> list[str]:
        """Every cookie the browser may hold now."""
        delivered = () if self.step is Step.AFTER_DROPPED else set_cookies(self.responses)
        return [self.cookie, *delivered]


def _place(fault: Fault, step: Step) -> Place | None:
    if step is Step.AFTER_ANSWER and fault in SPOILING:
        return Place.ROTATED  # these take the answer away before it gets here
    return PLACES.get(step)


def set_cookies(responses: list[httpx.Response]) -> list[str]:
    lines = [response.headers.get("set-cookie", "") for response in responses]
    return sorted({line.split(";")[0] for line in lines if line and "Max-Age=0" not in line})


def token(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    found = response.json()["access_token"]
    assert isinstance(found, str)
    return found


class Admin:
    """The hand on the store itself: the real thing is made read-only, full and forgetful."""

    def __init__(self, store: RefreshStore, redis_url: str | None) -> None:
        self.store = store
        self.url = redis_url
        if isinstance(store, SQLiteStore):
            _small_pages(store.path)

    async def read_only(self, on: bool) -> None:
        await self._set(f"query_only={on:d}", ("min-replicas-to-write", f"{on:d}"))

    async def full(self, on: bool) -> None:
        # SQLite takes the pages it has as the lowest limit there is.
        await self._set(f"max_page_count={1 if on else 1 << 30}", ("maxmemory", f"{on:d}"))

    async def _set(self, pragma: str, setting: tuple[str, str]) -> None:
        if isinstance(self.store, SQLiteStore):
            store = self.store
            await store._run(lambda: store._connected().execute(f"PRAGMA {pragma}").fetchall())
        else:
            with self._redis() as redis:
                redis.config_set(*setting)

    def forget(self) -> None:
        with self._redis() as redis:
            for key in redis.scan_iter(f"{self._prefix}*"):
                redis.delete(key)

    def another_store(self) -> RedisStore:
        assert self.url is not None
        return RedisStore(self.url, prefix=self._prefix)

    @property
    def _prefix(self) -> str:
        assert isinstance(self.store, RedisStore)
        return self.store._prefix

    def _redis(self) -> Any:
        assert self.url is not None
        return Redis.from_url(self.url)


def _small_pages(path: Path) -> None:
    """A record with tokens in it then needs new pages, which a full disk has not."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size=512")
    database.execute("CREATE TABLE page_size_is_fixed_now (x)")
    database.close()


Strike = Callable[[Scene], Awaitable[None]]


async def cancel_one(scene: Scene) -> None:
    scene.callers[0].cancel()


async def cancel_all(scene: Scene) -> None:
    for caller in scene.callers:
        caller.cancel()


async def kill(scene: Scene) -> None:
    """As far as it goes in one process: nothing of the leader runs on. Random rounds only."""
    await _crash(scene)
    scene.hosts.all[0] = scene.hosts.another(scene.hosts.inner)


async def restart_memory(scene: Scene) -> None:
    await _crash(scene)
    forgetful = MemoryStore()
    scene.hosts.all = [scene.hosts.another(forgetful) for _ in scene.hosts.all]


async def _crash(scene: Scene) -> None:
    await cancel_all(scene)
    await scene.leader.crash()
    await scene.go_on()
    await scene.hosts.wire.landed()
    scene.responses = []


def _status(status: int, **headers: str) -> Answering:
    return lambda _: httpx.Response(status, headers=headers)


def _page(status: int) -> Answering:
    return lambda _: httpx.Response(status, html="<!doctype html><title>Just a moment</title>")


def _raising(error: type[httpx.TransportError]) -> Answering:
    def answering(request: httpx.Request) -> httpx.Response:
        raise error("", request=request)

    return answering


SPOILING: Final[dict[Fault, tuple[Answering, Answering]]] = {
    # before the request is on its way, and from then on
    Fault.ANSWER_429: (_status(429, **{"retry-after": "7"}),) * 2,
    Fault.ANSWER_500: (_status(500),) * 2,
    Fault.ANSWER_503: (_status(503, **{"retry-after": "7"}),) * 2,
    Fault.HTML: (_page(403),) * 2,
    Fault.PORTAL: (_page(200),) * 2,
    Fault.TIME_OUT: (_raising(httpx.ConnectTimeout), _raising(httpx.ReadTimeout)),
    Fault.DROPPED: (_raising(httpx.ConnectError), _raising(httpx.RemoteProtocolError)),
    Fault.DROPPED_WITH_GRACE: (
        _raising(httpx.ConnectError),
        _raising(httpx.RemoteProtocolError),
    ),
}


async def spoil(scene: Scene) -> None:
    early, late = SPOILING[scene.fault]
    if scene.step is Step.AFTER_ANSWER:
        scene.hosts.wire.spoiled = late
    else:
        scene.hosts.wire.fault = early if scene.step is Step.BEFORE_SEND else late


def cut_off(fault: StoreFault) -> Strike:
    async def strike(scene: Scene) -> None:
        for host in scene.hosts.all:
            host.store.fault = fault

    return strike


async def make_read_only(scene: Scene) -> None:
    await scene.admin.read_only(True)


async def fill_the_disk(scene: Scene) -> None:
    await scene.admin.full(True)


async def cut_the_leader_off_past_its_lease(scene: Scene) -> None:
    scene.leader.store.fault = StoreFault.DOWN
    await scene.go_on()
    scene.hosts.clock.advance(LEASE)
    await scene.hosts.all[1].get(scene.cookie)


async def let_the_lease_expire(scene: Scene) -> None:
    scene.hosts.clock.advance(LEASE)
    await scene.hosts.all[1].get(scene.cookie)


async def let_the_lease_expire_unseen(scene: Scene) -> None:
    scene.hosts.clock.advance(LEASE)


async def ask_the_host_of_another_time(scene: Scene) -> None:
    assert scene.stranger is not None
    looks = scene.stranger.store.looks
    asking = asyncio.get_running_loop().create_task(scene.stranger.get(scene.cookie))
    while scene.stranger.store.looks == looks:
        await asyncio.sleep(0.001)
    await scene.go_on()
    assert scene.hosts.wire.provider.is_alive(token(await asking))


async def sign_out(scene: Scene) -> None:
    assert (await scene.hosts.all[1].leave(scene.cookie)).status_code == 200


async def sign_out_with_the_store_down(scene: Scene) -> None:
    scene.hosts.all[1].store.fault = StoreFault.DOWN
    await sign_out(scene)


async def present_the_newest_and_let_the_grace_pass(scene: Scene) -> None:
    host = scene.hosts.all[1]
    (scene.newest,) = set_cookies([await host.get(scene.cookie)])
    token(await host.get(scene.newest))
    scene.hosts.clock.advance(61)


async def wait_for_the_waiters(scene: Scene) -> None:
    if scene.step is Step.BEFORE_RESPONSE:
        return
    await asyncio.wait(scene.callers)
    alive = [scene.hosts.wire.provider.is_alive(token(done.result())) for done in scene.callers]
    # The present token; whether it still is one depends on whether the provider has rotated.
    assert alive == [scene.step in (Step.BEFORE_SEND, Step.AFTER_SEND)] * len(alive)


async def ask_a_host_with_a_store_of_its_own(scene: Scene) -> None:
    scene.stranger = scene.hosts.another(MemoryStore())
    await scene.stranger.get(scene.cookie)


async def lose_the_last_writes(scene: Scene) -> None:
    scene.admin.forget()
    await scene.hosts.all[1].get(scene.cookie)


STRIKES: Final[dict[Fault, Strike]] = {
    Fault.CANCEL_ONE: cancel_one,
    Fault.CANCEL_ALL: cancel_all,
    Fault.KILL: kill,
    **dict.fromkeys(SPOILING, spoil),
    Fault.STORE_DOWN: cut_off(StoreFault.DOWN),
    Fault.STORE_SLOW: cut_off(StoreFault.SLOW),
    Fault.STORE_READ_ONLY: make_read_only,
    Fault.STORE_DISK_FULL: fill_the_disk,
    Fault.STORE_DOWN_PAST_LEASE: cut_the_leader_off_past_its_lease,
    Fault.LEASE_EXPIRES: let_the_lease_expire,
    Fault.LEASE_EXPIRES_UNSEEN: let_the_lease_expire_unseen,
    Fault.CLOCK_AHEAD: ask_the_host_of_another_time,
    Fault.CLOCK_BEHIND: ask_the_host_of_another_time,
    Fault.SIGN_OUT: sign_out,
    Fault.SIGN_OUT_STORE_DOWN: sign_out_with_the_store_down,
    Fault.LATE_STRICT: present_the_newest_and_let_the_grace_pass,
    Fault.PATIENCE_ENDS: wait_for_the_waiters,
    Fault.OWN_STORE: ask_a_host_with_a_store_of_its_own,
    Fault.MEMORY_RESTARTED: restart_memory,
    Fault.FAILOVER: lose_the_last_writes,
}

STORE_OUTAGES: Final = (
    Fault.STORE_DOWN,
    Fault.STORE_SLOW,
    Fault.STORE_READ_ONLY,
    Fault.STORE_DISK_FULL,
    Fault.STORE_DOWN_PAST_LEASE,
)
PROBED: Final = (
    Fault.CANCEL_ONE,
    Fault.CANCEL_ALL,
    *SPOILING,
    *(fault for fault in STORE_OUTAGES if fault is not Fault.STORE_DOWN_PAST_LEASE),
)
"""Rows in which another host is asked while the fault lasts."""

AFTERWARDS: Final[dict[Fault, float]] = {
    **dict.fromkeys(SPOILING, 8.0),  # the cool-off, or what Retry-After said
    Fault.LEASE_EXPIRES_UNSEEN: 8.0,  # a leader without a lease does not ask, and cools off
    Fault.STORE_SLOW: LEASE,  # nobody knows of a lease whose answer was lost
    Fault.KILL: LEASE,
}
"""Seconds until the session can be refreshed again."""

CALLS: Final[dict[tuple[Fault, Step], int]] = {
    **{(fault, step): 2 for fault in SPOILING for step in (Step.BEFORE_SEND, Step.AFTER_SEND)},
    # In doubt: once more at once, and again after the cool-off.
    (Fault.PORTAL, Step.BEFORE_SEND): 3,
    (Fault.PORTAL, Step.AFTER_SEND): 3,
    (Fault.TIME_OUT, Step.AFTER_SEND): 3,
    (Fault.DROPPED, Step.AFTER_SEND): 3,
    (Fault.DROPPED_WITH_GRACE, Step.AFTER_SEND): 3,
    (Fault.DROPPED_WITH_GRACE, Step.AFTER_ANSWER): 2,
}
"""Requests to the provider in a saved cell; one, where nothing else is said."""


async def play(scene: Scene) -> None:
    """The refresh up to the step, the fault, the refresh to its end, and the fault is over."""
    await scene.begin()
    await STRIKES[scene.fault](scene)
    probe = None
    if scene.fault in PROBED:
        other = scene.hosts.all[1]
        probe = asyncio.get_running_loop().create_task(other.get(scene.cookie))
    await scene.go_on()
    await lift(scene)
    await scene.leader.landed()
    scene.hosts.clock.advance(AFTERWARDS.get(scene.fault, 0))
    if probe is not None:
        response = await probe
        if EXPECTED[scene.fault, scene.step] == SAVED:
            assert response.status_code in (200, 503)


async def lift(scene: Scene) -> None:
    for host in scene.hosts.all:
        host.store.fault = None
        host.gates.shut.clear()
    scene.hosts.wire.gates.shut.clear()
    scene.hosts.wire.fault = scene.hosts.wire.spoiled = None
    if scene.fault is Fault.STORE_READ_ONLY:
        await scene.admin.read_only(False)
    if scene.fault is Fault.STORE_DISK_FULL:
        await scene.admin.full(False)


# -- what should have come of it ------------------------------------------------------------------


async def is_saved(scene: Scene) -> None:
    hosts, provider = scene.hosts, scene.hosts.wire.provider
    assert {response.status_code for response in scene.responses} <= {200, 503}
    for host in [*hosts.all, *filter(None, [scene.stranger])]:
        for cookie in scene.cookies:
            assert provider.is_alive(token(await host.get(cookie)))
    calls = CALLS.get((scene.fault, scene.step), 1)
    assert (hosts.wire.requests, provider.reused) == (calls, 0)
    # And it lives on, with the oldest cookie too.
    hosts.clock.advance(EXPIRED)
    assert provider.is_alive(token(await hosts.all[2].get(scene.cookie)))
    assert (hosts.wire.requests, provider.reused) == (calls + 1, 0)


async def stays_out(scene: Scene) -> None:
    assert {response.status_code for response in scene.responses} == {401}
    assert not set_cookies(scene.responses)
    for host in scene.hosts.all:
        assert (await host.get(scene.cookie)).status_code == 401
    assert not any(grant for grant in living(scene))


def living(scene: Scene) -> list[Any]:
    grants = scene.hosts.wire.provider._grants.values()
    return [grant for grant in grants if not grant.revoked]


async def is_lost(scene: Scene) -> None:
    """Signed out: a spent token was presented once, and the provider ended the grant."""
    hosts = scene.hosts
    for host in hosts.all:
        await host.get(scene.cookie)
    assert hosts.wire.provider.reused == 1
    assert not living(scene)
    hosts.clock.advance(EXPIRED)
    for host in hosts.all:
        for cookie in scene.cookies:
            assert (await host.get(cookie)).status_code == 401


async def copy_outlives_the_sign_out(scene: Scene) -> None:
    """The cookie of a response that went out, wherever it went, works while its token is fresh."""
    copies = set_cookies(scene.responses)
    assert copies
    host = scene.hosts.all[2]
    for copy in copies:
        # The app lets it in; the provider, where the grant was revoked, does not.
        assert not scene.hosts.wire.provider.is_alive(token(await host.get(copy)))
    scene.hosts.clock.advance(EXPIRED)
    for copy in [scene.cookie, *copies]:
        assert (await host.get(copy)).status_code == 401


async def is_refused_as_a_replay(scene: Scene) -> None:
    host = scene.hosts.all[2]
    assert (await host.get(scene.cookie)).status_code == 401
    scene.hosts.clock.advance(EXPIRED)
    assert (await host.get(scene.newest)).status_code == 401
    assert scene.hosts.wire.provider.reused == 0


async def only_the_waiters_had_a_dead_token(scene: Scene) -> None:
    provider = scene.hosts.wire.provider
    assert len(scene.responses) == 3
    assert not any(provider.is_alive(token(response)) for response in scene.responses)
    assert not set_cookies(scene.responses)
    await is_saved(scene)


CHECKS: Final[dict[Window, Strike]] = {
    **dict.fromkeys(Window, is_lost),
    Window.SIGN_OUT_UNWRITTEN: copy_outlives_the_sign_out,
    Window.COPIED: copy_outlives_the_sign_out,
    Window.ON_THE_WIRE: copy_outlives_the_sign_out,
    Window.STRICT: is_refused_as_a_replay,
    Window.WAITER: only_the_waiters_had_a_dead_token,
}


def check_of(fault: Fault, step: Step) -> Strike:
    outcome = EXPECTED[fault, step]
    if isinstance(outcome, Window):
        return CHECKS[outcome]
    return stays_out if fault in (Fault.SIGN_OUT, Fault.SIGN_OUT_STORE_DOWN) else is_saved


@pytest.fixture
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where callers are to run out of patience with the store or the provider, let it be short."""
    fault = request.getfixturevalue("fault")
    if fault in STORE_OUTAGES:
        monkeypatch.setattr("fastapi_ideal_auth.rotation.PUBLISH_PATIENCE", 0.02)
    if fault is Fault.PATIENCE_ENDS:
        monkeypatch.setattr("fastapi_ideal_auth.rotation.PROMPT", 0.05)


@pytest.fixture
async def scene(
    fault: Fault, step: Step, store: RefreshStore, tokens: str, request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    url = request.getfixturevalue("redis_url") if isinstance(store, RedisStore) else None
    options = {"tokens": tokens}
    if fault is Fault.LATE_STRICT:
        options["replay_detection"] = "strict"
    hosts = Hosts(store, **options)
    hosts.wire.grace = fault is Fault.DROPPED_WITH_GRACE
    scene = Scene(hosts, await hosts.sign_in(), fault, step, Admin(store, url))
    ahead = {Fault.CLOCK_AHEAD: 30.0, Fault.CLOCK_BEHIND: -30.0}.get(fault)
    if ahead is not None:
        scene.stranger = hosts.another(scene.admin.another_store(), ahead=ahead)
        for host in (scene.leader, scene.stranger):
            await host.store.open()
    hosts.clock.advance(DUE if fault is Fault.PATIENCE_ENDS else EXPIRED + abs(ahead or 0))
    yield scene
    await lift(scene)
    for host in [*hosts.all, *filter(None, [scene.stranger])]:
        await host.crash()  # by now nothing is under way, but where a test has failed
        await host.store.aclose()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("tokens", ["cookie"])
@pytest.mark.parametrize(("fault", "step", "store"), HERE, indirect=["store"])
async def test_in_process(fault: Fault, step: Step, tokens: str, scene: Scene) -> None:
    async with asyncio.timeout(30):  # a refresh that hangs fails, and lets go of what it holds
        await play(scene)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("tokens", ["store"])
@pytest.mark.parametrize(("fault", "step", "store"), IN_STORE, indirect=["store"])
async def test_with_the_tokens_in_the_store(
    fault: Fault, step: Step, tokens: str, scene: Scene
) -> None:
    async with asyncio.timeout(30):  # a refresh that hangs fails, and lets go of what it holds
        await play(scene)
        await check_of(fault, step)(scene)


# -- a thousand refreshes -------------------------------------------------------------------------

RANDOM: Final = (
    Fault.CANCEL_ONE,
    Fault.CANCEL_ALL,
    Fault.KILL,
    *SPOILING,
    Fault.STORE_DOWN,
    Fault.STORE_SLOW,
    Fault.STORE_DOWN_PAST_LEASE,
    Fault.LEASE_EXPIRES,
    Fault.LEASE_EXPIRES_UNSEEN,
)


class Browser:
    """One user over many refreshes, who sends whichever of the session's cookies comes to hand."""

    def __init__(self, hosts: Hosts, chance: random.Random) -> None:
        self.hosts = hosts
        self.chance = chance
        self.cookies: list[str] = []

    async def sign_in(self) -> None:
        self.cookies = [await self.hosts.sign_in()]

    def wait_until_it_is_due(self) -> None:
        auth, clock = self.hosts.all[0].auth, self.hosts.clock
        newest = auth.opened(read(self.cookies[-1], auth.cookies), now=clock())
        assert newest is not None
        assert newest.user.expires_at is not None
        clock.now = newest.user.expires_at + self.chance.choice((-10, 1))

    async def look(self) -> None:
        """Signed in still, on whichever host."""
        response = await self.chance.choice(self.hosts.all).get(self.chance.choice(self.cookies))
        assert self.hosts.wire.provider.is_alive(token(response))
        self.cookies = [*self.cookies[-4:], *set_cookies([response])]


@pytest.mark.parametrize(
    ("store", "tokens"), [("memory", "cookie"), ("redis", "store")], indirect=["store"]
)
async def test_a_thousand_refreshes_with_random_faults_sign_out_at_the_named_windows_only(
    store: RefreshStore,
    tokens: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastapi_ideal_auth.rotation.PUBLISH_PATIENCE", 0.01)
    url = request.getfixturevalue("redis_url") if isinstance(store, RedisStore) else None
    chance = random.Random(20260731)
    hosts = Hosts(store, tokens=tokens)
    browser = Browser(hosts, chance)
    await browser.sign_in()
    rounds = 0
    expected: Counter[Window] = Counter()
    found: Counter[Window] = Counter()
    while rounds < 1000:
        fault, step = chance.choice(RANDOM), chance.choice(list(Step))
        outcome = EXPECTED[fault, step]
        if isinstance(outcome, NotApplicable):
            continue
        rounds += 1
        browser.wait_until_it_is_due()
        chance.shuffle(hosts.all)
        hosts.wire.grace = fault is Fault.DROPPED_WITH_GRACE
        reused = hosts.wire.provider.reused
        scene = Scene(hosts, chance.choice(browser.cookies), fault, step, Admin(store, url))
        await play(scene)
        if isinstance(outcome, Window):
            expected[outcome] += 1
            await hosts.all[2].get(scene.cookie)
            found[outcome] += hosts.wire.provider.reused - reused
            await browser.sign_in()
        else:
            await browser.look()
            assert hosts.wire.provider.reused == reused, f"signed out: {fault}, {step}"
    assert found == expected
    assert {W.ANSWER_LOST, W.CRASH, W.LEASE_LAPSED, W.STORE_DOWN} == set(found)


# -- one cell with real workers -------------------------------------------------------------------


@dataclass(frozen=True)
class Worker:
    port: int
    pid: int

    @property
    def alive(self) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Stage:
    """Two workers on this machine, a strict authorization server, and their gates."""

    zygote: Process
    gates: FileGates
    provider: AuthorizationServer
    settings: dict[str, Any]
    step: Step
    workers: list[Worker] = field(default_factory=list)
    started: list[Worker] = field(default_factory=list)
    cookie: str = ""
    caller: asyncio.Task[httpx.Response] | None = None
    delivered: list[str] = field(default_factory=list)

    async def worker(self, port: int | None = None) -> Worker:
        port = port or free_port()
        note = self.gates.directory / f"pid-{port}"
        note.unlink(missing_ok=True)
        assert self.zygote.child.stdin is not None
        self.zygote.child.stdin.write(json.dumps({"port": port, **self.settings}).encode() + b"\n")
        self.zygote.child.stdin.flush()
        await until(lambda: note.exists() and listens(port))
        worker = Worker(port, int(note.read_text()))
        self.started.append(worker)
        return worker

    async def get(self, worker: Worker, cookie: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(verify=False)  # no TLS here, nor its start-up time
        async with httpx.AsyncClient(transport=transport, timeout=20) as client:
            url = f"http://127.0.0.1:{worker.port}/token"
            return await client.get(url, headers={"cookie": cookie})

    async def begin(self) -> None:
        place = PLACES.get(self.step)
        if place is not None:
            self.gates.shut(place)
        leader = self.get(self.workers[0], self.cookie)
        self.caller = asyncio.get_running_loop().create_task(leader)
        if place is None:
            await asyncio.wait([self.caller])
        else:
            await until(lambda: self.gates.reached(place))

    async def go_on(self) -> httpx.Response | None:
        self.gates.open_all()
        assert self.caller is not None
        await asyncio.wait([self.caller])
        if self.caller.cancelled() or self.caller.exception() is not None:
            return None
        response = self.caller.result()
        if self.step is not Step.AFTER_DROPPED:
            self.delivered = set_cookies([response])
        return response

    def count(self, what: str) -> int:
        found = self.provider.stats()[what]
        assert isinstance(found, int)
        return found


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it did not come to that"
        await asyncio.sleep(0.005)


async def disconnect(stage: Stage) -> None:
    assert stage.caller is not None
    stage.caller.cancel()
    await stage.go_on()


async def kill_the_worker(stage: Stage) -> None:
    leader = stage.workers[0]
    leader.signal(signal.SIGKILL)
    await until(lambda: not leader.alive)
    await stage.go_on()
    if stage.step is Step.AFTER_SEND:  # the provider works on for nobody
        await until(lambda: stage.count("refreshes") == 1)
    stage.workers[0] = await stage.worker()
    stage.gates.advance(LEASE)


async def restart_the_worker(stage: Stage) -> None:
    leader = stage.workers[0]
    leader.signal(signal.SIGTERM)
    await until(lambda: not listens(leader.port))
    response = await stage.go_on()
    assert response is not None
    token(response)  # it answers before it goes
    await until(lambda: not leader.alive)
    stage.workers[0] = await stage.worker(leader.port)


async def stop_the_worker_past_its_lease(stage: Stage) -> None:
    leader, other = stage.workers
    leader.signal(signal.SIGSTOP)
    stage.gates.advance(LEASE)
    await stage.get(other, stage.cookie)
    leader.signal(signal.SIGCONT)
    await stage.go_on()


PROCESS_STRIKES: Final[dict[Fault, Callable[[Stage], Awaitable[None]]]] = {
    Fault.DISCONNECT: disconnect,
    Fault.KILL: kill_the_worker,
    Fault.RESTART: restart_the_worker,
    Fault.STOPPED: stop_the_worker_past_its_lease,
}


async def is_saved_on_stage(stage: Stage) -> None:
    for worker in stage.workers:
        for cookie in [stage.cookie, *stage.delivered]:
            stage.provider.userinfo(token(await stage.get(worker, cookie)))
    assert (stage.count("refreshes"), stage.count("reuse_detected")) == (1, 0)
    stage.gates.advance(EXPIRED)
    stage.provider.userinfo(token(await stage.get(stage.workers[1], stage.cookie)))
    assert (stage.count("refreshes"), stage.count("reuse_detected")) == (2, 0)


async def is_lost_on_stage(stage: Stage) -> None:
    await stage.get(stage.workers[1], stage.cookie)
    assert (stage.count("refreshes"), stage.count("reuse_detected")) == (1, 1)
    assert stage.count("live_families") == 0
    stage.gates.advance(EXPIRED)
    for worker in stage.workers:
        for cookie in [stage.cookie, *stage.delivered]:
            assert (await stage.get(worker, cookie)).status_code == 401


@pytest.fixture(scope="module")
def zygote() -> Iterator[Process]:
    cmd = [sys.executable, "-m", "tests.faults"]
    with start(cmd, ready=re.compile(faults.FORKS), cwd=ROOT) as process:
        yield process


@pytest.fixture(scope="module")
def authorization_server() -> Iterator[tuple[GatedServer, int]]:
    client = Client(client_id=CLIENT_ID, redirect_uris=(), client_secret=CLIENT_SECRET)
    server = GatedServer(create_app(clients=[client], access_token_ttl=300))
    with in_thread(server) as port:  # type: ignore[arg-type]  # any ASGI app will do
        yield server, port


@pytest.fixture
async def stage(
    step: Step,
    store: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    zygote: Process,
    authorization_server: tuple[GatedServer, int],
) -> AsyncIterator[Stage]:
    server, port = authorization_server
    old: AuthorizationServer = server.app.state.server
    provider = server.app.state.server = AuthorizationServer(
        old.clients.values(), access_token_ttl=300, clock=time.time
    )
    directory = tmp_path / "gates"
    directory.mkdir(mode=0o700)
    server.gates = FileGates(directory)
    settings = {
        "directory": str(directory),
        "token_endpoint": f"http://127.0.0.1:{port}/token",
        "redis_url": request.getfixturevalue("redis_url") if store == "redis" else None,
        "prefix": f"{tmp_path.name}:",
    }
    stage = Stage(zygote, server.gates, provider, settings, step)
    stage.cookie = expired_cookie(provider.new_session("ada"))
    try:
        stage.workers = list(await asyncio.gather(stage.worker(), stage.worker()))
        yield stage
    finally:
        server.gates = None
        stage.gates.open_all()
        for worker in stage.started:
            worker.signal(signal.SIGKILL)


def expired_cookie(tokens: dict[str, Any]) -> str:
    now = time.time()
    auth = IdealAuth(User, secret=SECRET, store=MemoryStore(), cookie_secure=False)
    user = User(
        id="ada",
        access_token=tokens["access_token"],
        refresh_token=tokens["refresh_token"],
        expires_at=int(now) - 1,
    )
    generation = begin(user, now=now - 300, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    return lines[0].split(";")[0]


@pytest.mark.parametrize(("fault", "step", "store"), ELSEWHERE)
async def test_with_real_workers(fault: Fault, step: Step, stage: Stage) -> None:
    await stage.begin()
    await PROCESS_STRIKES[fault](stage)
    outcome = EXPECTED[fault, step]
    await (is_saved_on_stage if outcome == SAVED else is_lost_on_stage)(stage)
