"""Tries every order of steps, breadth first, so that the first broken promise is the shortest one.

It knows how to search and how to tell a trace; what a step and a promise are, `world` says.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .promises import Broken, Window
from .state import State, canonical
from .world import Does, Step, World

Parents = dict[State, State | None]


@dataclass
class Explored:
    """What a search found."""

    states: int = 0
    generations: int = 1
    steps: Counter[Does] = field(default_factory=Counter, repr=False)
    """How many states each step was the first to reach."""
    excuses: Counter[Window] = field(default_factory=Counter, repr=False)
    broken: Broken | None = None
    trace: str = field(default="", repr=False)
    """The shortest way to ``broken``, one step a line."""


def explore(world: World, wanted: Broken | None = None) -> Explored:
    """Every state within the bounds; or, sooner, the shortest way to a broken promise (with
    ``wanted``: to this one)."""
    found = Explored()
    start = canonical(world.first)
    parents: Parents = {start: None}
    layer = [start]
    with _no_garbage():
        while layer and found.broken is None:
            layer = _next_layer(world, layer, parents, found, wanted)
    found.states = len(parents)
    return found


def _next_layer(
    world: World,
    layer: list[State],
    parents: Parents,
    found: Explored,
    wanted: Broken | None,
) -> list[State]:
    following: list[State] = []
    for state in layer:
        for step in world.steps(state):
            after = canonical(step.after)
            broken = step.broken
            if after not in parents:
                found.steps[step.does] += 1
                parents[after] = state
                following.append(after)
                _note(found, after)
                if broken is None and world.lost_cookie(after) is not None:
                    broken = Broken.UNREACHABLE
            if step.excuse is not None:
                found.excuses[step.excuse] += 1
            if broken is not None and wanted in (None, broken):
                found.broken = broken
                found.trace = _trace(world, [*_path(parents, state), after], broken)
                return []
    return following


def _note(found: Explored, state: State) -> None:
    found.generations = max(found.generations, *(grant.gen for grant in state.grants))
    for name, _, _ in state.troubles:
        found.excuses[Window[name]] += 1


@contextmanager
def _no_garbage() -> Iterator[None]:
    # States are tuples of tuples without cycles: the collector finds nothing and takes half the
    # time looking.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# -- telling --------------------------------------------------------------------------------------


def _path(parents: Parents, state: State | None) -> list[State]:
    path: list[State] = []
    while state is not None:
        path.append(state)
        state = parents[state]
    return path[::-1]


def _trace(world: World, path: list[State], broken: Broken) -> str:
    """The path walked once more without exchanging workers, so that each keeps its name."""
    state, lines = world.first, []
    for number, goal in enumerate(path[1:], 1):
        step = _step_to(world, state, goal, broken if number == len(path) - 1 else None)
        lines.append(f"{number:3}. {step.does.value.format(*step.told)}")
        state = step.after
    lines.append(f"  => {broken.value}")
    return "\n".join(lines)


def _step_to(world: World, state: State, goal: State, broken: Broken | None) -> Step:
    ways = [step for step in world.steps(state) if canonical(step.after) == goal]
    return next((step for step in ways if step.broken is broken), ways[0])
