"""Somebody who can write to the store, and has no secret: sign-outs are all that comes of it.

Whatever stands in a session's record, the request is answered, with a user of that session or
none, and the provider is asked once at most.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_ideal_auth import MemoryStore, StoreUnavailable
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import Generation, begin
from fastapi_ideal_auth.record import Change, Record, key_of
from fastapi_ideal_auth.stores import Applied

from .support import CountingStore, User
from .test_rotation import DUE, EXPIRED, Cluster, new_cookie, token

LIMIT = 20


class PatientStore(CountingStore):
    """Ends what asks it again and again: on one event loop nothing else could."""

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        if self.calls == LIMIT:
            raise StoreUnavailable("there was no end to it")
        return await super().apply(key, change, now=now)


class Scene:
    """One session with two generations, another session, and what the store holds of both."""

    def __init__(self, **options: Any) -> None:
        self.cluster = Cluster(MemoryStore(), latency=0, **options)
        self.cluster.store = PatientStore()
        self.cluster.workers = [self.cluster.worker() for _ in range(2)]
        self.mine = self.session("1")
        self.theirs = self.session("2")
        self.key = key_of(self.mine[0].sid)

    def session(self, who: str) -> list[Generation[User]]:
        auth, clock = self.cluster.workers[0], self.cluster.clock
        user = self.cluster.provider.user(User, clock=clock, id=who)
        first = begin(user, now=clock(), remember=None, lifetimes=auth.lifetimes)
        next_one = self.cluster.provider.user(User, clock=clock, id=who)
        return [first, first._replace(gen=2, user=next_one)]

    def sealed(self, generation: Generation[User]) -> bytes:
        return self.cluster.workers[0].rotation._sealed(generation)

    def cookie(self, generation: Generation[User]) -> str:
        auth = self.cluster.workers[0]
        now = self.cluster.clock()
        return auth.cookie_lines(generation, read(None, auth.cookies), now=now)[0].split(";")[0]

    async def write(self, record: Record | None) -> None:
        now = self.cluster.clock()
        await self.cluster.store.inner.apply(self.key, lambda _: record, now=now)

    async def ask(self, generation: Generation[User]) -> httpx.Response:
        response = await self.cluster.request(self.cookie(generation), 1)
        assert self.cluster.store.calls < LIMIT
        return response


@pytest.mark.parametrize("tokens", ["cookie", "store"])
@pytest.mark.parametrize(("said", "held"), [(5, 1), (2, 1), (1, 2), (5, 2)])
async def test_a_record_that_says_another_generation_than_it_holds_opens_nothing(
    tokens: str, said: int, held: int
) -> None:
    scene = Scene(tokens=tokens)
    sealed = scene.sealed(scene.mine[held - 1])
    await scene.write(Record(scene.mine[0].expires_at, gen=said, sealed=sealed))
    scene.cluster.clock.advance(EXPIRED)
    response = await scene.ask(scene.mine[0])
    if said > 1 or tokens == "store":
        assert (response.status_code, scene.cluster.provider.calls) == (401, 0)
    else:  # nothing newer is there, and the cookie has its own tokens
        assert scene.cluster.provider.is_alive(token(response))


@pytest.mark.parametrize("tokens", ["cookie", "store"])
async def test_the_record_of_another_session_opens_nothing(tokens: str) -> None:
    scene = Scene(tokens=tokens)
    await scene.write(Record(scene.mine[0].expires_at, gen=2, sealed=scene.sealed(scene.theirs[1])))
    scene.cluster.clock.advance(EXPIRED)
    response = await scene.ask(scene.mine[0])
    assert (response.status_code, scene.cluster.provider.calls) == (401, 0)


@pytest.mark.parametrize("tokens", ["cookie", "store"])
async def test_a_record_that_was_rolled_back_brings_no_older_tokens(tokens: str) -> None:
    scene = Scene(tokens=tokens)
    await scene.write(Record(scene.mine[0].expires_at, gen=1, sealed=scene.sealed(scene.mine[0])))
    scene.cluster.clock.advance(DUE)
    response = await scene.ask(scene.mine[1])
    assert scene.cluster.provider.reused == 0
    if tokens == "store":
        assert response.status_code == 401
    else:  # the cookie knows better
        assert scene.cluster.provider.is_alive(token(response))
        assert scene.cluster.provider.is_alive(
            token(await scene.cluster.request(new_cookie(response)))
        )


NUMBERS = st.integers(-1, 6)
MOMENTS = st.sampled_from([0.0, -1.0, 10.0, 1e9, 2e9, float("inf"), float("-inf"), float("nan")])
RECORDS = st.builds(
    Record,
    expires_at=st.sampled_from([2 * 10**9, 10**400]),
    gen=NUMBERS | st.just(2**40),
    lease=st.none() | st.just("somebody"),
    lease_until=MOMENTS,
    rejected=st.none() | NUMBERS,
    ended=st.booleans(),
    retry_at=MOMENTS,
    seen=NUMBERS,
    seen_at=MOMENTS,
)


@given(
    record=RECORDS,
    sealed=st.sampled_from(["none", "garbage", "mine 1", "mine 2", "theirs"]),
    presented=st.sampled_from([0, 1]),
    later=st.sampled_from([0, DUE, EXPIRED]),
    tokens=st.sampled_from(["cookie", "store"]),
    strict=st.sampled_from(["strict", "lenient"]),
)
@example(Record(2 * 10**9, gen=5), "mine 1", 0, EXPIRED, "cookie", "lenient")
@settings(max_examples=300)
def test_whatever_a_record_says_the_answer_is_of_this_session_or_none(
    record: Record, sealed: str, presented: int, later: int, tokens: str, strict: str
) -> None:
    async def play() -> None:
        scene = Scene(tokens=tokens, replay_detection=strict)
        seals = {
            "none": None,
            "garbage": b"\x01garbage",
            "mine 1": scene.sealed(scene.mine[0]),
            "mine 2": scene.sealed(scene.mine[1]),
            "theirs": scene.sealed(scene.theirs[1]),
        }
        await scene.write(replace(record, sealed=seals[sealed]))
        scene.cluster.clock.advance(later)
        response = await scene.ask(scene.mine[presented])
        assert response.status_code in (200, 401, 503)
        if response.status_code == 200:
            assert response.json()["id"] == "1"
        assert scene.cluster.provider.calls <= 1

    asyncio.run(play())
