"""A headless Chromium, as the tests use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
