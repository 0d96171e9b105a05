"""What was found by attacking it: each of these once signed somebody out, in, or answered 500."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from pydantic import field_validator
from starlette.websockets import WebSocketDisconnect

from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    ProviderUnavailable,
    RefreshRejected,
    Session,
    SessionUser,
    SQLiteStore,
    StoreUnavailable,
    TokenResponse,
)
from fastapi_ideal_auth.record import Change
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import login

from .support import BASE, SECRET, CountingStore, User, World
from .test_rotation import DUE, EXPIRED, Cluster, new_cookie, token


class FaultyStore(CountingStore):
    """Fails, or waits, at changes of a kind."""

    def __init__(self, at: str, fault: Exception | None = None) -> None:
        super().__init__(MemoryStore())
        self.at = at
        self.raises = fault
        self.gate: asyncio.Event | None = None
        self.answered = False
        """Whether the gate holds back the answer instead of the change."""

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        kind = getattr(getattr(change, "func", change), "__name__", "")
        if kind != self.at:
            return await super().apply(key, change, now=now)
        if self.raises is not None:
            raise self.raises
        if self.gate is not None and not self.answered:
            await self.gate.wait()
        applied = await super().apply(key, change, now=now)
        if self.gate is not None and self.answered:
            await self.gate.wait()
        return applied


# -- stores that fail in ways of their own --------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionError("x"), RuntimeError("x"), KeyError("x")])
async def test_any_error_of_a_store_is_a_store_that_is_down(error: Exception) -> None:
    store = FaultyStore("published", error)
    cluster = Cluster(store)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    newest = token(await cluster.request(cookie))
    store.raises = None
    await cluster.workers[0].rotation.aclose()
    assert token(await cluster.request(cookie, 1)) == newest
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)


async def test_a_store_that_fails_at_the_lease_is_503_and_tells_no_session_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(FaultyStore("leased", KeyError("sid")))
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    assert (await cluster.request(cookie)).status_code == 503
    assert "KeyError" in caplog.text
    assert "SystemError" not in caplog.text
    assert "_landed" not in caplog.text


async def test_a_store_that_hangs_at_sign_out_does_not_hang_the_sign_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastapi_ideal_auth.rotation.END_PATIENCE", 0.05)
    store = FaultyStore("ended")
    store.gate = asyncio.Event()
    cluster = Cluster(store)
    cookie = cluster.cookie()
    response = await cluster.request(cookie, 0, "/leave", "POST")
    assert response.status_code == 200
    assert cluster.provider.revoked == []
    store.gate.set()  # it went on without the browser
    await cluster.workers[0].rotation.aclose()
    assert len(cluster.provider.revoked) == 1


async def test_a_store_that_wakes_nobody_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flight would wait for ever, and whoever came later would join it."""
    monkeypatch.setattr("fastapi_ideal_auth.guarded.STORE_TIMEOUT", 0.05)

    class DeafStore(CountingStore):
        async def wait(self, key: str, *, timeout: float) -> None:
            await asyncio.Event().wait()

    cluster = Cluster(DeafStore(), latency=0.1)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    leader = asyncio.create_task(cluster.request(cookie, 0))
    await asyncio.sleep(0.05)
    waiter = await asyncio.wait_for(cluster.request(cookie, 1), 2)
    assert token(waiter) == token(await leader)


async def test_a_client_that_goes_away_does_not_undo_its_sign_out() -> None:
    store = FaultyStore("ended")
    store.gate = asyncio.Event()
    cluster = Cluster(store)
    cookie = cluster.cookie()
    leaving = asyncio.create_task(cluster.request(cookie, 0, "/leave", "POST"))
    while not store.calls and not cluster.workers[0].rotation._ended:
        await asyncio.sleep(0)
    leaving.cancel()
    store.gate.set()
    await cluster.workers[0].rotation.aclose()
    cluster.clock.advance(EXPIRED)
    assert (await cluster.request(cookie, 1)).status_code == 401
    assert len(cluster.provider.revoked) == 1


@pytest.mark.parametrize("value", [b"5\n", b"null\n", b"{}\n", b"[]\n", b"garbage", b"[1]\nx"])
async def test_a_record_that_is_none_is_a_store_that_is_down(tmp_path: Path, value: bytes) -> None:
    store = SQLiteStore(tmp_path / "refresh.sqlite3")
    await store.apply("k", lambda r: r, now=0)
    await store._run(
        lambda: store._connected().execute(
            "INSERT INTO record VALUES ('k', ?, 9999999999)", (value,)
        )
    )
    with pytest.raises(StoreUnavailable):
        await store.apply("k", lambda r: r, now=0)
    await store.aclose()


def test_a_directory_behind_a_link_is_taken_when_the_operator_names_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    SQLiteStore(tmp_path / "link" / "refresh.sqlite3")


# -- sign-out wins --------------------------------------------------------------------------------


async def test_a_signed_out_session_is_401_while_a_failure_cools_off() -> None:
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(DUE)
    cluster.provider.fail_next(ProviderUnavailable(retry_after=300))
    assert (await cluster.request(cookie)).status_code == 200
    await cluster.request(cookie, 1, "/leave", "POST")
    for worker in range(4):
        assert (await cluster.request(cookie, worker)).status_code == 401


@pytest.mark.parametrize("answered", [False, True], ids=["not yet written", "answer on its way"])
async def test_a_sign_out_while_a_refresh_is_being_published_wins(
    monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    monkeypatch.setattr("fastapi_ideal_auth.rotation.PUBLISH_PATIENCE", 0.05)
    store = FaultyStore("published")
    store.gate, store.answered = asyncio.Event(), answered
    cluster = Cluster(store, latency=0)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    refreshing = asyncio.create_task(cluster.request(cookie))
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    leaving = await cluster.request(cookie, 0, "/leave", "POST")
    assert "Max-Age=0" in leaving.headers["set-cookie"]
    response = await refreshing
    assert (response.status_code, "set-cookie" in response.headers) == (401, False)
    store.gate.set()
    await cluster.workers[0].rotation.aclose()
    for worker in (0, 1):
        assert (await cluster.request(cookie, worker)).status_code == 401
    assert len(cluster.provider.revoked) == 2


async def test_touching_does_not_bring_back_what_another_worker_signed_out(
    cluster_of_two: Cluster,
) -> None:
    cluster = cluster_of_two
    cookie = cluster.cookie()
    cluster.clock.advance(DUE)
    cookie = new_cookie(await cluster.request(cookie))
    cluster.clock.advance(220)
    await cluster.request(cookie, 0, "/leave", "POST")
    response = await cluster.request(cookie, 1, "/touch", "POST")
    assert "set-cookie" not in response.headers


@pytest.fixture
def cluster_of_two() -> Cluster:
    # A period of 400 s, so that a session with a fresh token can be past its half.
    return Cluster(MemoryStore(), max_age=400)


def test_signing_out_a_session_that_validate_session_refuses_ends_it() -> None:
    valid = True
    world = World(validate_session=lambda session: valid)
    world.sign_in()
    copy = world.cookie
    assert copy is not None
    valid = False
    assert world.client.get("/token").status_code == 401
    world.client.post("/leave")
    valid = True
    world.clock.advance(EXPIRED)
    assert world.present(copy).status_code == 401
    assert world.wire.requests == 0


async def test_a_clear_gives_way_to_a_publish_that_overrode_the_rejection() -> None:
    """The lapsed leader held good tokens; the one that was told of the rejection answers late."""
    cluster = Cluster(MemoryStore(), latency=0.1)
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    slow = asyncio.create_task(cluster.request(cookie, 0))
    while not cluster.provider.calls:
        await asyncio.sleep(0)
    cluster.clock.advance(cluster.workers[0].timing.lease + 1)

    async def rejecting(refresh_token: str) -> TokenResponse:
        raise RefreshRejected

    hasty = cluster.worker(provider=rejecting)
    app = FastAPI()
    hasty.install(app)

    @app.get("/late")
    async def late(user: Annotated[User | None, Depends(hasty.optional_user)]) -> None:
        assert user is None
        await slow  # the publish lands
        cluster.clock.advance(2)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE) as client:
        response = await client.get("/late", headers={"cookie": cookie})
    line = response.headers["set-cookie"]
    assert "Max-Age=0" not in line
    assert token(await cluster.request(line.split(";")[0])) == token(slow.result())


# -- providers of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("expires_in", [299.5, "300", True, float("nan"), None, -5])
def test_an_odd_lifetime_from_a_custom_provider_keeps_the_session_readable(
    expires_in: Any,
) -> None:
    async def odd(refresh_token: str) -> TokenResponse:
        return TokenResponse("new", refresh_token="next", expires_in=expires_in)

    world = World(provider=odd)
    world.sign_in()
    world.clock.advance(EXPIRED)
    for _ in range(3):
        assert world.client.get("/token").json()["access_token"] == "new"


@pytest.mark.parametrize(
    "answer",
    [{"access_token": "x"}, TokenResponse(""), TokenResponse(5), TokenResponse("x", id_token=5)],  # type: ignore[arg-type]  # the mistake is the point
)
def test_an_answer_that_is_no_token_response_is_told_to_the_operator(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(refresh_token: str) -> Any:
        return answer

    world = World(provider=odd)
    world.sign_in()
    world.clock.advance(EXPIRED)
    assert world.client.get("/token").status_code == 503
    assert "the provider's refresh() returned" in caplog.text


def test_an_object_whose_refresh_returns_none_has_rejected() -> None:
    class Own:
        async def refresh(self, refresh_token: str) -> None:
            return None

    world = World(provider=Own())
    world.sign_in()
    world.clock.advance(EXPIRED)
    response = world.client.get("/token")
    assert (response.status_code, "Max-Age=0" in response.headers["set-cookie"]) == (401, True)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -5, 0, 1e9])
def test_an_odd_time_out_of_a_custom_provider_is_not_believed(timeout: float) -> None:
    class Own:
        def __init__(self) -> None:
            self.timeout = timeout

        async def refresh(self, refresh_token: str) -> TokenResponse:
            return TokenResponse("new")

    world = World(provider=Own())
    world.sign_in()
    world.clock.advance(EXPIRED)
    assert world.client.get("/token").status_code == 200


@pytest.mark.parametrize("pause", [float("nan"), float("inf"), -1])
async def test_an_odd_retry_after_is_a_cool_off(pause: float) -> None:
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.provider.fail_next(ProviderUnavailable(retry_after=pause))
    response = await cluster.request(cookie)
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 300


# -- the store comes back -------------------------------------------------------------------------


async def test_what_was_refreshed_process_locally_is_published_when_the_store_is_back() -> None:
    cluster = Cluster(MemoryStore(), when_store_down="open")
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    cluster.store.fault = StoreUnavailable("down")
    newest = token(await cluster.request(cookie))
    cluster.store.fault = None
    assert token(await cluster.request(cookie)) == newest
    assert token(await cluster.request(cookie, 1)) == newest
    assert (cluster.provider.calls, cluster.provider.reused) == (1, 0)


async def test_a_sign_in_that_takes_long_while_the_store_is_silent_is_not_lost() -> None:
    world = World()

    @world.app.post("/in")
    async def sign_in(
        session: Annotated[Session[User], Depends(world.auth.session)],
    ) -> None:
        await session.login(world.user())
        world.clock.advance(2)
        world.store.fault = StoreUnavailable("down")

    assert "set-cookie" in world.client.post("/in").headers


# -- what routes do to users ----------------------------------------------------------------------


async def test_a_route_that_changes_its_user_changes_nobody_elses() -> None:
    cluster = Cluster(MemoryStore())
    auth = cluster.workers[0]
    app = FastAPI()
    auth.install(app)

    @app.get("/mask")
    async def mask(
        user: Annotated[User, Depends(auth.fresh_user)],
        session: Annotated[Session[User], Depends(auth.session)],
    ) -> str:
        user.access_token, user.name = "***", "masked"
        await asyncio.sleep(0.02)
        return user.name

    @app.get("/name")
    async def name(user: Annotated[User, Depends(auth.fresh_user)]) -> list[str]:
        await asyncio.sleep(0.05)
        return [user.name, user.access_token]

    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        masked, named = await asyncio.gather(
            client.get("/mask", headers={"cookie": cookie}),
            client.get("/name", headers={"cookie": cookie}),
        )
        assert named.json()[0] == "Ada"
        assert cluster.provider.is_alive(named.json()[1])
        for response in (masked, named):
            again = await client.get("/name", headers={"cookie": new_cookie(response)})
            assert again.json() == named.json()


def test_a_touch_writes_the_session_and_not_what_a_route_made_of_its_user() -> None:
    world = World(max_age=400)

    @world.app.post("/mask-and-touch")
    async def mask(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        assert session.user is not None
        session.user.name = "masked"
        await session.touch()

    world.sign_in()
    world.clock.advance(210)
    assert "set-cookie" in world.client.post("/mask-and-touch").headers
    assert world.client.get("/me").json()["name"] == "Ada"


# -- strict replay detection ----------------------------------------------------------------------


async def test_a_slow_upload_is_judged_as_it_arrived() -> None:
    cluster = Cluster(MemoryStore(), replay_detection="strict")
    auth = cluster.workers[0]
    app = FastAPI()
    auth.install(app)

    @app.post("/upload")
    async def upload(
        request: Request, data: dict[str, int], user: Annotated[User, Depends(auth.fresh_user)]
    ) -> None: ...

    cookie = cluster.cookie()
    cluster.clock.advance(DUE)
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    messages = iter([b'{"n"', b": 1}"])

    async def receive() -> dict[str, Any]:
        part = next(messages)
        if part != b'{"n"':
            arrived.set()
            await go_on.wait()
        return {"type": "http.request", "body": part, "more_body": part == b'{"n"'}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/upload",
        "query_string": b"",
        "headers": [(b"cookie", cookie.encode()), (b"content-type", b"application/json")],
    }
    uploading = asyncio.create_task(app(scope, receive, send))
    await arrived.wait()
    newest = new_cookie(await cluster.request(cookie, 1))
    await cluster.request(newest, 1)  # presented
    cluster.clock.advance(70)
    go_on.set()
    await uploading
    assert sent[0]["status"] == 200
    assert (await cluster.request(newest, 1)).status_code == 200


async def test_an_acknowledgement_that_comes_before_the_publish_is_made_up_for() -> None:
    store = FaultyStore("published", StoreUnavailable("down"))
    cluster = Cluster(store, replay_detection="strict")
    stolen = cluster.cookie()
    cluster.clock.advance(DUE)
    newest = new_cookie(await cluster.request(stolen))
    await cluster.request(newest)  # acknowledged, but the record lags behind
    store.raises = None
    await cluster.workers[0].rotation.aclose()
    await cluster.request(newest)
    cluster.clock.advance(180)
    assert (await cluster.request(stolen, 1)).status_code == 401


# -- clocks ---------------------------------------------------------------------------------------


async def test_a_clock_that_was_set_back_holds_nobody_up() -> None:
    cluster = Cluster(MemoryStore())
    cookie = cluster.cookie()
    cluster.clock.advance(EXPIRED + 3600)
    cluster.provider.fail_next(ProviderUnavailable())
    assert (await cluster.request(cookie)).status_code == 503
    cluster.clock.advance(-3600)
    token(await cluster.request(cookie, 1))


# -- several sessions, several apps ---------------------------------------------------------------


def test_a_mounted_app_with_a_session_of_the_same_cookie_name_has_its_own() -> None:
    class Admin(SessionUser):
        pass

    world = World()
    inner: Any = IdealAuth(
        Admin,
        secret=SECRET[::-1],
        store=MemoryStore(),
        validate_session=lambda session: False,
    )
    sub = FastAPI()
    inner.install(sub)

    @sub.get("/x")
    async def x(user: Annotated[Admin, Depends(inner.fresh_user)]) -> str:
        return type(user).__name__

    world.app.mount("/admin", sub)
    world.sign_in()
    assert world.client.get("/token").status_code == 200
    assert world.client.get("/admin/x").status_code == 401


def test_of_two_sessions_the_later_sign_in_counts() -> None:
    world = World()
    login(world.client, world.auth, world.user(id="alice"))
    for _ in range(3):
        world.clock.advance(DUE)
        world.client.get("/token")
    alice = world.cookie
    bob = world.browser()
    world.clock.advance(1)
    login(bob, world.auth, world.user(id="bob", name="b" * 5000))
    header = "; ".join(f"{c.name}={c.value}" for c in bob.cookies.jar)
    both = {"cookie": f"{world.auth.cookie_name}={alice}; {header}"}
    assert world.browser().get("/token", headers=both).json()["id"] == "bob"


def test_the_test_kits_login_replaces_a_login() -> None:
    world = World()
    login(world.client, world.auth, world.user(id="large", name="n" * 5000))
    assert world.client.get("/token").json()["id"] == "large"
    login(world.client, world.auth, world.user(id="small"))
    assert world.client.get("/token").json()["id"] == "small"
    login(world.client, world.auth, world.user(id="large", name="n" * 5000))
    assert world.client.get("/token").json()["id"] == "large"


# -- WebSockets -----------------------------------------------------------------------------------


def test_a_websocket_whose_session_ends_is_closed_with_a_code() -> None:
    world = World()

    @world.app.websocket("/chat")
    async def chat(
        socket: WebSocket, session: Annotated[Session[User], Depends(world.auth.session)]
    ) -> None:
        await socket.accept()
        await socket.receive_text()
        await session.fresh_user()

    world.sign_in()
    world.wire.fault = lambda _: httpx.Response(400, json={"error": "invalid_grant"})
    with world.client.websocket_connect("wss://testserver/chat") as socket:
        world.clock.advance(EXPIRED)
        socket.send_text("hello")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1008


# -- the application's own check ------------------------------------------------------------------


def test_a_check_may_touch_the_session_itself() -> None:
    async def check(session: Session[User]) -> bool:
        await session.touch()
        await session.fresh_user()
        return True

    world = World(validate_session=check)
    world.sign_in()
    assert world.client.get("/token").status_code == 200


async def test_two_who_ask_for_one_request_at_once_both_wait_for_the_check() -> None:
    """Resolvers of one query, say: the second got the user while the first was being refused."""

    async def refuses(session: Session[User]) -> bool:
        await asyncio.sleep(0.01)
        return False

    world = World(validate_session=refuses)
    world.sign_in()

    @world.app.get("/both")
    async def both(request: Request) -> list[bool]:
        users = await asyncio.gather(*(world.auth.optional_user(request) for _ in range(3)))
        return [user is None for user in users]

    assert world.client.get("/both").json() == [True, True, True]


async def test_a_check_may_ask_for_the_user_in_tasks_of_its_own() -> None:
    async def asks(session: Session[User]) -> bool:
        users = await asyncio.gather(*(session.fresh_user() for _ in range(2)))
        return all(user.id == "1" for user in users)

    world = World(validate_session=asks)
    world.sign_in()
    assert world.client.get("/token").status_code == 200


def test_a_check_that_raises_is_503_and_signs_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken: list[Exception] = [ConnectionError("the database holds at-token")]

    async def check(session: Session[User]) -> bool:
        if broken:
            raise broken[0]
        return True

    world = World(validate_session=check)
    world.sign_in()
    response = world.client.get("/token")
    assert (response.status_code, "set-cookie" in response.headers) == (503, False)
    assert "at-token" not in caplog.text
    broken.clear()
    assert world.client.get("/token").status_code == 200


async def test_refreshing_and_touching_at_once_is_no_error() -> None:
    world = World(max_age=500)

    @world.app.get("/both")
    async def both(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        await asyncio.gather(session.fresh_user(), session.touch(), session.fresh_user())

    world.sign_in()
    world.clock.advance(DUE)
    assert world.client.get("/both").status_code == 200
    assert world.wire.requests == 1


def test_a_validator_that_raises_anything_is_a_cookie_that_does_not_open() -> None:
    strict: list[bool] = []

    class Picky(SessionUser):
        email: str

        @field_validator("email")
        @classmethod
        def known(cls, value: str) -> str:
            if strict:
                raise TypeError("a bug")
            return value

    auth: Any = IdealAuth(Picky, secret=SECRET, store=MemoryStore())
    app = FastAPI()
    auth.install(app)

    @app.get("/me")
    async def me(user: Annotated[Picky, Depends(auth.fresh_user)]) -> Picky:
        return user

    client = TestClient(app, base_url=BASE)
    login(client, auth, Picky(id="1", access_token="t", email="e"))
    assert client.get("/me").status_code == 200
    strict.append(True)
    assert client.get("/me").status_code == 401


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["max_age", "remember_max_age", "absolute_max_age"])
@pytest.mark.parametrize("value", [10**10, float("nan"), float("inf")])
def test_a_lifetime_without_sense_is_refused(option: str, value: float) -> None:
    options: Any = {option: value}
    with pytest.raises(ConfigurationError, match=option):
        IdealAuth(User, secret=SECRET, store=MemoryStore(), **options)


def test_a_long_next_keeps_the_attempt_within_a_cookie() -> None:
    auth = IdealAuth(
        User,
        secret=SECRET,
        store=MemoryStore(),
        provider=OAuth2Provider(
            "https://op.example/token",
            "app",
            authorization_endpoint="https://op.example/authorize",
            userinfo_endpoint="https://op.example/userinfo",
        ),
    )
    app = FastAPI()
    auth.install(app)
    app.include_router(auth.router)
    client = TestClient(app, base_url=BASE, follow_redirects=False)
    for length in (500, 1000, 2000, 4000):
        for letter in "aé":
            response = client.get("/login", params={"next": "/" + letter * length})
            assert len(response.headers["set-cookie"]) <= 4096


# -- OpenAPI in other shapes ----------------------------------------------------------------------


def documented(schema: dict[str, Any], path: str) -> set[str]:
    assert list(schema["components"]["securitySchemes"]) == ["ideal_session"]
    return set(schema["paths"][path]["get"]["responses"])


def test_an_openapi_function_of_the_apps_own_is_documented_too() -> None:
    world = World()

    def custom() -> dict[str, Any]:
        if not world.app.openapi_schema:
            world.app.openapi_schema = get_openapi(
                title="own", version="1", routes=world.app.routes
            )
        return world.app.openapi_schema

    world.app.openapi = custom  # type: ignore[method-assign]  # as FastAPI's own documentation does it
    schema = world.client.get("/openapi.json").json()
    assert documented(schema, "/token") >= {"401", "403", "503"}


def test_a_mounted_apps_document_is_documented_too() -> None:
    world = World()
    sub = FastAPI()

    @sub.get("/x")
    async def x(user: Annotated[User, Depends(world.auth.fresh_user)]) -> None: ...

    world.app.mount("/sub", sub)
    schema = world.client.get("/sub/openapi.json").json()
    assert documented(schema, "/x") >= {"401", "403", "503"}
