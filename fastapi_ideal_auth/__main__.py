"""``python -m fastapi_ideal_auth secret`` prints a new secret, and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .seal import new_secret


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; wrong usage ends with status 2 and says what is right."""
    parser = argparse.ArgumentParser(prog="python -m fastapi_ideal_auth")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secret", help="print a new secret for IdealAuth(secret=…)")
    parser.parse_args(arguments)
    print(new_secret())


if __name__ == "__main__":
    main()
