"""``make demo`` as a person meets it: the page, in Chromium, on a desktop and on a phone."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .browser import chromium
from .processes import ROOT, answers, free_port, start


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=[(1, 1280), (4, 390)], ids=["1 worker, desktop", "4 workers, phone"])
def demo(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    workers, width = request.param
    port, provider = free_port(), free_port()
    command = [sys.executable, "-m", "examples.dashboard", "--port", str(port)]
    options = ["--provider-port", str(provider), "--workers", str(workers)]
    url = f"http://127.0.0.1:{port}/"
    with start([*command, *options], ready=lambda _: answers(url), cwd=ROOT) as process:
        yield url, width
        assert "Traceback" not in process.output()


def test_a_person_watches_25_requests_and_1_refresh(browser: Any, demo: tuple[str, int]) -> None:
    url, width = demo
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(url)
    page.get_by_role("link", name=re.compile("sign in", re.I)).first.click()
    page.locator("button[name=person]").first.click()
    page.wait_for_url(url)
    assert page.inner_text("h1").startswith("Still signed in")
    page.click("#arm")
    page.get_by_text("25 requests · 1 refresh", exact=True).wait_for(timeout=30_000)
    assert "one token" in page.inner_text("#timeline")
    # Nothing sticks out: the page is no wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name=re.compile("sign in", re.I)).first.wait_for()
    assert context.cookies(url) == []
    assert problems == []
    context.close()
