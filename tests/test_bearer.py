"""The access token on its way to an API: to the hosts it is meant for, and to no other."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from fastapi_ideal_auth import BearerAuth, ConfigurationError

from .support import User

USER = User(id="1", access_token="the-access-token")
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])


def seen_by(library: ModuleType, url: str, *hosts: str, **options: Any) -> list[tuple[str, Any]]:
    """The hosts a request went to, and the authorization each of them saw."""
    seen: list[tuple[str, Any]] = []

    def answer(request: Any) -> Any:
        seen.append((str(request.url), request.headers.get("authorization")))
        if request.url.path == "/away":
            return library.Response(307, headers={"location": "https://evil.example/"})
        if request.url.path == "/other-port":
            return library.Response(307, headers={"location": "https://api.example:8443/"})
        return library.Response(200)

    transport = library.MockTransport(answer)
    with library.Client(transport=transport, auth=USER.bearer(*hosts), **options) as client:
        client.get(url)
    return seen


@LIBRARIES
def test_the_token_goes_to_its_host(library: ModuleType) -> None:
    url = "https://api.example/v1"
    assert seen_by(library, url, "api.example") == [(url, "Bearer the-access-token")]
    assert seen_by(library, url, "other.example", "API.example")[0][1]


@LIBRARIES
@pytest.mark.parametrize("path", ["away", "other-port"])
def test_a_redirect_elsewhere_loses_it(library: ModuleType, path: str) -> None:
    first, second = seen_by(
        library, f"https://api.example/{path}", "api.example", follow_redirects=True
    )
    assert first[1] == "Bearer the-access-token"
    assert second[1] is None


@LIBRARIES
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://api.example.evil.example/",
        "https://api.example@evil.example/",
        "https://evil.example/api.example",
        "https://xapi.example/",
        "https://sub.api.example/",
        "https://api.example:8443/",
        "http://api.example/",
        "http://127.0.0.1/",
    ],
)
def test_anywhere_else_is_an_error_and_nothing_is_sent(library: ModuleType, url: str) -> None:
    with pytest.raises(ConfigurationError, match="may not go to") as raised:
        seen_by(library, url, "api.example")
    assert "the-access-token" not in str(raised.value)


@LIBRARIES
@pytest.mark.parametrize(
    ("url", "host", "says"),
    [
        ("http://127.0.0.1:9000/", "127.0.0.1", r"127.0.0.1:9000 is not named"),
        ("https://api.example:8443/", "api.example", "api.example:8443 is not named"),
        ("https://sub.api.example/", "api.example", "sub.api.example is not named"),
        ("http://api.example/", "api.example", "no token travels over plain http"),
    ],
)
def test_the_error_says_what_would_have_to_be_named(
    library: ModuleType, url: str, host: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        seen_by(library, url, host)


@LIBRARIES
@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example:8443/", "api.example:8443"),
        ("https://api.example:443/", "api.example"),
        ("https://api.example/", "api.example:443"),
        ("http://127.0.0.1:9000/", "127.0.0.1:9000"),
        ("http://localhost/", "localhost"),
        ("http://[::1]:9000/", "[::1]:9000"),
        ("https://[2001:db8::1]/", "[2001:db8::1]"),
    ],
)
def test_ports_and_this_machine(library: ModuleType, url: str, host: str) -> None:
    assert seen_by(library, url, host)[0][1] == "Bearer the-access-token"


@LIBRARIES
async def test_it_works_in_an_async_client(library: ModuleType) -> None:
    transport = library.MockTransport(
        lambda request: library.Response(200, text=request.headers["authorization"])
    )
    async with library.AsyncClient(transport=transport) as client:
        answer = await client.get("https://api.example", auth=USER.bearer("api.example"))
    assert answer.text == "Bearer the-access-token"


@pytest.mark.parametrize(
    "host",
    ["", "https://api.example", "api.example/", "api.example:", "*.example", "a b", "a@b", 7],
)
def test_what_is_no_host_is_refused(host: Any) -> None:
    with pytest.raises(ConfigurationError, match="no host"):
        USER.bearer(host)


def test_no_host_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name the hosts"):
        USER.bearer()


def test_a_token_that_could_break_a_header_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot stand in a header") as raised:
        BearerAuth("secret\r\nx: y", ["api.example"])
    assert "secret" not in str(raised.value)


def test_its_repr_shows_the_hosts_alone() -> None:
    assert repr(USER.bearer("b.example", "a.example")) == "<bearer token for a.example, b.example>"
