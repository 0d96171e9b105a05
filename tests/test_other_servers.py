"""At a server this project did not write, made with PyPI Authlib, with two policies of its own.

``keep`` never sends a new refresh token; ``rotate`` kills the old access token at a refresh, and
answers a spent refresh token with the same pair for a while. See providers/authlib_server.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastapi_ideal_auth import IdealAuth, OAuth2Provider, SQLiteStore
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.testing import Clock, login

from .processes import ROOT, NotReady, Server, in_thread, missing, start, uvicorn
from .support import SECRET, User, app_of
from .test_workers import cookie_of

# On purpose full of signs that Basic credentials must encode first (RFC 6749 §2.3.1).
CLIENT_SECRET = "a_secret_with_signs:+&%:/="
READY = re.compile(r'^\{"ready": true, "port": (\d+)\}$', re.MULTILINE)
TTL = 300  # seconds an access token lives here


@dataclass(frozen=True, slots=True)
class AuthlibServer:
    """The running server and its control API. Every method is one short blocking call."""

    url: str
    _control: httpx.Client = field(repr=False)

    @property
    def token_endpoint(self) -> str:
        return f"{self.url}/token"

    @property
    def revocation_endpoint(self) -> str:
        return f"{self.url}/revoke"

    def reset(self, **settings: Any) -> None:
        self._post("reset", settings)

    def lose_answers(self, *faults: str) -> None:
        """``drop`` or ``truncate`` the answers of the next calls, whose work is done."""
        self._post("faults", faults)

    def session(self) -> dict[str, Any]:
        tokens: dict[str, Any] = self._post("session", None)
        return tokens

    def alive(self, token: str) -> bool:
        """Whether an access token is good, or a refresh token good and not spent."""
        return self._post("alive", token) is True

    def end(self, refresh_token: str) -> None:
        """End the grant at the server's side."""
        assert self._post("end", refresh_token) is True

    def count(self, what: str) -> int:
        """``calls``, and how they ended: ``refreshed``, ``repeated`` or ``reused``.

        ``revoked`` and ``revoked_spent``: good and spent tokens that were given back.
        """
        found = self._control.get(f"{self.url}/_test/stats").json().get(what, 0)
        assert isinstance(found, int)
        return found

    def _post(self, path: str, body: object) -> Any:
        answer = self._control.post(f"{self.url}/_test/{path}", json=body)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def authlib_server() -> Iterator[AuthlibServer]:
    for name in ("authlib", "flask"):
        if importlib.util.find_spec(name) is None:
            missing(f"not installed: {name}")
    cmd = [sys.executable, "-m", "tests.providers.authlib_server"]
    with start(cmd, ready=READY, env={"CLIENT_SECRET": CLIENT_SECRET}, cwd=ROOT) as process:
        found = READY.search(process.output())
        if found is None:
            raise NotReady(process.output())
        with httpx.Client(trust_env=False, timeout=10) as control:
            yield AuthlibServer(f"http://127.0.0.1:{found[1]}", control)


@pytest.fixture(params=["keep", "rotate"])
def server(request: pytest.FixtureRequest, authlib_server: AuthlibServer) -> AuthlibServer:
    authlib_server.reset(policy=request.param)
    return authlib_server


@pytest.fixture
def rotating(authlib_server: AuthlibServer) -> AuthlibServer:
    authlib_server.reset(policy="rotate")
    return authlib_server


class World:
    """An app at this server, and a browser that is signed in there."""

    def __init__(self, server: AuthlibServer, directory: Path, **options: Any) -> None:
        self.server = server
        self.clock = Clock(time.time())
        provider = OAuth2Provider(
            server.token_endpoint,
            "app",
            options.pop("client_secret", CLIENT_SECRET),
            revocation_endpoint=server.revocation_endpoint,
            **options,
        )
        self.auth = IdealAuth(
            User,
            secret=SECRET,
            provider=provider,
            store=SQLiteStore(directory / "refresh.sqlite3"),
            clock=self.clock,
            cookie_secure=False,
        )

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx.AsyncClient]:
        with in_thread(app_of(self.auth)) as port:
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
            )
            async with client:
                tokens = self.server.session()
                user = User(
                    id="ada",
                    access_token=tokens["access_token"],
                    refresh_token=tokens["refresh_token"],
                    expires_at=int(self.clock()) + TTL,
                )
                login(client, self.auth, user)
                yield client

    def becomes_due(self) -> None:
        """The token is inside the buffer now, and good for some seconds more."""
        self.clock.advance(TTL - 20)

    def expires(self) -> None:
        self.clock.advance(TTL + 1)

    def user_in(self, cookie: str) -> User:
        """Whom a ``Cookie`` header carries."""
        generation = self.auth.opened(read(cookie, self.auth.cookies), now=self.clock())
        assert generation is not None
        return generation.user


def cookie_in(client: httpx.AsyncClient) -> str:
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)


async def token_at(client: httpx.AsyncClient) -> str:
    response = await client.get("/token")
    assert response.status_code == 200, response.text
    token = response.json()["access_token"]
    assert isinstance(token, str)
    return token


async def present(client: httpx.AsyncClient, cookie: str) -> httpx.Response:
    """A request from elsewhere that carries just this cookie; nothing is kept."""
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False, timeout=20) as other:
        return await other.get("/token", headers={"cookie": cookie})


# -- refreshing -----------------------------------------------------------------------------------


async def test_three_refreshes_keep_the_session(server: AuthlibServer, tmp_path: Path) -> None:
    world = World(server, tmp_path)
    async with world.browser() as client:
        first = world.user_in(cookie_in(client))
        tokens = [first.access_token]
        for _ in range(3):
            world.becomes_due()
            tokens.append(await token_at(client))
            assert await token_at(client) == tokens[-1]  # fresh: nobody is asked
            assert server.alive(tokens[-1])
        last = world.user_in(cookie_in(client))
    assert len(set(tokens)) == 4
    assert (server.count("calls"), server.count("refreshed")) == (3, 3)
    assert last.access_token == tokens[-1]
    assert last.refresh_token is not None
    assert server.alive(last.refresh_token)


async def test_without_a_new_refresh_token_the_old_one_is_kept(
    authlib_server: AuthlibServer, tmp_path: Path
) -> None:
    authlib_server.reset(policy="keep")
    world = World(authlib_server, tmp_path)
    async with world.browser() as client:
        before = world.user_in(cookie_in(client))
        world.expires()
        newest = await token_at(client)
        after = world.user_in(cookie_in(client))
    assert after.refresh_token == before.refresh_token
    assert after.access_token == newest != before.access_token
    assert authlib_server.alive(newest)


async def test_a_request_never_goes_on_with_the_access_token_that_died_at_the_refresh(
    rotating: AuthlibServer, tmp_path: Path
) -> None:
    world = World(rotating, tmp_path)
    async with world.browser() as client:
        old = cookie_in(client)
        world.becomes_due()
        newest = await token_at(client)
        dead = world.user_in(old)
        late = await present(client, old)
    assert not rotating.alive(dead.access_token)
    assert late.json()["access_token"] == newest
    assert rotating.alive(newest)
    assert "set-cookie" in late.headers
    assert rotating.count("calls") == 1


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_client_secret_full_of_signs_arrives(
    rotating: AuthlibServer, tmp_path: Path, method: Any
) -> None:
    world = World(rotating, tmp_path, token_endpoint_auth_method=method)
    async with world.browser() as client:
        world.expires()
        assert rotating.alive(await token_at(client))


async def test_a_wrong_client_secret_signs_nobody_out(
    server: AuthlibServer, tmp_path: Path
) -> None:
    world = World(server, tmp_path, client_secret="another client's secret")
    async with world.browser() as client:
        world.becomes_due()
        present_token = world.user_in(cookie_in(client)).access_token
        assert await token_at(client) == present_token
        world.clock.advance(60)  # past the cool-off; and the token has expired
        refused = await client.get("/token")
        refresh_token = world.user_in(cookie_in(client)).refresh_token
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "set-cookie" not in refused.headers
    assert (server.count("calls"), server.count("refreshed")) == (2, 0)
    assert refresh_token is not None
    assert server.alive(refresh_token)


# -- at once --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(
    authlib_server: AuthlibServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    env = {
        "SESSION_SECRET": SECRET,
        "TOKEN_ENDPOINT": authlib_server.token_endpoint,
        "CLIENT_ID": "app",
        "CLIENT_SECRET": CLIENT_SECRET,
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    with uvicorn("tests.served:app", workers=2, env=env) as app:
        yield app


@pytest.mark.parametrize("expires_in", [20, -1], ids=["inside the buffer", "expired"])
async def test_50_requests_on_2_workers_make_one_call_and_all_get_a_live_token(
    server: AuthlibServer, served: Server, expires_in: int
) -> None:
    tokens = server.session()
    cookie = cookie_of(tokens, expires_in=expires_in)
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(
        base_url=served.url, limits=limits, timeout=20, trust_env=False
    ) as client:
        responses = await asyncio.gather(*(client.get("/token", headers=cookie) for _ in range(50)))
    assert [response.status_code for response in responses] == [200] * 50
    newest = {response.json()["access_token"] for response in responses}
    assert len(newest) == 1
    assert newest != {tokens["access_token"]}
    assert server.alive(newest.pop())
    assert server.count("calls") == 1


# -- lost answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "truncate"])
async def test_a_lost_answer_is_asked_for_again_at_once_and_saved(
    server: AuthlibServer, tmp_path: Path, how: str
) -> None:
    world = World(server, tmp_path)
    async with world.browser() as client:
        world.expires()
        server.lose_answers(how)
        first = await token_at(client)
        assert server.alive(first)
        assert server.count("calls") == 2
        # The session goes on from what the second answer brought.
        world.expires()
        second = await token_at(client)
    assert second != first
    assert server.alive(second)
    assert (server.count("calls"), server.count("reused")) == (3, 0)


async def test_the_answer_that_is_repeated_within_the_grace_is_the_lost_one(
    rotating: AuthlibServer, tmp_path: Path
) -> None:
    world = World(rotating, tmp_path)
    async with world.browser() as client:
        world.becomes_due()
        rotating.lose_answers("drop")
        token = await token_at(client)
    assert rotating.alive(token)
    assert (rotating.count("refreshed"), rotating.count("repeated")) == (1, 1)


async def test_where_there_is_no_grace_a_lost_answer_ends_the_session_once_and_for_all(
    authlib_server: AuthlibServer, tmp_path: Path
) -> None:
    authlib_server.reset(policy="rotate", grace=0)
    world = World(authlib_server, tmp_path)
    async with world.browser() as client:
        old = cookie_in(client)
        world.expires()
        authlib_server.lose_answers("drop")
        assert (await client.get("/token")).status_code == 401
        assert cookie_in(client) == ""
        assert (await present(client, old)).status_code == 401
    assert (authlib_server.count("calls"), authlib_server.count("reused")) == (2, 1)


# -- the end --------------------------------------------------------------------------------------


async def test_a_dead_grant_is_a_401_that_clears_the_cookie_and_is_asked_about_once(
    server: AuthlibServer, tmp_path: Path
) -> None:
    world = World(server, tmp_path)
    async with world.browser() as client:
        old = cookie_in(client)
        refresh_token = world.user_in(old).refresh_token
        assert refresh_token is not None
        server.end(refresh_token)
        world.becomes_due()
        assert (await client.get("/token")).status_code == 401
        assert cookie_in(client) == ""
        copy = await present(client, old)
    assert copy.status_code == 401
    assert "set-cookie" not in copy.headers
    assert server.count("calls") == 1


async def test_signing_out_revokes_the_newest_refresh_token(
    server: AuthlibServer, tmp_path: Path
) -> None:
    world = World(server, tmp_path)
    async with world.browser() as client:
        old = cookie_in(client)
        world.becomes_due()
        newest = await token_at(client)
        refresh_token = world.user_in(cookie_in(client)).refresh_token
        assert refresh_token is not None
        # From a tab that has not got the new cookie yet.
        async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as tab:
            left = await tab.post("/leave", headers={"cookie": old})
        world.expires()
        copy = await present(client, cookie_in(client))
    assert left.status_code == 200
    assert "Max-Age=0" in left.headers["set-cookie"]
    assert server.count("revoked") == 1
    assert not server.alive(refresh_token)
    assert not server.alive(newest)
    assert copy.status_code == 401
    assert server.count("calls") == 1
