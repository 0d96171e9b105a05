"""What a provider may be given: each option checked as it is given, the error says what to do.

Knows the options' shapes and nothing of what they are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast, get_args

from . import oauth
from .errors import ConfigurationError
from .oauth import Form, TokenEndpointAuthMethod


def endpoint(name: str, url: str | None) -> str | None:
    """`oauth.check_endpoint` for an endpoint that a server need not have."""
    return None if url is None else oauth.check_endpoint(name, url)


def text(name: str, value: object) -> str:
    """A string that can be meant."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} is empty: is an environment variable missing?")
    if not value.isprintable():
        raise ConfigurationError(
            f"{name} holds a character that cannot be meant: has it been read with the newline at "
            f"the end of its file?"
        )
    return value


def method(
    value: object, *, client_secret: str | None, has_client_key: bool
) -> TokenEndpointAuthMethod:
    """How the client authenticates, with what it has been given to do so."""
    if value not in get_args(TokenEndpointAuthMethod):
        raise ConfigurationError(
            f"token_endpoint_auth_method is one of {', '.join(get_args(TokenEndpointAuthMethod))}"
        )
    if (value == "private_key_jwt") != has_client_key:
        raise ConfigurationError(
            "token_endpoint_auth_method='private_key_jwt' and client_key= go together"
        )
    if value == "none" and client_secret is not None:
        raise ConfigurationError(
            "token_endpoint_auth_method='none' sends no secret: leave out client_secret, or name "
            "the method that sends it"
        )
    if value == "client_secret_post" and client_secret is None:
        raise ConfigurationError(
            "token_endpoint_auth_method='client_secret_post' needs a client_secret; a public "
            "client has 'none'"
        )
    if value == "client_secret_basic" and client_secret is None:
        # The default method of a client without a secret: there is nothing to authenticate with.
        return "none"
    return cast("TokenEndpointAuthMethod", value)


def scope(value: object) -> str | None:
    """A scope as it stands in a request (RFC 6749 §3.3): space-separated."""
    if value is None:
        return None
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, Sequence):
        raise ConfigurationError("scope is a string, or a sequence of them")
    return " ".join(text("scope", part) for part in cast("Sequence[object]", parts)) or None


def resources(value: object) -> tuple[str, ...]:
    """Resource indicators (RFC 8707 §2): absolute URIs without a fragment."""
    listed = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(listed, Sequence):
        raise ConfigurationError("resource is a URI, or a sequence of them")
    found = tuple(text("resource", item) for item in cast("Sequence[object]", listed))
    if any(":" not in item or "#" in item for item in found):
        raise ConfigurationError("resource is an absolute URI without a fragment (RFC 8707 §2)")
    return found


def params(name: str, value: object, reserved: frozenset[str]) -> Form:
    """Further parameters of a request, none of which it has already."""
    if value is None:
        return {}
    given = dict(cast("Mapping[object, object]", value)) if isinstance(value, Mapping) else {0: 0}
    if not all(isinstance(key, str) and _is_value(item) for key, item in given.items()):
        raise ConfigurationError(
            f"{name} is a mapping of names to strings, or to sequences of strings"
        )
    taken = sorted(reserved & given.keys(), key=str)
    if taken:
        raise ConfigurationError(
            f"{name} may not hold {', '.join(map(str, taken))}: each request has its own"
        )
    return cast("Form", given)


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return False
    return all(isinstance(item, str) for item in cast("Sequence[object]", value))


def codes(value: object) -> frozenset[str]:
    """Error codes, in lower case."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError("rejection_codes is a collection of codes: put it in brackets")
    listed = list(cast("Iterable[object]", value))
    return frozenset(text("a code in rejection_codes", code).lower() for code in listed)


def seconds(name: str, value: object) -> float:
    """A time that passes."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConfigurationError(f"{name} is a positive number of seconds")
    return float(value)
