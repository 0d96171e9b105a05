"""What happened to a session, for operators: plain values that never hold a token or an id.

Who listens, and what is counted, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """The closed set of things worth knowing."""

    REFRESHED = "refreshed"
    """The provider gave new tokens and they were published."""
    JOINED = "joined"
    """A request waited for a refresh that another had begun."""
    HANDED_OVER = "handed over"
    """A cookie of an older generation got the newest; nobody was asked."""
    REJECTED = "rejected"
    """The provider called the grant dead."""
    UNAVAILABLE = "unavailable"
    """The provider gave nothing usable, or refuses this client; a cool-off begins."""
    IN_DOUBT = "in doubt"
    """A request went out and no whole answer came: the provider may have rotated."""
    REPLAYED = "replayed"
    """An older generation long after a newer one was used: a copied cookie, or a very late one."""
    STORE_DOWN = "store down"
    """The store could not be read or written."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: EventKind
    session: str
    """A hash that names the session in logs and leads nowhere; empty where none is concerned."""
    generation: int | None = None
    """The generation it is about."""
    seconds: float | None = None
    """How long it took: asking the provider and writing down the answer, or waiting for another
    who did. ``None`` where nobody was asked."""
