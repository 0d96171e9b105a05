"""What the package does without its extras: a program for `make package`, and no test module.

It runs where nothing is installed but the wheel and its core dependencies, warnings being errors.
"""

import asyncio
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI

import fastapi_ideal_auth
from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    OAuth2Provider,
    OpenIDProvider,
    RedisStore,
    Session,
    SessionUser,
)
from fastapi_ideal_auth.testing import Clock, RotatingProvider, login

NOT_HERE = ["redis", "joserfc", "pytest", "httpx2", "multipart", "opentelemetry.sdk"]
NEEDS_REDIS = "fastapi_ideal_auth.stores.redis"


class User(SessionUser):
    name: str


def nothing_but_the_core_is_installed() -> None:
    assert [name for name in NOT_HERE if _is_installed(name)] == []


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package it is in
        return False


def every_module_and_every_public_name_is_there() -> None:
    found = pkgutil.walk_packages(fastapi_ideal_auth.__path__, "fastapi_ideal_auth.")
    for module in {module.name for module in found} - {NEEDS_REDIS}:
        importlib.import_module(module)
    for name in fastapi_ideal_auth.__all__:
        assert getattr(fastapi_ideal_auth, name) is not None, name


def what_needs_an_extra_says_which() -> None:
    op = "https://op.example"
    assert "pip install 'fastapi_ideal_auth[redis]'" in refusal(lambda: RedisStore("redis://h/0"))
    for needs_keys in (
        lambda: OpenIDProvider(op, "id", "secret"),
        lambda: OAuth2Provider(f"{op}/token", "id", dpop_key="key"),
    ):
        assert "pip install 'fastapi_ideal_auth[oidc]'" in refusal(needs_keys)


def refusal(make: Callable[[], object]) -> str:
    try:
        make()
    except ConfigurationError as error:
        return str(error)
    raise AssertionError("nothing said that an extra is missing")


def the_command_prints_a_secret() -> None:
    command = [sys.executable, "-W", "error", "-m", "fastapi_ideal_auth", "secret"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    IdealAuth(User, secret=ran.stdout.strip(), provider=RotatingProvider())


def a_session_is_refreshed_and_ended() -> None:
    clock, provider = Clock(), RotatingProvider()
    auth = IdealAuth(User, secret="s" * 32, provider=provider, clock=clock)
    app = FastAPI()
    auth.install(app)

    @app.get("/me")
    async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
        return user

    @app.post("/out")
    async def out(session: Annotated[Session[User], Depends(auth.session)]) -> None:
        await session.logout()

    async def visit() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://your.app") as client:
            assert (await client.get("/me")).status_code == 401
            login(client, auth, provider.user(User, clock=clock, id="1", name="Ada"))
            assert (await client.get("/me")).json()["name"] == "Ada"
            clock.advance(290)
            assert "set-cookie" in (await client.get("/me")).headers
            assert provider.calls == 1
            await client.post("/out", headers={"Origin": "https://your.app"})
            assert (await client.get("/me")).status_code == 401

    asyncio.run(visit())


if __name__ == "__main__":
    nothing_but_the_core_is_installed()
    every_module_and_every_public_name_is_there()
    what_needs_an_extra_says_which()
    the_command_prints_a_secret()
    a_session_is_refreshed_and_ended()
    print("the core dependencies are enough")
