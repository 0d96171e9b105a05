"""A headless Chromium, as the tests use it, and a person signing in and out at a provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .processes import missing, require_chromium

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[object]:
    """A browser whose pages reach loopback and nothing else."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("not installed: playwright (pip)")
    path = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


PAGES = 3  # a name, a password, a consent; a confirmation and a stop on the way


def sign_in(page: Any, url: str, user: str = "ada", password: str = "") -> None:
    """Open ``url``, the app's way in, and fill in whatever is asked until back at the app."""
    page.goto(url)
    for _ in range(PAGES):
        if _origin(page.url) == _origin(url):
            return
        with page.expect_navigation():
            _answer(page, user, password)
    assert _origin(page.url) == _origin(url), f"the provider still asks: {page.content()}"


def _answer(page: Any, user: str, password: str) -> None:
    for field, value in (("login", user), ("password", password)):
        if page.locator(f"input[name={field}]").count():
            page.fill(f"input[name={field}]", value)
            page.press(f"input[name={field}]", "Enter")
            return
    page.click("button[value=accept]", timeout=5_000)


def sign_out(page: Any, url: str) -> None:
    """Open ``url``, the app's way out, and confirm wherever asked until back at the app."""
    page.goto(url)
    with page.expect_navigation():
        page.click("button")
    for _ in range(PAGES):
        if _origin(page.url) == _origin(url):
            return
        with page.expect_navigation():
            page.click("button[value=yes], button[value=logout]", timeout=5_000)
    assert _origin(page.url) == _origin(url), f"the provider still asks: {page.content()}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
