"""Sessions lost per million refreshes, by how the workers coordinate: a simulation.

One refresh of one session at a time: a page sends a burst of requests with one due cookie, each to
one of the workers, and each arrives when the network lets it. The provider is strict: a spent
refresh token that is presented ends the session. Responses get lost on their way to the browser;
if all that carry the new cookie do, the browser comes back later with the old one.

Faults that hit every way of coordinating alike (the provider's answer lost after it rotated, a
crash right after the commit) are in the numbers of all four.

    python -m benchmarks.simulation [--refreshes N]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Final

WORKERS: Final = 4
PROVIDER: Final = 0.1
"""Seconds the provider takes."""
ANSWER_LOST: Final = 1e-5
"""The provider rotated, and its answer did not arrive; it has no grace."""
CRASH: Final = 1e-6
"""The worker died between the provider's commit and the publish."""
CACHE: Final = 30.0
"""Seconds for which a cached outcome is kept, as mod_auth_openidc does by default."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request with the due cookie."""

    at: float
    worker: int
    host: int


@dataclass(frozen=True, slots=True)
class World:
    """The hosts with four workers in all, how many requests a page sends at once, and how often
    a response gets lost."""

    hosts: int
    burst: int
    loss: float


Strategy = Callable[[list[Request]], int]
"""How many times the same refresh token is presented for these requests, in order of arrival."""


def no_coordination(requests: list[Request]) -> int:
    return len(requests)


def in_flight(requests: list[Request]) -> int:
    """Requests join a refresh that is under way in their own worker; its outcome is forgotten."""
    return _calls(requests, lambda request: request.worker, keep=PROVIDER)


def cached(requests: list[Request]) -> int:
    """The outcome is kept for a while, on the host that has it."""
    return _calls(requests, lambda request: request.host, keep=PROVIDER + CACHE)


def acknowledged(requests: list[Request]) -> int:
    """One lease for all, and the newest generation for as long as the session lives."""
    return 1


STRATEGIES: Final[dict[str, Strategy]] = {
    "no coordination": no_coordination,
    "in-flight coalescing": in_flight,
    "outcome cached 30 s": cached,
    "acknowledged rotation": acknowledged,
}


def _calls(requests: list[Request], place: Callable[[Request], int], *, keep: float) -> int:
    calls = 0
    until: dict[int, float] = {}
    for request in requests:
        where = place(request)
        if request.at > until.get(where, -1.0):
            calls += 1
            until[where] = request.at + keep
    return calls


def arrivals(world: World, dice: random.Random, *, after: float = 0.0) -> list[Request]:
    """A burst: most requests within some tens of milliseconds, one in a hundred held up."""
    found: list[Request] = []
    for _ in range(world.burst):
        delay = dice.expovariate(1 / 0.03)
        if dice.random() < 0.01:
            delay += dice.expovariate(1 / 2.0)
        worker = dice.randrange(WORKERS)
        found.append(Request(after + delay, worker, worker % world.hosts))
    return sorted(found, key=lambda request: request.at)


def is_lost(strategy: Strategy, world: World, dice: random.Random) -> bool:
    """Whether one refresh ends the session."""
    if dice.random() < ANSWER_LOST + CRASH:
        return True
    requests = arrivals(world, dice)
    # The new cookie arrives unless every response that carries it is lost; then the old one comes
    # back with the next page, minutes later.
    if all(dice.random() < world.loss for _ in requests):
        later = dice.expovariate(1 / 120.0)
        requests += arrivals(world, dice, after=later)
    return strategy(requests) > 1


def table(refreshes: int, seed: int = 1) -> list[tuple[World, dict[str, float]]]:
    """Sessions lost per million refreshes, by world and strategy."""
    rows: list[tuple[World, dict[str, float]]] = []
    for hosts, burst, loss in product((1, 2), (1, 6, 25), (0.001, 0.01)):
        world = World(hosts, burst, loss)
        row: dict[str, float] = {}
        for name, strategy in STRATEGIES.items():
            dice = random.Random(seed)
            lost = sum(is_lost(strategy, world, dice) for _ in range(refreshes))
            row[name] = lost / refreshes * 1e6
        rows.append((world, row))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation")
    parser.add_argument("--refreshes", type=int, default=100_000, help="a cell (100,000)")
    report(parser.parse_args().refreshes)


def report(refreshes: int) -> None:
    """Print the table."""
    print("sessions lost per million refreshes\n")
    names = "".join(f" {name} |" for name in STRATEGIES)
    print(f"| hosts | requests at once | responses lost |{names}")
    print("|---:|---:|---:|" + "---:|" * len(STRATEGIES))
    for world, row in table(refreshes):
        cells = "".join(f" {value:,.0f} |" for value in row.values())
        print(f"| {world.hosts} | {world.burst} | {world.loss:.1%} |{cells}")


if __name__ == "__main__":
    main()
