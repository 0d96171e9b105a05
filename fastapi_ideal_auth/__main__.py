"""``python -m fastapi_ideal_auth``: ``secret`` prints a new one, ``inspect`` looks into a cookie.

A cookie comes by standard input and secrets by the environment: what is on a command line is seen
by every user of the machine, and kept in the shell's history.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence

from .errors import ConfigurationError
from .inspection import Report, report
from .seal import SHORTEST_SECRET, KeyRing, new_secret

SECRET_VARIABLE = "IDEAL_AUTH_SECRET"  # noqa: S105 - a name
LONGEST_INPUT = 65_536
LONGEST_PURPOSE = 255

_INSPECT = f"""Read a session cookie from standard input and print its format, key id, lifetimes,
generation and bytes by field; of tokens only how long they are, of other fields no values. The
input is the cookie's value, name=value, or a whole Cookie header. The secret is in the environment
variable {SECRET_VARIABLE}; several are put on a line each, or apart by spaces. Ends with
status 1 for a cookie that is not good, and says which check it failed."""
_PASTE = """Paste the cookie, then Enter and Ctrl-D (on Windows Ctrl-Z and Enter). A terminal cuts
lines after 4,095 characters: pipe a longer one into this command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; wrong usage ends with status 2 and says what is right."""
    parser = argparse.ArgumentParser(prog="python -m fastapi_ideal_auth")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secret", help="print a new secret for IdealAuth(secret=…)")
    inspect = commands.add_parser(
        "inspect", help="look into a cookie that comes by standard input", description=_INSPECT
    )
    inspect.add_argument("--cookie-name", default="ideal_session", help="(ideal_session)")
    inspect.add_argument("--purpose", default="session", help="(session)")
    inspect.add_argument(
        "--secret-variable",
        default=SECRET_VARIABLE,
        help=f"the environment variable with the secrets ({SECRET_VARIABLE})",
    )
    given = parser.parse_args(arguments)
    if given.command == "secret":
        print(new_secret())
        return
    if len(given.purpose.encode(errors="replace")) > LONGEST_PURPOSE:
        inspect.error(f"--purpose has at most {LONGEST_PURPOSE} bytes, such as session or login")
    try:
        ring = KeyRing(secrets_in(os.environ, given.secret_variable))
    except ConfigurationError as error:
        inspect.error(f"{given.secret_variable}: {error}")
    if sys.stdin.isatty():
        print(_PASTE, file=sys.stderr)
    _end_with(
        report(
            # Whoever sent the cookie chose its bytes, and the locale's encoding may refuse some.
            sys.stdin.buffer.read(LONGEST_INPUT).decode("latin-1"),
            ring=ring,
            cookie_name=given.cookie_name,
            purpose=given.purpose,
            now=time.time(),
        )
    )


def secrets_in(environment: Mapping[str, str], variable: str) -> list[str]:
    """The secrets of a variable: one a line, or apart by spaces where each is long enough to be
    one. Raises `ConfigurationError` for a variable without any."""
    lines = [line.strip() for line in environment.get(variable, "").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ConfigurationError("set this variable to the secret, or to several, one a line")
    if len(found) == 1:
        words = found[0].split()
        return words if all(len(word) >= SHORTEST_SECRET for word in words) else found
    return found


def _end_with(told: Report) -> None:
    print("\n".join(told.lines))
    if not told.good:
        sys.exit(1)


if __name__ == "__main__":
    main()
