"""All that one moment consists of, as tuples of small integers, and single changes of it.

Everything without an order of its own is sorted, so that equal moments are found equal. It does
not know which change may follow which.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from .promises import Bounds, Window
from .records import Tokens, mirrored

T = TypeVar("T")

NOBODY: Final = -1

# Where a flight is.
LOOKING, LEADING, SENT, GRANTED, REJECTED, FAILED, UNPUBLISHED, ORPHANED = range(8)
# What a response on the wire does to the cookie, and why.
SET, CLEAR, SIGN_IN, SIGN_OUT = range(4)


class Waiting(NamedTuple):
    """A request that waits for a flight."""

    worker: int
    tokens: Tokens
    """What its cookie carried."""
    began: bool
    """Whether the flight began with it."""
    late: bool
    """Whether its session had ended before it arrived."""


class Answered(NamedTuple):
    """A request whose response will change the cookie when it starts."""

    worker: int
    tokens: Tokens
    """What it shall set; or what was rejected, and is to be cleared."""
    clears: bool
    tick: int
    epoch: int
    """When it was answered: the tick, and how many sessions had begun."""


class Flight(NamedTuple):
    """One refresh under way."""

    worker: int
    key: Tokens
    """What its requests carried."""
    base: Tokens
    """What it will present."""
    at: int
    again: bool = False
    waited: bool = False
    tick: int = 0
    """When it took the lease, and then: when it sent."""

    @property
    def owner(self) -> str:
        """Random in the code; here unlike that of any other flight under way."""
        return f"{self.worker}.{self.key.gen}{'u' if self.at == UNPUBLISHED else ''}"

    @property
    def newer(self) -> Tokens:
        """What it gets for what it presents."""
        return Tokens(self.base.session, self.base.gen + 1, self.tick)


class Message(NamedTuple):
    """A response on the wire. It stays there: it may arrive never, once, or again and again."""

    kind: int
    tokens: Tokens
    epoch: int
    """How many sessions had begun when it started."""

    @property
    def leaves(self) -> int:
        """Whose cookie the browser has after it."""
        return self.tokens.session if self.kind in (SET, SIGN_IN) else NOBODY


class Grant(NamedTuple):
    """What the provider knows of one session."""

    gen: int
    alive: bool


class Left(NamedTuple):
    """How often each thing may still happen."""

    requests: int
    ticks: int
    stalls: int
    sign_outs: int
    sign_ins: int
    crashes: int
    losses: int
    failures: int
    revocations: int
    outages: int


Trouble = tuple[str, int, int]
"""A window, a session and a generation: what has gone wrong for which refresh token."""


class State(NamedTuple):
    now: int
    jar: int
    """Whose cookie the browser has. Not which generation of it: a request may be so late that it
    carries any that was ever set."""
    waiting: tuple[Waiting, ...]
    answered: tuple[Answered, ...]
    flights: tuple[Flight, ...]
    wire: tuple[Message, ...]
    records: tuple[int, ...]
    """One a session, by number."""
    grants: tuple[Grant, ...]
    up: bool
    """Whether the store can be reached."""
    troubles: tuple[Trouble, ...]
    left: Left

    # -- read -------------------------------------------------------------------------------------

    @property
    def cookies(self) -> list[Tokens]:
        """Every cookie that was ever set."""
        return [message.tokens for message in self.wire if message.leaves != NOBODY]

    def excuse(self, session: int, gen: int | None = None) -> Window | None:
        """What has gone wrong for a session, or for one refresh token of it."""
        for name, troubled, token in self.troubles:
            if troubled == session and gen in (None, token):
                return Window[name]
        return None

    # -- with one thing changed -------------------------------------------------------------------

    def spend(self, name: str) -> State:
        left = self.left
        return self._replace(left=left._replace(**{name: getattr(left, name) - 1}))

    def record(self, session: int, number: int) -> State:
        if self.records[session] == number:
            return self
        return self._replace(records=_put(self.records, session, number))

    def grant(self, session: int, grant: Grant) -> State:
        return self._replace(grants=_put(self.grants, session, grant))

    def fly(self, before: Flight | None, after: Flight | None) -> State:
        flights = [flight for flight in self.flights if flight != before]
        if after is not None:
            flights.append(after)
            flights.sort()
        return self._replace(flights=tuple(flights))

    def wait(self, request: Waiting) -> State:
        return self._replace(waiting=tuple(sorted((*self.waiting, request))))

    def leave(self, request: Waiting) -> State:
        index = self.waiting.index(request)
        return self._replace(waiting=self.waiting[:index] + self.waiting[index + 1 :])

    def answer(self, request: Answered) -> State:
        return self._replace(answered=tuple(sorted((*self.answered, request))))

    def begin(self, request: Answered) -> State:
        index = self.answered.index(request)
        return self._replace(answered=self.answered[:index] + self.answered[index + 1 :])

    def send(self, message: Message) -> State:
        return self._replace(wire=tuple(sorted({*self.wire, message})))

    def trouble(self, window: Window, session: int, gen: int = 0) -> State:
        troubles = {*self.troubles, (window.name, session, gen)}
        return self._replace(troubles=tuple(sorted(troubles)))


def _put(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def first(bounds: Bounds) -> State:
    """Signed in just now, and nothing has happened yet."""
    cookie = Tokens(0, 1, 0)
    return State(
        now=0,
        jar=0,
        waiting=(),
        answered=(),
        flights=(),
        wire=(Message(SIGN_IN, cookie, 1),),
        records=(0,),
        grants=(Grant(1, alive=True),),
        up=True,
        troubles=(),
        left=Left(*(getattr(bounds, name) for name in Left._fields)),
    )


_OTHER: Final = {0: 1, 1: 0, NOBODY: NOBODY}


def canonical(state: State) -> State:
    """The two workers are alike: of a state and its mirror image one stands for both."""
    if not (state.waiting or state.answered or state.flights):
        image = state._replace(records=tuple([mirrored(n) for n in state.records]))
    else:
        image = State(
            state.now,
            state.jar,
            tuple(sorted([Waiting(_OTHER[r[0]], *r[1:]) for r in state.waiting])),
            tuple(sorted([Answered(_OTHER[r[0]], *r[1:]) for r in state.answered])),
            tuple(sorted([Flight(_OTHER[f[0]], *f[1:]) for f in state.flights])),
            state.wire,
            tuple([mirrored(n) for n in state.records]),
            state.grants,
            state.up,
            state.troubles,
            state.left,
        )
    return min(state, image)
