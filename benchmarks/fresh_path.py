"""What a protected route costs while the token is fresh: µs added to a bare route, in process.

Interleaved rounds, the minimum of each: what is left is the work, not the machine's mood. The
limit is the same work written by hand in one dependency: find the cookie, decode it, derive the
key, open it with AES-GCM, validate it with Pydantic, and nothing else.

    python -m benchmarks.fresh_path
"""

import asyncio
import base64
import gc
import hmac
import json
import time
from typing import Annotated, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from benchmarks.peers import SECRET, App, Contender, User, fields_of, installed, protected
from fastapi_ideal_auth import IdealAuth, MemoryStore, TokenResponse
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.sealers import NativeFormat

ROUNDS = 40
REQUESTS = 100


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
    async def nothing(request: Request) -> None:
        return None

    return protected(nothing)


def limit(user: User) -> Contender:
    """The hand-written limit, and its cookie."""
    prk = hmac.digest(b"limit", SECRET.encode(), "sha512")
    data = json.dumps(fields_of(user)).encode()
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

    return protected(current), f"session={cookie}"


def ours(user: User) -> Contender:
    return _library(user)[:2]


def first_seen(user: User) -> Contender:
    """The library, made to forget the cookie before each request."""
    app, cookie, auth = _library(user)
    (remembered,) = auth._formats
    assert isinstance(remembered, NativeFormat)

    async def forgetful(scope: Any, receive: Any, send: Any) -> None:
        remembered._seen.clear()
        await app(scope, receive, send)

    return forgetful, cookie


def _library(user: User) -> tuple[App, str, IdealAuth[User]]:
    auth = IdealAuth(User, secret=SECRET, provider=_never_asked, store=MemoryStore())
    app = FastAPI()
    auth.install(app)

    @app.get("/")
    async def index(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, bool]:
        return {"ok": True}

    return app, cookie_of(auth, user), auth


def cookie_of(auth: IdealAuth[User], user: User) -> str:
    """The Cookie header of a user who signed in just now."""
    now = time.time()
    generation = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    return "; ".join(line.split(";")[0] for line in lines)


def returning(user: User) -> dict[str, Contender]:
    """Routes that return what they have: the session's user, and the like of it."""

    class Plain(BaseModel):
        id: str
        expires_at: int | None
        email: str
        name: str

    plain = Plain(**user.model_dump())
    with_user, with_plain = FastAPI(), FastAPI()

    @with_user.get("/")
    async def returns_user() -> User:
        return user

    @with_plain.get("/")
    async def returns_plain() -> Plain:
        return plain

    return {"the session's user": (with_user, ""), "a Pydantic model": (with_plain, "")}


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


async def fastest(contenders: dict[str, Contender], rounds: int = ROUNDS) -> dict[str, float]:
    """µs a request, by contender."""
    best = dict.fromkeys(contenders, float("inf"))
    gc.collect()
    for _ in range(rounds):
        for name, (app, header) in contenders.items():
            best[name] = min(best[name], await _round(app, header))
    return {name: seconds * 1e6 for name, seconds in best.items()}


async def measure(size: int) -> tuple[dict[str, float], dict[str, str]]:
    """µs a request, by contender; and why others are none."""
    user = user_of(size)
    library = ours(user)
    contenders: dict[str, Contender] = {
        "bare": (bare(), library[1]),
        "no-op dependency": (no_op(), library[1]),
        "limit, by hand": limit(user),
        "fastapi_ideal_auth": library,
        "fastapi_ideal_auth, each time a cookie not seen before": first_seen(user),
    }
    peers, absent = installed(user)
    return await fastest(contenders | peers), absent


async def main() -> None:
    print("µs that are added to a bare route, and how many times what the limit adds\n")
    print("| session | bare route | | added | × the limit |")
    print("|---:|---:|---|---:|---:|")
    notes: list[str] = []
    for size in (500, 1500, 3500):
        best, absent = await measure(size)
        base = best.pop("bare")
        by_hand = best["limit, by hand"] - base
        for name, micros in sorted(best.items(), key=lambda item: item[1]):
            added = micros - base
            cells = f"{name} | {added:.1f} | {added / by_hand:.2f}"
            print(f"| {size / 1000} KB | {base:.0f} | {cells} |")
        notes += [f"- {name} at {size / 1000} KB: {why}" for name, why in absent.items()]
    if notes:
        print("\nNot measured:\n")
        print("\n".join(notes))
    print("\nµs that a route takes to return it\n")
    best = await fastest(returning(user_of(1500)))
    for name, micros in best.items():
        print(f"- {name}: {micros:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
