"""The how-to pages: their programs run as they stand there, and their commands do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, SessionUser
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin

from .providers.iron_node import IRON_SESSION_8, IRON_SESSION_9, NodeIron
from .support import SECRET

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs" / "how-to").glob("*.md"))
NEW = "a-new-secret-of-these-tests-of-some-length"
OLD = "an-old-secret-of-these-tests-of-some-length"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def page(name: str) -> Path:
    (found,) = (each for each in PAGES if each.stem == name)
    return found


def run(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All of its blocks, one after the other, as a reader would put them together."""
    for name in ("IDEAL_AUTH_SECRET", "SESSION_SECRETS"):
        monkeypatch.setenv(name, NEW)
    monkeypatch.setenv("CLIENT_SECRET", "tests-secret")
    namespace: dict[str, Any] = {"__name__": "how_to"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)  # noqa: S102 - that is the test
    return namespace


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_programs_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run(page, monkeypatch)["auth"], IdealAuth)


def test_the_route_that_refreshes_for_node_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    app = run(page("moving-from-iron-session"), monkeypatch)["app"]
    assert TestClient(app, base_url="https://testserver").get("/session").status_code == 401


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_that_looks_into_a_cookie_works(page: Path) -> None:
    (command,) = (each for each in blocks(page, "sh") if "inspect" in each)
    now = time.time()
    user = SessionUser(id="1", access_token="a")
    auth = IdealAuth(SessionUser, secret=OLD)
    begun = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
    (line,) = auth.cookie_lines(begun, read("", auth.cookies), now=now)
    cookie = line.partition(";")[0].partition("=")[2]
    directory = str(Path(sys.executable).parent)
    env = {"COOKIE": cookie, "SECRET": OLD, "OLD": OLD, "NEW": NEW}
    env["PATH"] = os.pathsep.join((directory, os.environ["PATH"]))
    ran = subprocess.run(
        ["/bin/sh", "-ec", command], env=env, capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1].startswith("good: ")
    if "$NEW $OLD" in command:
        assert "(secret 2 of 2)" in ran.stdout


@pytest.mark.parametrize(("package", "number"), [(IRON_SESSION_9, "1"), (IRON_SESSION_8, "2")])
def test_a_node_side_accepts_without_sealing_only_with_version_9(
    node_iron: NodeIron, package: str, number: str
) -> None:
    cookie = "s=" + node_iron.seal(package, {"a": 1}, {"1": SECRET})
    both = {"1": SECRET, "2": NEW}
    options = {"cookieName": "s", "ttl": 1000}
    lines = node_iron.save(package, {"a": 1}, both, cookie=cookie, writing={"1": SECRET}, **options)
    assert lines[0].split("*")[1] == number
