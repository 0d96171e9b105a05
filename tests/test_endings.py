"""Sessions ended from afar: written down by user, noticed as each cookie is looked at."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from fastapi import Depends
from fastapi.testclient import TestClient

from fastapi_ideal_auth import (
    ConfigurationError,
    IdealAuth,
    MemoryStore,
    RefreshStore,
    Session,
    StoreUnavailable,
)
from fastapi_ideal_auth.record import Record
from fastapi_ideal_auth.testing import Clock, RotatingProvider, login

from .support import BASE, SECRET, CountingStore, User, World, app_of

NEW_SECRET = "another secret of the tests, at least as long as that"


def run(work: Any) -> Any:
    return asyncio.run(work)


@pytest.fixture
def two(world: World) -> tuple[World, TestClient, TestClient]:
    """Two devices of one user, on two workers."""
    phone = world.browser(app_of(world.another_auth()))
    world.sign_in()
    login(phone, world.auth, world.user())
    return world, world.client, phone


def end_all(world: World, user_id: str | int = "1") -> None:
    run(world.auth.end_sessions(user_id=user_id))


def test_a_due_session_of_the_user_is_refused_on_every_device(
    two: tuple[World, TestClient, TestClient],
) -> None:
    world, laptop, phone = two
    end_all(world)
    assert [c.get("/token").status_code for c in (laptop, phone)] == [200, 200]  # fresh tokens
    world.clock.advance(290)
    assert [c.get("/token").status_code for c in (laptop, phone)] == [401, 401]
    assert world.wire.requests == 0


def test_a_user_id_may_be_an_int() -> None:
    world = World()
    world.sign_in()
    end_all(world, 1)
    world.clock.advance(290)
    assert world.client.get("/token").status_code == 401


def test_nobody_elses_session_ends(two: tuple[World, TestClient, TestClient]) -> None:
    world, laptop, _ = two
    end_all(world, "2")
    world.clock.advance(290)
    assert laptop.get("/token").status_code == 200


def test_another_applications_user_of_the_same_id_stays() -> None:
    world = World()
    world.sign_in()
    other = world.another_auth(secret=NEW_SECRET)
    run(other.end_sessions(user_id="1"))
    other = world.another_auth(cookie_name="other")
    run(other.end_sessions(user_id="1"))
    world.clock.advance(290)
    assert world.client.get("/token").status_code == 200


def test_signing_in_afterwards_works_at_once(world: World) -> None:
    world.sign_in()

    @world.app.post("/change-password")
    async def change_password(
        session: Annotated[Session[User], Depends(world.auth.session)],
    ) -> None:
        assert session.user is not None
        await world.auth.end_sessions(user_id=session.user.id)
        await session.login(world.user())

    old = world.cookie
    assert world.client.post("/change-password").status_code == 200
    world.clock.advance(290)
    assert world.client.get("/token").status_code == 200
    assert old is not None
    assert world.present(old).status_code == 401


def test_signing_in_on_another_worker_in_the_same_second_works(world: World) -> None:
    # The provider remembers the person, so two redirects later they are back.
    other = world.another_auth()
    app = app_of(other)

    @app.post("/sign-in")
    async def sign_in(session: Annotated[Session[User], Depends(other.session)]) -> None:
        await session.login(world.user())

    end_all(world)
    browser = world.browser(app)
    assert browser.post("/sign-in").status_code == 200
    world.clock.advance(290)
    assert browser.get("/token").status_code == 200


def test_signing_in_works_while_the_store_is_down() -> None:
    world = World()

    @world.app.post("/sign-in")
    async def sign_in(session: Annotated[Session[User], Depends(world.auth.session)]) -> None:
        await session.login(world.user())

    world.store.fault = OSError("gone")
    assert world.client.post("/sign-in").status_code == 200
    assert world.client.get("/token").status_code == 200


def test_its_refresh_token_is_revoked_when_the_cookie_shows_up() -> None:
    provider, clock = RotatingProvider(expires_in=300), Clock()
    auth = IdealAuth(User, secret=SECRET, provider=provider, store=MemoryStore(), clock=clock)
    client = TestClient(app_of(auth), base_url=BASE)
    user = provider.user(User, clock=clock, id="1")
    login(client, auth, user)
    run(auth.end_sessions(user_id="1"))
    clock.advance(290)
    with client:  # the lifespan waits for what is under way
        assert client.get("/token").status_code == 401
    assert provider.revoked == [user.refresh_token]
    assert provider.calls == 0


def test_an_ended_session_cannot_be_touched(world: World) -> None:
    week = 604_800
    login(world.client, world.auth, world.user(expires_at=None))  # never due
    end_all(world)
    world.clock.advance(week // 2 + 10)
    before = world.cookie
    assert world.client.post("/touch").status_code == 200
    assert world.cookie == before
    assert world.client.get("/token").status_code == 200
    world.clock.advance(week // 2)
    assert world.client.get("/token").status_code == 401


def test_the_fresh_path_asks_no_store(world: World) -> None:
    world.sign_in()
    end_all(world)
    asked = world.store.calls
    assert world.client.get("/token").status_code == 200
    assert world.store.calls == asked


# -- check_ended_every ----------------------------------------------------------------------------


@pytest.fixture
def checking(store: RefreshStore) -> World:
    return World(expires_in=3600, store=store, check_ended_every=30)


def test_a_fresh_session_is_looked_up_once_in_so_many_seconds(checking: World) -> None:
    checking.sign_in()
    checking.client.get("/token")
    asked = checking.store.calls
    assert asked > 0
    checking.clock.advance(29)
    checking.client.get("/token")
    assert checking.store.calls == asked
    checking.clock.advance(2)
    checking.client.get("/token")
    assert checking.store.calls > asked


def test_what_was_ended_on_another_worker_is_refused_within_it(checking: World) -> None:
    checking.sign_in()
    assert checking.client.get("/token").status_code == 200
    run(checking.another_auth().end_sessions(user_id="1"))
    checking.clock.advance(31)
    response = checking.client.get("/token")
    assert response.status_code == 401
    assert "set-cookie" not in response.headers


def test_what_was_ended_here_is_refused_at_once(checking: World) -> None:
    checking.sign_in()
    assert checking.client.get("/token").status_code == 200
    end_all(checking)
    assert checking.client.get("/token").status_code == 401


def test_a_copied_cookie_is_refused_after_sign_out(checking: World) -> None:
    checking.sign_in()
    copy = checking.cookie
    assert copy is not None
    other = checking.browser(app_of(checking.another_auth(check_ended_every=30)))
    checking.client.post("/leave")
    headers = {"cookie": f"{checking.auth.cookie_name}={copy}"}
    assert other.get("/token", headers=headers).status_code == 401


def test_a_copied_cookie_is_refused_at_once_where_its_session_was_signed_out(
    checking: World,
) -> None:
    checking.sign_in()
    copy = checking.cookie
    assert copy is not None
    assert checking.client.get("/token").status_code == 200  # looked at, just now
    checking.client.post("/leave")
    assert checking.present(copy).status_code == 401


async def test_nobody_passes_while_the_first_look_is_under_way() -> None:
    import httpx2

    world = World(expires_in=3600, check_ended_every=30)
    world.sign_in()
    await world.another_auth().end_sessions(user_id="1")
    headers = {"cookie": f"{world.auth.cookie_name}={world.cookie}"}
    transport = httpx2.ASGITransport(world.app)
    async with httpx2.AsyncClient(transport=transport, base_url=BASE, headers=headers) as client:
        answers = await asyncio.gather(*(client.get("/token") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [401] * 20


def test_a_store_that_is_down_signs_nobody_out_and_ends_nobody(checking: World) -> None:
    checking.sign_in()
    checking.store.fault = OSError("gone")
    with pytest.raises(StoreUnavailable):
        end_all(checking)
    assert checking.client.get("/token").status_code == 200
    checking.store.fault = None
    end_all(checking)
    assert checking.client.get("/token").status_code == 401


async def test_a_stream_that_asks_again_is_told(checking: World) -> None:
    checking.sign_in()
    session = Session(
        checking.auth,
        _presented(checking),
        None,
    )
    await session.fresh_user()
    await checking.another_auth().end_sessions(user_id="1")
    checking.clock.advance(31)
    with pytest.raises(Exception, match="401"):
        await session.fresh_user()


def _presented(world: World) -> Any:
    from fastapi_ideal_auth.cookies import read

    return read(f"{world.auth.cookie_name}={world.cookie}", world.auth.cookies)


@pytest.mark.parametrize("wrong", [-1, True, "30", float("inf")])
def test_what_is_no_number_of_seconds_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="check_ended_every"):
        IdealAuth(User, secret=SECRET, store=MemoryStore(), check_ended_every=wrong)


# -- secrets that rotate --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([SECRET], [SECRET, NEW_SECRET]),
        ([SECRET], [NEW_SECRET, SECRET]),
        ([SECRET, NEW_SECRET], [NEW_SECRET, SECRET]),
        ([SECRET, NEW_SECRET], [NEW_SECRET]),
    ],
)
def test_a_notice_outlives_the_rotation_of_secrets(written: list[str], read: list[str]) -> None:
    world = World()
    before = world.another_auth(secret=written)
    after = world.another_auth(secret=read)
    browser = world.browser(app_of(after))
    sealing = world.another_auth(secret=[NEW_SECRET, SECRET])
    login(browser, sealing if NEW_SECRET in read else before, world.user())
    run(before.end_sessions(user_id="1"))
    world.clock.advance(290)
    assert browser.get("/token").status_code == 401


class Silent(CountingStore):
    """It takes leases and does not say who has been signed out."""

    async def look(self, keys: Sequence[str], *, now: float) -> list[Record | None]:
        raise OSError("gone")


def test_a_store_that_does_not_say_who_was_signed_out_refreshes_nobody() -> None:
    world = World()
    world.sign_in()
    end_all(world)
    silent = Silent(world.store.inner)
    half = world.browser(app_of(world.another_auth(store=silent)))
    half.cookies.update(dict(world.client.cookies))
    world.clock.advance(301)
    assert half.get("/token").status_code == 503
    assert world.wire.requests == 0
    assert world.client.get("/token").status_code == 401  # and the lease was given back


@pytest.mark.parametrize("wrong", [None, "", True, 1.5, b"1"])
def test_what_is_no_id_ends_nobody_and_says_so(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="user_id"):
        end_all(World(), wrong)


def test_a_test_may_sign_in_again_without_letting_time_pass() -> None:
    world = World(check_ended_every=0)
    world.sign_in()
    end_all(world)
    assert world.client.get("/token").status_code == 401
    world.sign_in()
    assert world.client.get("/token").status_code == 200
