"""The page of each provider: its program builds the provider, its facts are the registration's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_ideal_auth import SessionUser, providers
from fastapi_ideal_auth.client import OAuthClient
from fastapi_ideal_auth.providers import Registration

from .provider_pages import DOCS, PAGES, page

INDEX = (DOCS / "README.md").read_text()
EACH = pytest.mark.parametrize("slug", sorted(PAGES))


class User(SessionUser):
    email: str | None = None
    name: str | None = None


def run(slug: str) -> dict[str, Any]:
    """The page's one program, with what it says is the README's."""
    text = (DOCS / f"{slug}.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    program = block.replace(' secret="…"', f' secret="{"s" * 32}"')
    namespace: dict[str, Any] = {"__name__": slug, "User": User, "app": FastAPI()}
    exec(compile(program, f"{slug}.md", "exec"), namespace)  # noqa: S102 - that is the test
    return namespace


def test_each_registration_has_a_page() -> None:
    registered = {one for one in vars(providers).values() if isinstance(one, Registration)}
    assert {one for ones in PAGES.values() for one in ones} == registered
    assert {path.stem for path in DOCS.glob("*.md")} == PAGES.keys() | {"README"}


@EACH
def test_the_program_of_a_page_builds_its_provider(slug: str) -> None:
    program = run(slug)
    built = program["provider"]
    registration = PAGES[slug][0]
    assert isinstance(built, OAuthClient)
    assert (built.issuer is None) == (registration.issuer is None)
    assert built.token_endpoint_auth_method == registration.token_endpoint_auth_method
    assert built.scope == (" ".join(registration.scope) or None)


@EACH
def test_the_program_of_a_page_signs_in(slug: str) -> None:
    program = run(slug)
    assert {"/login", "/callback", "/logout"} <= program["app"].openapi()["paths"].keys()
    provider = program["provider"]
    if provider.issuer is not None:
        return  # its addresses are discovered, which no test of a page should try
    client = TestClient(program["app"], base_url="https://testserver", follow_redirects=False)
    address = client.get("/login").headers["location"]
    assert address.startswith(f"{provider.authorization_endpoint}?")


@EACH
def test_the_facts_of_a_page_are_the_registrations(slug: str) -> None:
    assert (DOCS / f"{slug}.md").read_text() == page(slug), "run `python -m tests.provider_pages`"


@EACH
def test_a_page_has_every_part(slug: str) -> None:
    text = (DOCS / f"{slug}.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0].startswith("At ")
    assert headings[1:] == [
        "What its refresh tokens do",
        "The size of its tokens",
        "Signing out",
        "Sources",
    ]
    assert "https://your.app/callback" in text
    assert "<!-- facts -->" in text
    assert "<!-- sources -->" in text


@EACH
def test_the_index_leads_to_the_page_and_names_what_is_given(slug: str) -> None:
    (row,) = (line for line in INDEX.splitlines() if f"({slug}.md)" in line)
    for one in PAGES[slug]:
        (constant,) = (name for name, value in vars(providers).items() if value is one)
        assert f"`{constant}`" in row
        assert all(f"`{field}`" in row for field in one.fields)
