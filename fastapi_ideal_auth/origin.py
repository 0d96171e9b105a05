"""Which requests come from our own pages, and which paths lead back to them. Pure values only.

The guard has the shape of Go's ``net/http.CrossOriginProtection``: no token in any form, just what
browsers say of a request's origin by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from .errors import ConfigurationError

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
"""RFC 9110 §9.2.1, without TRACE."""

CROSS_ORIGIN: Final = "Cross-origin request refused"

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class CrossOriginGuard:
    """Refuses unsafe requests that another origin's page made. Make it with `of`."""

    trusted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, trusted_origins: Sequence[str], more: Iterable[str] = ()) -> CrossOriginGuard:
        """``more``: origins checked already. Raises `ConfigurationError` for what is none."""
        if isinstance(trusted_origins, str):
            raise ConfigurationError("trusted_origins takes a sequence of origins, not one string")
        return cls(frozenset((*map(checked_origin, trusted_origins), *more)))

    def check(
        self, method: str, headers: Iterable[tuple[bytes, bytes]], *, websocket: bool = False
    ) -> str | None:
        """``None`` to let through, else the reason; ``headers`` are ASGI's, names in lower case."""
        if method in SAFE_METHODS and not websocket:
            return None
        return None if self._passes(_deciding(headers)) else CROSS_ORIGIN

    def _passes(self, said: dict[bytes, list[bytes]]) -> bool:
        origins, sites, hosts = said[b"origin"], said[b"sec-fetch-site"], said[b"host"]
        if len(origins) > 1 or len(sites) > 1:
            return False  # a proxy or an attacker wrote one of them
        origin = origins[0].decode("latin-1") if origins else None
        if origin is not None and self.trusted and normal_origin(origin) in self.trusted:
            return True
        if sites:
            # "none": the person typed it or used a bookmark. "same-site" is another origin.
            return sites[0] in (b"same-origin", b"none")
        if origin is None:
            return True  # neither header: not a browser, so no victim's cookie
        # An older browser. The scheme cannot be compared: behind a proxy it is not known.
        return len(hosts) == 1 and is_host(origin, hosts[0].decode("latin-1"))


def _deciding(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    said: dict[bytes, list[bytes]] = {b"origin": [], b"sec-fetch-site": [], b"host": []}
    for name, value in headers:
        values = said.get(name.lower())  # a server that keeps the case must not disarm the guard
        if values is not None:
            values.append(value)
    return said


def checked_origin(origin: object, *, option: str = "trusted_origins") -> str:
    """An origin in its one spelling. Raises `ConfigurationError`, naming ``option``."""
    normal = normal_origin(origin) if isinstance(origin, str) else None
    if normal is None:
        raise ConfigurationError(
            f"{option} takes origins such as https://app.example or "
            f"http://127.0.0.1:3000 (scheme, host, port, and nothing more); got {origin!r}"
        )
    return normal


# ASCII only: browsers send a name in its xn-- form, and no other spelling would ever match.
_HOST: Final = r"[^\x00-\x20\x7f-\U0010ffff/?#@:\[\]\\*]+|\[[0-9a-f:.]+\]"
_ORIGIN: Final = re.compile(rf"(https?)://({_HOST})(?::(\d{{1,5}}))?", re.IGNORECASE | re.ASCII)


def normal_origin(origin: str) -> str | None:
    """Scheme, host and port in one spelling (RFC 6454 §6.2); ``None`` for what is no origin."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, host = match[1].lower(), match[2].lower()
    port = int(match[3]) if match[3] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65_536:
        return None
    return f"{scheme}://{host}:{port}"


def is_host(origin: str, host: str) -> bool:
    """Whether the origin's host and port are those of a ``Host`` header."""
    match = _ORIGIN.fullmatch(origin)  # "null" is no match
    if match is None:
        return False
    normal = normal_origin(f"{match[1]}://{host}")
    return normal is not None and normal == normal_origin(origin)


# -- where ``next`` may lead ----------------------------------------------------------------------

# Browsers drop tabs and newlines inside a URL and take a backslash for a slash (WHATWG URL §4.4).
_PATH: Final = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f-\x9f\u2028\u2029]*")
_LONGEST_PATH: Final = 2048
"""Bytes; it must fit into a cookie while somebody signs in."""


def local_path(path: str | None, default: str = "/") -> str:
    """``path`` if it leads to this origin, else ``default``."""
    # Printable: nothing invisible, no space beyond ASCII's, no lone surrogate to fail on later.
    if path is None or not path.isprintable() or not _PATH.fullmatch(path):
        return default
    if len(path.encode()) > _LONGEST_PATH:
        return default
    try:
        parts = urlsplit(path)
    except ValueError:
        return default
    return default if parts.scheme or parts.netloc else path
