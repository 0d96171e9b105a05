"""Notices: sessions that ended without their cookies at hand, and what they are found by.

"Sign out everywhere" and back-channel logout name a user, or a session at the provider; which of
our sessions those are is in cookies that nobody holds then. So a notice is written down, under a
name that each session's cookie leads to: whatever of theirs began at or before its moment has
ended. Who writes and reads it is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .generation import PARTY_BYTES, Generation
from .record import Record
from .seal import KeyRing

# Applications share a store, and user ids with it: the names are of one secret and one cookie.
# Under each secret of the ring, so that a notice outlives the rotation of secrets.


def of_user(ring: KeyRing, cookie_name: str, user_id: str) -> list[str]:
    """What a notice for all sessions of a user is kept under."""
    return _names(ring, "user", cookie_name, user_id.encode("utf-8", "surrogatepass"))


def of_party(ring: KeyRing, cookie_name: str, party: bytes) -> list[str]:
    """The same for whom or what the provider calls ``sub`` or ``sid`` (`generation.party`)."""
    return _names(ring, "party", cookie_name, party)


def of_token(ring: KeyRing, cookie_name: str, issuer: str, jti: str) -> list[str]:
    """Where it is written down that a logout token was used."""
    text = f"{issuer}\0{jti}".encode("utf-8", "surrogatepass")
    return _names(ring, "logout token", cookie_name, text)


def names(ring: KeyRing, cookie_name: str, generation: Generation[Any]) -> list[str]:
    """All that a notice which ends this session may be kept under."""
    subject, session = generation.subject[:PARTY_BYTES], generation.subject[PARTY_BYTES:]
    found = of_user(ring, cookie_name, generation.user.id)
    if any(subject):
        found += of_party(ring, cookie_name, subject)
        found += of_party(ring, cookie_name, session if any(session) else unnamed(subject))
    return found


def unnamed(subject: bytes) -> bytes:
    """The party of a subject's sessions of which the provider did not tell its ``sid``."""
    return subject + b"?"


def noticed(record: Record | None, *, moment: float, expires_at: int) -> Record:
    """The notice, later than one that is there: what began between the two has ended as well."""
    if record is None:
        return Record(expires_at=expires_at, ended=True, seen_at=moment)
    return replace(
        record,
        # Sessions begin in whole seconds: one that began after the notice before is of the next.
        seen_at=max(moment, int(record.seen_at) + 1.0),
        expires_at=max(record.expires_at, expires_at),
    )


def ends(notices: Iterable[Record | None], generation: Generation[Any]) -> bool:
    """Whether one of the notices is of after this session began."""
    return any(
        notice is not None and notice.ended and generation.issued_at <= notice.seen_at
        for notice in notices
    )


def _names(ring: KeyRing, kind: str, cookie_name: str, what: bytes) -> list[str]:
    return ring.names("\0".join((kind, cookie_name, "")).encode() + what)
