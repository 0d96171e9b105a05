"""The record where workers and hosts meet: what it says for a cookie, and how it may change.

One record a session, written only when a refresh happens or a session ends. Every change is a
plain function from the record before to the record after, so that any store that can replace one
value atomically can keep it, and so that each interleaving can be tried without a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, cast

GRACE: Final = 60.0
"""Seconds for which a request that was under way when a newer generation was first presented may
still arrive with an older one. Longer than any sane hold-up of a request on its way."""


LONGEST_LEASE: Final = 900.0
LONGEST_COOL_OFF: Final = 300.0
"""Seconds. What ends later than these from now was written by a clock that has been set back since,
and is not waited for. A ``Retry-After`` is honoured up to the second: an hour of it would be an
hour of 503s."""


def key_of(sid: bytes) -> str:
    """The name of a session's record: a hash, so that a list of keys opens no record."""
    return hashlib.sha256(b"fastapi_ideal_auth record" + sid).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one session beside its cookies. Times are Unix seconds."""

    expires_at: int
    """The record goes when its session can no longer be alive."""
    gen: int = 0
    """The newest generation published; 0: none yet."""
    sealed: bytes | None = None
    """That generation, sealed under a key that needs the session's id."""
    lease: str | None = None
    """Who may ask the provider now; nobody else does."""
    lease_until: float = 0.0
    rejected: int | None = None
    """The generation whose refresh token the provider called dead."""
    ended: bool = False
    """The tombstone: signed out, or replaced by a new sign-in. It outlives every cookie copy."""
    retry_at: float = 0.0
    """After a failure nobody asks before this."""
    seen: int = 0
    """The highest generation that a request's cookie has presented."""
    seen_at: float = 0.0
    """When ``seen`` was first presented."""

    def to_bytes(self) -> bytes:
        """A line of JSON, then the sealed generation as it is."""
        head = [
            self.expires_at,
            self.gen,
            self.sealed is not None,
            self.lease,
            self.lease_until,
            self.rejected,
            self.ended,
            self.retry_at,
            self.seen,
            self.seen_at,
        ]
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + (self.sealed or b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Raises ``ValueError`` for bytes that are no record."""
        head, newline, sealed = data.partition(b"\n")
        try:
            values: list[Any] = json.loads(head)
        except RecursionError:
            values = []
        if not newline or not _is_head(values):
            raise ValueError("not a record")
        values[2] = sealed if values[2] else None
        return cls(*values)


_NUMBER: Final = (int, float)
_KINDS: Final = (
    (int,),
    (int,),
    (bool,),
    (str, type(None)),
    _NUMBER,
    (int, type(None)),
    (bool,),
    _NUMBER,
    (int,),
    _NUMBER,
)


def _is_head(values: object) -> bool:
    if not isinstance(values, list):
        return False
    found = cast("list[object]", values)
    return len(found) == len(_KINDS) and all(map(_is_of, found, _KINDS))


def _is_of(value: object, kinds: tuple[type, ...]) -> bool:
    return type(value) in kinds  # isinstance would take True for an int


Change = Callable[[Record | None], Record | None]
"""A change of a record: from what is there (``None``: nothing) to what shall be. Returning the
argument itself means that nothing is written. A store may call it more than once."""


# -- what it says ---------------------------------------------------------------------------------


class Says(Enum):
    """What a record means for a due generation that a request wants refreshed."""

    YOURS = "the lease is taken by the asker: ask the provider"
    WAIT = "another holds the lease"
    NEWER = "a newer generation is there"
    ENDED = "signed out"
    REJECTED = "the grant is dead"
    LATER = "a failure is cooling off"
    REPLAYED = "an older generation, long after a newer one was presented"


def is_replay(record: Record, *, presented: int, at: float) -> bool:
    """Was ``presented`` sent a grace or more after a request had come with a newer generation?"""
    return presented < record.seen and at - record.seen_at > GRACE


def is_dead(record: Record, gen: int) -> bool:
    """Has the provider called dead what a cookie of ``gen`` leads to?"""
    return record.rejected is not None and record.rejected >= max(gen, record.gen)


def says(
    record: Record | None,
    *,
    gen: int,
    presented: int,
    owner: str,
    at: float,
    now: float,
    strict: bool,
) -> Says:
    """Read the record for generation ``gen``, wanted by a cookie of generation ``presented``.

    ``at`` is when the request arrived (a cookie is judged as it arrives, however long it waits),
    ``now`` the present. The order matters: an ended session stays ended, a dead grant dead.
    """
    if record is None:
        return Says.YOURS
    if record.ended:
        return Says.ENDED
    if strict and is_replay(record, presented=presented, at=at):
        return Says.REPLAYED
    if is_dead(record, gen):  # first: a waiter that stalled would adopt what is dead by now
        return Says.REJECTED
    if record.gen > gen:
        return Says.NEWER
    if record.lease == owner:
        return Says.YOURS
    if record.lease is not None and now < record.lease_until <= now + LONGEST_LEASE:
        return Says.WAIT
    return Says.LATER if now < record.retry_at <= now + LONGEST_COOL_OFF else Says.YOURS


# -- how it changes -------------------------------------------------------------------------------


def leased(
    record: Record | None,
    *,
    gen: int,
    presented: int,
    owner: str,
    at: float,
    now: float,
    until: float,
    expires_at: int,
    strict: bool,
) -> Record:
    """Take the lease if it can be had; looking and taking are one step, so nobody comes between."""
    meaning = says(record, gen=gen, presented=presented, owner=owner, at=at, now=now, strict=strict)
    base = record or Record(expires_at=expires_at)
    if meaning is Says.YOURS:
        taken = replace(
            base,
            lease=owner,
            lease_until=until,
            retry_at=0.0,
            expires_at=max(base.expires_at, expires_at),
        )
        return _seen(taken, presented, at)
    if strict and presented == base.gen and meaning in (Says.WAIT, Says.LATER):
        return _seen(base, presented, at)
    return base


def _seen(record: Record, presented: int, at: float) -> Record:
    if presented <= record.seen:
        return record
    return replace(record, seen=presented, seen_at=at)


def acknowledged(record: Record | None, *, gen: int, at: float) -> Record | None:
    """The first presentation of the newest generation (strict detection only)."""
    if record is None or record.ended or record.gen != gen:
        return record
    return _seen(record, gen, at)


def published(
    record: Record | None, *, owner: str, gen: int, sealed: bytes, expires_at: int
) -> Record:
    """Make generation ``gen`` known, unless one as new is: generations only grow.

    It counts even if the lease has lapsed, and overrides a rejection: a lapsed leader may be the
    one that holds good tokens. A tombstone stays a tombstone.
    """
    base = _unleased(record or Record(expires_at=expires_at), owner)
    if base.ended or base.gen >= gen:
        return base
    return replace(
        base,
        expires_at=max(base.expires_at, expires_at),
        gen=gen,
        sealed=sealed,
        rejected=None,
        retry_at=0.0,
    )


def rejected(record: Record | None, *, owner: str, gen: int, expires_at: int) -> Record:
    """Write down that the grant is dead, unless a newer generation is there."""
    base = record or Record(expires_at=expires_at)
    if base.ended or base.gen > gen:
        return _unleased(base, owner)
    return replace(
        _unleased(base, owner),
        rejected=max(gen, base.rejected or 0),  # a leader that comes late knows of an older one
        expires_at=max(base.expires_at, expires_at),
    )


def released(record: Record | None, *, owner: str, retry_at: float) -> Record | None:
    """Give the lease back after a failure; nobody asks before ``retry_at``."""
    if record is None or record.lease != owner:
        return record
    return replace(_unleased(record, owner), retry_at=retry_at)


def _unleased(record: Record, owner: str) -> Record:
    return replace(record, lease=None, lease_until=0.0) if record.lease == owner else record


def ended(record: Record | None, *, expires_at: int) -> Record:
    """The tombstone. The tokens go; the fact stays until no copy of a cookie can be alive."""
    base = record or Record(expires_at=expires_at)
    return Record(
        expires_at=max(base.expires_at, expires_at),
        gen=base.gen,
        ended=True,
        seen=base.seen,
        seen_at=base.seen_at,
    )


def extended(record: Record | None, *, expires_at: int) -> Record | None:
    """Keep the record for a session that was touched."""
    if record is None or record.expires_at >= expires_at:
        return record
    return replace(record, expires_at=expires_at)
