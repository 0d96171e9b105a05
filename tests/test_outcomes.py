"""Design §3, row by row: what the request gets, and what becomes of the cookie."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fastapi_ideal_auth import RefreshStore, SessionUser
from fastapi_ideal_auth.refresh import OUTCOMES, Answer, Token
from fastapi_ideal_auth.testing import login

from .support import SECRET, World

FRESH, DUE, EXPIRED = 0, 290, 301  # seconds after sign-in, of a token that lives 300
BUFFER_STATES = pytest.mark.parametrize(
    "later", [DUE, EXPIRED], ids=["inside the buffer", "expired"]
)


def untouched(response: httpx.Response) -> bool:
    return "set-cookie" not in response.headers


def replaced(response: httpx.Response) -> bool:
    lines = response.headers.get_list("set-cookie")
    return len(lines) == 1 and "Max-Age=604800" in lines[0]


def cleared(response: httpx.Response) -> bool:
    lines = response.headers.get_list("set-cookie")
    return bool(lines) and all("Max-Age=0" in line for line in lines)


def test_the_table_is_total() -> None:
    due = (Token.DUE, Token.EXPIRED)
    assert set(OUTCOMES) == {(token, answer) for token in due for answer in Answer}


# -- no good cookie -------------------------------------------------------------------------------


def test_an_absent_cookie_gets_401_untouched(world: World) -> None:
    response = world.client.get("/token")
    assert (response.status_code, untouched(response), world.store.calls) == (401, True, 0)


def _forged(world: World, cookie: str) -> str:
    return "A" * len(cookie)


def _damaged(world: World, cookie: str) -> str:
    middle = len(cookie) // 2
    return cookie[:middle] + ("A" if cookie[middle] != "A" else "B") + cookie[middle + 1 :]


def _expired(world: World, cookie: str) -> str:
    world.clock.advance(604_800)
    return cookie


def _unknown_key(world: World, cookie: str) -> str:
    other = World(secret=SECRET[::-1])
    other.sign_in()
    assert other.cookie is not None
    return other.cookie


def _wrong_model(world: World, cookie: str) -> str:
    class Narrow(SessionUser):
        pass

    from fastapi_ideal_auth import IdealAuth, MemoryStore

    other: Any = IdealAuth(Narrow, secret=SECRET, store=MemoryStore(), clock=world.clock)
    world.client.cookies.clear()
    login(world.client, other, Narrow(id="1", access_token="at"))
    return world.cookie or ""


@pytest.mark.parametrize("make", [_forged, _damaged, _expired, _unknown_key])
def test_a_bad_cookie_gets_401_untouched(world: World, make: Callable[[World, str], str]) -> None:
    world.sign_in()
    assert world.cookie is not None
    response = world.present(make(world, world.cookie))
    assert (response.status_code, untouched(response)) == (401, True)
    assert (world.store.calls, world.wire.requests) == (0, 0)


def test_a_cookie_of_another_model_gets_401_untouched() -> None:
    from typing import Annotated

    from fastapi import Depends, FastAPI

    from fastapi_ideal_auth import IdealAuth, MemoryStore

    class Wide(SessionUser):
        tenant: str

    world = World()
    world.sign_in()
    assert world.cookie is not None
    auth = IdealAuth(Wide, secret=SECRET, store=MemoryStore(), clock=world.clock)
    app = FastAPI()
    auth.install(app)

    @app.get("/token")
    async def token(user: Annotated[Wide, Depends(auth.fresh_user)]) -> str:
        return user.tenant

    headers = {"cookie": f"{auth.cookie_name}={world.cookie}"}
    response = world.browser(app).get("/token", headers=headers)
    assert (response.status_code, untouched(response)) == (401, True)


# -- a good cookie --------------------------------------------------------------------------------


def test_a_fresh_token_gives_the_user_with_no_set_cookie_and_no_io(world: World) -> None:
    user = world.sign_in()
    response = world.client.get("/token")
    assert response.json()["access_token"] == user.access_token
    assert (untouched(response), world.store.calls, world.wire.requests) == (True, 0, 0)


@BUFFER_STATES
def test_a_due_token_gives_the_new_tokens_and_replaces_the_cookie(world: World, later: int) -> None:
    user = world.sign_in()
    old = world.cookie
    world.clock.advance(later)
    response = world.client.get("/token")
    token = response.json()["access_token"]
    assert token != user.access_token
    assert world.wire.provider.is_alive(token)
    assert replaced(response)
    assert world.cookie not in (None, old)
    assert world.wire.requests == 1
    assert world.client.get("/token").json()["access_token"] == token
    assert world.wire.requests == 1


def _raise(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def fault(request: httpx.Request) -> httpx.Response:
        raise error

    return fault


TRANSIENT = {
    "429": lambda _: httpx.Response(429, headers={"retry-after": "7"}),
    "500": lambda _: httpx.Response(500, text="oops"),
    "503": lambda _: httpx.Response(503, json={"error": "temporarily_unavailable"}),
    "timeout": _raise(httpx.ReadTimeout("slow")),
    "not JSON": lambda _: httpx.Response(200, text="<html>captive portal"),
    "unreachable": _raise(httpx.ConnectError("refused")),
}
CONFIGURATION = {
    "invalid_client": lambda _: httpx.Response(401, json={"error": "invalid_client"}),
    "invalid_scope": lambda _: httpx.Response(400, json={"error": "invalid_scope"}),
    "a redirect": lambda _: httpx.Response(302, headers={"location": "https://elsewhere.example/"}),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_inside_the_buffer_a_transient_failure_gives_the_present_token(
    world: World, fault: Callable[[httpx.Request], httpx.Response]
) -> None:
    user = world.sign_in()
    world.clock.advance(DUE)
    world.wire.fault = fault
    first = world.client.get("/token")
    asked = world.wire.requests
    second = world.client.get("/token")
    for response in (first, second):
        assert response.json()["access_token"] == user.access_token
        assert untouched(response)
    assert 1 <= asked <= 2  # in doubt is asked twice, at once
    assert world.wire.requests == asked  # and then there is a cool-off
    world.wire.fault = None
    world.clock.advance(7.5)
    third = world.client.get("/token")
    assert world.wire.requests == asked + 1
    assert replaced(third)


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_an_expired_token_and_a_transient_failure_give_503_with_retry_after(
    world: World, fault: Callable[[httpx.Request], httpx.Response]
) -> None:
    world.sign_in()
    world.clock.advance(EXPIRED)
    world.wire.fault = fault
    response = world.client.get("/token")
    assert (response.status_code, untouched(response)) == (503, True)
    assert 1 <= int(response.headers["retry-after"]) <= 10
    world.wire.fault = None
    world.clock.advance(int(response.headers["retry-after"]))
    assert replaced(world.client.get("/token"))


@pytest.mark.parametrize("fault", CONFIGURATION.values(), ids=CONFIGURATION.keys())
def test_a_fault_of_configuration_signs_nobody_out_and_is_logged_once_a_cool_off(
    world: World,
    fault: Callable[[httpx.Request], httpx.Response],
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = world.sign_in()
    other = world.browser()
    world.sign_in(other)
    world.wire.fault = fault
    world.clock.advance(DUE)
    response = world.client.get("/token")
    assert response.json()["access_token"] == user.access_token
    assert untouched(response)
    world.clock.advance(EXPIRED - DUE)
    for client in (world.client, other):
        response = client.get("/token")
        assert (response.status_code, untouched(response)) == (503, True)
        assert "retry-after" in response.headers
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    world.wire.fault = None
    world.clock.advance(60)
    assert replaced(world.client.get("/token"))


@BUFFER_STATES
def test_a_rejection_is_401_and_the_one_request_that_asked_clears(world: World, later: int) -> None:
    world.sign_in()
    cookie = world.cookie
    assert cookie is not None
    world.clock.advance(later)
    world.wire.fault = lambda _: httpx.Response(400, json={"error": "invalid_grant"})
    first = world.present(cookie)
    second = world.present(cookie)
    assert (first.status_code, cleared(first)) == (401, True)
    assert (second.status_code, untouched(second)) == (401, True)
    assert world.wire.requests == 1  # written down: nobody asks again


def test_an_unclear_refusal_is_a_rejection_only_once_the_token_has_expired(world: World) -> None:
    user = world.sign_in()
    world.wire.fault = lambda _: httpx.Response(400)
    world.clock.advance(DUE)
    assert world.client.get("/token").json()["access_token"] == user.access_token
    world.clock.advance(EXPIRED - DUE)
    response = world.client.get("/token")
    assert (response.status_code, cleared(response)) == (401, True)


@BUFFER_STATES
def test_a_session_signed_out_elsewhere_gets_401_when_due(world: World, later: int) -> None:
    world.sign_in()
    copy = world.cookie
    assert copy is not None
    world.client.post("/leave")
    assert world.cookie is None
    assert world.present(copy).status_code == 200  # the window: still fresh
    world.clock.advance(later)
    response = world.present(copy)
    assert (response.status_code, untouched(response)) == (401, True)
    assert world.wire.requests == 0


def test_an_expired_token_without_refresh_token_gets_401_untouched(world: World) -> None:
    user = world.user().model_copy(update={"refresh_token": None})
    login(world.client, world.auth, user)
    world.clock.advance(DUE)
    assert world.client.get("/token").status_code == 200
    world.clock.advance(EXPIRED - DUE)
    response = world.client.get("/token")
    assert (response.status_code, untouched(response), world.wire.requests) == (401, True, 0)


def test_an_older_generation_with_a_fresh_token_gives_the_user(world: World) -> None:
    # The old token is made fresh by a clock that went back: the cookie alone decides.
    user = world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(DUE)
    world.client.get("/token")
    world.clock.advance(-DUE)
    calls = world.store.calls
    response = world.present(old)
    assert response.json()["access_token"] == user.access_token
    assert (untouched(response), world.store.calls) == (True, calls)


@BUFFER_STATES
def test_an_older_generation_that_is_due_gets_the_newest_without_asking(
    world: World, later: int
) -> None:
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(later)
    newest = world.client.get("/token").json()["access_token"]
    for _ in range(3):  # the new cookie is dropped, the old one replayed
        response = world.present(old)
        assert response.json()["access_token"] == newest
        assert replaced(response)
    assert world.wire.requests == 1


def test_an_older_generation_asks_only_if_the_newest_is_due_too(world: World) -> None:
    world.sign_in()
    oldest = world.cookie
    assert oldest is not None
    for _ in range(5):  # five refreshes, all of whose answers get lost
        world.clock.advance(EXPIRED)
        response = world.present(oldest)
        assert response.status_code == 200
        assert world.wire.provider.is_alive(response.json()["access_token"])
    assert (world.wire.requests, world.wire.provider.reused) == (5, 0)


def test_a_replay_with_strict_detection_gets_401_and_ends_the_session(
    store: RefreshStore,
) -> None:
    world = World(store=store, replay_detection="strict")
    world.sign_in()
    stolen = world.cookie
    assert stolen is not None
    world.clock.advance(DUE)
    newest = world.client.get("/token").json()["access_token"]  # generation 2 is published
    assert world.client.get("/token").status_code == 200  # and presented
    world.clock.advance(61)
    response = world.present(stolen)
    assert (response.status_code, untouched(response)) == (401, True)
    assert not world.wire.provider.is_alive(newest) or world.wire.requests == 1
    world.clock.advance(EXPIRED)
    assert world.client.get("/token").status_code == 401
    assert world.wire.requests == 1


@pytest.mark.parametrize("tokens", ["cookie", "store"])
def test_a_replay_that_touches_the_session_is_refused_by_strict_detection(
    store: RefreshStore, tokens: str
) -> None:
    """`touch` adopts the newest generation too, and so would hand it to a thief."""
    world = World(store=store, replay_detection="strict", tokens=tokens, max_age=700)
    world.sign_in()
    stolen = world.cookie
    assert stolen is not None
    world.clock.advance(DUE)
    world.client.get("/token")  # generation 2 is published
    world.client.get("/token")  # and presented
    world.clock.advance(61)
    headers = {"cookie": f"{world.auth.cookie_name}={stolen}"}
    assert untouched(world.browser().post("/touch", headers=headers))
    world.clock.advance(EXPIRED)
    assert world.client.get("/token").status_code == 401
    assert world.wire.requests == 1


def test_a_late_request_within_the_grace_is_no_replay(
    store: RefreshStore,
) -> None:
    world = World(store=store, replay_detection="strict")
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(DUE)
    world.client.get("/token")
    world.client.get("/token")
    world.clock.advance(59)
    assert world.present(old).status_code == 200


def test_strict_detection_hands_over_what_was_never_presented(
    store: RefreshStore,
) -> None:
    """The answer was lost: the browser cannot have the newest, so the old cookie is no replay."""
    world = World(store=store, replay_detection="strict")
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.clock.advance(DUE)
    world.present(old)
    world.clock.advance(3600)
    assert world.present(old).status_code == 200


def test_lenient_detection_reports_a_replay_and_serves_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.sign_in()
    old = world.cookie
    assert old is not None
    for _ in range(2):  # generation 2 is presented when it is due
        world.clock.advance(DUE)
        world.client.get("/token")
    world.clock.advance(61)
    response = world.present(old)
    assert response.status_code == 200
    reports = [r.message for r in caplog.records if "presented again" in r.message]
    assert len(reports) == 1
    assert re.search(r"generation 1 .* after generation 2", reports[0])


# -- what a refresh keeps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remember", "max_age"), [(None, "Max-Age=604800"), (True, "Max-Age=2592000"), (False, None)]
)
def test_a_refresh_keeps_sign_in_time_and_remember_mode(
    world: World, remember: bool | None, max_age: str | None
) -> None:
    world.sign_in(remember=remember)
    before = world.client.get("/session").json()
    world.clock.advance(DUE)
    line = world.client.get("/token").headers["set-cookie"]
    after = world.client.get("/session").json()
    assert after["issued_at"] == before["issued_at"]
    if max_age is None:
        assert "Max-Age" not in line
        assert "Expires" not in line
    else:
        assert max_age in line


def test_a_refresh_never_passes_the_absolute_deadline() -> None:
    world = World(absolute_max_age=1000)
    world.sign_in()
    for _ in range(3):
        world.clock.advance(DUE)
        assert world.client.get("/token").status_code == 200
    world.clock.advance(1000 - 3 * DUE - 1)
    assert world.client.get("/token").status_code == 200
    world.clock.advance(1)
    assert world.client.get("/token").status_code == 401


def test_a_30_second_token_is_not_refreshed_at_every_request() -> None:
    world = World(expires_in=30)
    world.sign_in()
    world.clock.advance(20)
    assert untouched(world.client.get("/token"))
    world.clock.advance(5)
    assert replaced(world.client.get("/token"))
    assert untouched(world.client.get("/token"))


def test_an_unknown_expiry_is_never_refreshed_ahead(world: World) -> None:
    login(world.client, world.auth, world.user().model_copy(update={"expires_at": None}))
    world.clock.advance(100_000)
    assert world.client.get("/token").status_code == 200
    assert (world.store.calls, world.wire.requests) == (0, 0)


# -- the store is down ----------------------------------------------------------------------------


def test_store_down_serves_the_present_token_and_then_503() -> None:
    from fastapi_ideal_auth import StoreUnavailable

    world = World()
    user = world.sign_in()
    world.store.fault = StoreUnavailable("down")
    world.clock.advance(DUE)
    response = world.client.get("/token")
    assert response.json()["access_token"] == user.access_token
    assert untouched(response)
    world.clock.advance(EXPIRED - DUE)
    response = world.client.get("/token")
    assert (response.status_code, untouched(response)) == (503, True)
    assert "retry-after" in response.headers
    world.store.fault = None
    assert replaced(world.client.get("/token"))


def test_store_down_and_open_refreshes_process_locally() -> None:
    from fastapi_ideal_auth import StoreUnavailable

    world = World(when_store_down="open")
    world.sign_in()
    old = world.cookie
    assert old is not None
    world.store.fault = StoreUnavailable("down")
    world.clock.advance(EXPIRED)
    newest = world.client.get("/token").json()["access_token"]
    assert world.present(old).json()["access_token"] == newest
    assert world.wire.requests == 1
