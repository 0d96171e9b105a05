"""What a protected route costs while the token is fresh: µs added to a bare route, in process.

Interleaved rounds, the minimum of each: what is left is the work, not the machine's mood. The
limit is the same work written by hand in one dependency: find the cookie, decode it, derive the
key, open it with AES-GCM, validate it with Pydantic, and nothing else.

    python -m benchmarks.fresh_path
"""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import Depends, FastAPI, HTTPException, Request

from fastapi_ideal_auth import IdealAuth, MemoryStore, SessionUser, TokenResponse
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin

ROUNDS = 60
REQUESTS = 200
SECRET = "a secret of the benchmark, 32 characters or more"

App = Callable[..., Awaitable[None]]


class User(SessionUser):
    email: str = "ada@example.test"
    name: str = "Ada Lovelace"


def jwt(size: int) -> str:
    """Something of a JWT's shape and about ``size`` characters."""
    segment = base64.urlsafe_b64encode(bytes(range(256)) * (size // 256 + 1)).decode().rstrip("=")
    return f"{segment[:36]}.{segment[: max(40, size - 380)]}.{segment[:342]}"


def user_of(size: int) -> User:
    now = int(time.time())
    return User(id="1", access_token=jwt(size), refresh_token="r" * 40, expires_at=now + 3600)


async def _never_asked(refresh_token: str) -> TokenResponse:
    raise AssertionError("the fresh path does no I/O")


def bare() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def index() -> dict[str, bool]:
        return {"ok": True}

    return app


def no_op() -> FastAPI:
    app = FastAPI()

    async def nothing(request: Request) -> None:
        return None

    @app.get("/")
    async def index(user: Annotated[None, Depends(nothing)]) -> dict[str, bool]:
        return {"ok": True}

    return app


def limit(user: User) -> tuple[FastAPI, str]:
    """The hand-written limit, and its cookie."""
    app = FastAPI()
    prk = hmac.digest(b"limit", SECRET.encode(), "sha512")
    fields = {**user.model_dump(), "access_token": user.access_token}
    data = json.dumps({**fields, "refresh_token": user.refresh_token}).encode()
    salt = bytes(16)
    key = hmac.digest(prk, b"session" + salt, "sha512")[:32]
    sealed = salt + AESGCM(key).encrypt(bytes(12), data, b"session")
    cookie = base64.urlsafe_b64encode(sealed).decode()

    async def current(request: Request) -> User:
        header = request.headers.get("cookie", "")
        _, found, value = header.partition("session=")
        if not found:
            raise HTTPException(401)
        sealed = base64.urlsafe_b64decode(value.partition(";")[0])
        key = hmac.digest(prk, b"session" + sealed[:16], "sha512")[:32]
        return User.model_validate_json(AESGCM(key).decrypt(bytes(12), sealed[16:], b"session"))

    @app.get("/")
    async def index(user: Annotated[User, Depends(current)]) -> dict[str, bool]:
        return {"ok": True}

    return app, f"session={cookie}"


def ours(user: User) -> tuple[FastAPI, str]:
    auth = IdealAuth(User, secret=SECRET, provider=_never_asked, store=MemoryStore())
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    async def index(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, bool]:
        return {"ok": True}

    now = time.time()
    generation = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    return app, "; ".join(line.split(";")[0] for line in lines)


def scope_of(cookie: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"app.example"), (b"cookie", cookie.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 443),
    }


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _round(app: App, cookie: str) -> float:
    """Seconds a request takes, over ``REQUESTS`` of them."""
    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    began = time.perf_counter()
    for _ in range(REQUESTS):
        await app(scope_of(cookie), _receive, send)
    took = time.perf_counter() - began
    assert statuses == [200] * REQUESTS
    return took / REQUESTS


async def measure(size: int) -> dict[str, float]:
    """µs a request, by contender."""
    user = user_of(size)
    by_hand, hand_cookie = limit(user)
    library, cookie = ours(user)
    contenders: dict[str, tuple[App, str]] = {
        "bare": (bare(), cookie),
        "no-op dependency": (no_op(), cookie),
        "limit, by hand": (by_hand, hand_cookie),
        "fastapi_ideal_auth": (library, cookie),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, (app, header) in contenders.items():
            best[name] = min(best[name], await _round(app, header))
    return {name: seconds * 1e6 for name, seconds in best.items()}


async def main() -> None:
    print("µs that are added to a bare route, and how many times what the limit adds\n")
    print("| access token | bare route | | added | × the limit |")
    print("|---:|---:|---|---:|---:|")
    for size in (500, 1500, 3500):
        best = await measure(size)
        base = best["bare"]
        by_hand = best["limit, by hand"] - base
        for name, micros in best.items():
            if name != "bare":
                added = micros - base
                cells = f"{name} | {added:.1f} | {added / by_hand:.2f}"
                print(f"| {size} characters | {base:.0f} | {cells} |")


if __name__ == "__main__":
    asyncio.run(main())
