"""The searches: what the rules keep within which bounds, and what breaks without each of them.

``python -m tests.model.catalogue`` runs the second half and tells each shortest trace; with
``IDEAL_AUTH_MODEL=large`` in the environment the first half goes further.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import cache
from typing import Final, NamedTuple

from .promises import Bounds, Broken, Provider, Rules
from .search import Explored, explore
from .world import World


class Sound(NamedTuple):
    """A search that must find nothing."""

    bounds: Bounds
    provider: Provider = Provider.STRICT


SOUND: Final = {
    "everything at once": Sound(Bounds(sign_outs=1, sign_ins=1, crashes=1)),
    "four requests, four generations": Sound(Bounds(requests=4, ticks=3)),
    "lost answers": Sound(Bounds(crashes=1, losses=2)),
    "lost answers, a forgiving provider": Sound(Bounds(crashes=1, losses=2), Provider.FORGIVING),
    "lost answers, a provider with a grace": Sound(Bounds(crashes=1, losses=2), Provider.GRACE),
    "a grant revoked": Sound(Bounds(requests=2, sign_outs=1, sign_ins=1, revocations=1)),
    "a worker stands still": Sound(Bounds(sign_ins=1, revocations=1, stalls=1)),
    "a worker stands still twice": Sound(
        Bounds(ticks=3, revocations=1, stalls=2), Provider.FORGIVING
    ),
    "the store down": Sound(Bounds(requests=3, crashes=1, outages=1)),
    "the store down at sign-out": Sound(Bounds(requests=2, sign_outs=1, failures=1, outages=1)),
    "the store down at sign-in": Sound(Bounds(requests=2, sign_ins=1, failures=1, outages=1)),
}

# Two minutes more, and gigabytes of memory: for a change of the protocol, not for every run.
LARGE: Final = {
    "everything, and a lost answer": Sound(Bounds(sign_outs=1, sign_ins=1, crashes=1, losses=1)),
    "everything, three tabs": Sound(Bounds(tabs=3, sign_outs=1, sign_ins=1, crashes=1)),
    "everything, with a grace": Sound(
        Bounds(sign_outs=1, sign_ins=1, crashes=1, losses=1), Provider.GRACE
    ),
    "a grant revoked, three requests": Sound(Bounds(sign_outs=1, sign_ins=1, revocations=1)),
    "the store down all the time": Sound(
        Bounds(requests=2, sign_outs=1, sign_ins=1, failures=1, crashes=1, outages=1)
    ),
}

if os.environ.get("IDEAL_AUTH_MODEL") == "large":
    SOUND.update(LARGE)


class Mutant(NamedTuple):
    """A rule that is broken, what comes of it, and what must be able to happen for that."""

    rule: str
    breaks: Broken
    bounds: Bounds


SMALL: Final = Bounds(requests=2)

MUTANTS: Final = [
    Mutant("workers_meet", Broken.SPENT, SMALL),
    Mutant("outcome_stays", Broken.SPENT, SMALL),
    Mutant("any_generation_leads_home", Broken.UNREACHABLE, SMALL),
    Mutant("only_the_asker_clears", Broken.DELETED, replace(SMALL, sign_outs=1, sign_ins=1)),
    Mutant("looks_under_lease", Broken.SPENT, SMALL),
    Mutant("looks_at_start", Broken.CAME_BACK, replace(SMALL, sign_outs=1)),
    Mutant("looks_at_start", Broken.MIXED_UP, replace(SMALL, sign_ins=1)),
    Mutant("checks_lease", Broken.SPENT, SMALL),
    Mutant("tombstone_wins", Broken.CAME_BACK, replace(SMALL, sign_outs=1)),
    Mutant("sign_in_ends_the_old", Broken.MIXED_UP, replace(SMALL, sign_ins=1)),
    Mutant("rejected_is_over", Broken.MIXED_UP, replace(SMALL, sign_ins=1, revocations=1)),
    Mutant("rejected_is_over", Broken.DELETED, replace(SMALL, sign_ins=1, revocations=1)),
    Mutant("rejection_is_told_once", Broken.TOLD_TWICE, replace(SMALL, revocations=1, stalls=1)),
    Mutant("dead_before_newer", Broken.DEAD, replace(SMALL, requests=3, revocations=1, stalls=1)),
    Mutant("failure_sees_the_end", Broken.CAME_BACK, replace(SMALL, sign_outs=1, failures=1)),
    Mutant("store_before_memory", Broken.CAME_BACK, replace(SMALL, sign_outs=1, outages=1)),
]

RULES: Final = {field.name for field in fields(Rules)}


@cache
def sound(name: str) -> Explored:
    bounds, provider = SOUND[name]
    return explore(World(Rules(), bounds, provider))


@cache
def caught(mutant: Mutant) -> Explored:
    rules = replace(Rules(), **{mutant.rule: False})
    return explore(World(rules, mutant.bounds), mutant.breaks)


if __name__ == "__main__":
    for mutant in MUTANTS:
        print(f"without {mutant.rule}:\n{caught(mutant).trace}\n")
