"""An access token on its way to an API: added to requests for the hosts it is meant for, only.

Works on the request of whichever HTTP client; sends nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

from .errors import ConfigurationError

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
_LOOPBACK: Final = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
_TOKEN: Final = re.compile(r"[!-~]+")
_PORTS: Final = {"https": 443, "http": 80}


class _URL(Protocol):
    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...


class _Request(Protocol):
    @property
    def url(self) -> Any: ...
    @property
    def headers(self) -> Any: ...


R = TypeVar("R", bound=_Request)


class BearerAuth:
    """``auth=`` of an ``httpx`` or ``httpx2`` client or request: a bearer token (RFC 6750 §2.1).

    ``hosts``: where the token may go: ``api.example``, or ``api.example:8443`` for another port
    than that of https. Plain http is for loopback. A request to anywhere else raises
    `ConfigurationError` and is not sent; a redirect to another origin loses the token, as the
    client takes the header off.
    """

    __slots__ = ("_hosts", "_token")

    def __init__(self, token: str, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(map(checked_host, hosts))
        if not self._hosts:
            raise ConfigurationError(
                'name the hosts the token may go to: user.bearer("api.example")'
            )
        if not _TOKEN.fullmatch(token):
            raise ConfigurationError("the access token cannot stand in a header (RFC 6750 §2.1)")
        self._token = token

    def __repr__(self) -> str:
        return f"<bearer token for {', '.join(host for host, _ in sorted(self._hosts))}>"

    def __call__(self, request: R) -> R:
        """The request with the token. Raises `ConfigurationError` for another host."""
        check_target(request.url, self._hosts)
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def checked_host(host: object) -> tuple[str, int | None]:
    """A host name, in lower case, and a port or ``None``. Raises `ConfigurationError`."""
    match = _HOST.fullmatch(host.lower()) if isinstance(host, str) else None
    if match is None:
        raise ConfigurationError(
            f"{host!r} is no host: write it as in api.example or api.example:8443, without a "
            f"scheme or path"
        )
    return match[1], int(match[2]) if match[2] else None


def check_target(url: _URL, hosts: frozenset[tuple[str, int | None]]) -> None:
    """Raises `ConfigurationError` where a token for ``hosts`` must not go."""
    host = url.host.lower()
    name = f"[{host}]" if ":" in host else host
    port = url.port or _PORTS.get(url.scheme)
    secure = url.scheme == "https" or (url.scheme == "http" and _LOOPBACK.fullmatch(name))
    expected = {(name, port)} | ({(name, None)} if port == _PORTS.get(url.scheme) else set())
    if not secure or not expected & hosts:
        raise ConfigurationError(
            f"the token may not go to {url.scheme}://{name}:{port}: it is for "
            f"{', '.join(each for each, _ in sorted(hosts))} over https"
        )
