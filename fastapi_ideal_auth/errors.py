"""Every error this library raises, split by whose fault it is.

::

    AuthError
    ├── ConfigurationError      yours: a wrong option, model, secret or endpoint; says what to do
    ├── InvalidCookie           the sender's: forged, damaged, expired or foreign; one error for all
    ├── CookieTooLarge          the session's: it does not fit a browser's cookie; names the sizes
    ├── StoreUnavailable        the store's: it cannot be reached or written just now
    └── ProviderError           the authorization server's
        ├── RefreshRejected         the grant is dead; only signing in again helps
        ├── ProviderUnavailable     no answer, or none to use; try later
        ├── IdentityRejected        what it signed or sent back does not prove what it must
        └── ProviderMisconfigured   it refuses this client; an operator must look

No message, argument or attribute of any of them ever holds a token or a secret.
"""

from __future__ import annotations

from collections.abc import Mapping


class AuthError(Exception):
    """Root of the tree; catch it to catch all of them."""

    default = "authentication failed"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default)


class ConfigurationError(AuthError):
    """The application is set up wrongly. The message says what to change."""

    default = "fastapi_ideal_auth is configured wrongly"


class InvalidCookie(AuthError):
    """A seal that does not open. Carries no reason: a reason would be an oracle."""

    default = "the session cookie is not valid"


class CookieTooLarge(AuthError):
    """The sealed session exceeds what browsers keep.

    ``sizes`` maps each part of the session to the bytes it takes before sealing.
    """

    default = "the session does not fit its cookie"

    def __init__(
        self, message: str | None = None, *, sizes: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(message)
        self.sizes: Mapping[str, int] = dict(sizes or {})


class StoreUnavailable(AuthError):
    """The refresh store cannot be read or written just now."""

    default = "the refresh store is unavailable"


class ProviderError(AuthError):
    """The authorization server did not give new tokens."""

    default = "the authorization server gave no new tokens"


class RefreshRejected(ProviderError):
    """The grant is dead (RFC 6749 §5.2 ``invalid_grant`` and its dialects)."""

    default = "the authorization server rejected the refresh token"


class ProviderUnavailable(ProviderError):
    """No usable answer came; the refresh token may still be good.

    ``retry_after``
        Seconds the server asked to be left alone, or ``None``.
    ``in_doubt``
        The request went out and no whole answer came back: the server may already have
        rotated. It is repeated once, at once, while a rotation's grace period may still run.
    ``refused``
        The server refused without a code that tells a dead grant from another fault. Once the
        access token has expired this counts as a rejection; before that it does not.
    """

    default = "the authorization server is unavailable"

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: float | None = None,
        in_doubt: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.in_doubt = in_doubt
        self.refused = refused


class ProviderMisconfigured(ProviderError):
    """The server refuses this client (``invalid_client`` and the like). Retrying cannot help."""

    default = "the authorization server refuses this client's configuration"


class IdentityRejected(ProviderError):
    """A token or an answer does not prove what it must: forged, expired, of another issuer or for
    another client (OpenID Connect Core §3.1.3.7, Back-Channel Logout §2.6, RFC 9207 §2.4).

    The message names the check, and nothing that was read.
    """

    default = "the authorization server's answer does not prove who it is about"
