"""All of them, one after the other: ``python -m benchmarks`` prints and writes their tables."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

from benchmarks import (
    cost,
    fresh_path,
    growth,
    instructions,
    served,
    simulation,
    sizes,
    storm,
    waiting,
)

FILE: Final = Path(__file__).parent / "RESULTS.md"

HEAD: Final = """\
# Results

Written by `make bench`, in one run on one machine: compare within a table, not across runs.
Figures are minima over interleaved rounds.
"""

PARTS: Final[dict[str, Callable[[], None]]] = {
    "The fresh path": lambda: asyncio.run(fresh_path.main()),
    "The fresh path, in instructions": instructions.report,
    "Served": served.main,
    "Storms": lambda: asyncio.run(storm.main()),
    "Waiting for a refresh": lambda: asyncio.run(waiting.main()),
    "Bytes": sizes.main,
    "Growth": lambda: asyncio.run(growth.main()),
    "Sessions lost, simulated": lambda: simulation.report(100_000),
    "What 100 million sessions cost": lambda: asyncio.run(cost.main()),
}


def main() -> None:
    logging.disable()  # what peers and the library say of a storm is not the measure of it
    written = [HEAD]
    for title, part in PARTS.items():
        caught = io.StringIO()
        with redirect_stdout(caught):
            part()
        text = f"## {title}\n\n{caught.getvalue().strip()}\n"
        print(text, flush=True)
        written.append(text)
    FILE.write_text("\n".join(written))


if __name__ == "__main__":
    main()
