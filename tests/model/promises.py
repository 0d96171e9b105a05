"""What is promised, what is excused by name, which rules keep it, and how far a search goes.

The words of the model; it knows no state and no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Broken(Enum):
    """A promise of the design that a step, or a state, can break."""

    SPENT = "a spent refresh token was presented outside every named window"
    UNREACHABLE = "a live session cannot be reached with a cookie of its own"
    CAME_BACK = "an ended session came back"
    MIXED_UP = "a session took another's place"
    DELETED = "a loser's response deleted the cookie of a live session"
    DEAD = "a generation was handed out that the provider had called dead"
    TOLD_TWICE = "two requests were told of one rejection, and both clear the cookie"


class Window(Enum):
    """What can still go wrong, by name; the README lists the same, and nothing else is excused."""

    ANSWER_LOST = "the provider committed, its answer was lost, and it has no grace"
    CRASHED = "a crash after the request was sent and before the publish"
    LEASE_LAPSED = "a lease that lapses with the request on its way"
    STORE_DOWN = "a store down from lease to publish, for longer than the lease"
    END_UNWRITTEN = "sign-out, or a new sign-in, while the store is down"
    UNCHECKED = "a store down after sign-out: a worker goes by what it holds"
    ON_THE_WIRE = "a response that had started at sign-out or at a new sign-in"


class Provider(Enum):
    """What the authorization server makes of a refresh token that is spent."""

    STRICT = "it revokes the whole grant"
    FORGIVING = "it says invalid_grant and no more"
    GRACE = "the token spent last brings the same answer again"


@dataclass(frozen=True)
class Rules:
    """The protocol's rules. Each can be broken by itself, to see that it is needed."""

    workers_meet: bool = True
    """Broken: requests are coalesced in each process, and no more."""
    outcome_stays: bool = True
    """Broken: the outcome of a refresh is cached for a while."""
    any_generation_leads_home: bool = True
    """Broken: one generation back only."""
    only_the_asker_clears: bool = True
    """Broken: every 401 clears the cookie."""
    looks_under_lease: bool = True
    """Broken: who has waited for the lease asks without a second look."""
    looks_at_start: bool = True
    """Broken: a response writes what its request ended with, however long ago."""
    checks_lease: bool = True
    """Broken: a leader does not check its lease right before sending."""
    tombstone_wins: bool = True
    """Broken: a refresh that lands on a tombstone is published."""
    sign_in_ends_the_old: bool = True
    """Broken: signing in over a session leaves that one alive."""
    rejected_is_over: bool = True
    """Broken: a long poll of a session that was rejected still sets, or clears, the cookie."""
    rejection_is_told_once: bool = True
    """Broken: a leader whose lease has lapsed tells of a rejection that another has written."""
    dead_before_newer: bool = True
    """Broken: a newer generation is handed out though it was rejected."""
    failure_sees_the_end: bool = True
    """Broken: a refresh that failed does not see that the session has ended meanwhile."""
    store_before_memory: bool = True
    """Broken: what the store has not taken yet is handed out without a look into the store."""


@dataclass(frozen=True)
class Bounds:
    """How often each thing may happen; every order of them is tried.

    Responses have no bound: each may be lost, doubled and late as it likes.
    """

    workers: int = 2
    tabs: int = 2
    """Requests in progress at once."""
    requests: int = 3
    ticks: int = 2
    """How often time passes: with two of them a session gets to its third generation."""
    stalls: int = 0
    """How often a worker stands still while time passes."""
    sign_outs: int = 0
    sign_ins: int = 0
    crashes: int = 0
    losses: int = 0
    """Requests to the provider, and answers of it, that get lost."""
    failures: int = 0
    revocations: int = 0
    outages: int = 0
