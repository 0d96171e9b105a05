"""Every order of everything, within bounds: the rules of design §6 hold, and each is needed.

What the model is made of, and which code each of its steps mirrors, is told in `tests.model.world`.
"""

from __future__ import annotations

import pytest

from .model.catalogue import MUTANTS, RULES, SOUND, Mutant, caught, sound
from .model.promises import Broken, Window
from .model.world import Does


@pytest.mark.parametrize("name", SOUND)
def test_no_order_of_events_breaks_a_promise(name: str) -> None:
    found = sound(name)
    assert found.broken is None, f"\n{found.trace}"
    assert found.states > 10_000
    assert found.generations >= 3


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.rule}-{m.breaks.name}")
def test_without_one_rule_a_promise_is_broken(mutant: Mutant) -> None:
    found = caught(mutant)
    print(f"without {mutant.rule}:\n{found.trace}")
    assert found.broken is mutant.breaks, "the model misses it"
    last = found.trace.splitlines()[-1]
    assert last == f"  => {mutant.breaks.value}"


def test_each_rule_has_been_broken() -> None:
    assert {mutant.rule for mutant in MUTANTS} == RULES


def test_the_searches_take_every_step_and_go_through_every_window() -> None:
    explored = [sound(name) for name in SOUND]
    assert {step for found in explored for step in found.steps} == set(Does)
    assert {window for found in explored for window in found.excuses} == set(Window)
    assert {mutant.breaks for mutant in MUTANTS} == set(Broken)


def test_coalescing_alone_is_caught_by_two_requests_on_two_workers() -> None:
    """The trace is the shortest there is: two arrive, look, send and are judged, in turn."""
    trace = caught(MUTANTS[0]).trace.splitlines()
    assert [line.partition(". ")[2] for line in trace[:-1]] == [
        "time passes",
        "a request with cookie A1 arrives at worker 0",
        "a request with cookie A1 arrives at worker 1",
        "worker 0 looks what the record says for A1: YOURS",
        "worker 1 looks what the record says for A1: YOURS",
        "worker 0 sends refresh token A1",
        "worker 1 sends refresh token A1",
        "the provider gets A1 from worker 0: new tokens",
        "the provider gets A1 from worker 1: invalid_grant",
    ]
