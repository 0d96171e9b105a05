"""Schemathesis over the dashboard: no answer that its OpenAPI document does not know of."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from examples.dashboard.authorization_server import Client, create_app

from .processes import in_thread

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address, and the cookie of somebody who signed in there."""
    client = Client(client_id="dashboard", redirect_uris=(), client_secret="demo-client-secret")
    server = create_app(clients=[client], access_token_ttl=300)
    with pytest.MonkeyPatch.context() as env, in_thread(server) as provider:
        env.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        env.setenv("DASHBOARD_PROVIDER", f"http://127.0.0.1:{provider}")
        env.setenv("DASHBOARD_CLIENT_SECRET", "demo-client-secret")
        module = importlib.reload(importlib.import_module("examples.dashboard.app"))
        with in_thread(module.app) as port:
            url = f"http://127.0.0.1:{port}"
            yield url, signed_in(url, module, server.state.server.new_session("ada"))


def signed_in(url: str, module: Any, tokens: dict[str, Any]) -> dict[str, str]:
    from fastapi_ideal_auth.testing import login

    with httpx.Client(base_url=url) as client:
        user = module.User(
            id="ada",
            name="Ada",
            email="ada@example.test",
            access_token=tokens["access_token"],
            refresh_token=tokens["refresh_token"],
        )
        login(client, module.auth, user)
        return {"cookie": f"{module.auth.cookie_name}={client.cookies[module.auth.cookie_name]}"}


WHO = {
    "signed out": lambda cookie: {},
    "signed in": lambda cookie: cookie,
    "from another origin": lambda cookie: {**cookie, "sec-fetch-site": "cross-site"},
}


@pytest.mark.parametrize("who", WHO.values(), ids=WHO.keys())
def test_every_status_is_documented(dashboard: tuple[str, dict[str, str]], who: Any) -> None:
    url, cookie = dashboard
    headers = [part for name, value in who(cookie).items() for part in ("-H", f"{name}: {value}")]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    options = ["--checks", CHECKS, "--max-examples", "25", "--seed", "1", "--no-color"]
    run = subprocess.run(
        [*command, *options, *headers], capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
    assert re.search(r"Tested: [1-9]", run.stdout)
