"""Design §4: the cookie reaches the browser whatever the route returns.

One app with every kind of answer a FastAPI route can give; a due session asks for each of them, and
each has to bring the replacement, the same new tokens on a replay of the old cookie, and one call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from fastapi_ideal_auth import Session

from .support import User, World

DUE = 290


class Teapot(Exception):
    pass


def routes(world: World, app: FastAPI) -> None:
    auth = world.auth
    fresh = Annotated[User, Depends(auth.fresh_user)]

    @app.get("/dict")
    async def as_dict(user: fresh) -> dict[str, str]:
        return {"id": user.id}

    @app.get("/sync")
    def sync(user: fresh) -> dict[str, str]:
        return {"id": user.id}

    @app.get("/model")
    async def model(user: fresh) -> User:
        return user

    @app.get("/response")
    async def response(user: fresh) -> Response:
        return PlainTextResponse("ok", headers={"Cache-Control": "public, max-age=60"})

    @app.get("/redirect")
    async def redirect(user: fresh) -> RedirectResponse:
        return RedirectResponse("/elsewhere")

    @app.get("/stream")
    async def stream(user: fresh) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"part"
                await asyncio.sleep(0)

        return StreamingResponse(body())

    @app.get("/generator")
    async def generator(user: fresh) -> StreamingResponse:
        def body() -> Iterator[str]:
            yield "data: 1\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    @app.get("/file")
    async def file(user: fresh) -> FileResponse:
        return FileResponse(Path(__file__))

    @app.get("/204", status_code=204)
    async def no_content(user: fresh) -> None:
        return None

    @app.get("/http-exception")
    async def http_exception(user: fresh) -> None:
        raise HTTPException(418)

    def refuse_after(user: fresh) -> None:
        raise HTTPException(409)

    @app.get("/dependency-raises", dependencies=[Depends(refuse_after)])
    async def dependency_raises() -> None:
        return None

    def refuse_first() -> None:
        raise HTTPException(409)

    @app.get("/raises-before", dependencies=[Depends(refuse_first)])
    async def raises_before(user: fresh) -> None:
        return None

    async def cleanup(user: fresh) -> AsyncIterator[None]:
        yield
        raise HTTPException(410)

    @app.get("/raises-after", dependencies=[Depends(cleanup, scope="function")])
    async def raises_after() -> dict[str, str]:
        return {}

    @app.get("/custom-handler")
    async def custom(user: fresh) -> None:
        raise Teapot

    @app.exception_handler(Teapot)
    async def brew(request: Request, error: Teapot) -> JSONResponse:
        return JSONResponse({"tea": True}, status_code=418)

    @app.get("/422")
    async def validation(user: fresh, n: int) -> None:
        return None

    @app.get("/response-model-failure", response_model=list[int])
    async def response_model_failure(user: fresh) -> Any:
        return {"not": "a list"}

    @app.get("/500")
    async def unhandled(user: fresh) -> None:
        raise RuntimeError("the route is broken")

    @app.get("/background")
    async def background(user: fresh, tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(asyncio.sleep, 0)
        return {}

    @app.get("/twice")
    async def twice(
        user: fresh, again: Annotated[User, Depends(auth.fresh_user, scope="function")]
    ) -> dict[str, bool]:
        return {"same": user.access_token == again.access_token}

    router = APIRouter(dependencies=[Depends(auth.fresh_user)])

    @router.get("/on-router")
    async def on_router() -> dict[str, str]:
        return {}

    app.include_router(router)
    sub = FastAPI()

    @sub.get("/inner")
    async def inner(user: fresh) -> dict[str, str]:
        return {}

    app.mount("/sub", sub)

    @app.websocket("/ws")
    async def websocket(socket: WebSocket, user: fresh) -> None:
        await socket.accept()
        await socket.send_text(user.access_token)
        await socket.close()

    @app.websocket("/ws-denied")
    async def denied(socket: WebSocket, user: fresh) -> None:
        await socket.send_denial_response(PlainTextResponse("no", status_code=409))


def bare(app: FastAPI) -> None:
    pass


def wrapped(app: FastAPI) -> None:
    async def passing(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_middleware(CORSMiddleware, allow_origins=["https://other.example"])


@pytest.fixture(params=[bare, wrapped])
def due(request: pytest.FixtureRequest) -> World:
    world = World()
    routes(world, world.app)
    request.param(world.app)
    world.sign_in()
    world.clock.advance(DUE)
    return world


KINDS = {
    "/dict": 200,
    "/sync": 200,
    "/model": 200,
    "/response": 200,
    "/redirect": 307,
    "/stream": 200,
    "/generator": 200,
    "/file": 200,
    "/204": 204,
    "/http-exception": 418,
    "/dependency-raises": 409,
    "/raises-after": 410,
    "/custom-handler": 418,
    "/422": 422,
    "/response-model-failure": 500,
    "/500": 500,
    "/background": 200,
    "/twice": 200,
    "/on-router": 200,
    "/sub/inner": 200,
}


@pytest.mark.parametrize(("path", "status"), KINDS.items(), ids=KINDS.keys())
def test_the_cookie_reaches_the_browser(due: World, path: str, status: int) -> None:
    old = due.cookie
    assert old is not None
    response = due.client.get(path)
    assert response.status_code == status
    new = due.cookie
    assert new not in (None, old)
    assert new is not None
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert due.wire.provider.is_alive(due.token_in(new))
    # Drop the new cookie, replay the old one: the same new tokens, and no second call.
    replay = due.present(old, path)
    assert replay.status_code == status
    replayed = replay.headers["set-cookie"].split(";")[0].partition("=")[2]
    assert due.token_in(replayed) == due.token_in(new)
    assert due.wire.requests == 1


def test_an_exception_before_the_dependency_refreshes_nothing(due: World) -> None:
    response = due.client.get("/raises-before")
    # FastAPI resolves every dependency of the signature in order: the refusing one came first.
    assert response.status_code == 409
    assert ("set-cookie" in response.headers) == (due.wire.requests == 1)


def test_a_dependency_named_twice_under_two_scopes_refreshes_once(due: World) -> None:
    assert due.client.get("/twice").json() == {"same": True}
    assert due.wire.requests == 1


def test_an_accepted_websocket_brings_the_cookie(due: World) -> None:
    old = due.cookie
    assert old is not None
    with due.client.websocket_connect("wss://testserver/ws") as socket:
        token = socket.receive_text()
        headers = dict(socket.extra_headers or [])
    new = headers[b"set-cookie"].decode().split(";")[0].partition("=")[2]
    assert due.token_in(new) == token
    assert headers[b"cache-control"] == b"no-store"
    assert due.present(old, "/dict").status_code == 200
    assert due.wire.requests == 1


def test_a_denied_websocket_brings_the_cookie(due: World) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        due.client.websocket_connect("wss://testserver/ws-denied"),
    ):
        pass
    assert denial.value.status_code == 409
    assert "set-cookie" in denial.value.headers


def test_a_websocket_without_a_session_is_refused_with_401(due: World) -> None:
    due.client.cookies.clear()
    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        due.client.websocket_connect("wss://testserver/ws"),
    ):
        pass
    assert denial.value.status_code == 401


async def test_a_websocket_is_closed_where_the_server_knows_no_denial(due: World) -> None:
    """ASGI servers without the extension: the handshake is refused by closing before accept."""
    sent: list[Any] = []
    scope = {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": [],
        "extensions": {},
    }

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await due.app(scope, receive, send)
    assert [(m["type"], m["code"]) for m in sent] == [("websocket.close", 1008)]


def test_an_unhandled_error_keeps_the_apps_own_500_handler_and_the_raised_exception() -> None:
    world = World()
    routes(world, world.app)

    @world.app.exception_handler(500)
    async def oops(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "sorry"}, status_code=500)

    world.sign_in()
    world.clock.advance(DUE)
    response = world.client.get("/500")
    assert response.json() == {"error": "sorry"}
    assert "set-cookie" in response.headers
    from fastapi.testclient import TestClient

    client = TestClient(world.app, base_url="https://testserver")
    world.sign_in(client)
    with pytest.raises(RuntimeError, match="the route is broken"):
        client.get("/500")


def test_a_middleware_added_after_install_is_still_inside() -> None:
    world = World()
    routes(world, world.app)

    async def own_answer(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        await call_next(request)
        return PlainTextResponse("mine")

    world.app.add_middleware(BaseHTTPMiddleware, dispatch=own_answer)
    world.sign_in()
    world.clock.advance(DUE)
    response = world.client.get("/dict")
    assert response.text == "mine"
    assert "set-cookie" in response.headers


def test_cors_headers_stay_beside_the_cookie(due: World) -> None:
    response = due.client.get("/dict", headers={"origin": "https://other.example"})
    assert response.status_code == 200
    assert "set-cookie" in response.headers


def test_refreshing_after_the_response_has_started_loses_nothing() -> None:
    world = World()
    seen: list[str] = []

    @world.app.get("/long")
    async def long(
        session: Annotated[Session[User], Depends(world.auth.session)],
    ) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"start"
            for _ in range(2):
                world.clock.advance(301)  # the token dies while the stream goes on
                seen.append((await session.fresh_user()).access_token)
                yield b"more"

        return StreamingResponse(body())

    world.sign_in()
    response = world.client.get("/long")
    assert response.text == "startmoremore"
    assert "set-cookie" not in response.headers
    assert len(set(seen)) == 2
    # The next ordinary request adopts the newest generation, without asking.
    world_calls = world.wire.requests
    assert world.client.get("/token").json()["access_token"] == seen[-1]
    assert (world.wire.requests, world_calls, world.wire.provider.reused) == (2, 2, 0)


def test_a_websocket_that_outlives_its_token_refreshes_it() -> None:
    world = World()

    @world.app.websocket("/chat")
    async def chat(
        socket: WebSocket, session: Annotated[Session[User], Depends(world.auth.session)]
    ) -> None:
        await socket.accept()
        for _ in range(3):
            await socket.receive_text()
            world.clock.advance(301)
            await socket.send_text((await session.fresh_user()).access_token)
        await socket.close()

    world.sign_in()
    tokens = []
    with world.client.websocket_connect("wss://testserver/chat") as socket:
        for _ in range(3):
            socket.send_text("hello")
            tokens.append(socket.receive_text())
    assert len(set(tokens)) == 3
    assert world.client.get("/token").json()["access_token"] == tokens[-1]
    assert world.wire.provider.reused == 0


def test_signing_in_after_the_response_has_started_says_so() -> None:
    world = World()
    errors: list[str] = []

    @world.app.get("/late")
    async def late(
        session: Annotated[Session[User], Depends(world.auth.session)],
    ) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"start"
            try:
                await session.login(world.user())
            except Exception as error:
                errors.append(str(error))

        return StreamingResponse(body())

    world.client.get("/late")
    assert "after the response has started" in errors[0]


# -- a response writes the newest generation known when it starts ---------------------------------


def long_poll(world: World, meanwhile: Callable[[], Awaitable[None]]) -> None:
    @world.app.get("/poll")
    async def poll(user: Annotated[User, Depends(world.auth.fresh_user)]) -> dict[str, str]:
        await meanwhile()
        return {"access_token": user.access_token}


async def _elsewhere(world: World, cookie: str, path: str = "/token", method: str = "GET") -> Any:
    """A request on another worker, while the first one is still at it."""
    import httpx

    other = world.another_auth()
    from .support import app_of

    transport = httpx.ASGITransport(app=app_of(other))
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        headers = {"cookie": f"{other.cookie_name}={cookie}"}
        return await client.request(method, path, headers=headers)


def test_a_long_poll_that_outlives_two_refreshes_writes_the_newest() -> None:
    world = World()
    world.sign_in()
    cookie = world.cookie
    assert cookie is not None
    newest: list[str] = []

    async def two_refreshes() -> None:
        for _ in range(2):
            world.clock.advance(301)
            newest.append((await _elsewhere(world, cookie)).json()["access_token"])

    long_poll(world, two_refreshes)
    world.clock.advance(DUE)
    assert world.client.get("/poll").status_code == 200
    assert world.cookie is not None
    assert world.token_in(world.cookie) == newest[-1]
    assert world.wire.requests == 3


def test_a_long_poll_over_a_sign_out_writes_nothing() -> None:
    world = World()
    world.sign_in()
    cookie = world.cookie
    assert cookie is not None

    async def sign_out() -> None:
        world.clock.advance(2)
        await _elsewhere(world, cookie, "/leave", "POST")

    long_poll(world, sign_out)
    world.clock.advance(DUE)
    assert "set-cookie" not in world.client.get("/poll").headers


def test_a_long_poll_while_the_store_is_silent_writes_nothing() -> None:
    from fastapi_ideal_auth import StoreUnavailable

    world = World()
    world.sign_in()

    async def store_down() -> None:
        world.clock.advance(2)
        world.store.fault = StoreUnavailable("down")

    long_poll(world, store_down)
    world.clock.advance(DUE)
    response = world.client.get("/poll")
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    world.store.fault = None
    assert world.client.get("/token").status_code == 200  # the old cookie leads home
    assert world.wire.requests == 1


def test_websocket_disconnect_is_no_error(due: World) -> None:
    with due.client.websocket_connect("wss://testserver/ws") as socket:
        socket.receive_text()
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
