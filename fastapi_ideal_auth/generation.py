"""One generation of a session: begun, renewed, touched, and turned into bytes and back.

A generation is a value: signing in makes the first, each refresh makes the next, and none ever
changes. This module knows how long a session lives; it does not know how it is sealed or kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from .errors import ConfigurationError, CookieTooLarge, InvalidCookie
from .oauth import TokenResponse, kept_refresh_token
from .packing import pack_token, unpack_token, unpack_token_as_json
from .seal import b64decode
from .user import TOKENS, SessionUser

U = TypeVar("U", bound=SessionUser)

_random_bytes = os.urandom

LATEST: Final = 0xFFFF_FFFF
"""Unix seconds in 32 bits reach until 2106; a longer ``max_age`` ends there."""

SID_BYTES: Final = 16
"""128 random bits name a session: unguessable, and enough that no two ever meet."""

PARTY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long sessions live, in seconds."""

    max_age: int
    remember_max_age: int
    absolute_max_age: int | None = None

    def of(self, remember: bool | None) -> int:
        """The lifetime of one period: until the next refresh or ``touch`` begins a new one."""
        return self.remember_max_age if remember else self.max_age


class ResourceToken(NamedTuple):
    """An access token for one further resource (RFC 8707)."""

    resource: str
    """The resource's identifier, a URI."""
    access_token: str
    expires_at: int | None
    """Unix seconds; ``None``: unknown, never refreshed ahead."""
    token_at: int
    """When it was obtained, Unix seconds."""

    def __repr__(self) -> str:
        return f"<access token for {self.resource}>"


class Generation(NamedTuple, Generic[U]):
    """One generation of one session. All times are Unix seconds."""

    sid: bytes
    """The session's random id; it never leaves the seal."""
    gen: int
    """1 at sign-in, one more with each refresh."""
    user: U
    issued_at: int
    """When the user signed in; no refresh moves it."""
    expires_at: int
    """When the session ends unless it is refreshed or touched."""
    deadline: int | None
    """When it ends whatever happens (``absolute_max_age``); ``None``: never."""
    remember: bool | None
    """``True``: ``remember_max_age``; ``None``: ``max_age``; ``False``: while the browser runs."""
    token_at: int
    """When this access token was obtained; its lifetime counts from here."""
    complete: bool = True
    """Whether the tokens are here; ``False``: the store has them (``tokens="store"``)."""
    refresh_until: int | None = None
    """When the refresh token ends, where the server says so; the session ends with it."""
    subject: bytes = b""
    """Whom the provider signed in, and in which session of its own: see `subject`. Empty: it did
    not say."""
    resources: tuple[ResourceToken, ...] = ()
    """Access tokens for further resources."""

    def __repr__(self) -> str:
        return f"<generation {self.gen} of session {label(self.sid)}>"

    def token_for(self, resource: str) -> ResourceToken | None:
        """The access token for a further resource; ``None``: there is none yet."""
        return next((held for held in self.resources if held.resource == resource), None)


def begin(
    user: U,
    *,
    now: float,
    remember: bool | None,
    lifetimes: Lifetimes,
    refresh_expires_in: int | None = None,
    id_token: str | None = None,
) -> Generation[U]:
    """The first generation of a new session, with an id nobody has seen (no session fixation).

    ``id_token``: whom the provider signed in, where the user does not carry it.
    """
    at = int(now)
    absolute = lifetimes.absolute_max_age
    deadline = None if absolute is None else min(at + absolute, LATEST)
    begun = Generation(
        sid=_random_bytes(SID_BYTES),
        gen=1,
        user=user,
        issued_at=at,
        expires_at=at,
        deadline=deadline,
        remember=remember,
        token_at=at,
        refresh_until=_after(at, refresh_expires_in),
        subject=subject(id_token or user.id_token),
    )
    return lasting(begun, until=at + lifetimes.of(remember))


def renewed(
    old: Generation[U],
    response: TokenResponse,
    *,
    now: float,
    lifetimes: Lifetimes,
    resource: str | None = None,
) -> Generation[U]:
    """The next generation: new tokens, a new period; sign-in time, mode and deadline are kept.

    ``now`` is when the request was sent, so that a slow answer never lengthens a token's life.
    ``resource``: the access token is for that one, and the user's own stays.
    """
    at = int(now)
    kept = response.refresh_token is None and response.refresh_expires_in is None
    refresh_until = old.refresh_until if kept else _after(at, response.refresh_expires_in)
    changes: dict[str, Any] = {
        "refresh_token": kept_refresh_token(old.user.refresh_token, response),
        "id_token": response.id_token or old.user.id_token,
    }
    resources = tuple(each for each in old.resources if each.resource != resource)
    expires_at = _after(at, response.expires_in)
    if resource is None:
        changes |= {"access_token": response.access_token, "expires_at": expires_at}
    else:
        held = ResourceToken(resource, response.access_token, expires_at, at)
        others = [each for each in resources if _is_good(each, at)]
        resources = (*others[1 - _MOST_RESOURCES :], held)  # or the rotated token could not be kept
    newer = old._replace(
        gen=old.gen + 1,
        user=old.user.model_copy(update=changes),
        token_at=at if resource is None else old.token_at,
        refresh_until=refresh_until,
        resources=resources,
    )
    return lasting(newer, until=max(old.expires_at, at + lifetimes.of(old.remember)))


def touched(old: Generation[U], *, now: float, lifetimes: Lifetimes) -> Generation[U] | None:
    """The same generation with a new period, or ``None`` while more than half of it is left."""
    at = int(now)
    if old.expires_at - at > lifetimes.of(old.remember) / 2:
        return None
    longer = lasting(old, until=at + lifetimes.of(old.remember))
    return longer if longer.expires_at > old.expires_at else None


def lasting(generation: Generation[U], *, until: int) -> Generation[U]:
    """The same, good until then: never beyond its absolute deadline, nor beyond its tokens."""
    ends = [until, LATEST if generation.deadline is None else generation.deadline]
    if generation.refresh_until is not None:
        # Past both the session is one that nobody can use: its cookie may as well go.
        ends.append(max(generation.refresh_until, generation.user.expires_at or 0))
    return generation._replace(expires_at=min(ends))


def _after(at: int, seconds: int | None) -> int | None:
    return None if seconds is None else min(at + seconds, LATEST)


def _is_good(token: ResourceToken, at: int) -> bool:
    return token.expires_at is None or token.expires_at > at


def subject(id_token: str | None) -> bytes:
    """Whom an ID token is of, and of which session at the provider, as two hashes of 16 bytes.

    The issuer with ``sub``, and the issuer with ``sid`` (OpenID Connect Back-Channel Logout §2.1;
    zeros without one): by these a logout token finds the sessions it ends. The token was verified
    when it came; here it is only read. Empty where it cannot be.
    """
    try:
        claims: Any = json.loads(b64decode((id_token or "").split(".")[1]))
        issuer, sub, sid = claims["iss"], claims["sub"], claims.get("sid")
    except (IndexError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return b""
    if not (isinstance(issuer, str) and isinstance(sub, str)):
        return b""
    return party(issuer, "sub", sub) + (party(issuer, "sid", sid) if sid else bytes(PARTY_BYTES))


def is_of(generation: Generation[Any], id_token: str | None) -> bool:
    """Whether an ID token is of whom the session began with, as far as both say."""
    begun, now = generation.subject[:PARTY_BYTES], subject(id_token)[:PARTY_BYTES]
    return not begun or not now or begun == now


def party(issuer: str, claim: Literal["sub", "sid"], value: object) -> bytes:
    """One half of `subject`."""
    text = "\0".join(("fastapi_ideal_auth", claim, issuer, str(value)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:PARTY_BYTES]


def cookie_max_age(generation: Generation[Any], *, now: float) -> int | None:
    """``Max-Age`` in seconds; ``None`` for a browser-session cookie, which never has one."""
    if generation.remember is False:
        return None
    return max(0, generation.expires_at - int(now))


def label(sid: bytes) -> str:
    """What logs may call a session: a hash that leads nowhere, not to its record either."""
    return hashlib.sha256(b"fastapi_ideal_auth label" + sid).hexdigest()[:12]


# -- bytes ----------------------------------------------------------------------------------------
#
#   flags 1 · sid 16 · gen 4 · issued_at 4 · expires_at 4 · deadline 4 (0: none) · token_at 4
#   · lengths of the three packed tokens 2 each · what the flags name, in their order:
#   refresh_until 4 · subject 32 · number of resources 1 and, for each, its length 2, expires_at 4
#   (0: none), token_at 4, length of the packed token 2, resource, token
#   · the three tokens · the other fields as JSON
#
# 43 bytes of head instead of some 150 of JSON, and tokens out of reach of a JSON parser's errors.

_HEAD: Final = struct.Struct(">B16sIIIIIHHH")
_LONGEST_TOKEN: Final = 0xFFFF
_HAS_REFRESH: Final = 0x01
_HAS_ID: Final = 0x02
_REMEMBER: Final[dict[bool | None, int]] = {None: 0x00, True: 0x04, False: 0x08}
_REMEMBERED: Final = {bits: mode for mode, bits in _REMEMBER.items()}
_REMEMBER_MASK: Final = 0x0C
_TOKENS_IN_STORE: Final = 0x10
_HAS_REFRESH_UNTIL: Final = 0x20
_HAS_SUBJECT: Final = 0x40
_HAS_RESOURCES: Final = 0x80
_MORE: Final = _HAS_REFRESH_UNTIL | _HAS_SUBJECT | _HAS_RESOURCES
_SECONDS: Final = struct.Struct(">I")
_RESOURCE: Final = struct.Struct(">HIIH")
_MOST_RESOURCES: Final = 0xFF
_NULL: Final = "null"


class Codec(Generic[U]):
    """Generations of one user model to bytes and back."""

    __slots__ = ("_parse", "model")

    def __init__(self, model: type[U]) -> None:
        _check_model(model)
        self.model = model
        self._parse = model.__pydantic_validator__.validate_json

    def pack(self, generation: Generation[U], *, tokens: bool = True) -> bytes:
        """Bytes of a generation, with its tokens or (``tokens="store"``) without.

        Raises `CookieTooLarge` for a token over 64 KiB.
        """
        user = generation.user
        held = (
            (user.access_token, user.refresh_token, user.id_token) if tokens else ("", None, None)
        )
        access, refresh, id_token = (pack_token(token or "") for token in held)
        others = (len(pack_token(held.access_token)) for held in generation.resources)
        if max(len(access), len(refresh), len(id_token), *others) > _LONGEST_TOKEN:
            raise CookieTooLarge("a token is longer than 64 KiB", sizes=self.sizes(generation))
        more_flags, more = self._packed_more(generation, tokens=tokens)
        flags = (
            (_HAS_REFRESH if held[1] is not None else 0)
            | (_HAS_ID if held[2] is not None else 0)
            | (0 if tokens else _TOKENS_IN_STORE)
            | _REMEMBER[generation.remember]
            | more_flags
        )
        head = _HEAD.pack(
            flags,
            generation.sid,
            generation.gen,
            generation.issued_at,
            generation.expires_at,
            generation.deadline or 0,
            generation.token_at,
            len(access),
            len(refresh),
            len(id_token),
        )
        return b"".join((head, more, access, refresh, id_token, _dump(user)))

    def _packed_more(self, generation: Generation[U], *, tokens: bool) -> tuple[int, bytes]:
        flags = 0
        parts: list[bytes] = []
        if generation.refresh_until is not None:
            flags |= _HAS_REFRESH_UNTIL
            parts.append(_SECONDS.pack(generation.refresh_until))
        if generation.subject:
            flags |= _HAS_SUBJECT
            parts.append(generation.subject)
        if tokens and generation.resources:
            flags |= _HAS_RESOURCES
            parts.append(bytes((len(generation.resources),)))
            parts.extend(map(_packed_resource, generation.resources))
        return flags, b"".join(parts)

    def unpack(self, data: bytes) -> Generation[U]:
        """Raises `InvalidCookie` for bytes that are no session of this model."""
        generation = self._unpacked(data)
        if generation is None:
            raise InvalidCookie
        return generation

    def _unpacked(self, data: bytes) -> Generation[U] | None:
        read = self.read(data)
        return None if read is None else self.made(read)

    def read(self, data: bytes) -> Read | None:
        """What the bytes say, but for the making of the user; ``None``: they are no session."""
        try:
            flags, sid, gen, issued_at, expires_at, deadline, token_at, a, r, i = _HEAD.unpack_from(
                data
            )
            at, more = _unpacked_more(data, flags) if flags & _MORE else _NO_MORE
            access_end = at + a
            refresh_end = access_end + r
            id_end = refresh_end + i
            access = unpack_token_as_json(data[at:access_end])
            refresh = id_token = _NULL
            if flags & _HAS_REFRESH:
                refresh = unpack_token_as_json(data[access_end:refresh_end])
            if flags & _HAS_ID:
                id_token = unpack_token_as_json(data[refresh_end:id_end])
            user = (
                f'{{"access_token":{access},"refresh_token":{refresh},"id_token":{id_token},'
                f"{data[id_end + 1 :].decode()}"
            )
            remember = _REMEMBERED[flags & _REMEMBER_MASK]
        except (struct.error, ValueError, IndexError, KeyError):
            return None
        rest = (
            issued_at,
            expires_at,
            deadline or None,
            remember,
            token_at,
            not flags & _TOKENS_IN_STORE,
            *more,
        )
        return Read(sid, gen, user, rest)

    def made(self, read: Read) -> Generation[U] | None:
        """The generation, with a user of its own; ``None`` where the model refuses it."""
        try:
            user = self._parse(read.user, by_alias=False, by_name=True)
        except Exception:  # whatever a validator of the model's raises: the session is not readable
            return None
        return Generation(read.sid, read.gen, user, *read.rest)

    def check(self, user: U) -> None:
        """Refuse a user that would not come back from its cookie as it went in.

        Raises `ConfigurationError` that names the fields. Called at sign-in, where it can still
        be said; a session that cannot be read later would be a sign-out without a reason.
        """
        if not isinstance(user, self.model):
            raise ConfigurationError(
                f"login() takes a {self.model.__name__}, the model IdealAuth was given; "
                f"got {type(user).__name__}"
            )
        if user.expires_at is not None and user.expires_at > _YEAR_5000:
            raise ConfigurationError(
                "expires_at is in Unix seconds, such as int(time.time()) + expires_in; this one "
                "looks like milliseconds"
            )
        changed = self._changed(user)
        if changed is None:
            raise ConfigurationError(
                f"this {self.model.__name__} cannot be read back from its stored JSON: a field's "
                f"value, serializer or validator does not round-trip"
            )
        if changed:
            raise ConfigurationError(
                f"{self.model.__name__} comes back changed from its stored JSON in: "
                f"{', '.join(changed)}; give such a field a serializer that round-trips, or "
                f"exclude=True and a default if it need not be stored"
            )

    def _changed(self, user: U) -> list[str] | None:
        """The fields that would not come back as they are; ``None``: some, and no telling which."""
        names = [
            name
            for name, field in self.model.model_fields.items()
            if name in TOKENS or not field.exclude
        ]
        try:
            back = self._unpacked(self.pack(_PROBE._replace(user=user)))
        except PydanticSerializationError:
            back = None
        if back is None:
            unwritable = [name for name in names if not _is_writable(user, name)]
            return unwritable or self._unreadable(user) or None
        return [name for name in names if not _same(getattr(user, name), getattr(back.user, name))]

    def _unreadable(self, user: U) -> list[str]:
        try:
            self._parse(b'{"access_token":"",' + _dump(user)[1:], by_alias=False, by_name=True)
        except ValidationError as error:
            refused = error.errors(include_url=False, include_context=False, include_input=False)
            return list(dict.fromkeys(str(each["loc"][0]) for each in refused if each["loc"]))
        return []

    def sizes(self, generation: Generation[U]) -> dict[str, int]:
        """Bytes each field takes before sealing, the largest first."""
        user = generation.user
        tokens = {name: getattr(user, name) for name in TOKENS}
        sizes = {name: len(pack_token(token)) for name, token in tokens.items() if token}
        for held in generation.resources:
            sizes[f"access_token for {held.resource}"] = len(pack_token(held.access_token))
        for name, field in self.model.model_fields.items():
            if not field.exclude:
                alone = user.model_dump_json(include={name}, by_alias=False, round_trip=True)
                sizes[name] = len(alone.encode()) - len(f'{{"{name}":}}')
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))


class Read(NamedTuple):
    """A generation as its bytes have it."""

    sid: bytes
    gen: int
    user: str
    """JSON, tokens and all."""
    rest: tuple[Any, ...]
    """What a `Generation` has after its user."""

    def __repr__(self) -> str:
        return f"<bytes of generation {self.gen} of session {label(self.sid)}>"


class _More(NamedTuple):
    """What few sessions have."""

    refresh_until: int | None = None
    subject: bytes = b""
    resources: tuple[ResourceToken, ...] = ()


_NO_MORE: Final = (_HEAD.size, _More())


def _packed_resource(held: ResourceToken) -> bytes:
    name, token = held.resource.encode(), pack_token(held.access_token)
    numbers = _RESOURCE.pack(len(name), held.expires_at or 0, held.token_at, len(token))
    return b"".join((numbers, name, token))


def _unpacked_more(data: bytes, flags: int) -> tuple[int, _More]:
    """What the flags name, and where it ends. Raises ``struct.error`` or ``ValueError``."""
    at = _HEAD.size
    more = _More()
    if flags & _HAS_REFRESH_UNTIL:
        more = more._replace(refresh_until=_SECONDS.unpack_from(data, at)[0])
        at += _SECONDS.size
    if flags & _HAS_SUBJECT:
        more = more._replace(subject=data[at : at + 2 * PARTY_BYTES])
        at += 2 * PARTY_BYTES
    if flags & _HAS_RESOURCES:
        resources: list[ResourceToken] = []
        count, at = data[at], at + 1
        for _ in range(count):
            name_size, expires_at, token_at, size = _RESOURCE.unpack_from(data, at)
            name_end = at + _RESOURCE.size + name_size
            name = data[at + _RESOURCE.size : name_end].decode()
            at = name_end + size
            token = unpack_token(data[name_end:at])
            resources.append(ResourceToken(name, token, expires_at or None, token_at))
        more = more._replace(resources=tuple(resources))
    return at, more


def _dump(user: SessionUser) -> bytes:
    # By name, and read by name: aliases are for the outside. round_trip leaves computed fields out.
    return user.model_dump_json(by_alias=False, round_trip=True, warnings=False).encode()


def _is_writable(user: SessionUser, name: str) -> bool:
    try:
        user.model_dump_json(include={name}, by_alias=False, round_trip=True, warnings=False)
    except PydanticSerializationError:
        return False
    return True


def _same(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)


def _is_user_model(model: object) -> bool:
    return isinstance(model, type) and issubclass(model, SessionUser)


def _check_model(model: type[SessionUser]) -> None:
    if not _is_user_model(model):
        raise ConfigurationError(
            "IdealAuth's first argument is your user model: a class that inherits from SessionUser"
        )
    for name, field in model.model_fields.items():
        if name not in TOKENS and field.exclude and field.is_required():
            raise ConfigurationError(
                f"{model.__name__}.{name} has exclude=True, so it is not stored, but is required: "
                f"give it a default"
            )


_YEAR_5000: Final = 10**11
_PROBE: Final[Generation[Any]] = Generation(b"\0" * SID_BYTES, 1, None, 0, 0, None, None, 0)
