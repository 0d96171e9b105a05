"""``python -m examples.iron_session``: Node and FastAPI refresh one session in turns."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from fastapi_ideal_auth import iron

from .processes import ROOT, answers, free_port, in_thread, missing, require_program, start
from .providers.harness import require_node
from .support import SECRET

LIFETIME = 4  # seconds an access token lives here
PATIENCE = 5 * LIFETIME


def node_directory() -> Path:
    require_node()
    require_program("npm")
    try:
        found: Path = importlib.import_module("examples.iron_session.packages").directory()
    except SystemExit as reason:
        missing(str(reason))
    return found


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[str, str, str]]:
    """The addresses of the front end, the back end and the authorization server."""
    node_directory()
    front, back, provider = free_port(), free_port(), free_port()
    command = [sys.executable, "-m", "examples.iron_session", "--port", str(back)]
    command += ["--node-port", str(front), "--provider-port", str(provider)]
    command += ["--token-lifetime", str(LIFETIME)]
    urls = tuple(f"http://127.0.0.1:{port}" for port in (front, back, provider))
    ready = re.compile(r"sign in on either side")
    with start(command, ready=ready, cwd=ROOT, timeout=40) as process:
        yield urls  # type: ignore[misc]  # three of them
        assert "Traceback" not in process.output()
        assert "Error" not in process.output()


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


def sign_in(browser: httpx.Client, at: str, person: str = "noor") -> None:
    page = browser.get(f"{at}/login", follow_redirects=True)
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
    form = {name: value.replace("&amp;", "&") for name, value in form.items()}
    endpoint = str(page.url).partition("?")[0]
    landed = browser.post(endpoint, data={**form, "person": person}, follow_redirects=True)
    assert landed.status_code == 200


def me(browser: httpx.Client, url: str) -> dict[str, Any]:
    answer = browser.get(url)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def refreshed_at(browser: httpx.Client, url: str) -> str:
    """Ask one side alone until it has refreshed; what it calls the new token."""
    before = me(browser, url)["token"]
    deadline = time.monotonic() + PATIENCE
    while (token := str(me(browser, url)["token"])) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return token


@pytest.mark.parametrize("first", ["node", "python"])
def test_both_sides_refresh_one_session_in_turns(
    sides: tuple[str, str, str], browser: httpx.Client, first: str
) -> None:
    front, back, provider = sides
    node, python = f"{front}/me", f"{front}/api/me"
    sign_in(browser, front if first == "node" else back)
    before = browser.get(f"{provider}/stats").json()
    for _ in range(2):
        for one, other in ((node, python), (python, node)):
            token = refreshed_at(browser, one)
            assert me(browser, other)["token"] == token  # it goes on with what the first got
    told = [me(browser, url) for url in (node, python, f"{back}/api/me")]
    assert [each["side"] for each in told] == ["node", "python", "python"]
    assert {(each["id"], each["name"]) for each in told} == {("noor", "Noor Haddad")}
    after = browser.get(f"{provider}/stats").json()
    assert after["refreshes"] - before["refreshes"] >= 4
    assert after["reuse_detected"] == 0
    assert len([cookie for cookie in browser.cookies.jar if cookie.name == "ideal_session"]) == 1


def test_signing_out_at_one_side_signs_out_at_the_other(
    sides: tuple[str, str, str], browser: httpx.Client
) -> None:
    front, back, _ = sides
    for at, out_of in ((front, back), (back, front)):
        sign_in(browser, at)
        assert me(browser, f"{front}/me")["id"] == me(browser, f"{front}/api/me")["id"]
        headers = {"origin": front}  # the front end's page has both buttons
        assert browser.post(f"{out_of}/logout", headers=headers).status_code == 303
        for url in (f"{front}/me", f"{front}/api/me"):
            assert browser.get(url).status_code == 401


def test_a_path_that_is_no_url_stops_nobody(sides: tuple[str, str, str]) -> None:
    front = sides[0]
    host, _, port = front.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as wire:
        wire.sendall(b"GET // HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 404")
    assert answers(f"{front}/")


@pytest.mark.parametrize(("status", "answer"), [(503, 502), (429, 502), (400, 401)])
def test_only_a_dead_grant_signs_out_at_node(status: int, answer: int) -> None:
    token_endpoint = FastAPI()

    @token_endpoint.post("/token")
    async def token() -> JSONResponse:
        return JSONResponse({"error": "invalid_grant"}, status)

    now, front = int(time.time()), f"http://127.0.0.1:{free_port()}"
    data = {"accessToken": "a", "refreshToken": "r", "expiresAt": now - 1}
    payload = {"uid": "1", "iat": now, "exp": now + 100, "ttl": 100, "data": data}
    cookie = iron.seal(
        json.dumps(payload).encode(),
        password=iron.Password("1", SECRET.encode()),
        expires_at=None,
        random_bytes=os.urandom,
    )
    with in_thread(token_endpoint) as port:
        env = {
            "EXAMPLE_SECRET": SECRET,
            "EXAMPLE_CLIENT_SECRET": SECRET,
            "EXAMPLE_BUFFER": "1",
            "EXAMPLE_PROVIDER": f"http://127.0.0.1:{port}",
            "EXAMPLE_BACK_END": front,
            "EXAMPLE_FRONT_END": front,
        }
        command = ["node", str(node_directory() / "server.mjs")]
        with start(command, env=env, ready=lambda _: answers(f"{front}/")):
            headers = {"cookie": f"ideal_session={cookie}"}
            got = httpx.get(f"{front}/me", headers=headers, trust_env=False)
    assert got.status_code == answer
    assert ("set-cookie" in got.headers) is (answer == 401)


def test_the_front_end_shows_what_both_sides_say(sides: tuple[str, str, str]) -> None:
    front, back, _ = sides
    page = httpx.get(front, trust_env=False).text
    assert f'href="{back}/login"' in page
    assert answers(f"{front}/")
