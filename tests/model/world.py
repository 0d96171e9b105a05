"""One browser, two workers, a store and a provider: what can happen next, whatever has happened.

It decides nothing about the protocol: what a record says and how it changes is `record`'s own code,
how fresh a token is and what follows for a request is `refresh`'s. Written here by hand is the
*order* of `rotation` and `session`: one step for each place where the code awaits and anything else
may come between. It does not know seals, the cookie's bytes, HTTP, or asyncio.

==============  ==================================================================================
step            the code it mirrors
==============  ==================================================================================
ARRIVE          ``Session._decide``, then ``Rotation.result``, ``_joined`` or ``_still_alive``. The
                cookie is any that was ever set: a request may be as late as it likes
GIVE_UP         ``Rotation.result``: the caller is cancelled, or its deadline passes
LOOK            ``_flight``: one turn of its loop, ``store.apply(leased)`` and what it says
SEND            ``_lead``: the look at the lease right before sending, each time
ASK             the provider gets the request and answers: new tokens, or a rejection
FAIL            the provider is busy (429, 5xx)
LOSE_REQUEST    in doubt: the request never arrived
LOSE_ANSWER     in doubt: the provider has rotated, and its answer is lost
PUBLISH         ``_publish`` and ``_published``: the store takes the new generation. Its callers
                have it in the same step, since nothing between could make a difference to them
PUBLISH_FAILS   ``_publish``: the store does not take it; callers have it, the flight goes on
BELIEVE         ``_rejected``: the rejection is written, unless a newer generation is there
GIVE_BACK       ``_failed``: ``store.apply(released)``, and what else has come into the record
START           ``Session._lines`` less than ``LOOK_AGAIN`` after the answer: no look
START_LATE      ``Session._lines`` and ``Rotation.newest``, after a long poll
DELIVER         the Set-Cookie of a response reaches the browser. It may do so never (lost), once,
                or again (doubled), before and after any other (reordered)
SIGN_OUT        ``Session.logout``: the tombstone, then a response that clears the cookie
SIGN_IN         ``Session.login``: the tombstone of the session before, then the new cookie
REDIRECT        ``UserOrLogin``: a page is asked for with a cookie that is over; the browser drops
                it and follows to the sign-in before anything else
TIME_PASSES     what was fresh is due, what was due is expired; leases lapse, cool-offs end, who
                waits has waited too long, each response not started yet has become a long poll
STALL           the same, and one worker has stood still meanwhile: its requests wait on
CRASH           a worker is gone with its requests, flights and memory; its lease is not
REVOKE          the provider ends the grant by itself
STORE_DOWN, UP  the store cannot be reached; it can again
==============  ==================================================================================

Left out, since each can only make a bad end rarer: what a process remembers of newer and of ended
sessions (hints, forgotten at any time), and the revocation at sign-out (best effort: a grant that
lives on is the harder case).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from fastapi_ideal_auth.record import Says
from fastapi_ideal_auth.refresh import OUTCOMES, Answer, Cookie, Gets, Token

from .promises import Bounds, Broken, Provider, Rules, Window
from .records import (
    GONE,
    Tokens,
    dead,
    end,
    ended,
    give_back,
    look,
    newest_gen,
    newest_in,
    over,
    publish,
    reject,
    renamed,
    token_of,
)
from .state import (
    CLEAR,
    FAILED,
    GRANTED,
    LEADING,
    LOOKING,
    NOBODY,
    ORPHANED,
    REJECTED,
    SENT,
    SET,
    SIGN_IN,
    SIGN_OUT,
    UNPUBLISHED,
    Answered,
    Flight,
    Grant,
    Left,
    Message,
    State,
    Waiting,
    first,
)


class Does(Enum):
    """The steps, as a trace tells them."""

    ARRIVE = "a request with cookie {} arrives at worker {}"
    GIVE_UP = "the request with {} at worker {} gives up; its flight goes on"
    LOOK = "worker {1} looks what the record says for {0}: {2}"
    SEND = "worker {1} sends refresh token {0}"
    ASK = "the provider gets {} from {}: {}"
    FAIL = "the provider is busy when {} comes from worker {}"
    LOSE_REQUEST = "the request with {} from worker {} is lost"
    LOSE_ANSWER = "the answer to {} for worker {} is lost"
    PUBLISH = "worker {1} publishes what it got for {0}: {2}"
    PUBLISH_FAILS = "the store does not take what worker {1} got for {0}: {2}"
    BELIEVE = "worker {1} writes down that {0} was rejected: {2}"
    GIVE_BACK = "worker {1} gives the lease for {0} back: {2}"
    START = "a response starts at once at worker {1}: {2} {0}"
    START_LATE = "a response starts after a long poll at worker {1}: {2} {0}"
    DELIVER = "the browser gets the response that {1} {0}"
    SIGN_OUT = "sign-out of {}"
    SIGN_IN = "a new sign-in: {}"
    REDIRECT = "a page redirects to the sign-in, and drops the cookie of {}"
    TIME_PASSES = "time passes"
    STALL = "time passes, and worker {} stands still"
    CRASH = "worker {} crashes"
    REVOKE = "the provider revokes the grant of {}"
    STORE_DOWN = "the store is down"
    STORE_UP = "the store is back"


class Step(NamedTuple):
    """One thing that can happen next."""

    does: Does
    told: tuple[object, ...]
    after: State
    broken: Broken | None = None
    excuse: Window | None = None
    """Why what looks like a broken promise is none."""


_WHAT: Final = {SET: "sets", CLEAR: "clears", SIGN_IN: "signs in", SIGN_OUT: "signs out"}
_CALM: Final = Left(1, *[0] * (len(Left._fields) - 1))


class World:
    """The steps under one set of rules, within bounds, at one kind of provider."""

    def __init__(
        self,
        rules: Rules | None = None,
        bounds: Bounds | None = None,
        provider: Provider = Provider.STRICT,
    ) -> None:
        self.rules = rules or Rules()
        self.bounds = bounds or Bounds()
        self.provider = provider
        self.first = first(self.bounds)
        self._led_home: dict[tuple[Tokens, int, Grant, int], bool] = {}

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._outside(state)
        yield from self._arrivals(state)
        for flight in state.flights:
            yield from self._flies(state, flight)
        for request in dict.fromkeys(state.answered):
            yield from self._starts(state, request)
        for message in state.wire:
            if message.leaves != state.jar:
                yield self._delivered(state, message)

    def lost_cookie(self, state: State) -> Tokens | None:
        """Of each live session that is at rest: a cookie that does not lead to good tokens."""
        if not state.up:
            return None
        busy = {flight.key.session for flight in state.flights}
        for cookie in state.cookies:
            session = cookie.session
            if session not in busy and self._lives(state, session):
                key = cookie, state.records[session], state.grants[session], state.now
                home = self._led_home.get(key)
                if home is None:
                    home = self._led_home[key] = self._leads_home(state, cookie)
                if not home:
                    return cookie
        return None

    # -- what comes from outside ------------------------------------------------------------------

    def _outside(self, state: State) -> Iterator[Step]:
        left = state.left
        if left.ticks:
            yield Step(Does.TIME_PASSES, (), self._later(state.spend("ticks")))
            if left.stalls:
                for worker in sorted({request.worker for request in state.waiting}):
                    after = self._later(state.spend("ticks").spend("stalls"), stalled=worker)
                    yield Step(Does.STALL, (worker,), after)
        if left.sign_outs and state.jar != NOBODY:
            yield self._signed_out(state.spend("sign_outs"))
        if left.sign_ins:
            yield self._signed_in(state.spend("sign_ins"))
        if left.crashes:
            yield from self._crashes(state.spend("crashes"))
        if left.revocations:
            yield from self._revocations(state.spend("revocations"))
        if state.jar != NOBODY and over(state.records[state.jar]):
            yield Step(Does.REDIRECT, ("AB"[state.jar],), state._replace(jar=NOBODY))
        if not state.up:
            yield Step(Does.STORE_UP, (), state._replace(up=True))
        elif left.outages:
            yield Step(Does.STORE_DOWN, (), state.spend("outages")._replace(up=False))

    def _later(self, state: State, stalled: int = NOBODY) -> State:
        for flight in state.flights:
            if flight.at == UNPUBLISHED or (flight.at == GRANTED and not state.up):
                state = state.trouble(Window.STORE_DOWN, *flight.base[:2])
            elif flight.at in (SENT, GRANTED, REJECTED):
                state = state.trouble(Window.LEASE_LAPSED, *flight.base[:2])
        if not self.rules.outcome_stays:
            state = state._replace(records=tuple(0 for _ in state.records))
        waiting = tuple(request for request in state.waiting if request.worker == stalled)
        return state._replace(now=state.now + 1, waiting=waiting)

    def _signed_out(self, state: State) -> Step:
        after, excuse = self._ended(state, state.jar)
        message = Message(SIGN_OUT, Tokens(state.jar, 0, 0), len(state.grants))
        return Step(Does.SIGN_OUT, ("AB"[state.jar],), after.send(message), None, excuse)

    def _signed_in(self, state: State) -> Step:
        after, excuse = state, None
        if state.jar != NOBODY and self.rules.sign_in_ends_the_old:
            after, excuse = self._ended(state, state.jar)
        tokens = Tokens(len(state.grants), 1, state.now)
        after = after._replace(
            records=(*after.records, 0), grants=(*after.grants, Grant(1, alive=True))
        )
        after = after.send(Message(SIGN_IN, tokens, len(after.grants)))
        return Step(Does.SIGN_IN, (tokens,), after, None, excuse)

    def _ended(self, state: State, session: int) -> tuple[State, Window | None]:
        """``Rotation.end``: best effort, so it goes on without the store."""
        if not state.up:
            return state.trouble(Window.END_UNWRITTEN, session), Window.END_UNWRITTEN
        return state.record(session, end(state.records[session])), None

    def _crashes(self, state: State) -> Iterator[Step]:
        busy = {request.worker for request in state.waiting}
        busy |= {request.worker for request in state.answered}
        busy |= {flight.worker for flight in state.flights}
        for worker in sorted(busy - {NOBODY}):
            yield Step(Does.CRASH, (worker,), self._crashed(state, worker))

    def _crashed(self, state: State, worker: int) -> State:
        after = state._replace(
            waiting=tuple(r for r in state.waiting if r.worker != worker),
            answered=tuple(r for r in state.answered if r.worker != worker),
        )
        for flight in state.flights:
            if flight.worker == worker:
                after = self._downed(after, flight)
        return after

    def _downed(self, state: State, flight: Flight) -> State:
        session = flight.key.session
        after = state.record(session, renamed(state.records[session], flight.owner, GONE))
        if flight.at in (SENT, GRANTED, UNPUBLISHED):
            after = after.trouble(Window.CRASHED, *flight.base[:2])
        if flight.at == SENT:  # the request may still reach the provider
            return after.fly(flight, Flight(NOBODY, flight.key, flight.base, ORPHANED))
        return after.fly(flight, None)

    def _revocations(self, state: State) -> Iterator[Step]:
        for session, grant in enumerate(state.grants):
            if grant.alive:
                dead = Grant(grant.gen, alive=False)
                yield Step(Does.REVOKE, ("AB"[session],), state.grant(session, dead))

    # -- a request --------------------------------------------------------------------------------

    def _arrivals(self, state: State) -> Iterator[Step]:
        for request in dict.fromkeys(state.waiting):
            told = request.tokens, request.worker
            yield Step(Does.GIVE_UP, told, state.leave(request))
        if not state.left.requests or len(state.waiting + state.answered) >= self.bounds.tabs:
            return
        for cookie in dict.fromkeys(state.cookies):
            # With a fresh token the user is served: no I/O, and nothing changes.
            if token_of(cookie, state.now) is not Token.FRESH:
                for worker in range(self.bounds.workers):
                    yield self._arrived(state.spend("requests"), cookie, worker)

    def _arrived(self, state: State, cookie: Tokens, worker: int) -> Step:
        told = cookie, worker
        late = ended(state.records[cookie.session])
        held = _held(state, cookie, worker)
        if held is not None:
            looked = state.up and self.rules.store_before_memory
            answer = Answer.KNOWN_DEAD if looked and late else Answer.TOKENS
            request = Waiting(worker, cookie, began=False, late=late)
            return self._told(Does.ARRIVE, told, state.wait(request), [request], answer, held)
        joined = any(
            flight.worker == worker and flight.key == cookie and flight.at != UNPUBLISHED
            for flight in state.flights
        )
        after = state.wait(Waiting(worker, cookie, began=not joined, late=late))
        if not joined:
            after = after.fly(None, Flight(worker, cookie, cookie, LOOKING))
        return Step(Does.ARRIVE, told, after)

    def _landed(
        self,
        does: Does,
        state: State,
        flight: Flight,
        answer: Answer,
        tokens: Tokens | None = None,
        *,
        flies_on: Flight | None = None,
    ) -> Step:
        """A flight has its end, or at least its callers need not wait for it."""
        callers = [
            request
            for request in state.waiting
            if request.worker == flight.worker and request.tokens == flight.key
        ]
        session = flight.key.session
        name = GONE if flies_on is None else flies_on.owner
        after = state.record(session, renamed(state.records[session], flight.owner, name))
        after = after.fly(flight, flies_on)
        return self._told(does, (flight.base, flight.worker), after, callers, answer, tokens)

    def _told(
        self,
        does: Does,
        told: tuple[object, ...],
        state: State,
        callers: list[Waiting],
        answer: Answer,
        tokens: Tokens | None,
    ) -> Step:
        """``Rotation.result`` returns; ``Session._refresh`` goes by the outcome table.

        ``tokens`` are the newest, or what was rejected.
        """
        broken, excuse = None, None
        for request in callers:
            state = state.leave(request)
            mine = answer
            if answer is Answer.REJECTED and not request.began:
                mine = Answer.KNOWN_DEAD
            gets, cookie = OUTCOMES[token_of(request.tokens, state.now), mine]
            if tokens is not None and tokens.session != request.tokens.session:
                broken = Broken.MIXED_UP
            if tokens is not None and answer is Answer.TOKENS and _is_dead(state, tokens):
                broken = Broken.DEAD
            if request.late and gets in (Gets.USER, Gets.NEWEST):
                if state.up:
                    broken = Broken.CAME_BACK
                else:
                    excuse = Window.UNCHECKED
            clears = cookie is Cookie.CLEARED or (
                gets is Gets.UNAUTHORIZED and not self.rules.only_the_asker_clears
            )
            if cookie is Cookie.REPLACED or clears:
                about, epoch = tokens or request.tokens, len(state.grants)
                if answer is Answer.REJECTED and _is_told(state, about):
                    broken = Broken.TOLD_TWICE
                state = state.answer(Answered(request.worker, about, clears, state.now, epoch))
        return Step(does, (*told, answer.name), state, broken, excuse)

    # -- a flight ---------------------------------------------------------------------------------

    def _flies(self, state: State, flight: Flight) -> Iterator[Step]:
        at = flight.at
        if at == LOOKING:
            yield from self._looks(state, flight)
        elif at == LEADING:
            yield self._sends(state, flight)
        elif at == SENT:
            yield self._asked(state, flight)
            yield from self._unlucky(state, flight)
        elif at == ORPHANED:
            yield self._asked(state, flight)
        elif at == REJECTED:
            yield self._believes(state, flight)
        elif at == FAILED:
            yield self._gives_back(state, flight)
        else:
            yield from self._granted(state, flight)

    def _looks(self, state: State, flight: Flight) -> Iterator[Step]:
        told = flight.base, flight.worker
        leading = flight._replace(at=LEADING, tick=state.now)
        if not self.rules.workers_meet:
            yield Step(Does.LOOK, (*told, Says.YOURS.name), state.fly(flight, leading))
            return
        if not state.up:
            yield self._landed(Does.LOOK, state, flight, Answer.UNAVAILABLE)
            return
        session, gen = flight.base[:2]
        if flight.waited and not self.rules.looks_under_lease:
            gen = max(gen, newest_gen(state.records[session]))
        number, says = look(state.records[session], gen, flight.key.gen, flight.owner, state.now)
        newer = newest_gen(number) > gen
        if says is Says.REJECTED and newer and not self.rules.dead_before_newer:
            says = Says.NEWER
        looked = state.record(session, number)
        match says:
            case Says.WAIT if flight.waited:
                pass  # nothing has changed
            case Says.WAIT:
                waiting = flight._replace(waited=True)
                yield Step(Does.LOOK, (*told, says.name), looked.fly(flight, waiting))
            case Says.YOURS:
                yield Step(Does.LOOK, (*told, says.name), looked.fly(flight, leading))
            case Says.NEWER:
                yield self._adopts(looked, flight, newest_in(number))
            case Says.LATER:
                yield self._landed(Does.LOOK, looked, flight, Answer.UNAVAILABLE)
            case _:  # ENDED, REJECTED
                yield self._landed(Does.LOOK, looked, flight, Answer.KNOWN_DEAD)

    def _adopts(self, state: State, flight: Flight, newest: Tokens) -> Step:
        if newest.gen > flight.key.gen + 1 and not self.rules.any_generation_leads_home:
            return self._landed(Does.LOOK, state, flight, Answer.KNOWN_DEAD)
        if flight.waited or token_of(newest, state.now) is Token.FRESH:
            return self._landed(Does.LOOK, state, flight, Answer.TOKENS, newest)
        told = flight.base, flight.worker, Says.NEWER.name
        return Step(Does.LOOK, told, state.fly(flight, flight._replace(base=newest)))

    def _sends(self, state: State, flight: Flight) -> Step:
        told = flight.base, flight.worker
        if flight.tick < state.now and self.rules.checks_lease:
            return self._gives_back(state, flight)
        sent = flight._replace(at=SENT, tick=state.now)
        return Step(Does.SEND, told, state.fly(flight, sent))

    def _asked(self, state: State, flight: Flight) -> Step:
        """The provider's side: a refresh token is good once."""
        session, gen = flight.base[:2]
        grant = state.grants[session]
        once_more = self.provider is Provider.GRACE and gen == grant.gen - 1
        spent = gen < grant.gen and not once_more
        broken = Broken.SPENT if spent and state.excuse(session, gen) is None else None
        if spent and self.provider is not Provider.FORGIVING:
            grant = Grant(grant.gen, alive=False)
        good = grant.alive and not spent
        if good:
            grant = Grant(max(grant.gen, gen + 1), alive=True)
        asker, answered = "a worker that has crashed", None
        if flight.at != ORPHANED:
            asker = f"worker {flight.worker}"
            answered = flight._replace(at=GRANTED) if good else _at(flight, REJECTED)
        told = flight.base, asker, "new tokens" if good else "invalid_grant"
        return Step(Does.ASK, told, state.fly(flight, answered).grant(session, grant), broken)

    def _unlucky(self, state: State, flight: Flight) -> Iterator[Step]:
        told = flight.base, flight.worker
        if state.left.failures:
            after = state.spend("failures").fly(flight, _at(flight, FAILED))
            yield Step(Does.FAIL, told, after)
        if state.left.losses:
            after = state.spend("losses").fly(flight, _in_doubt(flight))
            yield Step(Does.LOSE_REQUEST, told, after)

    def _granted(self, state: State, flight: Flight) -> Iterator[Step]:
        if flight.at == GRANTED and state.left.losses:
            lost = state.spend("losses").trouble(Window.ANSWER_LOST, *flight.base[:2])
            told = flight.base, flight.worker
            yield Step(Does.LOSE_ANSWER, told, lost.fly(flight, _in_doubt(flight)))
        if not self.rules.workers_meet:
            yield self._landed(Does.PUBLISH, state, flight, Answer.TOKENS, flight.newer)
        elif state.up:
            yield self._published(state, flight)
        elif flight.at == GRANTED:
            yield self._unpublished(state, flight)

    def _published(self, state: State, flight: Flight) -> Step:
        session = flight.base.session
        number = publish(
            state.records[session], flight.owner, flight.newer, self.rules.tombstone_wins
        )
        after = state.record(session, number)
        if ended(number):  # and what it got is revoked
            after = after.grant(session, Grant(state.grants[session].gen, alive=False))
            return self._landed(Does.PUBLISH, after, flight, Answer.KNOWN_DEAD)
        return self._landed(Does.PUBLISH, after, flight, Answer.TOKENS, newest_in(number))

    def _unpublished(self, state: State, flight: Flight) -> Step:
        session = flight.base.session
        if ended(state.records[session]):
            state = state.trouble(Window.UNCHECKED, session)
        flies_on = flight._replace(at=UNPUBLISHED, again=False, waited=False)
        return self._landed(
            Does.PUBLISH_FAILS, state, flight, Answer.TOKENS, flight.newer, flies_on=flies_on
        )

    def _believes(self, state: State, flight: Flight) -> Step:
        session, gen = flight.base[:2]
        answer, newest = Answer.REJECTED, flight.base
        if not state.up:
            answer = Answer.UNAVAILABLE
        elif self.rules.workers_meet:
            before = state.records[session]
            number = reject(before, flight.owner, gen)
            state = state.record(session, number)
            if dead(before, gen) and self.rules.rejection_is_told_once:
                answer = Answer.KNOWN_DEAD
            answer, newest = self._overtaken(number, flight.base) or (answer, newest)
        return self._landed(Does.BELIEVE, state, flight, answer, newest)

    def _gives_back(self, state: State, flight: Flight) -> Step:
        session, answer, newest = flight.base.session, Answer.UNAVAILABLE, flight.base
        if state.up and self.rules.workers_meet:
            number = give_back(state.records[session], flight.owner, state.now)
            state = state.record(session, number)
            if self.rules.failure_sees_the_end:
                answer, newest = self._overtaken(number, flight.base) or (answer, newest)
        return self._landed(Does.GIVE_BACK, state, flight, answer, newest)

    def _overtaken(self, number: int, base: Tokens) -> tuple[Answer, Tokens] | None:
        """What has come into the record while the provider was asked."""
        if ended(number):
            return Answer.KNOWN_DEAD, base
        if newest_gen(number) <= base.gen:
            return None
        if dead(number, base.gen) and self.rules.dead_before_newer:
            return Answer.KNOWN_DEAD, base
        return Answer.TOKENS, newest_in(number)

    # -- a response -------------------------------------------------------------------------------

    def _starts(self, state: State, request: Answered) -> Iterator[Step]:
        gone = state.begin(request)
        told = request.tokens, request.worker
        number = state.records[request.tokens.session]
        if request.tick == state.now:
            kind = CLEAR if request.clears else SET
            excuse = Window.ON_THE_WIRE if kind == SET and ended(number) else None
            after = gone.send(Message(kind, request.tokens, request.epoch))
            yield Step(Does.START, (*told, _WHAT[kind]), after, None, excuse)
        message = self._written_late(state, request)
        if message is None:
            yield Step(Does.START_LATE, (*told, "leaves"), gone)
            return
        broken = Broken.CAME_BACK if message.kind == SET and ended(number) else None
        told = message.tokens, request.worker
        after = gone.send(message)
        yield Step(Does.START_LATE, (*told, _WHAT[message.kind]), after, broken)

    def _written_late(self, state: State, request: Answered) -> Message | None:
        """``Session._lines``, for a request that was answered a while ago."""
        tokens, clears = request.tokens, request.clears
        if self.rules.looks_at_start and self.rules.workers_meet:
            number = state.records[tokens.session]
            if not state.up or ended(number):
                return None
            newer = newest_gen(number) > tokens.gen
            is_over = dead(number, tokens.gen) or (clears and not newer)
            if self.rules.rejected_is_over and is_over:
                return None
            if newer:
                tokens, clears = newest_in(number), False
        return Message(CLEAR if clears else SET, tokens, len(state.grants))

    def _delivered(self, state: State, message: Message) -> Step:
        broken, excuse = self._harm(state, message)
        told = message.tokens, _WHAT[message.kind]
        return Step(Does.DELIVER, told, state._replace(jar=message.leaves), broken, excuse)

    def _harm(self, state: State, message: Message) -> tuple[Broken | None, Window | None]:
        """Does this response take a live session's cookie away?"""
        mine, theirs = state.jar, message.tokens.session
        wanted = message.kind == SIGN_OUT or message.leaves > mine
        if mine == NOBODY or wanted or not self._lives(state, mine):
            return None, None
        if message.epoch <= mine:  # it had started before the session in the jar began
            return None, Window.ON_THE_WIRE
        excuse = state.excuse(theirs)
        if excuse is not None:
            return None, excuse
        return (Broken.DELETED if message.leaves == NOBODY else Broken.MIXED_UP), None

    # -- is a session well ------------------------------------------------------------------------

    def _lives(self, state: State, session: int) -> bool:
        """Not ended, its grant alive, and its newest tokens not lost in a named window.

        A provider with a grace gives them again, and so excuses nothing.
        """
        gen, alive = state.grants[session]
        number = state.records[session]
        if not alive or ended(number):
            return False
        if self.provider is Provider.GRACE or max(1, newest_gen(number)) == gen:
            return True
        return state.excuse(session, gen - 1) is None

    def _leads_home(self, state: State, cookie: Tokens) -> bool:
        """One request, a good while later, with nothing going wrong: does it get good tokens?"""
        state = self._later(state._replace(flights=(), answered=(), left=_CALM))
        state = self._arrived(state, cookie, 0).after
        for _ in range(10):
            if state.flights:
                state = next(self._flies(state, state.flights[0])).after
        gen, alive = state.grants[cookie.session]
        return alive and any(
            request.tokens.gen == gen and not request.clears for request in state.answered
        )


def _held(state: State, cookie: Tokens, worker: int) -> Tokens | None:
    """What this worker got and the store has not taken yet."""
    for flight in state.flights:
        newer = flight.newer
        mine = flight.at == UNPUBLISHED and flight.worker == worker
        if mine and newer.session == cookie.session and newer.gen > cookie.gen:
            return newer
    return None


def _is_dead(state: State, tokens: Tokens) -> bool:
    """Whether the store knows that the provider has called these dead."""
    return dead(state.records[tokens.session], tokens.gen)


def _is_told(state: State, dead: Tokens) -> bool:
    """Whether a request was told before that these were rejected, and clears the cookie."""
    answered = any(request.clears and request.tokens == dead for request in state.answered)
    return answered or any(one.kind == CLEAR and one.tokens == dead for one in state.wire)


def _at(flight: Flight, at: int) -> Flight:
    """Where the times and tries of a flight do not matter any more."""
    return flight._replace(at=at, again=False, tick=0)


def _in_doubt(flight: Flight) -> Flight:
    """One more try at once; after that it counts as a failure."""
    return _at(flight, FAILED) if flight.again else flight._replace(at=LEADING, again=True)
