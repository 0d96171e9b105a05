"""What the claims of a verified token must say: ID tokens, refreshed ID tokens, logout tokens.

Decides whether claims hold for this client, now. Does not verify signatures, and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from .errors import IdentityRejected

LEEWAY: Final = 60.0
"""Seconds by which this machine's clock and the provider's may differ."""

LOGOUT_SECONDS: Final = 300.0
"""Age in seconds beyond which a logout token is old news (Back-Channel Logout §2.6 has ``iat``
checked so that the ``jti`` seen need not be kept for ever)."""

BACKCHANNEL_LOGOUT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""The member of ``events`` (Back-Channel Logout §2.4)."""

_LONGEST_ID: Final = 512
_HASHES: Final[Mapping[str, str]] = {
    "256": "sha256",
    "384": "sha384",
    "512": "sha512",
    "EdDSA": "sha512",
    "Ed25519": "sha512",
}


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """What a valid logout token says (Back-Channel Logout 1.0 §2.4): whose sessions end."""

    issuer: str
    subject: str | None = field(repr=False)
    """``sub``. ``None``: ``sid`` alone says which session."""

    sid: str | None = field(repr=False)
    """The provider's session. ``None``: every session of the subject."""

    jti: str = field(repr=False)
    """To be accepted once; the caller remembers it until ``expires_at``."""

    issued_at: float
    """Unix seconds."""

    expires_at: float
    """Unix seconds after which the token is refused anyway, leeway included."""


def check_id_token(
    claims: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    now: float,
    nonce: str | None = None,
    max_age: float | None = None,
) -> None:
    """OpenID Connect Core §3.1.3.7, but for the signature and ``at_hash``.

    ``nonce``
        The one of the authorization request; ``None``: there was none, and none is looked for.
    ``max_age``
        Seconds since the authentication that were asked for (Core §3.1.2.1).

    Raises `IdentityRejected`, which names the claim.
    """
    _check_origin(claims, issuer=issuer, client_id=client_id, now=now)
    _identifier(claims, "sub")
    _time(claims, "exp")
    if nonce is not None and not _same(claims.get("nonce"), nonce):
        raise IdentityRejected("the token's nonce is not the one of this sign-in")
    if max_age is not None and _time(claims, "auth_time") + max_age < now - LEEWAY:
        raise IdentityRejected("the token's auth_time is longer ago than max_age allows")


def check_at_hash(claims: Mapping[str, Any], *, access_token: str, alg: str) -> None:
    """OpenID Connect Core §3.1.3.8: the two tokens belong together, if it says so."""
    if "at_hash" not in claims:
        return
    kind = _HASHES.get(alg, _HASHES.get(alg[-3:], "sha256"))
    digest = hashlib.new(kind, access_token.encode("utf-8", "replace")).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode("ascii")
    if not _same(claims["at_hash"], half):
        raise IdentityRejected("the token's at_hash is of another access token")


def check_refreshed(claims: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """OpenID Connect Core §12.2: an ID token of a refresh speaks of the same sign-in.

    Raises `IdentityRejected`.
    """
    for name in ("iss", "sub"):
        if not _same(claims.get(name), before.get(name)):
            raise IdentityRejected(f"the {name} changed at a refresh")
    if set(_audience(claims)) != set(_audience(before)):
        raise IdentityRejected("the aud changed at a refresh")
    for name in ("auth_time", "nonce"):
        # "SHOULD NOT have a nonce": whichever is there must be the one that was.
        if name in claims and name in before and claims[name] != before[name]:
            raise IdentityRejected(f"the {name} changed at a refresh")


def check_userinfo(userinfo: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """OpenID Connect Core §5.3.2: claims of another subject are not to be used."""
    if not _same(userinfo.get("sub"), claims.get("sub")):
        raise IdentityRejected("the userinfo's sub is not the ID token's")


def read_logout_token(
    claims: Mapping[str, Any], typ: str | None, *, issuer: str, client_id: str, now: float
) -> LogoutToken:
    """Back-Channel Logout 1.0 §2.6, but for the signature and ``jti``'s once.

    ``typ``: the header's, in lower case; ``None`` and ``jwt`` say nothing. Raises
    `IdentityRejected`.
    """
    if typ not in (None, "jwt", "logout+jwt"):
        raise IdentityRejected("the token's typ is not logout+jwt")
    _check_origin(claims, issuer=issuer, client_id=client_id, now=now)
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if issued_at + LOGOUT_SECONDS <= now:
        raise IdentityRejected("the token was issued too long ago")
    if "nonce" in claims:  # an ID token is not to be taken for a logout token
        raise IdentityRejected("the token has a nonce, and a logout token has none")
    events = claims.get("events")
    members = cast("dict[str, Any]", events) if isinstance(events, dict) else {}
    if not isinstance(members.get(BACKCHANNEL_LOGOUT), dict):
        raise IdentityRejected("the token's events do not say that it is about a logout")
    subject = _identifier(claims, "sub") if "sub" in claims else None
    sid = _identifier(claims, "sid") if "sid" in claims else None
    if subject is None and sid is None:
        raise IdentityRejected("the token has neither sub nor sid")
    return LogoutToken(
        issuer=issuer,
        subject=subject,
        sid=sid,
        jti=_identifier(claims, "jti"),
        issued_at=issued_at,
        expires_at=min(expires_at + LEEWAY, issued_at + LOGOUT_SECONDS),
    )


# -- one claim ------------------------------------------------------------------------------------


def _check_origin(claims: Mapping[str, Any], *, issuer: str, client_id: str, now: float) -> None:
    if claims.get("iss") != issuer:
        raise IdentityRejected("the token's iss is another issuer")
    audience = _audience(claims)
    if client_id not in audience:
        raise IdentityRejected("the token's aud is not this client")
    if len(audience) > 1 and "azp" not in claims:
        raise IdentityRejected("the token has several audiences and no azp")
    if claims.get("azp", client_id) != client_id:
        raise IdentityRejected("the token's azp is another client")
    if "exp" in claims and _time(claims, "exp") <= now - LEEWAY:
        raise IdentityRejected("the token has expired (exp): are both clocks right?")
    if _time(claims, "iat") > now + LEEWAY:
        raise IdentityRejected("the token is from the future (iat): are both clocks right?")
    if "nbf" in claims and _time(claims, "nbf") > now + LEEWAY:
        raise IdentityRejected("the token is not valid yet (nbf): are both clocks right?")


def _audience(claims: Mapping[str, Any]) -> list[str]:
    audience = claims.get("aud")
    if isinstance(audience, str):
        return [audience]
    listed = cast("list[object]", audience) if isinstance(audience, list) else []
    # A member that is no string is somebody all the same, whom nobody here knows.
    return [item if isinstance(item, str) else "" for item in listed]


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise IdentityRejected(f"the token has no {name}")  # 1e999 is JSON, and no time


def _identifier(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        raise IdentityRejected(f"the token has no {name} that could be one")
    return value


def _same(one: object, other: object) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    # "replace" would make one of every lone surrogate, and JSON has escapes for them.
    first, second = (text.encode("utf-8", "surrogatepass") for text in (one, other))
    return hmac.compare_digest(first, second)
