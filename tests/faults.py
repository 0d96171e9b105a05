"""Where a fault can strike: six steps of a refresh, a gate at each, and hosts to strike at.

In process: hosts that share a store, a provider on the wire and nothing else. As processes: forked
uvicorn workers whose gates are files. It decides nothing about what should come of a fault; that
is the table in ``test_faults``.
"""

# No ``from __future__ import annotations``: FastAPI reads those of the route inside `app_of`.
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from urllib.parse import parse_qs

import httpx
import uvicorn
from fastapi import Depends, FastAPI

from fastapi_ideal_auth import (
    IdealAuth,
    OAuth2Provider,
    RedisStore,
    RefreshStore,
    Session,
    SQLiteStore,
    StoreUnavailable,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.record import Change, Record
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import Clock

from .support import BASE, SECRET, User, Wire

DUE: Final = 290
EXPIRED: Final = 301
LEASE: Final = 31.0
"""A second more than the lease of a provider whose time-out is the default."""
CLIENT_ID: Final = "app"
CLIENT_SECRET: Final = "the client's secret"


class Step(Enum):
    BEFORE_SEND = "before send"
    AFTER_SEND = "after send"
    AFTER_ANSWER = "after the provider answered"
    AFTER_PUBLISH = "after publish"
    BEFORE_RESPONSE = "before the response"
    AFTER_DROPPED = "after the response was dropped"


class Place(Enum):
    """Where in the code a gate stands. A step is one place for all faults but the provider's."""

    LEASED = "the lease is taken, nothing is sent"
    ARRIVED = "the request is at the provider, which has done nothing"
    ROTATED = "the provider has rotated, its answer is not out"
    ANSWERED = "the answer is here, nothing is published"
    PUBLISHED = "the store has taken it, and has not said so"
    RESPONDING = "the route has its user, the response has not begun"


PLACES: Final = {
    Step.BEFORE_SEND: Place.LEASED,
    Step.AFTER_SEND: Place.ARRIVED,
    Step.AFTER_ANSWER: Place.ANSWERED,
    Step.AFTER_PUBLISH: Place.PUBLISHED,
    Step.BEFORE_RESPONSE: Place.RESPONDING,
}


class Passing(Protocol):
    """Whoever is asked at each place whether to go on."""

    async def at(self, place: Place) -> None: ...


class Gate:
    """Shut for the first that comes, or for all (``holds_all``), until ``go`` is set."""

    def __init__(self, *, holds_all: bool) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.holds_all = holds_all

    async def __call__(self) -> None:
        if self.reached.is_set() and not self.holds_all:
            return
        self.reached.set()
        await self.go.wait()


class Gates:
    """The gates of one host, or of the wire."""

    def __init__(self) -> None:
        self.shut: dict[Place, Gate] = {}

    async def at(self, place: Place) -> None:
        gate = self.shut.get(place)
        if gate is not None:
            await gate()


# -- the store as one host sees it ----------------------------------------------------------------


class StoreFault(Enum):
    DOWN = "nothing gets there"
    SLOW = "what is asked is done, and its answer comes too late"


class HostStore(RefreshStore):
    """One host's way to a store: past the gates, and cut off or slow when told to be."""

    def __init__(self, inner: RefreshStore, gates: Passing, clock: Callable[[], float]) -> None:
        self.inner = inner
        self.clock = clock
        self.gates = gates
        self.fault: StoreFault | None = None
        self.looks = 0

    async def open(self) -> None:
        """Look once: a RedisStore measures its host's clock then, and keeps to that for a minute.

        A clock that is set ahead later so looks like time that has passed at the server too.
        """
        await self.inner.open()
        await self.inner.apply("no session", _unchanged, now=self.clock())

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        kind: str = getattr(getattr(change, "func", change), "__name__", "")
        if kind == "published":
            await self.gates.at(Place.ANSWERED)
        if self.fault is StoreFault.DOWN:
            raise StoreUnavailable("down")
        applied = await self.inner.apply(key, change, now=now)
        self.looks += 1
        if kind == "leased" and _took_it(change, applied.after):
            await self.gates.at(Place.LEASED)
        if kind == "published":
            await self.gates.at(Place.PUBLISHED)
        if self.fault is StoreFault.SLOW:
            raise StoreUnavailable("the answer came too late")
        return applied

    async def wait(self, key: str, *, timeout: float) -> None:
        await self.inner.wait(key, timeout=timeout)


def _unchanged(record: Record | None) -> Record | None:
    return record


def _took_it(change: Any, after: Record | None) -> bool:
    return after is not None and after.lease == change.keywords["owner"]


# -- the provider on the wire ---------------------------------------------------------------------

Answering = Callable[[httpx.Request], httpx.Response]


class GatedWire(Wire):
    """The strict provider behind a token endpoint with gates.

    ``fault`` answers in its place, and nothing is rotated; ``spoiled`` answers once in its place
    though it has rotated. ``grace``: the token spent last brings the same answer again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates = Gates()
        self.spoiled: Answering | None = None
        self.grace = False
        self._answers: dict[str, httpx.Response] = {}
        self._working: set[asyncio.Task[httpx.Response]] = set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        # The provider works on although the one that asked is gone.
        work = asyncio.get_running_loop().create_task(self._work(request))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return await asyncio.shield(work)

    async def landed(self) -> None:
        """Every request that arrived is worked off."""
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _work(self, request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        if request.url.path == "/revoke":
            await self.provider.revoke(form["token"][0])
            return httpx.Response(200)
        await self.gates.at(Place.ARRIVED)
        refresh_token = form["refresh_token"][0]
        if self.fault is None and self.grace and refresh_token in self._answers:
            self.requests += 1
            return self._answers[refresh_token]
        answer = await super().__call__(request)
        if self.fault is None:
            self._answers = {refresh_token: answer}
            await self.gates.at(Place.ROTATED)
        spoiled, self.spoiled = self.spoiled, None
        return answer if spoiled is None else spoiled(request)


# -- hosts in one process -------------------------------------------------------------------------


class Host:
    """One worker: it shares store, provider and time with the others, and nothing else."""

    def __init__(
        self, store: RefreshStore, wire: GatedWire, clock: Callable[[], float], **options: Any
    ) -> None:
        self.gates = Gates()
        self.store = HostStore(store, self.gates, clock)
        self.auth = IdealAuth(
            User,
            secret=SECRET,
            provider=OAuth2Provider(
                "https://op.example/token",
                CLIENT_ID,
                CLIENT_SECRET,
                revocation_endpoint="https://op.example/revoke",
            ),
            http_client=httpx.AsyncClient(transport=httpx.MockTransport(wire)),
            store=self.store,
            clock=clock,
            **options,
        )
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app_of(self.auth, self.gates)), base_url=BASE
        )

    async def get(self, cookie: str) -> httpx.Response:
        return await self._client.get("/token", headers={"cookie": cookie})

    async def leave(self, cookie: str) -> httpx.Response:
        return await self._client.post("/leave", headers={"cookie": cookie})

    async def landed(self) -> None:
        """Every refresh and publish under way is over."""
        await self.auth.rotation.aclose()

    async def crash(self) -> None:
        """What ``kill -9`` leaves of it: nothing runs on."""
        tasks = list(self.auth.rotation._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Hosts:
    """Three hosts, the provider they ask, and the time they have."""

    def __init__(self, store: RefreshStore, **options: Any) -> None:
        self.clock = Clock()
        self.wire = GatedWire()
        self.inner = store
        self.options = options
        self.all = [self.another(store) for _ in range(3)]

    def another(self, store: RefreshStore, *, ahead: float = 0.0) -> Host:
        """A further host; ``ahead``: seconds by which its clock is ahead."""
        return Host(store, self.wire, lambda: self.clock() + ahead, **self.options)

    async def sign_in(self) -> str:
        """The cookie of a new session."""
        auth = self.all[0].auth
        now = self.clock()
        user = self.wire.provider.user(User, clock=self.clock, id="1")
        generation = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
        if auth.tokens_in_store:
            await auth.rotation.keep(generation)
        lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
        return lines[0].split(";")[0]


def app_of(auth: IdealAuth[User], gates: Passing) -> FastAPI:
    app = FastAPI()
    auth.install(app)

    @app.get("/token")
    async def token(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, str]:
        await gates.at(Place.RESPONDING)
        return {"access_token": user.access_token}

    @app.post("/leave")
    async def leave(session: Annotated[Session[User], Depends(auth.session)]) -> None:
        await session.logout()

    return app


# -- workers that are processes -------------------------------------------------------------------


class FileGates:
    """Gates that a test shuts and opens from another process: each is a file in a directory.

    ``shut-<place>`` shuts one for whoever comes first, who makes it ``reached-<place>``; ``go``
    opens all. ``clock`` holds the seconds by which the time is ahead.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def shut(self, place: Place) -> None:
        (self.directory / f"shut-{place.name}").touch()

    def reached(self, place: Place) -> bool:
        return (self.directory / f"reached-{place.name}").exists()

    def open_all(self) -> None:
        (self.directory / "go").touch()

    async def at(self, place: Place) -> None:
        try:
            (self.directory / f"shut-{place.name}").rename(self.directory / f"reached-{place.name}")
        except FileNotFoundError:
            return
        while not (self.directory / "go").exists():
            await asyncio.sleep(0.005)

    def advance(self, seconds: float) -> None:
        new = self.directory / "clock.new"
        new.write_text(str(self._ahead() + seconds))
        new.replace(self.directory / "clock")

    def now(self) -> float:
        return time.time() + self._ahead()

    def _ahead(self) -> float:
        try:
            return float((self.directory / "clock").read_text())
        except FileNotFoundError:
            return 0.0


def worker_app(
    *, directory: str, token_endpoint: str, redis_url: str | None, prefix: str
) -> FastAPI:
    gates = FileGates(Path(directory))
    inner: RefreshStore
    if redis_url is None:
        inner = SQLiteStore(Path(directory) / "refresh.sqlite3")
    else:
        inner = RedisStore(redis_url, prefix=prefix)
    auth = IdealAuth(
        User,
        secret=SECRET,
        provider=OAuth2Provider(token_endpoint, CLIENT_ID, CLIENT_SECRET),
        # Loading the certificates is the longest part of a start, and this is plain http.
        http_client=httpx.AsyncClient(verify=False, trust_env=False),  # noqa: S501 - no TLS here
        store=HostStore(inner, gates, gates.now),
        cookie_secure=False,
        clock=gates.now,
    )
    return app_of(auth, gates)


class GatedServer:
    """An authorization server's ASGI app with a gate before its token endpoint."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.gates: Passing | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.gates is None or scope.get("path") != "/token":
            await self.app(scope, receive, send)
            return
        # The whole request is here first: the server works on though its client may be gone.
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self.gates.at(Place.ARRIVED)

        async def received() -> Any:
            return {"type": "http.request", "body": body}

        await self.app(scope, received, send)


FORKS: Final = "ready to fork"


def fork_workers() -> None:
    """Fork a uvicorn worker for each line of JSON that comes in, everything imported already.

    A line: ``port``, and the arguments of `worker_app`. Its process id goes into ``pid-<port>``.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends is gone at once
    print(FORKS, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        port = order.pop("port")
        pid = os.fork()
        if pid == 0:
            uvicorn.run(worker_app(**order), host="127.0.0.1", port=port, log_level="warning")
            os._exit(0)
        note = Path(order["directory"], f"pid-{port}")
        note.with_suffix(".new").write_text(str(pid))
        note.with_suffix(".new").replace(note)


if __name__ == "__main__":
    fork_workers()
