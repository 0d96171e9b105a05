"""Tokens never show: not in a repr, a dump, a response, a log at DEBUG, an exception or a span."""

import asyncio
import copy
import json
import logging
import pickle
import random
import traceback
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends
from fastapi.encoders import jsonable_encoder

from fastapi_ideal_auth import (
    ProviderUnavailable,
    Session,
    SessionUser,
    StoreUnavailable,
    TokenResponse,
)
from fastapi_ideal_auth.testing import login

from .support import SECRET, User, World

MARK = "t0ken-mark"
TOKENS = {
    "access_token": f"{MARK}-access",
    "refresh_token": f"{MARK}-refresh",
    "id_token": f"{MARK}-id",
}


@pytest.fixture
def user() -> User:
    return User(id="1", expires_at=5, **TOKENS)


def test_they_are_plain_attributes(user: User) -> None:
    assert {name: getattr(user, name) for name in TOKENS} == TOKENS


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda u: f"{u!r} {u}",
        lambda u: u.model_dump(),
        lambda u: u.model_dump(mode="json", include=set(TOKENS)),
        lambda u: u.model_dump_json(),
        lambda u: u.model_dump_json(by_alias=True, exclude=None),
        lambda u: u.model_dump(round_trip=True),
        jsonable_encoder,
        lambda u: jsonable_encoder({"user": [u]}),
        lambda u: u.model_json_schema(),
        lambda u: u.model_json_schema(mode="serialization"),
        lambda u: TokenResponse(**TOKENS),
    ],
)
def test_nothing_shows_them(user: User, show: Any) -> None:
    shown = repr(show(user))
    assert MARK not in shown
    if isinstance(show(user), dict) and "properties" in show(user):
        assert "token" not in shown


def test_expires_at_is_no_secret(user: User) -> None:
    assert user.model_dump()["expires_at"] == 5


def test_a_validation_error_shows_no_input() -> None:
    with pytest.raises(ValueError, match="validation error") as told:
        User(id=[], **TOKENS)  # type: ignore[arg-type]  # what is wrong, or odd, is the point
    assert MARK not in str(told.value)


def test_copies_keep_them(user: User) -> None:
    for other in (user.model_copy(), copy.deepcopy(user), pickle.loads(pickle.dumps(user))):
        assert other.access_token == TOKENS["access_token"]
        assert MARK not in repr(other)


def test_an_int_id_is_normalised() -> None:
    assert SessionUser(id=5, access_token="t").id == "5"  # type: ignore[arg-type]  # what is wrong, or odd, is the point


# -- everything that is written while sessions are served -----------------------------------------


def exercised(world: World) -> None:
    """Each outcome once, with a route that shows what it can."""

    @world.app.get("/shows")
    async def shows(
        user: Annotated[User, Depends(world.auth.fresh_user)],
        session: Annotated[Session[User], Depends(world.auth.session)],
    ) -> dict[str, str]:
        return {"user": repr(user), "session": repr(session), "auth": repr(world.auth)}

    @world.app.get("/boom")
    async def boom(user: Annotated[User, Depends(world.auth.fresh_user)]) -> None:
        raise RuntimeError(f"no token in {user!r}")

    @world.app.get("/wrong-model", response_model=list[int])
    async def wrong_model(user: Annotated[User, Depends(world.auth.fresh_user)]) -> Any:
        return user

    @world.app.get("/422")
    async def invalid(n: int, user: Annotated[User, Depends(world.auth.fresh_user)]) -> None: ...

    def raising(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("connection reset", request=request)

    echo = '{"error": "invalid_scope", "error_description": "%s"}'
    faults: list[Any] = [
        None,
        raising,
        lambda _: httpx.Response(500, text=f"{MARK} upstream"),
        lambda _: httpx.Response(200, text=f'{{"access_token": "{MARK}'),
        lambda _: httpx.Response(400, text=echo % MARK),
        lambda r: httpx.Response(400, text=echo % r.content.decode()),
        lambda _: httpx.Response(302, headers={"location": f"https://x.example/?t={MARK}"}),
        lambda _: httpx.Response(400, json={"error": "invalid_grant", "hint": MARK}),
    ]
    for fault in faults:
        world.client = world.browser()
        world.wire.fault = None
        world.sign_in()
        for path in ("/me", "/shows", "/boom", "/wrong-model", "/422", "/session"):
            world.client.get(path)
        world.wire.fault = fault
        for later in (290, 20):
            world.clock.advance(later)
            world.client.get("/shows")
            world.clock.advance(310)
    world.wire.fault = None
    world.sign_in()
    world.store.fault = StoreUnavailable("down")
    world.clock.advance(301)
    world.client.get("/me")
    world.client.post("/leave")


def secrets_of(world: World) -> list[str]:
    issued = list(world.wire.provider._grants)
    access = [grant.access_token for grant in world.wire.provider._grants.values()]
    return [*issued, *access, MARK, SECRET, "tests-secret"]


def test_no_token_in_any_log_record_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World()
    exercised(world)
    assert caplog.records
    for record in caplog.records:
        written = f"{record.getMessage()} {record.args!r} {record.exc_text}"
        if record.exc_info and record.exc_info[1]:
            written += "".join(traceback.format_exception(record.exc_info[1]))
        for secret in secrets_of(world):
            assert secret not in written


def test_no_token_in_any_response(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    bodies: list[str] = []
    send = world.client.send

    def noting(*args: Any, **kwargs: Any) -> Any:
        response = send(*args, **kwargs)
        bodies.append(response.text + json.dumps(dict(response.headers)))
        return response

    browser = world.browser

    def noted_browser(*args: Any) -> Any:
        client = browser(*args)
        nonlocal send
        send = client.send
        client.send = noting  # type: ignore[method-assign]  # noted on the way through
        return client

    world.browser = noted_browser  # type: ignore[method-assign]  # noted on the way through
    exercised(world)
    assert len(bodies) > 50
    for secret in secrets_of(world):
        assert not [body for body in bodies if secret in body]


def test_no_token_in_any_span() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracing)
    world = World()
    with trace.get_tracer("tests").start_as_current_span("around"):
        exercised(world)
    written = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert written
    for secret in secrets_of(world):
        assert secret not in written


async def test_no_token_in_the_exception_of_a_route_that_asks_for_a_fresh_user() -> None:
    world = World()
    world.sign_in()
    world.clock.advance(301)
    world.wire.provider.fail_next(ProviderUnavailable(in_doubt=True), times=2)
    from starlette.requests import HTTPConnection

    from fastapi_ideal_auth.cookies import read

    header = f"{world.auth.cookie_name}={world.cookie}"
    session: Any = Session(world.auth, read(header, world.auth.cookies), None)
    connection = HTTPConnection({"type": "http", world.auth.scope_key: session})
    with pytest.raises(Exception, match="503") as told:
        await world.auth.fresh_user(connection)
    written = "".join(traceback.format_exception(told.value))
    seen: BaseException | None = told.value
    while seen is not None:
        written += repr(seen) + repr(seen.args)
        seen = seen.__cause__ or seen.__context__
    for secret in secrets_of(world):
        assert secret not in written
    await asyncio.sleep(0)


# -- mutated cookies ------------------------------------------------------------------------------


def test_20_000_mutated_cookies_are_401_and_never_500() -> None:
    from starlette.requests import HTTPConnection

    from fastapi_ideal_auth.cookies import read

    world = World()
    world.sign_in()
    good = world.cookie
    assert good is not None
    name = world.auth.cookie_name
    dice = random.Random(20_000)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.%+/\"' \\é\x00"

    def mutated() -> str:
        value = list(good)
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            at = dice.randrange(len(value))
            match dice.randrange(4):
                case 0:
                    value[at] = dice.choice(alphabet)
                case 1:
                    del value[at]
                case 2:
                    value.insert(at, dice.choice(alphabet))
                case _:
                    value[at:] = value[at : at + dice.randrange(9)]
            if not value:
                break
        return "".join(value)

    async def presented(value: str) -> int:
        cookies = read(f"{name}={value}".encode("latin-1"), world.auth.cookies)
        session: Any = Session(world.auth, cookies, None)
        try:
            await world.auth.fresh_user(
                HTTPConnection({"type": "http", world.auth.scope_key: session})
            )
        except Exception as error:
            return int(error.status_code)  # type: ignore[attr-defined]  # of any HTTP error
        return 200

    async def all_of_them() -> dict[int, int]:
        counts: dict[int, int] = {}
        for _ in range(20_000):
            value = mutated()
            # What reads the same as the good one (a quote around it, say) is no mutation.
            if value.strip().strip('"') == good:
                continue
            status = await presented(value)
            counts[status] = counts.get(status, 0) + 1
        return counts

    counts = asyncio.run(all_of_them())
    assert set(counts) == {401}
    assert counts[401] > 19_900
    assert asyncio.run(presented(good)) == 200


def test_mutated_cookies_over_http_are_401_too() -> None:
    world = World()
    login(world.client, world.auth, world.user())
    good = world.cookie
    assert good is not None
    for at in range(0, len(good), 7):
        value = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        assert world.present(value).status_code == 401
