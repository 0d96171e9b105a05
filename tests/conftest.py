from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastapi_ideal_auth import MemoryStore, RefreshStore, SQLiteStore

from .providers.harness import oidc_server as oidc_server
from .support import World


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the store of the person who runs it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RefreshStore]:
    if request.param == "memory":
        yield MemoryStore()
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
