"""A session goes along to another domain in a real browser.

``localhost`` and ``127.0.0.1`` are two sites to Chromium, and both take ``__Host-`` cookies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .browser import chromium
from .processes import free_port, uvicorn
from .support import SECRET


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@contextmanager
def served(**env: str) -> Iterator[tuple[str, str]]:
    """The app's two origins."""
    port = free_port()
    one, two = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
    env = {"SESSION_SECRET": SECRET, "ORIGINS": f"{one} {two}", **env}
    with uvicorn("tests.transferring_app:app", port, workers=2, env=env):
        yield one, two


def seen(page: Any, url: str) -> str:
    page.goto(url)
    return str(page.inner_text("h1"))


@pytest.mark.parametrize(
    "policy", ["", "strict-origin-when-cross-origin", "no-referrer", "same-origin"]
)
def test_a_person_arrives_signed_in(browser: Any, policy: str) -> None:
    with served(**({"REFERRER_POLICY": policy} if policy else {})) as (one, two):
        page = browser.new_page()
        page.goto(f"{one}/in/ada")
        assert seen(page, f"{two}/who") == "nobody"
        visited: list[str] = []
        page.on("request", lambda request: visited.append(request.url))
        page.goto(f"{one}/transfer?to={two}&next=/who")
        page.wait_for_url(f"{two}/who")
        assert page.inner_text("h1") == "ada"
        assert visited[:3] == [
            f"{one}/transfer?to={two}&next=/who",
            f"{two}/transfer",
            f"{two}/who",
        ], "no ticket in an address"
        page.context.close()


def test_who_was_there_before_gives_way(browser: Any) -> None:
    with served() as (one, two):
        page = browser.new_page()
        page.goto(f"{two}/in/eve")
        page.goto(f"{one}/in/ada")
        page.goto(f"{one}/transfer?to={two}&next=/who")
        page.wait_for_url(f"{two}/who")
        assert page.inner_text("h1") == "ada"
        page.context.close()
