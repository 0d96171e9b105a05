"""Bad input: each mistake fails at construction with one sentence that says what to do."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import ConfigDict, Field, SecretStr

from fastapi_ideal_auth import (
    AuthError,
    ConfigurationError,
    CookieTooLarge,
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    OpenIDProvider,
    SessionUser,
    SQLiteStore,
)
from fastapi_ideal_auth.__main__ import main
from fastapi_ideal_auth.testing import Clock, login

from .support import BASE, SECRET, User, World

OP = "https://op.example/token"
ISSUER = "https://op.example"


class RequiredButNotStored(SessionUser):
    note: str = Field(exclude=True)


def auth(**options: Any) -> IdealAuth[User]:
    return IdealAuth(User, **{"secret": SECRET, "store": MemoryStore(), **options})


# A type checker refuses many of these, hence the ignores: who has none is to be told as well.
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "a short secret": (lambda: auth(secret="short"), r"5 characters and needs 32.*secret`"),
    "no secret": (lambda: auth(secret=[]), r"empty.*python -m fastapi_ideal_auth secret"),
    "a secret of bytes": (lambda: auth(secret=[b"x" * 40]), r"one is bytes"),
    "one short in the ring": (lambda: auth(secret=[SECRET, "old"]), r"3 characters"),
    "no user model": (lambda: IdealAuth(dict, secret=SECRET), r"inherits from SessionUser"),  # type: ignore[type-var]  # the mistake is the point
    "an excluded required field": (
        lambda: IdealAuth(RequiredButNotStored, secret=SECRET),
        r"note has exclude=True.*give it a default",
    ),
    "an odd provider": (lambda: auth(provider=5), r"provider= takes"),
    "a provider of no arguments": (lambda: auth(provider=lambda: None), r"one argument"),
    "a store's class": (lambda: auth(store=MemoryStore), r"call it"),
    "a store's path": (lambda: auth(store="/tmp/x.db"), r"store= takes a RefreshStore"),
    "a store in memory": (lambda: SQLiteStore(":memory:"), r"use MemoryStore"),
    "an odd client": (lambda: auth(http_client=5), r"http_client= takes"),
    "max_age 0": (lambda: auth(max_age=0), r"max_age is a number of seconds of at least 1"),
    "a max_age in words": (lambda: auth(max_age="1 day"), r"max_age is a number"),
    "an absolute_max_age of 0": (lambda: auth(absolute_max_age=0), r"absolute_max_age"),
    "a negative buffer": (lambda: auth(refresh_buffer=-1), r"refresh_buffer"),
    "a replay mode": (lambda: auth(replay_detection="on"), r'"lenient" or "strict"'),
    "a place for tokens": (lambda: auth(tokens="redis"), r'"cookie" or "store"'),
    "a store policy": (lambda: auth(when_store_down="fail"), r'"closed" or "open"'),
    "a store policy for tokens in the store": (
        lambda: auth(tokens="store", when_store_down="open"),
        r'tokens="cookie"',
    ),
    "a login url": (lambda: auth(login_path="https://a.example"), r"path of this app"),
    "a login path of another host": (lambda: auth(login_path="//a"), r"path of this app"),
    "a cookie name": (lambda: auth(cookie_name="my session"), r"cookie_name"),
    "a prefixed cookie name": (lambda: auth(cookie_name="__Host-x"), r"leave the prefix out"),
    "a same-site": (lambda: auth(cookie_samesite="off"), r"cookie_samesite"),
    "none without secure": (
        lambda: auth(cookie_samesite="none", cookie_secure=False),
        r"needs cookie_secure=True",
    ),
    "a cookie path": (lambda: auth(cookie_path="x; Domain=evil"), r"cookie_path"),
    "a cookie domain": (lambda: auth(cookie_domain="a b"), r"cookie_domain"),
    "one origin as a string": (
        lambda: auth(trusted_origins="https://a.example"),
        r"sequence of origins",
    ),
    "an origin with a path": (
        lambda: auth(trusted_origins=["https://a.example/"]),
        r"https://app.example",
    ),
    "the null origin": (lambda: auth(trusted_origins=["null"]), r"trusted_origins"),
    "a plain-http endpoint": (
        lambda: OAuth2Provider("http://op.example/token", "app"),
        r"token_endpoint.*https",
    ),
    "no client id": (lambda: OAuth2Provider(OP, ""), r"client_id is empty"),
    "the metadata's address for an issuer": (
        lambda: OpenIDProvider(f"{ISSUER}/.well-known/openid-configuration", "app"),
        r"issuer is the address before /\.well-known/openid-configuration",
    ),
    "an unknown method": (
        lambda: OAuth2Provider(OP, "app", "s", token_endpoint_auth_method="basic"),  # type: ignore[arg-type]  # the mistake is the point
        r"client_secret_basic",
    ),
    "a time-out of 0": (lambda: OAuth2Provider(OP, "app", "s", timeout=0), r"timeout"),
}


@pytest.mark.parametrize(("make", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as told:
        make()
    assert SECRET not in str(told.value)
    assert isinstance(told.value, AuthError)


def test_a_model_that_shows_a_token_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match="would show the token"):

        class Loud(SessionUser):
            access_token: str

    with pytest.raises(ConfigurationError, match="hide_input_in_errors"):

        class Chatty(SessionUser):
            model_config = ConfigDict(hide_input_in_errors=False)


# -- installing -----------------------------------------------------------------------------------


def test_forgetting_install_is_an_error_on_first_use_that_says_so() -> None:
    app = FastAPI()
    forgotten = auth()

    @app.get("/", dependencies=[Depends(forgotten.fresh_user)])
    async def index() -> None: ...

    with pytest.raises(ConfigurationError, match=r"call auth.install\(app\)"):
        TestClient(app, base_url=BASE).get("/")


def test_forgetting_install_stops_a_sign_in_before_it_begins() -> None:
    app = FastAPI()
    forgotten = auth(
        provider=OAuth2Provider(
            OP,
            "app",
            authorization_endpoint="https://op.example/authorize",
            userinfo_endpoint="https://op.example/userinfo",
        )
    )
    app.include_router(forgotten.router)
    for path in ("/login", "/callback"):
        with pytest.raises(ConfigurationError, match=r"call auth.install\(app\)"):
            TestClient(app, base_url=BASE).get(path)


def test_an_expiry_in_milliseconds_is_told_at_sign_in() -> None:
    user = User(id="1", access_token="t", expires_at=1_800_000_000_000)
    with pytest.raises(ConfigurationError, match="looks like milliseconds"):
        login(TestClient(FastAPI(), base_url=BASE), auth(), user)


def test_a_lifetime_for_an_expiry_is_told_at_sign_in() -> None:
    """``expires_at=tokens.expires_in``: a session that is over before it began."""
    user = User(id="1", access_token="t", expires_at=3600)
    with pytest.raises(ConfigurationError, match="looks like expires_in"):
        login(TestClient(FastAPI(), base_url=BASE), auth(), user)
    at_epoch = auth(clock=Clock(0))
    login(TestClient(FastAPI(), base_url=BASE), at_epoch, user)


def test_an_expiry_that_has_passed_may_be_signed_in_with() -> None:
    user = User(id="1", access_token="t", expires_at=int(time.time()) - 86400)
    login(TestClient(FastAPI(), base_url=BASE), auth(), user)


def test_a_provider_that_is_not_async_is_told_to_the_operator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(provider=lambda refresh_token: None)
    world.sign_in()
    world.clock.advance(301)
    assert world.client.get("/token").status_code == 503
    assert "declare it `async def`" in caplog.text


def test_installing_twice_or_two_with_one_cookie_name_is_told() -> None:
    app = FastAPI()
    auth().install(app)
    with pytest.raises(ConfigurationError, match="its own cookie_name"):
        auth().install(app)
    auth(cookie_name="other").install(app)


def test_installing_after_the_start_is_told() -> None:
    app = FastAPI()
    TestClient(app, base_url=BASE).get("/")
    with pytest.raises(ConfigurationError, match="right after app = FastAPI"):
        auth().install(app)


# -- signing in -----------------------------------------------------------------------------------


class Lossy(SessionUser):
    password: SecretStr = SecretStr("")


def test_a_user_that_does_not_survive_being_stored_is_told_at_sign_in() -> None:
    lossy: Any = IdealAuth(Lossy, secret=SECRET, store=MemoryStore())
    client = TestClient(FastAPI(), base_url=BASE)
    with pytest.raises(ConfigurationError, match=r"comes back changed .* in: password"):
        login(client, lossy, Lossy(id="1", access_token="t", password=SecretStr("x")))


def test_a_user_of_another_model_is_told() -> None:
    with pytest.raises(ConfigurationError, match="takes a User"):
        login(
            TestClient(FastAPI(), base_url=BASE),
            auth(),
            SessionUser(id="1", access_token="t"),  # type: ignore[type-var]  # the mistake is the point
        )


def test_a_session_over_the_budget_names_the_bytes_of_each_field() -> None:
    world = World()
    user = world.user(name="n" * 13_000)
    with pytest.raises(CookieTooLarge, match="name 13002,") as told:
        login(world.client, world.auth, user)
    assert told.value.sizes["name"] == 13_002
    assert user.access_token not in str(told.value)


def test_a_plain_http_client_and_a_secure_cookie_are_told() -> None:
    world = World()
    with pytest.raises(ConfigurationError, match="base_url='https://testserver'"):
        login(TestClient(world.app), world.auth, world.user())


# -- the command ----------------------------------------------------------------------------------


def test_the_command_prints_a_secret_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    main(["secret"])
    first = capsys.readouterr().out
    main(["secret"])
    assert first != capsys.readouterr().out
    assert len(first.strip()) == 64
    auth(secret=first.strip())


def test_the_command_says_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "secret" in capsys.readouterr().err


# -- either client --------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_an_injected_client_of_either_library_refreshes(library: Any) -> None:
    from .support import Wire

    wire = Wire()

    async def handler(request: Any) -> Any:
        answer = await wire(request)
        return library.Response(answer.status_code, content=answer.content, headers=answer.headers)

    client = library.AsyncClient(transport=library.MockTransport(handler))
    world = World(http_client=client)
    world.wire.provider = wire.provider
    user = world.sign_in()
    world.clock.advance(290)
    token = world.client.get("/token").json()["access_token"]
    assert token != user.access_token
    assert wire.requests == 1
    assert not client.is_closed
