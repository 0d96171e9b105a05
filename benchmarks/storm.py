"""Storms at a strict provider: 200 requests of one due session at once, and 500 due sessions.

In process: each worker is an app with a store object of its own, as processes have, and all share
one event loop. The provider takes 100 ms, rotates, and revokes the grant whose spent token it is
shown. Latencies are what is over those 100 ms, the minimum over rounds; CPU is what a request takes
of it, all workers together.

    python -m benchmarks.storm
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
from fastapi import FastAPI, HTTPException, Request, Response

from benchmarks import peers
from benchmarks.fresh_path import cookie_of, scope_of
from benchmarks.peers import SECRET, App, User
from benchmarks.waiting import stores
from fastapi_ideal_auth import IdealAuth, OAuth2Provider, RefreshRejected, RefreshStore
from fastapi_ideal_auth.testing import RotatingProvider

LATENCY: Final = 0.1
ROUNDS: Final = 4


@dataclass
class Workers:
    """The apps of one contender, and the cookie that it makes of a user."""

    apps: list[App]
    cookie: Callable[[User], str]
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


Make = Callable[[RotatingProvider, int], Workers]


def _token_endpoint(provider: RotatingProvider) -> httpx.MockTransport:
    """The provider as HTTP clients see it (RFC 6749 §6)."""

    async def answer(request: httpx.Request) -> httpx.Response:
        (token,) = parse_qs(request.content.decode())["refresh_token"]
        try:
            tokens = await provider.refresh(token)
        except RefreshRejected:
            return httpx.Response(400, json={"error": "invalid_grant"})
        return httpx.Response(
            200,
            json={
                "access_token": tokens.access_token,
                "refresh_token": tokens.refresh_token,
                "token_type": "Bearer",
                "expires_in": tokens.expires_in,
            },
        )

    return httpx.MockTransport(answer)


def library(store: Callable[[], RefreshStore]) -> Make:
    def make(provider: RotatingProvider, workers: int) -> Workers:
        client = httpx.AsyncClient(transport=_token_endpoint(provider))
        auths = [
            IdealAuth(
                User,
                secret=SECRET,
                provider=OAuth2Provider("https://op.example/token", "dashboard", "a client secret"),
                store=store(),
                http_client=client,
            )
            for _ in range(workers)
        ]
        apps: list[App] = [_with(auth) for auth in auths]
        closing = [client.aclose, *(auth.aclose for auth in auths)]
        return Workers(apps, lambda user: cookie_of(auths[0], user), closing)

    return make


def _with(auth: IdealAuth[User]) -> FastAPI:
    app = FastAPI()
    auth.install(app)
    return peers.protected(auth.fresh_user, app)


def auth0(provider: RotatingProvider, workers: int) -> Workers:
    transport = _token_endpoint(provider)

    async def metadata(domain: str) -> dict[str, str]:
        return {"issuer": "https://op.example/", "token_endpoint": "https://op.example/token"}

    def worker() -> FastAPI:
        auth = peers.auth0_client()
        auth.client._get_oidc_metadata_cached = metadata
        auth.client._get_http_client = lambda **_: httpx.AsyncClient(transport=transport)

        async def current(request: Request, response: Response) -> str:
            try:
                options = {"request": request, "response": response}
                return str(await auth.client.get_access_token(store_options=options))
            except Exception:  # whatever the peer raises, its user is signed out
                raise HTTPException(401) from None

        return peers.protected(current)

    def cookie(user: User) -> str:
        return "; ".join(f"{name}={value}" for name, value in peers.auth0_cookies(user).items())

    return Workers([worker() for _ in range(workers)], cookie)


class _ScalekitClient:
    """Their client's part in a refresh: it blocks a thread for as long as the provider takes."""

    def __init__(self, provider: RotatingProvider) -> None:
        self._provider = provider
        self._lock = threading.Lock()

    def refresh_access_token(self, refresh_token: str) -> dict[str, str | None]:
        with self._lock:
            self._provider.calls += 1
            tokens = self._provider._rotated(refresh_token, None)
        time.sleep(LATENCY)
        return {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}

    def validate_access_token_and_get_claims(self, token: str) -> dict[str, Any]:
        return {"sub": "1", "exp": time.time() + 300}


def scalekit(provider: RotatingProvider, workers: int) -> Workers:
    client = _ScalekitClient(provider)
    auths = [peers.scalekit_auth(client) for _ in range(workers)]
    apps: list[App] = []
    for auth in auths:
        app = FastAPI()
        auth.install(app)
        apps.append(peers.protected(auth.requires_auth, app))

    def cookie(user: User) -> str:
        value = auths[0].manager.create_session_cookie(peers.scalekit_payload(user))
        return f"session={value}"

    return Workers(apps, cookie)


@dataclass(frozen=True, slots=True)
class Outcome:
    calls: int
    succeeded: int
    alive: int
    p50: float
    p99: float
    cpu: float
    """All three in milliseconds; ``cpu`` a request."""


async def storm(make: Make, workers: int, sessions: int, requests: int) -> Outcome:
    """``requests`` of each of ``sessions``, all at once. The fastest round counts, and the worst
    of the calls and of what became of the grants."""
    provider = RotatingProvider(latency=LATENCY)
    served = make(provider, workers)
    rounds = [await _round(served, provider, sessions, requests) for _ in range(ROUNDS)]
    for close in served.closing:
        await close()
    return Outcome(
        max(each.calls for each in rounds),
        min(each.succeeded for each in rounds),
        min(each.alive for each in rounds),
        *(min(getattr(each, name) for each in rounds) for name in ("p50", "p99", "cpu")),
    )


async def _round(
    served: Workers, provider: RotatingProvider, sessions: int, requests: int
) -> Outcome:
    now = time.time()
    users = [
        provider.user(User, clock=lambda: now - provider.expires_in - 1, id=str(n))
        for n in range(sessions)
    ]
    cookies = [served.cookie(user) for user in users]
    calls, cpu = provider.calls, time.process_time()
    answers = await asyncio.gather(
        *(
            _answer(served.apps[n % len(served.apps)], cookie)
            for n, cookie in enumerate(cookie for cookie in cookies for _ in range(requests))
        )
    )
    cpu = (time.process_time() - cpu) / len(answers)
    over = sorted(seconds - LATENCY for _, seconds in answers)
    return Outcome(
        provider.calls - calls,
        sum(status == 200 for status, _ in answers),
        sum(not provider._grants[user.refresh_token or ""].revoked for user in users),
        over[len(over) // 2] * 1e3,
        over[int(len(over) * 0.99)] * 1e3,
        cpu * 1e3,
    )


async def _answer(app: App, cookie: str) -> tuple[int, float]:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    began = time.perf_counter()
    await app(scope_of(cookie), receive, send)
    return statuses[0], time.perf_counter() - began


@contextmanager
def contenders() -> Iterator[dict[str, tuple[Make, tuple[int, ...]]]]:
    """What is measured, by name, with how many workers."""
    with stores() as found:
        both = (1, 4)
        yield {
            **{
                # Memory is for one worker, and says so.
                f"fastapi_ideal_auth, {name}": (library(store), (1,) if "Memory" in name else both)
                for name, store in found.items()
            },
            "auth0-fastapi": (auth0, both),
            "scalekit": (scalekit, both),
        }


STORMS: Final = {
    "200 requests of one due session": (1, 200),
    "500 due sessions, one request each": (500, 1),
}


async def main() -> None:
    with contenders() as found:
        for title, (sessions, requests) in STORMS.items():
            asked = sessions * requests
            print(f"{title}: milliseconds over the provider's own 100\n")
            print("| | workers | token calls | answered 200 | grants alive | p50 | p99 | CPU |")
            print("|---|---:|---:|---:|---:|---:|---:|---:|")
            for name, (make, workers) in found.items():
                for count in workers:
                    try:
                        out = await storm(make, count, sessions, requests)
                    except ImportError as error:
                        print(f"| {name} | {count} | not installed ({error.name}) | | | | | |")
                        continue
                    counts = f"{out.calls} | {out.succeeded} of {asked} | {out.alive} of {sessions}"
                    times = f"{out.p50:.0f} | {out.p99:.0f} | {out.cpu:.2f}"
                    print(f"| {name} | {count} | {counts} | {times} |")
            print()


if __name__ == "__main__":
    asyncio.run(main())
