"""ideal-auth's payload: a generation as the JSON that a Node server reads and writes too.

::

    {"uid": …, "iat": …, "exp": …, "ttl": …, "data": {…}}

``data`` holds the user's fields and the tokens, under the model's own aliases, and beside them
``sid``, ``gen`` and ``kept``: what this library must know of a session, and what Node carries along
without looking at it. Nothing here knows how the text is sealed.

Node may write at any time, without our store. So ``sid`` and ``gen`` count only for the very user
and tokens they were written with (``kept.mark``). Where they are gone, or the tokens are others,
the session gets an id made from its user and tokens: all requests with that cookie meet in one
record, and the record of no others speaks for it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar, cast

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from .errors import ConfigurationError
from .generation import (
    LATEST,
    PARTY_BYTES,
    SID_BYTES,
    Codec,
    Generation,
    Lifetimes,
    ResourceToken,
    lasting,
    subject,
)
from .seal import b64decode, b64encode
from .user import TOKENS, SessionUser

U = TypeVar("U", bound=SessionUser)

Members = dict[str, Any]

OWN: Final = ("sid", "gen", "kept")
"""What this library adds to ``data``."""
_TOP: Final = ("uid", "iat", "exp", "ttl", "data")
_MARK_BYTES: Final = 9
_LARGEST_EXACT: Final = 2**53 - 1
"""JavaScript's ``Number.MAX_SAFE_INTEGER``."""


class Rest(NamedTuple):
    """What a payload holds that is Node's alone, so that the next one can hold it too."""

    uid: str
    issued_at: int
    top: Members
    data: Members


# -- what is kept beside sid and gen --------------------------------------------------------------


def seconds(value: Any) -> int:
    """Unix seconds, from whatever number JavaScript made of them. Raises ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError("not a time")
    return min(int(value), LATEST)


def _choice(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _subject(value: Any) -> bytes:
    found = b64decode(value)
    if len(found) != 2 * PARTY_BYTES:
        raise ValueError("not a subject")
    return found


def _resources(value: Any) -> tuple[ResourceToken, ...]:
    return tuple(
        ResourceToken(str(name), str(token), None if ends is None else seconds(ends), seconds(at))
        for name, token, ends, at in value
    )


class _Kept(NamedTuple):
    """One member of ``kept``: a field of `Generation` that Node has no name for."""

    name: str
    field: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    """Raises ``ValueError`` or ``TypeError`` for what is no such value."""
    bound: bool
    """To the tokens: with others it does not count."""


def _as_it_is(value: Any) -> Any:
    return value


_KEPT: Final = (
    _Kept("at", "token_at", _as_it_is, seconds, bound=True),
    _Kept("until", "deadline", _as_it_is, seconds, bound=False),
    _Kept("remember", "remember", _as_it_is, _choice, bound=False),
    _Kept("refreshUntil", "refresh_until", _as_it_is, seconds, bound=True),
    _Kept("subject", "subject", b64encode, _subject, bound=True),
    _Kept("resources", "resources", list, _resources, bound=True),
)
_ABSENT: Final = (None, b"", ())
"""Values of a generation's fields that are not written."""


# -- the codec ------------------------------------------------------------------------------------


class PayloadCodec(Codec[U]):
    """Generations of one user model to ideal-auth's payload and back.

    ``use`` says what the payload is for (the purpose and the cookie's name): iron's seal binds
    neither, so it stands in what is written, and what was written for another use is refused.
    """

    __slots__ = ("_fields", "_lifetimes", "_open", "_use")

    def __init__(self, model: type[U], *, lifetimes: Lifetimes, use: str) -> None:
        super().__init__(model)
        self._lifetimes = lifetimes
        self._use = use
        self._fields = {
            name: _Names.of(name, field)
            for name, field in model.model_fields.items()
            if name in TOKENS or name == "id" or not field.exclude
        }
        self._open = model.model_config.get("extra") == "allow"
        taken = {key for names in self._fields.values() for key in names.read} & set(OWN)
        if taken:
            raise ConfigurationError(
                f"{model.__name__} has a field that is written as {', '.join(sorted(taken))}: "
                f"IronSealer keeps its own {', '.join(OWN)} beside the fields; rename it"
            )

    def pack(
        self, generation: Generation[U], *, tokens: bool = True, rests: Iterable[Rest] = ()
    ) -> bytes:
        """The payload, with what the first of ``rests`` of the same sign-in has of Node's."""
        user = generation.user
        signed_in = (user.id, generation.issued_at)
        others = (each for each in rests if (each.uid, each.issued_at) == signed_in)
        rest = next(others, Rest(*signed_in, {}, {}))
        head = {
            **rest.top,
            "uid": user.id,
            "iat": generation.issued_at,
            "exp": generation.expires_at,
            "ttl": self._lifetimes.of(generation.remember),
        }
        own = {
            "sid": b64encode(generation.sid),
            "gen": generation.gen,
            "kept": self._kept(generation, tokens=tokens),
        }
        data = _joined(rest.data, self._dumped(user), self._tokens(user) if tokens else {}, own)
        text = f'{_text(head)[:-1]},"data":{data}}}'
        # What UTF-8 cannot hold is a lone surrogate, and its \ud83d is JSON as well.
        return text.encode("utf-8", "backslashreplace")

    def rest(self, data: bytes) -> Rest | None:
        """What of a payload is Node's alone; ``None`` for what is no payload."""
        try:
            payload = _parsed(data)
            uid, members = _uid(payload), _members(payload)
            issued_at = seconds(payload["iat"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        ours = {key for names in self._fields.values() for key in names.read} | set(OWN)
        others = {} if self._open else _without(members, ours)  # open: they are the user's
        return Rest(uid, issued_at, _without(payload, _TOP), others)

    def _dumped(self, user: U) -> str:
        # The id is the payload's uid. round_trip leaves computed fields out.
        return user.model_dump_json(by_alias=True, round_trip=True, exclude={"id"}, warnings=False)

    def _tokens(self, user: U) -> Members:
        held = {name: getattr(user, name) for name in TOKENS}
        return {self._fields[name].write: each for name, each in held.items() if each is not None}

    def _kept(self, generation: Generation[U], *, tokens: bool) -> Members:
        carried = generation if tokens else generation._replace(resources=())
        kept: Members = {"for": self._use, "mark": _mark(carried, tokens=tokens)}
        if not tokens:
            kept["store"] = True
        for member in _KEPT:
            value = getattr(carried, member.field)
            if value not in _ABSENT:
                kept[member.name] = member.write(value)
        return kept

    # -- reading ----------------------------------------------------------------------------------

    def _unpacked(self, data: bytes) -> Generation[U] | None:
        # As in the native codec: no error of a parser's or a validator's leaves, for it would
        # carry its input.
        try:
            return self._loaded(_parsed(data))
        except Exception:  # whatever a validator of the model's raises
            return None

    def _loaded(self, payload: Members) -> Generation[U] | None:
        members = _members(payload)
        kept = members.get("kept")
        kept = cast("Members", kept) if isinstance(kept, dict) else {}
        if kept.get("for", self._use) != self._use:
            return None
        here = any(key in members for key in self._fields["access_token"].read)
        complete = here or kept.get("store") is not True
        user = self._user(_uid(payload), members, complete=complete)
        issued_at, expires_at = seconds(payload["iat"]), seconds(payload["exp"])
        found = Generation(
            sid=_sid_of(user),
            gen=1,
            user=user,
            issued_at=issued_at,
            expires_at=expires_at,
            deadline=self._deadline(issued_at),
            remember=self._remember(payload),
            token_at=issued_at,
            complete=complete,
            subject=subject(user.id_token),
        )
        carried = _carried(found, members, kept)
        ours = kept.get("mark") == _mark(carried, tokens=complete)
        if not ours and not complete:
            return None  # there are no tokens here, and nothing says who has them
        return lasting(_with_kept(carried if ours else found, kept, bound=ours), until=expires_at)

    def _user(self, uid: str, members: Members, *, complete: bool) -> U:
        values: Members = {} if complete else {"access_token": ""}
        taken: set[str] = set()
        for names in self._fields.values():
            key = next((key for key in names.read if key in members), None)
            if key is not None:
                values[names.parse] = members[key]
                taken.update(names.read)
        values[self._fields["id"].parse] = uid
        if self._open:
            values = {**_without(members, taken | set(OWN)), **values}
        # As JSON once more: a model reads JSON more kindly than Python's values (dates, tuples).
        user: U = self._parse(_text(values), by_alias=True, by_name=True)
        return user

    def _deadline(self, issued_at: int) -> int | None:
        absolute = self._lifetimes.absolute_max_age
        return None if absolute is None else min(issued_at + absolute, LATEST)

    def _remember(self, payload: Members) -> bool | None:
        """ideal-auth writes the period's length and not the mode: it is told by the length."""
        longer = self._lifetimes.remember_max_age
        remembered = longer != self._lifetimes.max_age and payload.get("ttl") == longer
        return True if remembered else None

    # -- checks -----------------------------------------------------------------------------------

    def check(self, user: U) -> None:
        """As the native codec's, and for numbers that JavaScript would change too."""
        super().check(user)
        large = [name for name, value in json.loads(self._dumped(user)).items() if _is_large(value)]
        if large:
            raise ConfigurationError(
                f"{self.model.__name__} has a number beyond 2**53 in {', '.join(large)}, and "
                f"JavaScript would change it: make it a string"
            )

    def sizes(self, generation: Generation[U]) -> dict[str, int]:
        """Bytes each field takes before sealing, the largest first."""
        found = super().sizes(generation)
        for name in TOKENS:  # JSON has them as they are
            if name in found:
                found[name] = len(_text(getattr(generation.user, name)))
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class _Names(NamedTuple):
    """What one field is called in ``data``."""

    write: str
    read: tuple[str, ...]
    """The first of them that is there counts."""
    parse: str
    """What the model's own validation knows it by."""

    @classmethod
    def of(cls, name: str, field: FieldInfo) -> _Names:
        write = field.serialization_alias or field.alias or name
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        known = [each for each in choices if isinstance(each, str)]
        read = tuple(dict.fromkeys([write, *known, name]))
        return cls(write, read, alias if isinstance(alias, str) else name)


def _carried(found: Generation[U], members: Members, kept: Members) -> Generation[U]:
    """The same under the id and number that it says it has."""
    try:
        sid, gen = b64decode(members["sid"]), members["gen"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return found
    if len(sid) != SID_BYTES or type(gen) is not int or not 1 <= gen <= LATEST:
        return found
    return found._replace(sid=sid, gen=gen)


def _with_kept(generation: Generation[U], kept: Members, *, bound: bool) -> Generation[U]:
    changes: Members = {}
    for member in _KEPT:
        if member.name in kept and (bound or not member.bound):
            try:
                changes[member.field] = member.read(kept[member.name])
            except (ValueError, TypeError, AttributeError):
                continue
    return generation._replace(**changes)


def _mark(generation: Generation[Any], *, tokens: bool) -> str:
    """Ties an id and its number to the user and the tokens they were written with."""
    user = generation.user
    held = (user.refresh_token, user.access_token) if tokens else (None, "")
    what = b"".join((b"mark", generation.sid, generation.gen.to_bytes(4), _hashed(user.id, *held)))
    return b64encode(hashlib.sha256(what).digest()[:_MARK_BYTES])


def _sid_of(user: SessionUser) -> bytes:
    """The id of a session that has none: as hard to guess as its tokens.

    The access token counts too: a refresh token that is good for years is not one session. And the
    user: a Node side may have one grant for all of them, and no record may speak for two.
    """
    made = hashlib.sha256(b"sid" + _hashed(user.id, user.refresh_token, user.access_token))
    return made.digest()[:SID_BYTES]


def _hashed(*parts: str | None) -> bytes:
    texts = ((part or "").encode("utf-8", "surrogatepass") for part in parts)
    each = (hashlib.sha256(text).digest() for text in texts)
    return b"fastapi_ideal_auth" + b"".join(each)


# -- JSON -----------------------------------------------------------------------------------------


def _parsed(data: bytes) -> Members:
    """Raises ``ValueError`` for anything but an object of JSON as JavaScript has it."""
    payload = json.loads(data, parse_constant=_no_number)
    if not isinstance(payload, dict):
        raise ValueError("not a payload")
    return cast("Members", payload)


def _no_number(name: str) -> float:
    raise ValueError("not JSON")


def _uid(payload: Members) -> str:
    uid = payload["uid"]
    if isinstance(uid, bool) or not isinstance(uid, (str, int)):
        raise ValueError("not an id")
    return str(uid)


def _members(payload: Members) -> Members:
    members = payload["data"]
    if not isinstance(members, dict):
        raise ValueError("no data")
    return cast("Members", members)


def _without(members: Mapping[str, Any], names: Container[str]) -> Members:
    return {key: value for key, value in members.items() if key not in names}


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _joined(*objects: Members | str) -> str:
    """One object of several: a string is one that is JSON already."""
    texts = (each if isinstance(each, str) else _text(each) for each in objects)
    return f"{{{','.join(text[1:-1] for text in texts if text != '{}')}}}"


def _is_large(value: Any) -> bool:
    """Whether a number in it, however deep, is one that JavaScript cannot hold."""
    numbers: list[str] = []
    json.loads(_text(value), parse_int=numbers.append)
    return any(abs(int(number)) > _LARGEST_EXACT for number in numbers)
