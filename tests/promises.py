"""Writes PROMISES.md from the matrix that the tests run: ``python -m tests.promises``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .faults import Step
from .test_faults import EXPECTED, PROCESSES, STORES, Fault, NotApplicable, Saved

FILE: Final = Path(__file__).resolve().parent.parent / "PROMISES.md"

HEAD: Final = """\
# What each store promises, fault by fault

Written by `python -m tests.promises` from the matrix in `tests/test_faults.py`, each cell of which
is a test; another test holds this page against it. *saved*: afterwards every cookie of the session
leads to live tokens on every host, no spent refresh token was presented, and the session can be
refreshed again. A name is a window of the README's *What is not guaranteed*, asserted as exactly
that. *–*: the fault cannot strike at that step, or makes no difference there.

A cell's test is `test_in_process[FAULT-STEP-STORE]`; where the row says *workers*, it is
`test_with_real_workers[FAULT-STEP-STORE]`: real uvicorn workers, killed, stopped or restarted.

"""


def page() -> str:
    """The whole page."""
    steps = " | ".join(step.value for step in Step)
    lines = [f"| fault | {steps} | stores |", "|---|" + "---|" * (len(Step) + 1)]
    lines += [_row(fault) for fault in Fault]
    return HEAD + "\n".join(lines) + "\n"


def _row(fault: Fault) -> str:
    cells = " | ".join(_cell(fault, step) for step in Step)
    where = ", ".join(STORES[fault])
    driven = " (workers)" if fault in PROCESSES else ""
    return f"| {fault.value} | {cells} | {where}{driven} |"


def _cell(fault: Fault, step: Step) -> str:
    outcome = EXPECTED[fault, step]
    if isinstance(outcome, NotApplicable):
        return "–"
    return "saved" if isinstance(outcome, Saved) else f"*{outcome.value}*"


if __name__ == "__main__":
    FILE.write_text(page())
