"""What the pages take from the registrations; `python -m tests.provider_pages` writes it anew."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from fastapi_ideal_auth import providers
from fastapi_ideal_auth.providers import DAY, Registration

DOCS = Path(__file__).resolve().parent.parent / "docs" / "providers"

PAGES: dict[str, tuple[Registration, ...]] = {
    "google": (providers.GOOGLE,),
    "entra-id": (providers.ENTRA_ID,),
    "auth0": (providers.AUTH0,),
    "okta": (providers.OKTA, providers.OKTA_CUSTOM),
    "keycloak": (providers.KEYCLOAK,),
    "cognito": (providers.COGNITO,),
    "github-app": (providers.GITHUB_APP,),
    "gitlab": (providers.GITLAB,),
    "slack": (providers.SLACK,),
    "salesforce": (providers.SALESFORCE,),
    "hubspot": (providers.HUBSPOT,),
    "atlassian": (providers.ATLASSIAN,),
}
UNKNOWN = "not documented"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds == math.inf:
        return "as long as it lives"
    if seconds == 0:
        return "not at all"
    if seconds >= DAY:
        return f"{seconds / DAY:g} days"
    return f"{seconds:g} s"


def _yes(fact: bool | None, yes: str = "yes", no: str = "no") -> str:
    return UNKNOWN if fact is None else yes if fact else no


def _code(*words: str) -> str:
    return f"`{' '.join(words)}`" if words else "nothing"


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def facts(registrations: Sequence[Registration]) -> str:
    """A table of what the registrations state, one column each."""

    def row(title: str, *cells: str) -> str:
        return _row(title, cells)

    each = registrations
    lines = [
        row("", *(one.name for one in each)),
        row("---", *("---" for _ in each)),
        row(
            "Known by",
            *(f"{_code(one.issuer or one.token_endpoint or '')}" for one in each),
        ),
        row("Client authentication", *(_code(one.token_endpoint_auth_method) for one in each)),
        row("Scope asked for", *(_code(*one.scope) for one in each)),
        row(
            "Parameters asked with",
            *(_code(*(f"{k}={v}" for k, v in one.authorization_params.items())) for one in each),
        ),
        row("A refresh brings a new refresh token", *(one.rotation or UNKNOWN for one in each)),
        row("A used refresh token works on for", *(_time(one.grace) for one in each)),
        row(
            "The old access token after a refresh",
            *(_yes(one.access_token_survives, "works on", "is dead") for one in each),
        ),
        row("From sign-in, it ends after", *(_time(one.refresh_token_lifetime) for one in each)),
        row("Unused, it ends after", *(_time(one.refresh_token_idle_lifetime) for one in each)),
        row("Revocation", *(_revocation(one) for one in each)),
        row("RP-initiated logout", *(_yes(one.rp_initiated_logout) for one in each)),
        row("Back-channel logout", *(_yes(one.backchannel_logout) for one in each)),
    ]
    return "\n".join(lines)


def _revocation(one: Registration) -> str:
    if one.revocation_endpoint is not None:
        return _code(one.revocation_endpoint)
    return UNKNOWN if one.issuer is None else "as its metadata says"


def sources(registrations: Sequence[Registration]) -> str:
    """A list of where the facts were read, and when."""
    read = dict.fromkeys(source for one in registrations for source in one.sources)
    return "\n".join(f"- <{s.url}> (read {s.read}): {', '.join(s.facts)}" for s in read)


def page(slug: str) -> str:
    """The page as it ought to be."""
    text = (DOCS / f"{slug}.md").read_text()
    for name, block in (("facts", facts(PAGES[slug])), ("sources", sources(PAGES[slug]))):
        pattern = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        filled = f"<!-- {name} -->\n{block}\n<!-- /{name} -->"
        text = re.sub(pattern, lambda _, filled=filled: filled, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for slug in PAGES:
        (DOCS / f"{slug}.md").write_text(page(slug))
