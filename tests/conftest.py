from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fastapi_ideal_auth import MemoryStore, RedisStore, RefreshStore, SQLiteStore

from .processes import redis_server
from .providers.canaille_server import canaille_server as canaille_server
from .providers.harness import oidc_server as oidc_server
from .providers.iron_node import node_iron as node_iron
from .support import World

# No test measures time, on a busy machine least of all; and a failure comes back the same.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the store of the person who runs it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RefreshStore]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "redis":
        # A prefix of its own: the server is everybody's.
        yield RedisStore(request.getfixturevalue("redis_url"), prefix=f"{tmp_path.name}:")
    else:
        store = SQLiteStore(tmp_path / "refresh.sqlite3")
        yield store
        if store._connection is not None and store._owner == os.getpid():
            store._connection.close()
            assert store._thread is not None
            store._thread.shutdown()


@pytest.fixture
def world(store: RefreshStore) -> World:
    return World(store=store)
