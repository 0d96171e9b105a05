"""An authorization server that is known by its endpoints; and what any ``provider=`` must do.

Knows where requests go. ``client`` knows which they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from . import oauth, options
from .client import ClientKey, Deadline, OAuthClient
from .http import TIMEOUT, AsyncHTTPClient
from .metadata import Metadata
from .oauth import Form, TokenEndpointAuthMethod, TokenResponse


@runtime_checkable
class Provider(Protocol):
    """Whoever refreshes tokens. Any object with this method can be ``provider=``."""

    async def refresh(self, refresh_token: str) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6).

        Raises `RefreshRejected` where the grant is dead, `ProviderUnavailable` where trying later
        may help, and `ProviderMisconfigured` where an operator must look.
        """
        ...


class OAuth2Provider(OAuthClient):
    """An authorization server, known by its endpoints (RFC 6749 §3).

    ``token_endpoint`` and the other endpoints
        ``https``; ``http`` on loopback only. ``end_session_endpoint`` is that of RP-Initiated
        Logout, ``pushed_authorization_request_endpoint`` that of RFC 9126.
    ``client_secret``
        ``None``: a public client, which says no more than its ``client_id``.
    ``token_endpoint_auth_method``
        ``client_secret_basic``, ``client_secret_post``, ``private_key_jwt`` or ``none`` (OpenID
        Connect Core §9). It is never found out by trying: a server may burn a refresh token that
        comes with a wrong secret.
    ``client_key``
        The private key of ``private_key_jwt``: RSA, EC or Ed25519, as PEM or as a JWK.
    ``token_endpoint_auth_signing_alg``
        How it signs (``PS256``...). ``None``: the JWK's ``alg``, else what fits the key.
    ``client_assertion_audience``
        Whom the assertion is for. ``None``: ``issuer``, else the endpoint.
    ``dpop_key``
        A private key, EC or Ed25519, that tokens are bound to (RFC 9449). ``None``: none are.
    ``issuer``
        The server's name for itself; a callback's ``iss`` must be it (RFC 9207).
    ``redirect_uri``
        Where the server sends the browser back to. ``None``: worked out from the request.
    ``post_logout_redirect_uri``
        Where it does so after a sign-out; one that is registered there.
    ``scope``
        What to ask for at sign-in: a string, or a sequence of scopes. ``None``: the server's own.
    ``resource``
        Where the access token is for (RFC 8707): a URI, or several of which each token request
        names one, by default the first.
    ``authorization_params``, ``token_params``, ``refresh_params``
        Further parameters of the authorization request (``prompt``, ``audience``), of every token
        request, and of the refresh request (``scope``). A sequence as a value repeats the
        parameter.
    ``pushed_authorization_requests``
        ``None``: pushed where the server has an endpoint for it; ``True``: never anything else;
        ``False``: never.
    ``rejection_codes``
        Error codes by which this server, and no table here, says that a grant is dead.
    ``default_expires_in``
        Seconds an access token is taken to live where the server does not say. ``None``: unknown,
        so that it is never refreshed.
    ``timeout``
        Seconds that getting tokens may take in all.
    ``http_client``
        An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` for this provider alone; it stays yours
        to close. ``None``: the one of `IdealAuth`.
    ``clock``
        Returns Unix seconds, for what this client signs.

    Raises `ConfigurationError` at once for whatever could not work.
    """

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        token_endpoint_auth_method: TokenEndpointAuthMethod = "client_secret_basic",  # noqa: S107 - a method
        client_key: ClientKey | None = None,
        token_endpoint_auth_signing_alg: str | None = None,
        client_assertion_audience: str | None = None,
        dpop_key: ClientKey | None = None,
        issuer: str | None = None,
        revocation_endpoint: str | None = None,
        authorization_endpoint: str | None = None,
        userinfo_endpoint: str | None = None,
        end_session_endpoint: str | None = None,
        pushed_authorization_request_endpoint: str | None = None,
        redirect_uri: str | None = None,
        post_logout_redirect_uri: str | None = None,
        scope: str | Sequence[str] | None = None,
        resource: str | Sequence[str] | None = None,
        authorization_params: Form | None = None,
        token_params: Form | None = None,
        refresh_params: Form | None = None,
        pushed_authorization_requests: bool | None = None,
        rejection_codes: Sequence[str] | AbstractSet[str] = (),
        default_expires_in: int | None = None,
        timeout: float = TIMEOUT,
        http_client: AsyncHTTPClient | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.token_endpoint = oauth.check_endpoint("token_endpoint", token_endpoint)
        self.revocation_endpoint = options.endpoint("revocation_endpoint", revocation_endpoint)
        self.authorization_endpoint = options.endpoint(
            "authorization_endpoint", authorization_endpoint
        )
        self.userinfo_endpoint = options.endpoint("userinfo_endpoint", userinfo_endpoint)
        self.end_session_endpoint = options.endpoint("end_session_endpoint", end_session_endpoint)
        self.pushed_authorization_request_endpoint = options.endpoint(
            "pushed_authorization_request_endpoint", pushed_authorization_request_endpoint
        )
        super().__init__(
            client_id,
            client_secret,
            issuer=None if issuer is None else options.text("issuer", issuer),
            token_endpoint_auth_method=token_endpoint_auth_method,
            client_key=client_key,
            token_endpoint_auth_signing_alg=token_endpoint_auth_signing_alg,
            client_assertion_audience=client_assertion_audience or issuer or token_endpoint,
            dpop_key=dpop_key,
            redirect_uri=redirect_uri,
            post_logout_redirect_uri=post_logout_redirect_uri,
            scope=scope,
            resource=resource,
            authorization_params=authorization_params,
            token_params=token_params,
            refresh_params=refresh_params,
            pushed_authorization_requests=pushed_authorization_requests,
            rejection_codes=rejection_codes,
            default_expires_in=default_expires_in,
            timeout=timeout,
            http_client=http_client,
            clock=clock,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(token_endpoint={self.token_endpoint!r}, "
            f"client_id={self.client_id!r})"
        )

    def authorization_url(
        self,
        *,
        state: str,
        code_challenge: str,
        redirect_uri: str | None = None,
        extra: Form | None = None,
    ) -> str:
        """`authorization_request` without asking the server anything: it is never pushed."""
        metadata = self._known()
        params = self._authorization_params(
            metadata, state, code_challenge, redirect_uri, None, extra
        )
        return oauth.with_query(self._authorization_endpoint(metadata), params)

    async def _metadata(self, deadline: Deadline) -> Metadata:
        return self._known()

    def _known(self) -> Metadata:
        return Metadata(
            token_endpoint=self.token_endpoint,
            issuer=self.issuer,
            authorization_endpoint=self.authorization_endpoint,
            revocation_endpoint=self.revocation_endpoint,
            userinfo_endpoint=self.userinfo_endpoint,
            end_session_endpoint=self.end_session_endpoint,
            pushed_authorization_request_endpoint=self.pushed_authorization_request_endpoint,
            require_pushed_authorization_requests=self.pushed_authorization_requests is True,
        )
