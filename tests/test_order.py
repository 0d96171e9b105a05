"""The real thing in every order: requests, refreshes, sign-outs and late responses on two workers.

First the shortest traces of the model (`tests.model`), walked by the real code; then random walks
of a browser with one cookie, its old cookies and its late responses, over each store.
"""

# No ``from __future__ import annotations``: FastAPI reads those of the routes inside `Worker`.
import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import pytest
from fastapi import Depends, FastAPI
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastapi_ideal_auth import (
    IdealAuth,
    MemoryStore,
    ProviderUnavailable,
    RedisStore,
    RefreshRejected,
    RefreshStore,
    Session,
    SQLiteStore,
    StoreUnavailable,
    TokenResponse,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import Generation
from fastapi_ideal_auth.record import Change, Record, key_of
from fastapi_ideal_auth.refresh import Token
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import Clock, RotatingProvider

from .support import BASE, SECRET, CountingStore, User

T = TypeVar("T")

DUE, EXPIRED = 290, 301
LOOK_AGAIN = 1.0
"""What `session` promises, in seconds: a response that starts later looks into the store first."""


class GatedProvider(RotatingProvider):
    """The strict provider behind a door: while it is shut, requests have come and no answer has."""

    def __init__(self) -> None:
        super().__init__()
        self.door = asyncio.Event()
        self.door.set()
        self.at_the_door = 0

    def calm_down(self) -> None:
        self._faults.clear()

    async def refresh(self, refresh_token: str) -> TokenResponse:
        self.at_the_door += 1
        try:
            await self.door.wait()
        finally:
            self.at_the_door -= 1
        return await super().refresh(refresh_token)


class Worker:
    """One process: an `IdealAuth` of its own, and an app whose long poll waits to be let go."""

    def __init__(
        self, provider: RotatingProvider, store: RefreshStore, clock: Clock, **options: Any
    ) -> None:
        self.auth = IdealAuth(
            User, secret=SECRET, provider=provider, store=store, clock=clock, **options
        )
        self.polls: list[asyncio.Event] = []
        self.app = FastAPI()
        self.auth.install(self.app)
        self._routes(provider, clock)

    def _routes(self, provider: RotatingProvider, clock: Clock) -> None:
        auth, app = self.auth, self.app

        @app.get("/token")
        async def token(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, str]:
            return {"access_token": user.access_token, "id": user.id}

        @app.get("/poll")
        async def poll(
            user: Annotated[User | None, Depends(auth.optional_user)],
        ) -> dict[str, str] | None:
            over = asyncio.Event()
            self.polls.append(over)
            await over.wait()
            return None if user is None else {"access_token": user.access_token, "id": user.id}

        @app.get("/page")
        async def page(user: Annotated[User, Depends(auth.user_or_login)]) -> str:
            return user.id

        @app.post("/leave")
        async def leave(
            session: Annotated[Session[User], Depends(auth.session)], slowly: bool = False
        ) -> None:
            await session.logout(revoke=False)
            if slowly:
                over = asyncio.Event()
                self.polls.append(over)
                await over.wait()

        @app.post("/enter")
        async def enter(
            session: Annotated[Session[User], Depends(auth.session)], who: str
        ) -> dict[str, str | None]:
            user = provider.user(User, clock=clock, id=who)
            await session.login(user)
            return {"refresh_token": user.refresh_token}

    def opened(self, cookie: str) -> Generation[User]:
        header = f"{self.auth.cookie_name}={cookie}"
        found = self.auth.opened(read(header, self.auth.cookies), now=0)
        assert found is not None
        return found

    async def request(self, path: str, cookie: str | None, method: str = "GET") -> httpx.Response:
        headers = {} if cookie is None else {"cookie": f"{self.auth.cookie_name}={cookie}"}
        transport = httpx.ASGITransport(self.app)
        # A client of its own for each request: only the browser here remembers cookies.
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, path, headers=headers)

    def written(self, response: httpx.Response) -> str | None:
        """The session cookie that a response sets; ``""`` where it clears it."""
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition("=")
            if name == self.auth.cookie_name:
                return str(value.partition(";")[0])
        return None


# -- the model's traces ---------------------------------------------------------------------------


class Browser:
    """One cookie, and two workers to ask."""

    def __init__(self, store: RefreshStore | None = None, **options: Any) -> None:
        self.options = options
        self.clock = Clock()
        self.provider = GatedProvider()
        self.store = store or MemoryStore()
        self.workers = [self.worker(), self.worker()]
        self.jar: str | None = None
        self.refresh_token = ""

    def worker(self) -> Worker:
        return Worker(self.provider, self.store, self.clock, **self.options)

    async def enter(self, who: str, worker: int = 0) -> str:
        response = await self.workers[worker].request(f"/enter?who={who}", self.jar, "POST")
        self.refresh_token = response.json()["refresh_token"]
        self.got(response)
        assert self.jar
        return self.jar

    async def asks(self, cookie: str, worker: int, path: str = "/token") -> httpx.Response:
        return await self.workers[worker].request(path, cookie)

    async def polls(self, cookie: str, worker: int) -> asyncio.Task[httpx.Response]:
        """A long poll that has its user, or knows that there is none, and waits."""
        polls = self.workers[worker].polls
        before = len(polls)
        task = asyncio.create_task(self.asks(cookie, worker, "/poll"))
        while len(polls) == before and not task.done():
            await asyncio.sleep(0)
        return task

    def got(self, response: httpx.Response) -> None:
        written = self.workers[0].written(response)
        if written is not None:
            self.jar = written or None

    def holder(self) -> str | None:
        return None if self.jar is None else self.workers[0].opened(self.jar).user.id

    async def refreshing(self, cookie: str, worker: int) -> asyncio.Task[httpx.Response]:
        """A request whose refresh is on its way to the provider."""
        self.provider.door.clear()
        task = asyncio.create_task(self.asks(cookie, worker))
        while not self.provider.at_the_door:
            await asyncio.sleep(0)
        return task


async def test_a_long_poll_of_a_rejected_session_leaves_a_new_sign_in_alone() -> None:
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    poll = await browser.polls(first, 0)  # it has the second generation
    browser.clock.advance(EXPIRED)
    await browser.provider.revoke(browser.refresh_token)
    response = await browser.asks(first, 1)
    assert response.status_code == 401
    browser.jar = None
    await browser.enter("bob", 1)
    browser.workers[0].polls[0].set()
    browser.got(await poll)
    assert browser.holder() == "bob"


async def test_a_long_poll_that_was_told_of_the_rejection_does_not_clear_a_new_sign_in() -> None:
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    await browser.provider.revoke(browser.refresh_token)
    poll = await browser.polls(first, 0)  # it has been told
    browser.clock.advance(10)
    browser.got(await browser.asks(first, 1, "/page"))
    assert browser.jar is None  # the redirect to the sign-in
    await browser.enter("bob", 1)
    browser.workers[0].polls[0].set()
    browser.got(await poll)
    assert browser.holder() == "bob"


async def test_the_rejection_of_the_newest_generation_clears_an_older_cookie() -> None:
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    await browser.asks(first, 0)  # the answer is lost
    browser.clock.advance(EXPIRED)
    await browser.provider.revoke(browser.refresh_token)
    response = await browser.asks(first, 0)
    assert response.status_code == 401
    assert browser.workers[0].written(response) == ""


@pytest.mark.parametrize("tokens", ["cookie", "store"])
async def test_a_late_request_of_a_rejected_session_leaves_a_new_sign_in_alone(tokens: str) -> None:
    browser = Browser(tokens=tokens)
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    await browser.asks(first, 0)  # the answer is lost
    browser.clock.advance(EXPIRED)
    await browser.provider.revoke(browser.refresh_token)
    browser.got(await browser.asks(first, 0))
    assert browser.jar is None  # told, and cleared
    await browser.enter("bob")
    response = await browser.asks(first, 1)
    assert response.status_code == 401
    browser.got(response)
    assert browser.holder() == "bob"


async def test_of_two_leaders_that_are_told_of_one_rejection_the_first_to_write_it_clears() -> None:
    """One stalls past its lease with the provider's answer; by its write the other's is there."""
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    stalled = await browser.refreshing(first, 0)
    browser.clock.advance(60)  # its lease is over
    other = asyncio.create_task(browser.asks(first, 1))
    while browser.provider.at_the_door < 2:
        await asyncio.sleep(0)
    await browser.provider.revoke(browser.refresh_token)
    browser.provider.door.set()
    responses = [await stalled, await other]
    assert [response.status_code for response in responses] == [401, 401]
    written = [browser.workers[0].written(response) for response in responses]
    assert sorted(written, key=repr) == ["", None]


@pytest.mark.parametrize("late", [ProviderUnavailable(), RefreshRejected()])
async def test_a_leader_that_comes_late_does_not_take_up_what_is_dead_by_then(
    late: Exception,
) -> None:
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    stalled = await browser.refreshing(first, 0)
    browser.clock.advance(60)
    worker = browser.workers[1]
    dead = replace(Record(browser.workers[0].opened(first).expires_at), gen=2, rejected=2)
    key = key_of(worker.opened(first).sid)
    sealed = worker.auth.rotation._sealed(worker.opened(first)._replace(gen=2))
    await browser.store.apply(key, lambda _: replace(dead, sealed=sealed), now=browser.clock())
    browser.provider.fail_next(late)
    browser.provider.door.set()
    response = await stalled
    assert (response.status_code, worker.written(response)) == (401, None)


async def test_a_page_that_waited_long_before_it_redirects_leaves_a_new_sign_in_alone() -> None:
    """It had asked with the old cookie; the session was replaced while the provider took its
    time."""
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    browser.provider.door.clear()
    page = asyncio.create_task(browser.asks(first, 0, "/page"))
    while not browser.provider.at_the_door:
        await asyncio.sleep(0)
    browser.clock.advance(5)
    await browser.enter("bob", 1)
    browser.provider.door.set()
    response = await page
    assert response.status_code == 303
    browser.got(response)
    assert browser.holder() == "bob"


async def test_window_a_sign_out_that_takes_its_time_takes_a_new_sign_in_along() -> None:
    """Its response clears the cookie whenever it starts: who signs out must be out."""
    browser = Browser()
    first = await browser.enter("ada")
    leaving = asyncio.create_task(browser.workers[0].request("/leave?slowly=true", first, "POST"))
    while not browser.workers[0].polls:
        await asyncio.sleep(0)
    browser.clock.advance(5)
    await browser.enter("bob", 1)
    browser.workers[0].polls[0].set()
    browser.got(await leaving)
    assert browser.holder() is None


async def test_a_refresh_that_fails_after_sign_out_gives_nobody_a_user() -> None:
    browser = Browser()
    first = await browser.enter("ada")
    browser.clock.advance(DUE)
    refreshing = await browser.refreshing(first, 0)
    await browser.workers[1].request("/leave", first, "POST")
    late = asyncio.create_task(browser.asks(first, 0))
    await asyncio.sleep(0.01)
    browser.provider.fail_next(ProviderUnavailable())
    browser.provider.door.set()
    await refreshing
    assert (await late).status_code == 401


class StubbornStore(CountingStore):
    """Takes leases and tombstones, but no publish until it is told to."""

    full = True

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        if self.full and getattr(getattr(change, "func", None), "__name__", "") == "published":
            raise StoreUnavailable("disk full")
        return await super().apply(key, change, now=now)


@pytest.mark.parametrize("worker", [0, 1])
async def test_what_the_store_has_not_taken_is_not_handed_out_after_sign_out(worker: int) -> None:
    store = StubbornStore()
    browser = Browser(store)
    first = await browser.enter("ada")
    browser.clock.advance(EXPIRED)
    assert (await browser.asks(first, 0)).status_code == 200
    await browser.workers[worker].request("/leave", first, "POST")
    response = await browser.asks(first, 0)
    store.full = False
    await browser.workers[0].auth.rotation.aclose()
    assert response.status_code == 401


# -- random walks ---------------------------------------------------------------------------------


@dataclass
class Life:
    """One session, from sign-in on."""

    who: str
    refresh_token: str
    ended: bool = False
    revoked: bool = False
    known: bool = False
    """Whether a request was told that it is revoked."""
    cleared: bool = False
    """Whether a response has cleared the cookie for that: one may."""

    @property
    def alive(self) -> bool:
        return not (self.ended or self.revoked)


@dataclass(frozen=True)
class Held:
    """A cookie, and whose."""

    life: int
    value: str


@dataclass(frozen=True)
class Arriving:
    """A response with a cookie, on its way: it may arrive never, once or again."""

    leaves: Held | None
    epoch: int
    """How many sessions had begun when it started."""
    sign_out: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as it was when it arrived."""

    held: Held
    due: bool
    ended: bool
    calm: bool
    epoch: int
    at: float


WORKERS = st.integers(0, 1)
ANY = st.integers(0, 63)
AFTER = st.sampled_from([DUE, EXPIRED, 0])
ARRIVES = st.sampled_from([True, True, False])
"""At once, or on the wire for later or for never."""
TROUBLES = st.sampled_from(
    [
        ProviderUnavailable(),
        ProviderUnavailable(in_doubt=True),
        ProviderUnavailable(retry_after=40),
    ]
)


class Orders(RuleBasedStateMachine):
    """A browser, two workers and a provider that forgives nothing, in any order of events."""

    def __init__(self, store: RefreshStore, **options: Any) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.browser = Browser(store, **options)
        self.clock, self.provider = self.browser.clock, self.browser.provider
        self.lives: list[Life] = []
        self.cookies: list[Held] = []
        self.wire: list[Arriving] = []
        self.jar: Held | None = None
        self.polls: list[tuple[Asked, asyncio.Event, asyncio.Task[httpx.Response]]] = []
        self.cool_at = 0.0
        self.sign_in(0, arrives=True)

    # -- what a browser does ----------------------------------------------------------------------

    @rule(after=AFTER, which=ANY, worker=WORKERS, arrives=ARRIVES)
    def ask(self, after: int, which: int, worker: int, arrives: bool) -> None:
        self.clock.advance(after)
        asked = self.asked(self.cookies[which % len(self.cookies)])
        response = self.run(self.browser.asks(asked.held.value, worker))
        self.judged(asked, response, arrives)

    @rule(
        after=AFTER,
        which=st.lists(st.tuples(ANY, WORKERS), min_size=2, max_size=5),
        meanwhile=st.sampled_from(["nothing", "sign-out", "sign-in", "a moment", "gives up"]),
        trouble=st.none() | TROUBLES,
        worker=WORKERS,
        arrives=ARRIVES,
    )
    def crowd(
        self,
        after: int,
        which: list[tuple[int, int]],
        meanwhile: str,
        trouble: ProviderUnavailable | None,
        worker: int,
        arrives: bool,
    ) -> None:
        """Several at once; and, with the provider's answers under way, something else happens."""
        self.clock.advance(after)
        self.fails_next(trouble)
        asked = [self.asked(self.cookies[n % len(self.cookies)]) for n, _ in which]
        self.provider.door.clear()
        tasks = [
            self.loop.create_task(self.browser.asks(one.held.value, at))
            for one, (_, at) in zip(asked, which, strict=True)
        ]
        self.run(self.settle(tasks))
        done = [task.done() for task in tasks]
        if meanwhile == "sign-out":
            self.sign_out(worker, arrives)
        elif meanwhile == "sign-in" and self.nobody_else():
            self.sign_in(worker, arrives)
        elif meanwhile == "a moment":
            self.clock.advance(2)
        elif meanwhile == "gives up":
            tasks[0].cancel()
        self.provider.door.set()
        answers = self.run(self.gathered(tasks))
        self.provider.calm_down()
        for one, early, answer in zip(asked, done, answers, strict=True):
            if isinstance(answer, httpx.Response):
                over = one.ended or (not early and self.lives[one.held.life].ended)
                self.judged(replace(one, ended=over), answer, arrives)
            else:
                assert isinstance(answer, asyncio.CancelledError)

    @rule(after=AFTER, which=ANY, worker=WORKERS)
    def poll(self, after: int, which: int, worker: int) -> None:
        self.clock.advance(after)
        asked = self.asked(self.cookies[which % len(self.cookies)])
        task = self.run(self.browser.polls(asked.held.value, worker))
        if task.done():  # a 503: the route was not reached
            self.judged(asked, task.result(), arrives=False)
        else:
            self.polls.append((asked, self.browser.workers[worker].polls[-1], task))

    @precondition(lambda self: self.polls)
    @rule(which=ANY, arrives=ARRIVES)
    def poll_ends(self, which: int, arrives: bool) -> None:
        asked, over, task = self.polls.pop(which % len(self.polls))
        over.set()
        response = self.run(self.awaited(task))
        if self.clock() - asked.at >= LOOK_AGAIN:
            ended = self.lives[asked.held.life].ended
            assert not (ended and self.browser.workers[0].written(response)), "came back"
            asked = replace(asked, epoch=len(self.lives))
        self.judged(asked, response, arrives)

    @precondition(lambda self: self.wire)
    @rule(which=ANY)
    def late(self, which: int) -> None:
        self.arrive(self.wire[which % len(self.wire)])

    @precondition(lambda self: self.nobody_else())
    @rule(worker=WORKERS, arrives=ARRIVES)
    def sign_in(self, worker: int, arrives: bool) -> None:
        who = str(len(self.lives))
        response = self.run(self.at_worker(worker, f"/enter?who={who}", "POST"))
        if self.jar is not None:
            self.lives[self.jar.life].ended = True
        self.lives.append(Life(who, response.json()["refresh_token"]))
        written = self.browser.workers[0].written(response)
        assert written
        held = Held(len(self.lives) - 1, written)
        self.cookies.append(held)
        self.start(Arriving(held, len(self.lives)), arrives)

    @precondition(lambda self: self.jar)
    @rule(worker=WORKERS, arrives=ARRIVES)
    def sign_out(self, worker: int, arrives: bool) -> None:
        response = self.run(self.at_worker(worker, "/leave", "POST"))
        if self.jar is not None:
            assert self.browser.workers[0].written(response) == ""
            self.lives[self.jar.life].ended = True
            self.start(Arriving(None, len(self.lives), sign_out=True), arrives)

    @precondition(lambda self: self.jar)
    @rule(worker=WORKERS)
    def page(self, worker: int) -> None:
        """Where the user is signed out, the redirect is followed before anything else."""
        assert self.jar is not None
        asked = self.asked(self.jar)
        response = self.run(self.at_worker(worker, "/page", "GET"))
        if response.status_code == 303:
            assert not self.lives[asked.held.life].alive
            assert self.browser.workers[0].written(response) == ""
            self.lives[asked.held.life].known = True
            self.jar = None
        else:
            self.written(asked, response, arrives=True)

    # -- what happens to it -----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 61, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(after=AFTER, which=ANY, worker=WORKERS, trouble=TROUBLES)
    def busy(self, after: int, which: int, worker: int, trouble: ProviderUnavailable) -> None:
        self.clock.advance(after)
        self.fails_next(trouble)
        self.ask(0, which, worker, arrives=True)
        self.provider.calm_down()

    @rule(which=ANY)
    def revoke(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        self.run(self.provider.revoke(life.refresh_token))
        life.revoked = True

    @precondition(lambda self: not self.polls)
    @rule(worker=WORKERS)
    def restart(self, worker: int) -> None:
        self.run(self.browser.workers[worker].auth.rotation.aclose())
        self.browser.workers[worker] = self.browser.worker()

    # -- what must hold ---------------------------------------------------------------------------

    def judged(self, asked: Asked, response: httpx.Response, arrives: bool) -> None:
        life = self.lives[asked.held.life]
        found = response.json() if response.status_code == 200 else None
        if found is not None:
            assert found["id"] == life.who, "another's session"
            assert not (asked.ended and asked.due), "an ended session came back"
            if asked.calm and life.alive and asked.at == self.clock():
                assert self.provider.is_alive(found["access_token"]), "not the newest tokens"
        elif response.status_code in (200, 401):
            assert not life.alive, "a live session was not reached"
            life.known = True
        else:
            assert response.status_code == 503
            assert not asked.calm
        self.written(asked, response, arrives)

    def written(self, asked: Asked, response: httpx.Response, arrives: bool) -> None:
        written = self.browser.workers[0].written(response)
        life = self.lives[asked.held.life]
        if written is None:
            return
        held = None
        if written:
            assert response.status_code == 200
            assert not asked.ended, "an ended session came back"
            assert self.browser.workers[0].opened(written).user.id == life.who
            held = Held(asked.held.life, written)
            self.cookies.append(held)
        else:
            assert life.revoked
            assert not life.cleared, "one request clears, the one that asked"
            life.cleared = True
        self.start(Arriving(held, asked.epoch), arrives)

    def arrive(self, message: Arriving) -> None:
        mine, theirs = self.jar, message.leaves
        newer = mine is None or (theirs is not None and theirs.life >= mine.life)
        if not newer and not message.sign_out:
            assert mine is not None
            before = message.epoch <= mine.life  # it had started before that sign-in
            assert before or not self.lives[mine.life].alive, "a live session's cookie is gone"
        self.jar = theirs

    def teardown(self) -> None:
        """In the end every cookie of every live session leads to good tokens, and no other does."""
        try:
            while self.polls:
                self.poll_ends(0, arrives=False)
            for number, held in enumerate(dict.fromkeys(self.cookies)):
                self.clock.advance(301)
                asked = self.asked(held)
                response = self.run(self.browser.asks(held.value, number % 2))
                if self.lives[held.life].ended:
                    assert response.status_code == 401
                self.judged(asked, response, arrives=False)
            assert self.provider.reused == 0
        finally:
            self.run(self.close())
            self.loop.close()

    # -- small parts ------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def asked(self, held: Held) -> Asked:
        auth = self.browser.workers[0].auth
        token = auth.timing.token(self.browser.workers[0].opened(held.value))
        now = self.clock()
        return Asked(
            held,
            due=token is not Token.FRESH,
            ended=self.lives[held.life].ended,
            calm=now >= self.cool_at,
            epoch=len(self.lives),
            at=now,
        )

    def nobody_else(self) -> bool:
        """One browser that signs in twice at once has two live sessions, and the last cookie to
        arrive is the one it keeps: here the sign-in before has arrived, or is over."""
        mine = None if self.jar is None else self.jar.life
        return all(
            life.ended or life.known or number == mine for number, life in enumerate(self.lives)
        )

    def fails_next(self, trouble: ProviderUnavailable | None) -> None:
        if trouble is not None:
            self.provider.fail_next(trouble)
            self.cool_at = self.clock() + 41  # the longest cool-off, and a second

    def start(self, message: Arriving, arrives: bool) -> None:
        self.wire.append(message)
        if arrives:
            self.arrive(message)

    def at_worker(self, worker: int, path: str, method: str) -> Coroutine[Any, Any, httpx.Response]:
        cookie = None if self.jar is None else self.jar.value
        return self.browser.workers[worker].request(path, cookie, method)

    async def settle(self, tasks: list[asyncio.Task[httpx.Response]]) -> None:
        """Until somebody stands at the provider's door, or there is nobody to wait for."""
        while not self.provider.at_the_door and not all(task.done() for task in tasks):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)

    async def gathered(self, tasks: list[asyncio.Task[httpx.Response]]) -> list[Any]:
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def awaited(self, task: asyncio.Task[httpx.Response]) -> httpx.Response:
        return await task

    async def close(self) -> None:
        for worker in self.browser.workers:
            await worker.auth.rotation.aclose()
        await self.browser.store.aclose()


# How often; a walk takes some 30 ms, over Redis 80.
WALKS = {
    ("memory", "cookie"): 200,
    ("memory", "store"): 100,
    ("sqlite", "cookie"): 60,
    ("sqlite", "store"): 30,
    ("redis", "cookie"): 100,
    ("redis", "store"): 100,
}


@pytest.mark.parametrize(("kind", "tokens"), WALKS)
def test_no_random_order_of_events_loses_or_mixes_up_a_session(
    kind: str, tokens: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    numbers = itertools.count()
    url = request.getfixturevalue("redis_url") if kind == "redis" else ""

    def store() -> RefreshStore:
        if kind == "redis":
            return RedisStore(url, prefix=f"{tmp_path.name}-{next(numbers)}:")
        path = tmp_path / f"{next(numbers)}.sqlite3"
        return MemoryStore() if kind == "memory" else SQLiteStore(path)

    def machine() -> Orders:
        return Orders(store(), tokens=tokens)

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=WALKS[kind, tokens],
            stateful_step_count=20,
            deadline=None,
            # Shrinking a walk takes minutes; the model tells shorter stories anyway.
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
