"""The store's record, changed by the very functions of `fastapi_ideal_auth.record`.

Records go by number, so that states are small and compare fast, and each change is computed once.
It knows a tick, the model's unit of time; it does not know who changes a record, or when.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple

from fastapi_ideal_auth import record as rec
from fastapi_ideal_auth.record import Record, Says
from fastapi_ideal_auth.refresh import Token, freshness

TICK: Final = 240
"""Seconds: past every lease and cool-off, every caller's patience and ``session.LOOK_AGAIN``."""
LIFETIME: Final = 300
"""Seconds an access token lives: fresh at first, due after one tick, expired after two."""
BUFFER: Final = 75
LEASE: Final = 40
COOL_OFF: Final = 5
NEVER: Final = 1_000_000
GONE: Final = "gone"
"""Holds the lease of a flight that is no more."""


class Tokens(NamedTuple):
    """One generation of a session, as a cookie or the store has it; it stands for its tokens."""

    session: int
    gen: int
    at: int
    """The tick in which they were asked for."""

    def __str__(self) -> str:
        return f"{'AB'[self.session]}{self.gen}"


@cache
def token_of(tokens: Tokens, now: int) -> Token:
    return freshness(
        expires_at=tokens.at * TICK + LIFETIME,
        token_at=tokens.at * TICK,
        sid=b"\0",
        refresh_buffer=BUFFER,
        now=now * TICK,
    )


class Shelf:
    """Records by number; 0 is no record."""

    def __init__(self) -> None:
        self._records: list[Record | None] = [None]
        self._numbers: dict[Record | None, int] = {None: 0}

    def __getitem__(self, number: int) -> Record | None:
        return self._records[number]

    def put(self, record: Record | None) -> int:
        if record is not None and record.seen:
            # Strict replay detection alone reads these, and it is off here.
            record = replace(record, seen=0, seen_at=0.0)
        number = self._numbers.get(record)
        if number is None:
            number = self._numbers[record] = len(self._records)
            self._records.append(record)
        return number


SHELF: Final = Shelf()

# -- what it says ---------------------------------------------------------------------------------


@cache
def ended(number: int) -> bool:
    record = SHELF[number]
    return record is not None and record.ended


@cache
def newest_gen(number: int) -> int:
    record = SHELF[number]
    return 0 if record is None else record.gen


@cache
def dead(number: int, gen: int) -> bool:
    record = SHELF[number]
    return record is not None and rec.is_dead(record, gen)


def over(number: int) -> bool:
    """Ended, or its newest generation called dead."""
    return ended(number) or dead(number, 1)


def newest_in(number: int) -> Tokens:
    record = SHELF[number]
    assert record is not None
    assert record.sealed is not None
    return Tokens(*record.sealed)


# -- how it changes -------------------------------------------------------------------------------


@cache
def look(number: int, gen: int, presented: int, owner: str, now: int) -> tuple[int, Says]:
    """One turn of ``Rotation._flight``: take the lease if it can be had, then read the record."""
    at = now * TICK
    after = rec.leased(
        SHELF[number],
        gen=gen,
        presented=presented,
        owner=owner,
        at=at,
        now=at,
        until=at + LEASE,
        expires_at=NEVER,
        strict=False,
    )
    meaning = rec.says(
        after, gen=gen, presented=presented, owner=owner, at=at, now=at, strict=False
    )
    return SHELF.put(after), meaning


@cache
def publish(number: int, owner: str, newer: Tokens, tombstone_wins: bool) -> int:
    before = SHELF[number]
    if before is not None and not tombstone_wins:
        before = replace(before, ended=False)
    return SHELF.put(
        rec.published(before, owner=owner, gen=newer.gen, sealed=bytes(newer), expires_at=NEVER)
    )


@cache
def reject(number: int, owner: str, gen: int) -> int:
    return SHELF.put(rec.rejected(SHELF[number], owner=owner, gen=gen, expires_at=NEVER))


@cache
def give_back(number: int, owner: str, now: int) -> int:
    return SHELF.put(rec.released(SHELF[number], owner=owner, retry_at=now * TICK + COOL_OFF))


@cache
def end(number: int) -> int:
    return SHELF.put(rec.ended(SHELF[number], expires_at=NEVER))


@cache
def renamed(number: int, owner: str, name: str) -> int:
    """An owner's name is random in the code; here it comes again, and its lease must not."""
    record = SHELF[number]
    if record is None or record.lease != owner:
        return number
    return SHELF.put(replace(record, lease=name))


@cache
def mirrored(number: int) -> int:
    """The same record with the two workers' names exchanged."""
    record = SHELF[number]
    if record is None or record.lease in (None, GONE):
        return number
    worker, _, key = str(record.lease).partition(".")
    return SHELF.put(replace(record, lease=f"{1 - int(worker)}.{key}"))
