"""The fresh path does not grow in silence: its instructions are counted, and kept in a file."""

from __future__ import annotations

import json

import pytest

from benchmarks.instructions import FILE, TOLERANCE, count, grown, quotients

from .processes import require_program

KEPT: dict[str, dict[str, int]] = json.loads(FILE.read_text())


def with_library(times: float) -> dict[str, dict[str, int]]:
    """The kept counts, with a library that adds so many times as much."""
    return {
        size: found
        | {
            name: found["bare"] + int(times * (found[name] - found["bare"]))
            for name in ("library", "first")
        }
        for size, found in KEPT.items()
    }


@pytest.mark.timeout(600)  # valgrind runs everything some fifty times slower, imports included
def test_the_fresh_path_has_not_grown_by_a_tenth() -> None:
    require_program("valgrind")
    assert grown(count(), KEPT) == {}, (
        f"the fresh path takes over {TOLERANCE:.0%} more instructions than {FILE.name} says "
        "(token's size and kind: before, now, as multiples of the limit): mend it, or keep the new "
        "counts with `python -m benchmarks.instructions --keep` and say why in the commit"
    )


def test_what_grows_within_the_tolerance_passes() -> None:
    assert grown(with_library(1.09), KEPT) == {}


def test_what_grows_beyond_it_is_named_with_what_was_and_is() -> None:
    found = grown(with_library(1.11), KEPT)
    assert {each: was for each, (was, _) in found.items()} == quotients(KEPT)


def test_what_is_kept_is_within_the_goal() -> None:
    assert max(quotients(KEPT).values()) <= 1.6
