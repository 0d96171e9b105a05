"""An access token on its way to an API: added to requests for the hosts it is meant for, only.

Works on the request of whichever HTTP client; sends nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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

    def __init__(self, token: str, hosts: Iterable[str]) -> None:
        self._hosts = Hosts(hosts)
        if not _TOKEN.fullmatch(token):
            raise ConfigurationError("the access token cannot stand in a header (RFC 6750 §2.1)")
        self._token = token

    def __repr__(self) -> str:
        return f"<bearer token for {self._hosts}>"

    def __call__(self, request: R) -> R:
        """The request with the token. Raises `ConfigurationError` for another host."""
        self._hosts.check(request.url)
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Hosts:
    """Where a token may go: ``api.example`` (over https), or with a port ``api.example:8443``.

    Raises `ConfigurationError` for what is no host, and for none at all.
    """

    __slots__ = ("_named",)

    def __init__(self, hosts: Iterable[str]) -> None:
        self._named = frozenset(map(_checked, hosts))
        if not self._named:
            raise ConfigurationError('name the hosts the token may go to, such as "api.example"')

    def __str__(self) -> str:
        return ", ".join(sorted(f"{name}:{port}" if port else name for name, port in self._named))

    def check(self, url: _URL) -> None:
        """Raises `ConfigurationError` where the token must not go: another host, or plain http."""
        host = url.host.lower()
        name = f"[{host}]" if ":" in host else host
        default = _PORTS.get(url.scheme)
        port = url.port or default
        safe = url.scheme == "https" or (url.scheme == "http" and _LOOPBACK.fullmatch(name))
        is_named = (name, port) in self._named or (port == default and (name, None) in self._named)
        if not (safe and is_named):
            where = name if port == _PORTS["https"] else f"{name}:{port}"
            why = f"{where} is not named" if safe else "no token travels over plain http"
            raise ConfigurationError(
                f"the token may not go to {url.scheme}://{where}: it is for {self}, and {why}"
            )


def _checked(host: object) -> tuple[str, int | None]:
    match = _HOST.fullmatch(host.lower()) if isinstance(host, str) else None
    if match is None:
        raise ConfigurationError(
            f"{host!r} is no host: write it as in api.example or api.example:8443, without a "
            f"scheme or path"
        )
    return match[1], int(match[2]) if match[2] else None
