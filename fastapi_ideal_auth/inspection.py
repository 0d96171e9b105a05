"""What an operator who holds the secret may see of a cookie: all but the tokens and the values.

For a cookie that is good it tells format, key, sizes, lifetimes and generation; for a bad one the
check that failed, which no answer over the network ever tells. It knows no model: fields are named
as the cookie names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from pydantic import AliasChoices, AliasGenerator, ConfigDict
from pydantic.alias_generators import to_camel

from . import iron
from .cookies import CookieSettings, names_of, read, replaceable
from .errors import InvalidCookie
from .generation import Codec, Generation, Lifetimes, label
from .iron import Password
from .payload import OWN, PayloadCodec, seconds
from .seal import KEY_ID_BYTES, Failed, KeyRing, b64decode, b64encode
from .sealers import SESSION
from .user import TOKENS, SessionUser

NOT_A_SESSION: Final = "it opens, and what is inside is no session that this version can read"
_JWT_ALG: Final = re.compile(r"[A-Za-z0-9-]{1,20}")  # RFC 7518 §3.1
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
_PREFIX: Final = "__Host-"


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say, a line each; ``good`` where the cookie is a live session's."""

    good: bool
    lines: tuple[str, ...]


class AnyUser(SessionUser):
    """Every field, whatever the application's model calls it."""

    model_config = ConfigDict(extra="allow")


class AnyNodeUser(AnyUser):
    """The same, with the tokens under their own names or as JavaScript would write them."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(
            validation_alias=lambda name: AliasChoices(name, to_camel(name))
        )
    )


def report(
    text: str, *, ring: KeyRing, cookie_name: str, purpose: str = SESSION, now: float
) -> Report:
    """``text`` is a cookie's value, ``name=value``, or a whole Cookie header.

    ``cookie_name`` is that of `IdealAuth`, with or without ``__Host-``; ``now`` is Unix seconds.
    """
    name = cookie_name.removeprefix(_PREFIX)
    found = list(dict.fromkeys(_values(text, name)))
    if not found:
        present = ", ".join(_printable(each) for each in _names(text)) or "none"
        return _bad(f"there is no cookie {name} or {_PREFIX}{name} in it (names found: {present})")
    reports = [_inspected(value, ring, cookie_name, purpose, now) for value in found]
    return next((each for each in reports if each.good), reports[0])


# -- what was given -------------------------------------------------------------------------------


def _values(text: str, name: str) -> Iterator[str]:
    header = _header(text)
    if "=" not in header:  # neither seal has one in it
        if header:
            yield header
        return
    for wire in (f"{_PREFIX}{name}", name):
        settings = CookieSettings(wire, False, "lax", None, "/", names_of(wire))
        yield from replaceable(read(header, settings))


def _header(text: str) -> str:
    header = text.strip()
    return header[7:].strip() if header[:7].lower() == "cookie:" else header


def _names(text: str) -> list[str]:
    parts = (part.partition("=") for part in _header(text).split(";"))
    return [name.strip() for name, equals, _ in parts if equals]


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)[:64]


# -- the two formats ------------------------------------------------------------------------------


def _inspected(value: str, ring: KeyRing, cookie_name: str, purpose: str, now: float) -> Report:
    if value.startswith(iron.PREFIX):
        return _iron(value, ring, cookie_name.removeprefix(_PREFIX), purpose, now)
    return _native(value, ring, cookie_name, purpose, now)


def _native(value: str, ring: KeyRing, cookie_name: str, purpose: str, now: float) -> Report:
    try:
        sealed = b64decode(value)
    except ValueError:
        return _bad("it is neither base64url nor Fe26.2: cut off, or not a cookie of this library")
    head = [f"format      native, version {sealed[0]}" if sealed else "format      unknown"]
    key_id = sealed[1 : 1 + KEY_ID_BYTES]
    head.append(f"key id      {key_id.hex()} ({_which([key_id == each for each in ring.key_ids])})")
    names = dict.fromkeys((cookie_name, _PREFIX + cookie_name.removeprefix(_PREFIX)))
    names.setdefault(cookie_name.removeprefix(_PREFIX))
    tried = [ring.box(purpose=purpose, binding=name.encode()).examine(sealed) for name in names]
    # Under the wrong name a seal fails earlier than under its own.
    failed = Failed.CIPHERTEXT if Failed.CIPHERTEXT in tried else tried[0]
    opened = next((each for each in tried if isinstance(each, bytes)), failed)
    if isinstance(opened, Failed):
        return _bad(opened.value, head)
    head.append(f"sealed for  {_printable(list(names)[tried.index(opened)])}")
    head.append(f"size        {len(value)} characters, {len(opened)} bytes inside")
    if purpose != SESSION:
        return Report(True, (*head, f"purpose     {_printable(purpose)}"))
    codec = Codec(AnyUser)
    try:
        generation = codec.unpack(opened)
    except InvalidCookie:
        generation = None
    if generation is None:
        return _bad(NOT_A_SESSION, head)
    user = generation.user
    tokens = {name: getattr(user, name) for name in TOKENS}
    tokens |= {f"for {held.resource}": held.access_token for held in generation.resources}
    sizes = codec.sizes(generation)
    for name, field in (user.model_extra or {}).items():
        sizes[name] = len(_json(field))
    mode = {True: "yes", None: "no", False: "no: until the browser closes"}[generation.remember]
    lines = [*head, *_times(generation, now), f"remembered  {mode}", *_masked(tokens)]
    return _judged(lines, sizes, generation.expires_at, now)


def _iron(value: str, ring: KeyRing, cookie_name: str, purpose: str, now: float) -> Report:
    # As if it were still 1970: that it has expired is not all that is wrong with it, perhaps.
    passwords = [[Password("", secret)] for secret in ring.secrets]
    tried = [iron.examine(value, passwords=each, any_id=True, now=0) for each in passwords]
    fits = [isinstance(each, bytes) for each in tried]
    opened = tried[fits.index(True)] if any(fits) else tried[0]
    key_id = _printable(iron.password_id(value) or "none")
    head = ["format      Fe26.2 (iron-session)", f"key id      {key_id} ({_which(fits)})"]
    if isinstance(opened, Failed):
        return _bad(opened.value, head)
    head.append(f"size        {len(value)} characters, {len(opened)} bytes inside")
    try:
        payload: Any = json.loads(opened)
        data = cast("dict[str, Any]", payload["data"])
        issued_at, expires_at = seconds(payload["iat"]), seconds(payload["exp"])
        sizes = {name: len(_json(each)) for name, each in data.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _bad(NOT_A_SESSION, head)
    use = f"{purpose}:{cookie_name}"
    made_for = _member(data, "kept", "for")
    if made_for is not None and made_for != use:
        told = _printable(made_for) if isinstance(made_for, str) else "something else"
        return _bad(f"it was made for {told}", head)
    lines = [
        *head,
        *(_of_node(opened, data, use, now) or _unread(issued_at, expires_at, now)),
        *_masked({name: each for name, each in data.items() if "token" in name.lower()}),
    ]
    sealed_until = iron.expiry(value)
    if sealed_until is not None and sealed_until <= now * 1000 - iron.SKEW:
        return _bad(Failed.EXPIRED.value, [*lines, *_sizes(sizes)])
    return _judged(lines, sizes, expires_at, now)


def _which(fits: list[bool]) -> str:
    return f"secret {fits.index(True) + 1} of {len(fits)}" if any(fits) else "no secret given here"


def _of_node(opened: bytes, data: Mapping[str, Any], use: str, now: float) -> list[str]:
    """What a server makes of the payload; empty where its tokens are not what is known here."""
    try:
        found = PayloadCodec(AnyNodeUser, lifetimes=Lifetimes(0, 0), use=use).unpack(opened)
    except InvalidCookie:
        return []
    lines = _times(found, now)
    if data.get("sid") != b64encode(found.sid):
        why = "tokens or user changed since" if "sid" in data else f"without {', '.join(OWN)}"
        lines[0] += f" ({why}: an id made from its user and tokens)"
    return lines


def _unread(issued_at: int, expires_at: int, now: float) -> list[str]:
    return [
        "session     not readable here: accessToken is text, expiresAt whole seconds; or the model "
        "has other names",
        f"signed in   {_moment(issued_at, now)}",
        f"ends        {_moment(expires_at, now)}",
    ]


def _member(data: Mapping[str, Any], *path: str) -> object:
    found: Any = data
    for name in path:
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    return found


# -- lines ----------------------------------------------------------------------------------------


def _times(generation: Generation[Any], now: float) -> list[str]:
    deadline = generation.deadline
    return [
        f"session     {label(generation.sid)}, generation {generation.gen}",
        f"signed in   {_moment(generation.issued_at, now)}",
        f"ends        {_moment(generation.expires_at, now)}",
        f"deadline    {'none' if deadline is None else _moment(deadline, now)}",
        f"tokens of   {_moment(generation.token_at, now)}",
        f"expires_at  {_moment(generation.user.expires_at, now)}",
        *([] if generation.complete else ["tokens      in the store"]),
    ]


def _moment(at: int | None, now: float) -> str:
    if at is None:
        return "unknown"
    try:
        told = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "no date: seconds since 1970 are expected"
    apart = int(at - now)
    return f"{told} ({'in ' if apart > 0 else ''}{_span(abs(apart))}{'' if apart > 0 else ' ago'})"


def _span(seconds_apart: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds_apart >= 2 * size:
            return f"{seconds_apart // size} {unit}"
    return f"{seconds_apart} seconds"


def _masked(tokens: Mapping[str, Any]) -> list[str]:
    return [f"{_printable(name)}: {_mask(each)}" for name, each in tokens.items() if each]


def _mask(token: object) -> str:
    """What a token is, and nothing of what it says but its algorithm and its end."""
    if not isinstance(token, str):
        return "not text"
    told = f"{len(token)} characters"
    try:
        header, claims = (json.loads(b64decode(part)) for part in token.split(".")[:2])
        alg, exp = header["alg"], claims.get("exp")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return told
    if not isinstance(alg, str) or not _JWT_ALG.fullmatch(alg):
        return told
    until = f", exp {exp}" if isinstance(exp, int) and 0 <= exp < 10**11 else ""
    return f"{told}, a JWT, alg {alg}{until}"


def _sizes(sizes: Mapping[str, int]) -> Iterator[str]:
    yield "bytes by field:"
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        yield f"  {size:>6}  {_printable(name)}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str).encode(
        "utf-8", "surrogatepass"
    )


def _judged(lines: list[str], sizes: Mapping[str, int], expires_at: int, now: float) -> Report:
    told = [*lines, *_sizes(sizes)]
    if expires_at <= now:
        return _bad("the session has ended", told)
    return Report(True, (*told, "good: a live session, unless it was signed out in the store"))


def _bad(reason: str, lines: Iterable[str] = ()) -> Report:
    return Report(False, (*lines, f"bad: {reason}"))
