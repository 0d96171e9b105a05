"""What a request with a good cookie gets, and what becomes of the cookie: the outcome table.

Two questions, both answered from values alone: how fresh is the token, and, once the refresh
protocol has an answer, what follows for this request. Nothing here asks, waits or writes.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

# -- how fresh ------------------------------------------------------------------------------------


class Token(Enum):
    """The access token of a good cookie."""

    FRESH = "fresh"
    DUE = "inside the buffer"
    EXPIRED = "expired"


LIFETIME_SHARE: Final = 4
"""The buffer is at most this part (a quarter) of the token's lifetime: a 30-second token with a
60-second buffer would otherwise be refreshed at every request."""

JITTER_SHARE: Final = 20
"""The buffer shrinks by up to a twentieth, differently for each session, so that sessions begun
together (after a deployment, say) do not all refresh in the same second."""


def buffer_of(*, expires_at: int, token_at: int, sid: bytes, refresh_buffer: float) -> float:
    """Seconds before ``expires_at`` from which on the token is due."""
    buffer = min(refresh_buffer, max(0, expires_at - token_at) / LIFETIME_SHARE)
    return buffer * (1 - sid[0] / 255 / JITTER_SHARE)


def freshness(
    *, expires_at: int | None, token_at: int, sid: bytes, refresh_buffer: float, now: float
) -> Token:
    """``expires_at=None`` is unknown: such a token is never refreshed ahead."""
    if expires_at is None:
        return Token.FRESH
    left = expires_at - now
    if left > refresh_buffer:  # the buffer is never longer: most requests end here
        return Token.FRESH
    if left <= 0:
        return Token.EXPIRED
    buffer = buffer_of(
        expires_at=expires_at, token_at=token_at, sid=sid, refresh_buffer=refresh_buffer
    )
    return Token.DUE if left <= buffer else Token.FRESH


# -- what follows ---------------------------------------------------------------------------------


class Answer(Enum):
    """How the refresh of a due token ended, for the request that waited for it."""

    TOKENS = "newer tokens: from the provider, or of a newer generation"
    UNAVAILABLE = "429, 5xx, time-out, not JSON, unreachable, the store down, or not in time"
    MISCONFIGURED = "invalid_client and other faults of configuration"
    REJECTED = "invalid_grant, told to the refresh that this request began"
    KNOWN_DEAD = "signed out, or rejected before; nobody was asked"
    REPLAYED = "an older generation long after a newer one was used, with strict detection"
    NOTHING_TO_ASK = "no refresh token, or no provider"


class Gets(Enum):
    """What the route gets."""

    USER = "the user with the present token"
    NEWEST = "the user with the newest tokens"
    UNAUTHORIZED = "401"
    TRY_LATER = "503 with Retry-After"


class Cookie(Enum):
    """What becomes of the cookie."""

    UNTOUCHED = "untouched"
    REPLACED = "replaced by the newest generation"
    CLEARED = "cleared"


class Outcome(NamedTuple):
    """One right-hand side of the table."""

    gets: Gets
    cookie: Cookie


_KEEP: Final = Outcome(Gets.USER, Cookie.UNTOUCHED)
_LATER: Final = Outcome(Gets.TRY_LATER, Cookie.UNTOUCHED)
_RENEW: Final = Outcome(Gets.NEWEST, Cookie.REPLACED)
_OUT: Final = Outcome(Gets.UNAUTHORIZED, Cookie.UNTOUCHED)
_CLEAR: Final = Outcome(Gets.UNAUTHORIZED, Cookie.CLEARED)

# A 401 leaves the cookie alone, but for the one request that was told of the rejection: a clear
# that is late on the wire would take the cookie of a new sign-in with it.
OUTCOMES: Final[dict[tuple[Token, Answer], Outcome]] = {
    (Token.DUE, Answer.TOKENS): _RENEW,
    (Token.EXPIRED, Answer.TOKENS): _RENEW,
    (Token.DUE, Answer.UNAVAILABLE): _KEEP,
    (Token.EXPIRED, Answer.UNAVAILABLE): _LATER,
    (Token.DUE, Answer.MISCONFIGURED): _KEEP,
    (Token.EXPIRED, Answer.MISCONFIGURED): _LATER,
    (Token.DUE, Answer.REJECTED): _CLEAR,
    (Token.EXPIRED, Answer.REJECTED): _CLEAR,
    (Token.DUE, Answer.KNOWN_DEAD): _OUT,
    (Token.EXPIRED, Answer.KNOWN_DEAD): _OUT,
    (Token.DUE, Answer.REPLAYED): _OUT,
    (Token.EXPIRED, Answer.REPLAYED): _OUT,
    (Token.DUE, Answer.NOTHING_TO_ASK): _KEEP,
    (Token.EXPIRED, Answer.NOTHING_TO_ASK): _OUT,
}
"""Every pair of a due token and an answer. The rows outside it need no answer: `SIGNED_OUT` for a
cookie that is absent or does not open, `FRESH` for a token that is fresh."""

SIGNED_OUT: Final = _OUT
FRESH: Final = _KEEP
