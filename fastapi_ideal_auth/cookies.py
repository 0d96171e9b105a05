"""The session's cookie on the wire: found, joined, cut, set and cleared. Knows nothing of seals.

A value too long for one cookie is cut into chunks ``name.0`` … ``name.3``. A browser that drops a
cookie keeps the previous one, and responses arrive out of order; so what counts as present is
whatever run of chunks opens, and that is for the caller to try.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from .errors import ConfigurationError, CookieTooLarge

SameSite = Literal["lax", "strict", "none"]

LONGEST: Final = 4096
"""Bytes of one Set-Cookie line. RFC 6265bis §5.7 has it for name and value alone, as Chromium
does (4,097 are dropped without a word and the previous cookie is kept); others count all."""

MAX_CHUNKS: Final = 4
"""So the whole budget is 16 KB; node refuses request headers above that."""

WARN_BYTES: Final = 3800
"""Of Set-Cookie in one response. Stock nginx answers 502 when the response's headers pass 4 KB."""

_CHUNK_SUFFIXES: Final = tuple(f".{n}" for n in range(MAX_CHUNKS))
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_PATH: Final = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")  # RFC 6265bis §4.1.1: no ; nor controls
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_EPOCH: Final = "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass(frozen=True, slots=True)
class CookieSettings:
    """A cookie's name on the wire and its attributes. Make it with `of`, which checks them."""

    name: str
    secure: bool
    samesite: SameSite
    domain: str | None
    path: str
    names: Mapping[bytes, str]
    """``name`` and those of its chunks in their order, by the bytes that a request has."""
    also: Mapping[bytes, str] | None = None
    """The same of another name that a session may still come under; none is set under it."""

    @property
    def other_name(self) -> str | None:
        """The name behind ``also``."""
        return None if self.also is None else next(iter(self.also.values()))

    @classmethod
    def of(
        cls,
        *,
        name: str = "ideal_session",
        secure: bool = True,
        samesite: SameSite = "lax",
        domain: str | None = None,
        path: str = "/",
        prefixes: Sequence[bool] = (True,),
    ) -> CookieSettings:
        """``prefixes``: whether ``__Host-`` comes before the name, for the session that is written
        and then for others that are read too. Raises `ConfigurationError` for attributes that
        browsers refuse."""
        _check(name, secure=secure, samesite=samesite, domain=domain, path=path)
        # __Host- (RFC 6265bis §4.1.3.2): no other host and no plain-http page can set it.
        can = secure and domain is None and path == "/"
        names = dict.fromkeys(f"__Host-{name}" if can and each else name for each in prefixes)
        first, *others = names
        also = names_of(others[0]) if others else None
        return cls(first, secure, samesite, domain, path, names_of(first), also)


def _check(name: object, *, secure: object, samesite: object, domain: object, path: object) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(
            f"cookie_name {name!r} has characters a cookie's name cannot have: use letters, "
            f"digits, - and _"
        )
    if name.lower().startswith(("__host-", "__secure-", "__http-")):
        raise ConfigurationError(
            f"cookie_name {name!r}: leave the prefix out; __Host- is put before the name when the "
            f"cookie is secure, with path / and no domain"
        )
    if name.endswith(_CHUNK_SUFFIXES):
        raise ConfigurationError(
            f"cookie_name {name!r}: choose another ending; .0 to .{MAX_CHUNKS - 1} mark the parts "
            f"of a cookie that was cut"
        )
    if not isinstance(secure, bool):  # "false" from the environment is true
        raise ConfigurationError(f"cookie_secure is True or False; got {secure!r}")
    if samesite not in ("lax", "strict", "none"):
        raise ConfigurationError(f'cookie_samesite is "lax", "strict" or "none"; got {samesite!r}')
    if samesite == "none" and not secure:
        raise ConfigurationError(
            'cookie_samesite="none" needs cookie_secure=True: browsers drop the cookie otherwise'
        )
    if domain is not None and not (isinstance(domain, str) and _DOMAIN.fullmatch(domain)):
        raise ConfigurationError(
            f"cookie_domain is a host name such as example.com; got {domain!r}"
        )
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ConfigurationError(f"cookie_path is a path such as /; got {path!r}")


def names_of(name: str) -> dict[bytes, str]:
    """A cookie's name and those of its chunks, by their bytes."""
    return {each.encode(): each for each in (name, *(name + n for n in _CHUNK_SUFFIXES))}


# -- reading --------------------------------------------------------------------------------------


class Presented(NamedTuple):
    """What a request carries under our name."""

    bare: str | None = None
    chunks: tuple[str, ...] = ()
    """The unbroken run 0, 1, 2 …"""
    names: tuple[str, ...] = ()
    """Every name of ours that is present, for clearing."""
    also: Presented | None = None
    """What it carries under the other name (`CookieSettings.also`); ``names`` has its names too."""

    def __bool__(self) -> bool:
        return bool(self.names)

    def __repr__(self) -> str:  # no value: whoever has it is signed in
        return f"Presented(names={self.names})"


_NOTHING: Final = Presented()


def read(header: bytes | str | None, settings: CookieSettings) -> Presented:
    """Find our cookies in a Cookie header, in one pass. The first of a name counts: browsers send
    the more specific path first (RFC 6265bis §5.8.3), and ``__Host-`` leaves no choice anyway."""
    if not header:
        return _NOTHING
    data = header.encode("latin-1", "replace") if isinstance(header, str) else header
    found = _read(data, settings.names)
    if settings.also is None:
        return found
    other = _read(data, settings.also)
    return found._replace(names=found.names + other.names, also=other) if other else found


def _read(data: bytes, names: Mapping[bytes, str]) -> Presented:
    found: dict[str, str] = {}
    for pair in data.split(b";"):
        key, equals, value = pair.partition(b"=")
        name = names.get(key.lstrip())
        if name is not None and equals and name not in found:
            text = value.strip().decode("latin-1")
            quoted = len(text) > 1 and text[0] == text[-1] == '"'
            found[name] = text[1:-1] if quoted else text
    if not found:
        return _NOTHING
    bare, *numbered = names.values()
    chunks: list[str] = []
    for name in numbered:
        if name not in found:
            break
        chunks.append(found[name])
    return Presented(found.get(bare), tuple(chunks), tuple(found))


def runs(presented: Presented) -> Iterator[str]:
    """What the runs of chunks join to, the longest first: a stale chunk may lie behind a good set,
    so a shorter run than all of them may be the session."""
    for end in range(len(presented.chunks), 0, -1):
        yield "".join(presented.chunks[:end])


def candidates(presented: Presented) -> Iterator[str]:
    """Values that may be a session: the bare cookie, then the runs of chunks."""
    if presented.bare is not None:
        yield presented.bare
    yield from runs(presented)


def replaceable(presented: Presented) -> Iterator[str]:
    """Values of which one may be the cookie that a response replaces, under either name."""
    yield from candidates(presented)
    if presented.also is not None:
        yield from candidates(presented.also)


# -- writing --------------------------------------------------------------------------------------


def set_cookie_line(
    name: str,
    value: str,
    settings: CookieSettings,
    *,
    max_age: int | None,
    samesite: SameSite | None = None,
) -> str:
    """One Set-Cookie value; ``max_age=None`` is a browser-session cookie."""
    line = f"{name}={value}; Path={settings.path}"
    if settings.domain is not None:
        line += f"; Domain={settings.domain}"
    if max_age is not None:
        line += f"; Max-Age={max_age}"
    if max_age == 0:
        line += f"; Expires={_EPOCH}"
    line += "; HttpOnly"
    if settings.secure:
        line += "; Secure"
    return f"{line}; SameSite={(samesite or settings.samesite).capitalize()}"


def clear_cookie_line(name: str, settings: CookieSettings) -> str:
    """The line that makes a browser forget ``name``, with the attributes it was set with."""
    return set_cookie_line(name, "", settings, max_age=0)


def set_lines(
    value: str, settings: CookieSettings, presented: Presented, *, max_age: int | None
) -> list[str]:
    """The lines that set ``value``, whole or cut, and clear what would stay behind of another cut.

    Raises `CookieTooLarge` over four chunks.
    """
    new = _cut(value, settings, max_age=max_age)
    stale = [name for name in presented.names if name not in new]
    return [*new.values(), *(clear_cookie_line(name, settings) for name in stale)]


def clear_lines(settings: CookieSettings, presented: Presented) -> list[str]:
    """The lines that clear the session in whatever shape it came, and the bare name always."""
    names = dict.fromkeys((settings.name, *presented.names))
    return [clear_cookie_line(name, settings) for name in names]


def _cut(value: str, settings: CookieSettings, *, max_age: int | None) -> dict[str, str]:
    whole = set_cookie_line(settings.name, value, settings, max_age=max_age)
    if len(whole) <= LONGEST:
        return {settings.name: whole}
    empty = set_cookie_line(f"{settings.name}.0", "", settings, max_age=max_age)
    room = LONGEST - len(empty)
    if len(value) > MAX_CHUNKS * room:  # of a line full of attributes too, where room is negative
        raise CookieTooLarge
    pieces = [value[at : at + room] for at in range(0, len(value), room)]
    names = [f"{settings.name}.{n}" for n in range(len(pieces))]
    return {
        name: set_cookie_line(name, piece, settings, max_age=max_age)
        for name, piece in zip(names, pieces, strict=True)
    }
