"""An OpenID provider that is known by its issuer: what it says of itself, and whom it vouches for.

Decides what is fetched and when a token is believed. The rules are in ``metadata`` and
``idtoken``, the signatures in ``jose``, the requests in ``client``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from . import idtoken, jose, oauth
from .client import ClientKey, Deadline, OAuthClient
from .documents import Document
from .errors import (
    ConfigurationError,
    IdentityRejected,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)
from .http import TIMEOUT, AsyncHTTPClient
from .idtoken import LogoutToken
from .metadata import Metadata, discovery_url, judge_document, judge_metadata
from .oauth import Form, TokenEndpointAuthMethod, TokenResponse

log = logging.getLogger("fastapi_ideal_auth")

KEYS_PATIENCE: Final = 2.0
"""Seconds that new tokens wait, unpublished, for the keys of the ID token beside them."""

_SCOPE: Final = "openid email profile"
_CLAIMS: Final[Mapping[str, str]] = {
    "profile": "name",
    "email": "email",
    "phone": "phone_number",
    "address": "address",
}
"""A claim of each scope that has some (OpenID Connect Core §5.4): where it is missing from the ID
token, the others are to be had at the UserInfo endpoint."""


class OpenIDProvider(OAuthClient):
    """An OpenID provider, known by its issuer (OpenID Connect Discovery 1.0 §4).

    Its endpoints and keys are fetched when they are first needed, kept for an hour, and go on
    serving while the provider is down. Nothing is sent at construction.

    ``issuer``
        Exactly as the provider writes it, with or without a slash at its end.
    ``scope``
        ``None``: ``openid email profile``, and ``offline_access`` where the provider has it (it
        may want ``authorization_params={"prompt": "consent"}`` for that, Core §11).
    ``id_token_signed_response_alg``
        The one algorithm that ID tokens and logout tokens are signed with. ``None``: any that the
        provider lists and only it can sign with. ``"HS256"``, with the client's secret, counts only
        if asked for here.
    ``client_assertion_audience``
        Whom ``private_key_jwt`` is for. ``None``: the issuer.
    ``rp_initiated_logout``
        ``False``: who signs out stays signed in at the provider, whatever it offers.
    ``clock``
        Returns Unix seconds, for what this client signs and for the age of what it fetched.

    Everything else is as in `OAuth2Provider`. Raises `ConfigurationError` at once for whatever
    could not work, and without the extra ``oidc``.
    """

    checks_id_tokens = True

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        token_endpoint_auth_method: TokenEndpointAuthMethod = "client_secret_basic",  # noqa: S107 - a method
        client_key: ClientKey | None = None,
        token_endpoint_auth_signing_alg: str | None = None,
        client_assertion_audience: str | None = None,
        dpop_key: ClientKey | None = None,
        id_token_signed_response_alg: str | None = None,
        rp_initiated_logout: bool = True,
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
        jose.require("OpenIDProvider")
        self._issuer = oauth.check_endpoint("issuer", issuer)
        if "?" in issuer:  # Discovery §3
            raise ConfigurationError("issuer has a query: take out the ? and what follows")
        if "/.well-known/" in issuer:
            raise ConfigurationError(
                f"issuer is the address before {issuer[issuer.index('/.well-known/') :]}"
            )
        super().__init__(
            client_id,
            client_secret,
            issuer=issuer,
            token_endpoint_auth_method=token_endpoint_auth_method,
            client_key=client_key,
            token_endpoint_auth_signing_alg=token_endpoint_auth_signing_alg,
            client_assertion_audience=client_assertion_audience or issuer,
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
        if self.scope is not None and "openid" not in self.scope.split():
            raise ConfigurationError("scope has no openid in it: without it nobody is named")
        self._algorithm = _algorithm(id_token_signed_response_alg, client_secret)
        self._rp_initiated_logout = rp_initiated_logout
        self._max_age = _max_age(self.authorization_params.get("max_age"))
        self._documents: Document[Metadata] = Document(self._fetch_metadata, clock)
        self._key_sets: dict[str, Document[jose.Keys]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(issuer={self.issuer!r}, client_id={self.client_id!r})"

    # -- who it is --------------------------------------------------------------------------------

    async def claims(
        self, tokens: TokenResponse, *, nonce: str | None, now: float
    ) -> Mapping[str, Any]:
        """The claims of the validated ID token (OpenID Connect Core §3.1.3.7), completed by the
        UserInfo endpoint's where the scope promises some that are not in it.

        ``nonce``: the one of the authorization request. ``now``: Unix seconds. Raises
        `IdentityRejected` for a token that does not hold, and `ProviderUnavailable` or
        `ProviderMisconfigured` where that cannot be told.
        """
        if tokens.id_token is None:
            raise IdentityRejected("the token endpoint gave no ID token (scope without openid?)")
        deadline = Deadline(self.timeout)
        claims = await self._id_token(
            tokens.id_token, tokens.access_token, deadline, now=now, nonce=nonce, fresh=True
        )
        metadata = await self._metadata(deadline)
        if metadata.userinfo_endpoint is None or not self._lacks(claims, metadata):
            return claims
        try:
            userinfo = await self.userinfo(tokens.access_token)
        except (RefreshRejected, ProviderMisconfigured) as error:
            # An access token for an API (`resource`) is not for the provider's own endpoint.
            log.warning("the ID token's claims have to do: %s", error)
            return claims
        idtoken.check_userinfo(userinfo, claims)
        return {**userinfo, **claims}  # what is signed counts

    async def verify_refreshed(
        self, response: TokenResponse, *, id_token: str | None, now: float
    ) -> TokenResponse:
        """The response of a refresh, once its ID token has been found to be of the same sign-in
        (OpenID Connect Core §12.2).

        ``id_token``: the session's; ``None``: there is nothing to compare with. ``now``: Unix
        seconds. Raises `RefreshRejected` for another identity or a token that does not hold; the
        refresh token in ``response`` is then the caller's to revoke. Where the keys are not to be
        had just now, the response comes back without its ID token: no tokens are lost for that.
        """
        if response.id_token is None:
            return response
        rejected = ""
        deadline = Deadline(min(self.timeout, KEYS_PATIENCE))
        try:
            claims = await self._id_token(
                response.id_token, response.access_token, deadline, now=now
            )
            if id_token is not None:
                idtoken.check_refreshed(claims, jose.read_signed(id_token).claims)
        except IdentityRejected as error:
            rejected = str(error)
        except ProviderError as error:
            log.warning("a refreshed ID token is left out, it cannot be verified now: %s", error)
            return replace(response, id_token=None)
        if rejected:
            raise RefreshRejected(f"the refreshed ID token was rejected: {rejected}")
        return response

    async def logout_token(self, token: str, *, now: float) -> LogoutToken:
        deadline = Deadline(self.timeout)
        signed = await self._verified(token, deadline)
        return idtoken.read_logout_token(
            signed.claims, signed.typ, issuer=self._issuer, client_id=self.client_id, now=now
        )

    async def _id_token(
        self,
        token: str,
        access_token: str,
        deadline: Deadline,
        *,
        now: float,
        nonce: str | None = None,
        fresh: bool = False,
    ) -> Mapping[str, Any]:
        signed = await self._verified(token, deadline)
        if signed.typ not in (None, "jwt"):  # RFC 8725 §3.11: a logout token is no ID token
            raise IdentityRejected("the token's typ is not that of an ID token")
        idtoken.check_id_token(
            signed.claims,
            issuer=self._issuer,
            client_id=self.client_id,
            now=now,
            nonce=nonce,
            max_age=self._max_age if fresh else None,
        )
        idtoken.check_at_hash(signed.claims, access_token=access_token, alg=signed.alg)
        return signed.claims

    def _lacks(self, claims: Mapping[str, Any], metadata: Metadata) -> bool:
        asked_for = (self._scope(metadata) or "").split()
        return any(_CLAIMS[scope] not in claims for scope in asked_for if scope in _CLAIMS)

    def _scope(self, metadata: Metadata) -> str | None:
        if self.scope is not None:
            return self.scope
        offline = "offline_access" in metadata.scopes_supported
        return f"{_SCOPE} offline_access" if offline else _SCOPE

    # -- signatures -------------------------------------------------------------------------------

    async def _verified(self, token: str, deadline: Deadline) -> jose.Signed:
        signed = jose.read_signed(token)
        metadata = await self._metadata(deadline)
        if signed.alg not in self._algorithms(metadata):
            raise IdentityRejected("the token is signed with an algorithm that does not count")
        jose.verify(signed, await self._keys(signed, metadata, deadline))
        return signed

    def _algorithms(self, metadata: Metadata) -> frozenset[str]:
        if self._algorithm is not None:
            return frozenset({self._algorithm})
        return metadata.id_token_signing_alg_values_supported & jose.ASYMMETRIC

    async def _keys(self, signed: jose.Signed, metadata: Metadata, deadline: Deadline) -> jose.Keys:
        if signed.alg == "HS256":
            assert self._client_secret is not None
            return jose.secret_keys(self._client_secret)
        document = self._key_set(metadata)
        keys = jose.matching(signed, await document.get(deadline.left()))
        # OpenID Connect Core §10.1.1: an unknown kid is how a new key makes itself known.
        return keys or jose.matching(signed, await document.renewed(deadline.left()))

    def _key_set(self, metadata: Metadata) -> Document[jose.Keys]:
        uri = metadata.jwks_uri
        assert uri is not None
        if uri not in self._key_sets:

            async def fetch() -> jose.Keys:
                return await self._fetch_keys(uri)

            self._key_sets = {uri: Document(fetch, self._clock)}
        return self._key_sets[uri]

    # -- what is fetched --------------------------------------------------------------------------

    async def _metadata(self, deadline: Deadline) -> Metadata:
        return await self._documents.get(deadline.left())

    async def _fetch_metadata(self) -> Metadata:
        answer = await self.http.get(discovery_url(self._issuer), timeout=self.timeout)
        metadata = judge_metadata(
            answer.status, answer.headers, answer.body, issuer=self._issuer, now=self._clock()
        )
        return (
            metadata if self._rp_initiated_logout else replace(metadata, end_session_endpoint=None)
        )

    async def _fetch_keys(self, uri: str) -> jose.Keys:
        answer = await self.http.get(uri, timeout=self.timeout)
        what = "the provider's key set (jwks_uri)"
        judge_document(answer.status, answer.headers, answer.body, what=what, now=self._clock())
        keys = jose.read_key_set(answer.body)
        if keys is None:
            raise ProviderUnavailable(f"{what} holds no keys")
        return keys


def _algorithm(name: str | None, client_secret: str | None) -> str | None:
    if name is None or name in jose.ASYMMETRIC:
        return name
    if name != "HS256":
        raise ConfigurationError(
            f"id_token_signed_response_alg is one of {', '.join(sorted(jose.ASYMMETRIC))}, or HS256"
        )
    if client_secret is None:
        raise ConfigurationError("id_token_signed_response_alg='HS256' needs a client_secret")
    return name


def _max_age(value: str | Sequence[str] | None) -> float | None:
    """OpenID Connect Core §3.1.2.1: who asks for it must look whether it was done."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.isdecimal():
        raise ConfigurationError("max_age is a number of seconds, as a string")
    return float(value)
