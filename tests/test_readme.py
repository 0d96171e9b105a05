"""The README's programs run as they stand there, and what it says of itself is true."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import fastapi_ideal_auth
from fastapi_ideal_auth import ConfigurationError, IdealAuth
from fastapi_ideal_auth.http import HTTP
from fastapi_ideal_auth.refresh import OUTCOMES
from fastapi_ideal_auth.testing import Clock, login

from .openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIDServer

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(fastapi_ideal_auth.__file__).parent  # elsewhere, where the wheel is tested
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102 - that is the test
    return namespace


def test_the_program_runs_once_it_has_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="python -m fastapi_ideal_auth secret"):
        run(BLOCKS[0])
    program = run(BLOCKS[0].replace('secret="…"', 'secret="32 characters or more of a secret"'))
    client = TestClient(program["app"], base_url="https://testserver")
    assert client.get("/me").status_code == 401


def program_with(provider: str, rest: str) -> dict[str, Any]:
    """The first program with another provider, and what follows it."""
    program = BLOCKS[0].replace(
        "fresh_user = auth.fresh_user", 'auth = IdealAuth(User, secret="s" * 32, provider=provider)'
    )
    program = program.replace('secret="…"', 'secret="32 characters or more of a secret"')
    program = program.replace("Depends(fresh_user)", "Depends(auth.fresh_user)")
    return run("\n".join((provider, program, rest)))


def test_the_sign_in_block_signs_in_on_top_of_the_program() -> None:
    block = next(block for block in BLOCKS if "auth.router" in block)
    client = f'client_id="{CLIENT_ID}", client_secret="{CLIENT_SECRET}"'
    block = block.replace('client_id="dashboard", client_secret="…"', client)
    ran = program_with(*block.split("…\n", 1))
    server = OpenIDServer(Clock(time.time()))
    ran["provider"].use(HTTP(server.client(httpx)))
    browser = TestClient(ran["app"], base_url="https://your.app", follow_redirects=False)
    back = server.approve(browser.get("/login?next=/me").headers["location"])
    assert browser.get(back).headers["location"] == "/me"
    assert browser.get("/me").json()["name"] == "Ada Lovelace"
    assert {"/callback", "/logout", "/backchannel-logout"} <= ran["app"].openapi()["paths"].keys()


def test_the_block_of_a_sign_in_of_ones_own_is_python() -> None:
    own = next(block for block in BLOCKS if "session.login" in block)
    compile(own.replace("tokens = …", "tokens = ..."), "README.md", "exec")


def test_the_block_that_calls_an_api_runs() -> None:
    block = next(block for block in BLOCKS if "user.bearer" in block)
    ran = program_with("provider = None", block)
    client = TestClient(ran["app"], base_url="https://your.app")
    login(client, ran["auth"], ran["User"](id="1", email="e", name="n", access_token="at"))
    seen: list[str] = []

    def api(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=["an order"])

    class Client(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            super().__init__(transport=httpx.MockTransport(api), **options)

    ran["httpx"] = SimpleNamespace(AsyncClient=Client)
    assert client.get("/orders").json() == ["an order"]
    assert seen == ["Bearer at"]


def test_the_testing_block_is_a_test_that_passes() -> None:
    block = next(block for block in BLOCKS if "RotatingProvider" in block)
    run(block)["test_the_session_outlives_its_token"]()


def test_every_option_is_in_the_table_with_its_default() -> None:
    import inspect

    parameters = inspect.signature(IdealAuth.__init__).parameters
    table = README[README.index("## Options of `IdealAuth`") :]
    rows = {
        name: row
        for row in re.findall(r"^\| (`.*)", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row.split(" | ")[0])
    }
    for name, parameter in parameters.items():
        if name in ("self", "user_model"):
            continue
        assert name in rows, f"{name} is not in the README's table"
        default = parameter.default
        if isinstance(default, (int, str, bool)):
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            assert f"`{shown}`" in rows[name] or f'"{default}"' in rows[name]


def test_the_outcome_table_has_a_row_for_each_kind_of_answer() -> None:
    table = README[README.index("## What a request gets") : README.index("## Options")]
    assert len(re.findall(r"^\| (absent|forged|good)", table, re.MULTILINE)) == 13
    assert len(OUTCOMES) == 14


def test_the_names_it_uses_are_public() -> None:
    for names in re.findall(r"from fastapi_ideal_auth import ([\w, ]+)", README):
        for name in names.split(", "):
            assert name in fastapi_ideal_auth.__all__


def test_files_it_names_are_there() -> None:
    for name in re.findall(r"`((?:tests|examples)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(fastapi_ideal_auth/[\w/.]+)`", README):
        assert (PACKAGE.parent / name).exists(), name
    for name in re.findall(r"\]\(((?!https?:|#)[^)#]+)", README):
        assert (ROOT / name).exists(), name


def test_tests_it_names_are_there() -> None:
    for file, test in re.findall(r"`(tests/\w+\.py)::(\w+)`", README):
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


def test_the_promises_are_the_ones_that_are_tested() -> None:
    from .promises import FILE, page

    assert FILE.read_text() == page(), "run `python -m tests.promises`"
