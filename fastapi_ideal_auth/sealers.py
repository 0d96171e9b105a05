"""How a generation becomes a cookie's value: which seal, with which content, under which name.

A *sealer* is what an application names; bound to secrets and model it is a *format*. The first
format of an `IdealAuth` writes, all of them read. Nothing here knows a request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from . import iron
from .errors import ConfigurationError, InvalidCookie
from .generation import Codec, Generation, Lifetimes, Read
from .iron import Password
from .payload import PayloadCodec, Rest
from .seal import AESGCMSealer, KeyRing, Sealer
from .user import SessionUser

U = TypeVar("U", bound=SessionUser)

_random_bytes = os.urandom

SESSION: Final = "session"
"""The purpose under which session cookies are sealed."""

SEEN: Final = 512
"""So many cookies that opened are remembered, then all are forgotten. A page brings the same cookie
a dozen times, and to open it is most of the work of a request whose token is fresh. Each request
still gets a user of its own, made and validated anew, and the session's end is looked at."""


class IronSealer:
    """``Fe26.2``: the cookie of iron-session 8 and 9, with ideal-auth's payload inside.

    With ``sealer=IronSealer()`` a Node server and this one read and write the same cookie. Its name
    is ``cookie_name`` as it stands, ``ideal_session`` by default; with ``host_prefix=True`` it is
    ``__Host-`` and the name, for a Node side whose ``cookieName`` is the same.

    The secrets come from `IdealAuth`. iron-session knows each by a number, of which the highest
    seals, and a lone secret is number 1. ``ids`` names the numbers of the secrets, in their order,
    and then a seal with another number is refused, as iron-session refuses it. Without ``ids`` the
    first of n secrets is number n, the last is 1, and whichever secret fits a seal's MAC opens it.

    It is weaker than the native seal, which is why that is the default:

    - Nothing in it says what it was made for: any ``Fe26.2`` seal under the same secret opens. So
      what this library writes names its purpose and cookie, and is refused elsewhere; a seal that
      Node made with that secret for something else can still pass if its content has the form of a
      session. Give sessions a secret of their own.
    - One iteration of PBKDF2-HMAC-SHA1: a secret that can be guessed can be tried as fast as that.
    - The salts of every seal are all that tells its keys apart, and there is no key commitment.
    - Without ``__Host-`` in its name, the cookie can be set by a sibling subdomain.
    - Who refreshes on the Node side does so past our store: see the how-to on moving over.
    """

    __slots__ = ("host_prefix", "ids")

    def __init__(self, *, ids: Sequence[int] | None = None, host_prefix: bool = False) -> None:
        self.ids = None if ids is None else tuple(_id(each) for each in ids)
        if self.ids is not None and len(set(self.ids)) != len(self.ids):
            raise ConfigurationError("IronSealer(ids=…): each secret has a number of its own")
        self.host_prefix = host_prefix

    def __repr__(self) -> str:
        return f"IronSealer(ids={self.ids}, host_prefix={self.host_prefix})"

    def passwords(self, ring: KeyRing) -> list[Password]:
        """iron-session's password map, the first secret first. Raises `ConfigurationError`."""
        found = ring.secrets
        ids = range(len(found), 0, -1) if self.ids is None else self.ids
        if len(ids) != len(found):
            raise ConfigurationError(
                f"IronSealer(ids=…) has {len(ids)} numbers for {len(found)} secrets: one for each"
            )
        return [Password(str(each), secret) for each, secret in zip(ids, found, strict=True)]


def _id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"IronSealer(ids=…) takes numbers from 1 on; got {value!r}")
    return value


AnySealer = AESGCMSealer | IronSealer


class Format(Protocol[U]):
    """A sealer with secrets, model and cookie name."""

    @property
    def codec(self) -> Codec[U]: ...

    def open(self, text: str, *, name: str, now: float) -> Generation[U]:
        """``name``: of the cookie it came in. Raises `InvalidCookie`, always the same."""
        ...

    def seal(
        self, generation: Generation[U], *, tokens: bool, replaced: Iterable[str], now: float
    ) -> str:
        """``replaced``: values of which one may be the session's cookie until now."""
        ...


@dataclass(slots=True)
class NativeFormat(Generic[U]):
    """The library's own seal and bytes."""

    codec: Codec[U]
    sealer: Sealer
    name: str
    _last: tuple[Generation[U], bool, str] | None = field(default=None, init=False, repr=False)
    _seen: dict[str, tuple[str, Read]] = field(
        default_factory=dict[str, tuple[str, Read]], init=False, repr=False
    )
    """What was read in a cookie, and the cookie's name."""

    def open(self, text: str, *, name: str, now: float) -> Generation[U]:
        seen = self._seen.get(text)
        read = seen[1] if seen is not None and seen[0] == name else None
        if read is None:
            read = self.codec.read(self.sealer.open(text, purpose=SESSION, name=name))
        generation = None if read is None else self.codec.made(read)
        if read is None or generation is None:
            raise InvalidCookie
        if seen is None:
            if len(self._seen) >= SEEN:
                self._seen = {}
            self._seen[text] = name, read
        return generation

    def seal(
        self, generation: Generation[U], *, tokens: bool, replaced: Iterable[str], now: float
    ) -> str:
        last = self._last
        if last is not None and last[0] is generation and last[1] is tokens:
            return last[2]  # a generation never changes, and all who waited for it get this one
        data = self.codec.pack(generation, tokens=tokens)
        value = self.sealer.seal(data, purpose=SESSION, name=self.name)
        self._last = generation, tokens, value
        return value


@dataclass(frozen=True, slots=True)
class IronFormat(Generic[U]):
    """iron-session's seal and ideal-auth's payload."""

    codec: PayloadCodec[U]
    passwords: Sequence[Password]
    any_id: bool

    def open(self, text: str, *, name: str, now: float) -> Generation[U]:
        return self.codec.unpack(self._unsealed(text, now))

    def seal(
        self, generation: Generation[U], *, tokens: bool, replaced: Iterable[str], now: float
    ) -> str:
        return iron.seal(
            self.codec.pack(generation, tokens=tokens, rests=self._rests(replaced, now)),
            password=self.passwords[0],
            expires_at=generation.expires_at * 1000,
            random_bytes=_random_bytes,
        )

    def _rests(self, replaced: Iterable[str], now: float) -> Iterator[Rest]:
        for text in replaced:
            try:
                rest = self.codec.rest(self._unsealed(text, now))
            except InvalidCookie:
                continue
            if rest is not None:
                yield rest

    def _unsealed(self, text: str, now: float) -> bytes:
        return iron.unseal(text, passwords=self.passwords, any_id=self.any_id, now=now)


def checked(sealer: object) -> tuple[AnySealer, ...]:
    """What was given as ``sealer=``. Raises `ConfigurationError`."""
    if sealer is None:
        return (AESGCMSealer(),)
    given: Sequence[object] = (
        cast("Sequence[object]", sealer) if isinstance(sealer, (list, tuple)) else (sealer,)
    )
    found = tuple(each for each in given if isinstance(each, (AESGCMSealer, IronSealer)))
    if not found or len(found) != len(given):
        raise ConfigurationError(
            "sealer= takes AESGCMSealer() or IronSealer(), or a list of them: the first seals, all "
            f"open; got {sealer!r}"
        )
    return found


def prefixed(sealer: AnySealer) -> bool:
    """Whether its cookie's name begins with ``__Host-``, where the attributes allow that."""
    return sealer.host_prefix if isinstance(sealer, IronSealer) else True


def bound(
    sealer: AnySealer,
    *,
    ring: KeyRing,
    codec: Codec[U],
    lifetimes: Lifetimes,
    cookie_name: str,
    native_name: str,
) -> Format[U]:
    """The format of a sealer. ``cookie_name`` is without a prefix, ``native_name`` with it."""
    if isinstance(sealer, AESGCMSealer):
        return NativeFormat(codec, sealer.bind(ring), native_name)
    # Without the prefix: with and without it the cookie is the same session.
    use = f"{SESSION}:{cookie_name}"
    payload: PayloadCodec[Any] = PayloadCodec(codec.model, lifetimes=lifetimes, use=use)
    return IronFormat(payload, sealer.passwords(ring), any_id=sealer.ids is None)
