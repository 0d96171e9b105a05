"""What an authorization server says of itself (OpenID Connect Discovery 1.0 §3, RFC 8414 §2).

Decides whether a metadata document can be believed. Does not know how it was fetched or how old it
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from .errors import ConfigurationError, ProviderError, ProviderMisconfigured, ProviderUnavailable
from .jose import read_object
from .oauth import check_endpoint, retry_after

_REQUIRED: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_OPTIONAL: Final = (
    "userinfo_endpoint",
    "revocation_endpoint",
    "end_session_endpoint",
    "pushed_authorization_request_endpoint",
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """An authorization server. ``None``: it has no such endpoint, or none is known."""

    token_endpoint: str
    issuer: str | None = None
    authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    """RP-Initiated Logout 1.0 §2.1."""

    pushed_authorization_request_endpoint: str | None = None
    """RFC 9126 §5."""

    jwks_uri: str | None = None
    require_pushed_authorization_requests: bool = False
    authorization_response_iss_parameter_supported: bool = False
    """Whether a callback without ``iss`` is not this server's (RFC 9207 §3)."""

    id_token_signing_alg_values_supported: frozenset[str] = frozenset()
    scopes_supported: frozenset[str] = frozenset()


def discovery_url(issuer: str) -> str:
    """Where the metadata is (OpenID Connect Discovery §4.1)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def judge_metadata(
    status: int, headers: Mapping[str, str], body: bytes, *, issuer: str, now: float
) -> Metadata:
    """The metadata of ``issuer`` in an answer.

    ``now``: Unix seconds, for a ``Retry-After`` that is a date. Raises `ProviderUnavailable` where
    trying later may help, and `ProviderMisconfigured` where an operator must look.
    """
    document = judge_document(status, headers, body, what="the provider's metadata", now=now)
    # Discovery §4.3: exactly, or one tenant could speak for another.
    if document.get("issuer") != issuer:
        raise ProviderMisconfigured(
            "the provider's metadata names another issuer than issuer=: write it exactly as the "
            "provider does, with or without a slash at its end (copy it from "
            f"{issuer.rstrip('/')}/.well-known/openid-configuration)"
        )
    found = {name: _endpoint(document, name, issuer) for name in (*_REQUIRED, *_OPTIONAL)}
    missing = [name for name in _REQUIRED if found[name] is None]
    if missing:
        raise ProviderMisconfigured(f"the provider's metadata has no {' and no '.join(missing)}")
    algorithms = _strings(document, "id_token_signing_alg_values_supported")
    return Metadata(
        **cast("dict[str, Any]", found),
        issuer=issuer,
        require_pushed_authorization_requests=_is(
            document, "require_pushed_authorization_requests"
        ),
        authorization_response_iss_parameter_supported=_is(
            document, "authorization_response_iss_parameter_supported"
        ),
        # Every server has this one (Discovery §3), even where it forgets to say so.
        id_token_signing_alg_values_supported=algorithms or frozenset({"RS256"}),
        scopes_supported=_strings(document, "scopes_supported"),
    )


def judge_document(
    status: int, headers: Mapping[str, str], body: bytes, *, what: str, now: float
) -> Mapping[str, Any]:
    """The JSON object in an answer. Raises as `judge_metadata` does."""
    if 200 <= status < 300:
        document = read_object(body)
        if document is not None:
            return document
    raise _unusable(status, headers, body, what, now)


def _unusable(
    status: int, headers: Mapping[str, str], body: bytes, what: str, now: float
) -> ProviderError:
    if 300 <= status < 400:
        return ProviderMisconfigured(
            f"{what} is behind a redirect ({status}), which is not followed: check issuer="
        )
    if status in (401, 403, 404, 405, 410):
        return ProviderMisconfigured(f"{what} was not found ({status}): check issuer=")
    if not 200 <= status < 300:
        return ProviderUnavailable(
            f"{what} could not be fetched: the server answered {status}",
            retry_after=retry_after(headers.get("retry-after") or "", now),
        )
    kind = (headers.get("content-type") or "").lower()
    if "html" in kind or body.lstrip()[:1] == b"<":
        return ProviderUnavailable(
            f"{what} is a page of HTML instead of JSON: check issuer=, and whether something in "
            f"between (a proxy, a sign-in page of the network) answers in the provider's place"
        )
    return ProviderUnavailable(f"{what} is not a JSON object")


def _endpoint(document: Mapping[str, Any], name: str, issuer: str) -> str | None:
    url = document.get(name)
    if url is None:
        return None
    wrong = ""
    try:
        check_endpoint(name, url)
    except ConfigurationError as error:
        wrong = str(error)
    if not wrong and issuer.startswith("https:") and not url.lower().startswith("https:"):
        # Loopback is for an issuer on this machine. Another that points there points at us.
        wrong = f"{name} is not https"
    if wrong:
        raise ProviderMisconfigured(f"the provider's metadata cannot be used: {wrong}")
    return str(url)


def _strings(document: Mapping[str, Any], name: str) -> frozenset[str]:
    listed = document.get(name)
    if not isinstance(listed, list):
        return frozenset()
    return frozenset(item for item in cast("list[object]", listed) if isinstance(item, str))


def _is(document: Mapping[str, Any], name: str) -> bool:
    return document.get(name) is True
