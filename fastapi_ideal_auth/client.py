"""A client of an authorization server: the requests of a sign-in, a refresh and a sign-out.

Decides which request each of them is, and how the client proves who it is. Does not know how a
request travels (``http``), what an answer means (``oauth``), or how the server's endpoints became
known: ``provider`` is told them, ``openid`` asks for them.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn

from . import jose, oauth, options
from .errors import (
    ConfigurationError,
    IdentityRejected,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
)
from .http import HTTP, Answer, AsyncHTTPClient, BoundToken
from .idtoken import LogoutToken
from .metadata import Metadata
from .oauth import Form, TokenEndpointAuthMethod, TokenResponse
from .proof import client_assertion, dpop_proof, server_of

log = logging.getLogger("fastapi_ideal_auth")

ClientKey = str | bytes | Mapping[str, Any]
"""A private key: PEM, or a JWK as a mapping or as JSON."""

_RESERVED_IN_AUTHORIZATION: Final = frozenset(
    {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
        "dpop_jkt",
        "request_uri",
    }
)
_RESERVED_IN_TOKEN: Final = frozenset(
    {
        "grant_type",
        "code",
        "redirect_uri",
        "code_verifier",
        "refresh_token",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
    }
)
_MOST_NONCES: Final = 64
"""Servers whose DPoP nonces are kept. An application calls a handful."""


class Deadline:
    """A time that several requests share."""

    def __init__(self, seconds: float) -> None:
        self._at = asyncio.get_running_loop().time() + seconds

    def left(self) -> float:
        """Seconds. Raises `ProviderUnavailable` when there are none: nothing was sent."""
        left = self._at - asyncio.get_running_loop().time()
        if left <= 0:
            raise ProviderUnavailable("the authorization server took too long")
        return left


class OAuthClient(ABC):
    """What `OAuth2Provider` and `OpenIDProvider` have in common."""

    issuer: str | None
    """The server's issuer identifier (RFC 8414 §2); ``None``: not known."""

    checks_id_tokens = False
    """Whether `claims` validates an ID token, and so whether a sign-in needs a nonce."""

    def __init__(
        self,
        client_id: str,
        client_secret: str | None,
        *,
        issuer: str | None,
        token_endpoint_auth_method: TokenEndpointAuthMethod,
        client_key: ClientKey | None,
        token_endpoint_auth_signing_alg: str | None,
        client_assertion_audience: str,
        dpop_key: ClientKey | None,
        redirect_uri: str | None,
        post_logout_redirect_uri: str | None,
        scope: str | Sequence[str] | None,
        resource: str | Sequence[str] | None,
        authorization_params: Form | None,
        token_params: Form | None,
        refresh_params: Form | None,
        pushed_authorization_requests: bool | None,
        rejection_codes: Sequence[str] | AbstractSet[str],
        default_expires_in: int | None,
        timeout: float,
        http_client: AsyncHTTPClient | None,
        clock: Callable[[], float],
    ) -> None:
        self.issuer = issuer
        self.client_id = options.text("client_id", client_id)
        self._client_secret = (
            None if client_secret is None else options.text("client_secret", client_secret)
        )
        self.token_endpoint_auth_method: TokenEndpointAuthMethod = options.method(
            token_endpoint_auth_method,
            client_secret=client_secret,
            has_client_key=client_key is not None,
        )
        self._client_key = _key(
            "client_key", client_key, ("RSA", "EC", "OKP"), token_endpoint_auth_signing_alg
        )
        self._assertion_audience = options.text(
            "client_assertion_audience", client_assertion_audience
        )
        self._dpop_key = _key("dpop_key", dpop_key, ("EC", "OKP"))
        self.redirect_uri = options.endpoint("redirect_uri", redirect_uri)
        self.post_logout_redirect_uri = options.endpoint(
            "post_logout_redirect_uri", post_logout_redirect_uri
        )
        self.scope = options.scope(scope)
        self.resource = options.resources(resource)
        self.authorization_params = options.params(
            "authorization_params", authorization_params, _RESERVED_IN_AUTHORIZATION
        )
        self.token_params = options.params("token_params", token_params, _RESERVED_IN_TOKEN)
        self.refresh_params = options.params("refresh_params", refresh_params, _RESERVED_IN_TOKEN)
        self.pushed_authorization_requests = pushed_authorization_requests
        self.rejection_codes = options.codes(rejection_codes)
        self.default_expires_in = (
            None
            if default_expires_in is None
            else int(options.seconds("default_expires_in", default_expires_in))
        )
        self.timeout = options.seconds("timeout", timeout)
        self.http = HTTP(http_client)
        self._has_own_client = http_client is not None
        self._clock = clock
        self._nonces: dict[str, str] = {}

    def use(self, http: HTTP) -> None:
        """Send over ``http`` from now on, unless this provider was given a client of its own."""
        if not self._has_own_client:
            self.http = http

    @abstractmethod
    async def _metadata(self, deadline: Deadline) -> Metadata:
        """The server's endpoints. Raises `ProviderError`, never in doubt."""

    # -- tokens -----------------------------------------------------------------------------------

    async def refresh(self, refresh_token: str, *, resource: str | None = None) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6), asked for once.

        ``resource``: the one that the access token is for (RFC 8707 §2.2); ``None``: the first of
        ``resource=``. Raises `RefreshRejected`, `ProviderUnavailable` or `ProviderMisconfigured`.
        """
        extra = {**self.token_params, **self._one_resource(resource), **self.refresh_params}
        if resource is not None:
            extra["resource"] = resource
        return await self._grant(oauth.refresh_form(refresh_token, extra), "refresh token")

    async def exchange_code(
        self, code: str, *, redirect_uri: str, code_verifier: str
    ) -> TokenResponse:
        """The tokens of a sign-in (RFC 6749 §4.1.3, RFC 7636 §4.5).

        ``redirect_uri`` and ``code_verifier`` as in the authorization request. Raises
        `RefreshRejected` where the code is dead, else as `refresh`.
        """
        extra = {**self.token_params, **self._one_resource(None)}
        form = oauth.code_form(code, redirect_uri, code_verifier, extra)
        tokens = await self._grant(form, "authorization code")
        if self._dpop_key is not None and tokens.token_type.lower() != "dpop":
            # RFC 9449 §5: it would do for whoever steals it.
            raise ProviderMisconfigured(
                "the token endpoint answered with a Bearer token in spite of the DPoP proof: have "
                "the server bind this client's tokens, or leave out dpop_key"
            )
        return tokens

    async def verify_refreshed(
        self, response: TokenResponse, *, id_token: str | None, now: float
    ) -> TokenResponse:
        """The response of a refresh, once its ID token has been found to be of the same sign-in.

        ``id_token``: the session's. ``now``: Unix seconds. Nothing to verify without discovery:
        ``response`` as it is.
        """
        return response

    async def revoke(
        self,
        token: str,
        *,
        token_type_hint: str = "refresh_token",  # noqa: S107 - a kind of token, none itself
    ) -> bool:
        """Whether the server confirmed that the token is gone (RFC 7009). Never raises an error
        of the provider's: ``False`` too where there is no endpoint, or no answer.
        """
        form = oauth.revocation_form(token, token_type_hint)
        try:
            endpoint = (await self._metadata(Deadline(self.timeout))).revocation_endpoint
            if endpoint is None:
                return False
            answer = await self._post(endpoint, form, Deadline(self.timeout))
            if answer.status == 503:  # RFC 7009 §2.2.1: the token still exists, and may be retried
                answer = await self._post(endpoint, form, Deadline(self.timeout))
        except ProviderError:
            return False
        return oauth.judge_revocation(answer.status)

    # -- who it is --------------------------------------------------------------------------------

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        """The claims about the user (OpenID Connect Core §5.3).

        Raises `ConfigurationError` without a ``userinfo_endpoint``, `RefreshRejected` where the
        access token is refused, else as `refresh`.
        """
        deadline = Deadline(self.timeout)
        endpoint = (await self._metadata(deadline)).userinfo_endpoint
        if endpoint is None:
            raise ConfigurationError("give OAuth2Provider(userinfo_endpoint=...) to ask it")
        if not oauth.is_bearer(access_token):
            raise RefreshRejected("the access token cannot stand in a header")
        scheme = "Bearer" if self._dpop_key is None else "DPoP"
        headers = {"authorization": f"{scheme} {access_token}"}

        async def send(proof: Mapping[str, str]) -> Answer:
            return await self.http.get(endpoint, {**headers, **proof}, timeout=deadline.left())

        answer = await self._proving("GET", endpoint, send, access_token)
        return oauth.judge_userinfo(answer.status, answer.headers, answer.body, now=self._clock())

    async def claims(
        self, tokens: TokenResponse, *, nonce: str | None, now: float
    ) -> Mapping[str, Any]:
        """The claims about who signed in; ``{}`` where there is nobody to ask.

        ``nonce``: the one of the authorization request. ``now``: Unix seconds. Raises
        `IdentityRejected` for claims that do not hold, else as `userinfo`.
        """
        metadata = await self._metadata(Deadline(self.timeout))
        if metadata.userinfo_endpoint is None:
            return {}
        return await self.userinfo(tokens.access_token)

    async def check_issuer(self, iss: str | None) -> None:
        """Refuse a callback that another server sent (RFC 9207 §2.4, the mix-up attack).

        ``iss``: the callback's parameter; ``None``: it had none. Raises `IdentityRejected`, and
        `ProviderUnavailable` where it cannot be told just now.
        """
        if self.issuer is None:
            return
        if iss is not None:
            if not hmac.compare_digest(iss.encode("utf-8", "replace"), self.issuer.encode()):
                raise IdentityRejected("the callback's iss is another issuer")
            return
        metadata = await self._metadata(Deadline(self.timeout))
        if metadata.authorization_response_iss_parameter_supported:
            raise IdentityRejected("the callback has no iss, which this provider always sends")

    async def logout_token(self, token: str, *, now: float) -> LogoutToken:
        """A logout token, validated (Back-Channel Logout 1.0 §2.6).

        ``now``: Unix seconds. That each ``jti`` is good once is the caller's to see to. Raises
        `IdentityRejected` for a token that does not hold, and `ProviderUnavailable` where that
        cannot be told just now.
        """
        raise ConfigurationError("back-channel logout needs provider=OpenIDProvider(issuer=...)")

    # -- where the browser goes -------------------------------------------------------------------

    async def authorization_request(
        self,
        *,
        state: str,
        code_challenge: str,
        redirect_uri: str | None = None,
        nonce: str | None = None,
        extra: Form | None = None,
    ) -> str:
        """Where to send the browser to sign in (RFC 6749 §4.1.1), with a PKCE ``S256`` challenge.

        Where the server takes pushed authorization requests (RFC 9126), the request itself goes
        there, and the browser carries a reference to it. There is no falling back from that:
        ``pushed_authorization_requests=False`` is for a server that has them and should not.

        ``extra``: parameters of this one request, over ``authorization_params``. Raises
        `ConfigurationError` without an authorization endpoint or a redirect URI, else
        `ProviderUnavailable` or `ProviderMisconfigured`.
        """
        deadline = Deadline(self.timeout)
        metadata = await self._metadata(deadline)
        params = self._authorization_params(
            metadata, state, code_challenge, redirect_uri, nonce, extra
        )
        endpoint = self._authorization_endpoint(metadata)
        pushed = self._pushed_endpoint(metadata)
        if pushed is None:
            return oauth.with_query(endpoint, params)
        answer = await self._post(pushed, params, deadline, prove=True)
        request_uri = oauth.judge_pushed_request(
            answer.status, answer.headers, answer.body, now=self._clock()
        )
        return oauth.with_query(endpoint, {"client_id": self.client_id, "request_uri": request_uri})

    async def end_session_url(
        self,
        *,
        id_token_hint: str | None,
        post_logout_redirect_uri: str | None = None,
        state: str | None = None,
    ) -> str | None:
        """Where to send the browser to sign out at the provider (RP-Initiated Logout 1.0 §2).

        ``post_logout_redirect_uri``: where the provider sends it back to, one that is registered
        there; ``None``: the option of that name. ``None`` where the server has no
        ``end_session_endpoint``, and where it cannot be asked for it just now: a sign-out does not
        wait for that.
        """
        try:
            metadata = await self._metadata(Deadline(self.timeout))
        except ProviderError as error:
            log.warning("signed out here, and not at the provider: %s", error)
            return None
        if metadata.end_session_endpoint is None:
            return None
        params = {
            "id_token_hint": id_token_hint,
            "client_id": self.client_id,
            "post_logout_redirect_uri": post_logout_redirect_uri or self.post_logout_redirect_uri,
            "state": state,
        }
        given = {name: value for name, value in params.items() if value is not None}
        return oauth.with_query(metadata.end_session_endpoint, given)

    def dpop_auth(self, access_token: str, *hosts: str) -> BoundToken:
        """An ``httpx.Auth`` that sends a DPoP-bound access token to ``hosts``, and nowhere else.

        As ``user.bearer(*hosts)`` is for a token that is not bound. A resource server's nonce is
        used, and one request repeated for it (RFC 9449 §9). Works with ``httpx2.AsyncClient`` too.
        Raises `ConfigurationError` without ``dpop_key``.
        """
        key = self._dpop_key
        if key is None:
            raise ConfigurationError("give dpop_key= to send tokens that are bound to it")
        if not oauth.is_bearer(access_token):
            raise ConfigurationError("the access token cannot stand in a header")

        def prove(method: str, url: str) -> dict[str, str]:
            return {
                "Authorization": f"DPoP {access_token}",
                "DPoP": self._proof(key, method, url, access_token),
            }

        return BoundToken.of(prove, self._noticed, hosts)

    # -- one request ------------------------------------------------------------------------------

    def _one_resource(self, resource: str | None) -> dict[str, str | Sequence[str]]:
        # An access token is for one of them: most servers refuse to make one for several.
        wanted = resource or next(iter(self.resource), None)
        return {} if wanted is None else {"resource": wanted}

    def _authorization_params(
        self,
        metadata: Metadata,
        state: str,
        code_challenge: str,
        redirect_uri: str | None,
        nonce: str | None,
        extra: Form | None,
    ) -> Form:
        redirect_uri = redirect_uri or self.redirect_uri
        if redirect_uri is None:
            _no_sign_in()
        further: dict[str, str | Sequence[str]] = {**self.authorization_params, **(extra or {})}
        if self.resource:
            further["resource"] = self.resource
        if self._dpop_key is not None:
            further["dpop_jkt"] = self._dpop_key.thumbprint
        if nonce is not None:
            further["nonce"] = nonce
        return oauth.authorization_params(
            client_id=self.client_id,
            redirect_uri=redirect_uri,
            scope=self._scope(metadata),
            state=state,
            code_challenge=code_challenge,
            extra=further,
        )

    def _scope(self, metadata: Metadata) -> str | None:
        return self.scope

    def _authorization_endpoint(self, metadata: Metadata) -> str:
        if metadata.authorization_endpoint is None:
            _no_sign_in()
        return metadata.authorization_endpoint

    def _pushed_endpoint(self, metadata: Metadata) -> str | None:
        wanted = self.pushed_authorization_requests
        endpoint = metadata.pushed_authorization_request_endpoint
        if metadata.require_pushed_authorization_requests and wanted is False:
            raise ProviderMisconfigured(
                "the provider takes pushed authorization requests only: leave out "
                "pushed_authorization_requests=False"
            )
        wanted = wanted or metadata.require_pushed_authorization_requests
        if wanted and endpoint is None:
            raise ProviderMisconfigured(
                "authorization requests are to be pushed, and the provider names no "
                "pushed_authorization_request_endpoint"
            )
        return None if self.pushed_authorization_requests is False else endpoint

    async def _grant(self, form: Form, grant: str) -> TokenResponse:
        deadline = Deadline(self.timeout)
        metadata = await self._metadata(deadline)
        answer = await self._post(metadata.token_endpoint, form, deadline, prove=True)
        tokens = oauth.judge_token_response(
            answer.status,
            answer.headers,
            answer.body,
            now=self._clock(),
            rejection_codes=self.rejection_codes,
            grant=grant,
        )
        if self._dpop_key is None and tokens.token_type.lower() == "dpop":
            raise ProviderMisconfigured(
                "the token endpoint answered with a token that is bound to a DPoP key, and there "
                "is none: give dpop_key="
            )
        return oauth.assumed_lifetime(tokens, self.default_expires_in)

    async def _post(
        self, endpoint: str, form: Form, deadline: Deadline, *, prove: bool = False
    ) -> Answer:
        async def send(proof: Mapping[str, str]) -> Answer:
            headers, credentials = self._authenticated()
            return await self.http.post(
                endpoint, {**form, **credentials}, {**headers, **proof}, timeout=deadline.left()
            )

        if not prove:
            return await send({})
        return await self._proving("POST", endpoint, send)

    def _authenticated(self) -> tuple[dict[str, str], dict[str, str]]:
        assertion = None
        if self._client_key is not None:
            assertion = client_assertion(
                self._client_key,
                client_id=self.client_id,
                audience=self._assertion_audience,
                now=self._clock(),
                jti=secrets.token_urlsafe(16),
            )
        return oauth.client_authentication(
            self.token_endpoint_auth_method, self.client_id, self._client_secret, assertion
        )

    # -- DPoP -------------------------------------------------------------------------------------

    async def _proving(
        self,
        method: str,
        url: str,
        send: Callable[[Mapping[str, str]], Awaitable[Answer]],
        access_token: str | None = None,
    ) -> Answer:
        """Send with a proof, and once more where the server wants its nonce in it (RFC 9449 §8)."""
        if self._dpop_key is None:
            return await send({})
        key = self._dpop_key
        answer = await send({"dpop": self._proof(key, method, url, access_token)})
        if self._noticed(url, answer.headers) and oauth.asks_for_nonce(
            answer.status, answer.headers, answer.body
        ):
            answer = await send({"dpop": self._proof(key, method, url, access_token)})
            self._noticed(url, answer.headers)
        return answer

    def _proof(self, key: jose.SigningKey, method: str, url: str, access_token: str | None) -> str:
        return dpop_proof(
            key,
            method=method,
            url=url,
            now=self._clock(),
            jti=secrets.token_urlsafe(16),
            nonce=self._nonces.get(server_of(url)),
            access_token=access_token,
        )

    def _noticed(self, url: str, headers: Mapping[str, str]) -> bool:
        """Keep the nonce of an answer, if it has one (RFC 9449 §8.2)."""
        nonce = headers.get("dpop-nonce")
        if not nonce or len(nonce) > 1024 or not nonce.isprintable():
            return False
        server = server_of(url)
        self._nonces.pop(server, None)
        self._nonces[server] = nonce
        if len(self._nonces) > _MOST_NONCES:
            del self._nonces[next(iter(self._nonces))]
        return True


def _no_sign_in() -> NoReturn:
    raise ConfigurationError(
        "signing in needs OAuth2Provider(authorization_endpoint=...) and a redirect_uri"
    )


def _key(
    name: str, value: ClientKey | None, types: tuple[str, ...], alg: str | None = None
) -> jose.SigningKey | None:
    if value is None:
        return None
    return jose.read_signing_key(name, value, types=types, alg=alg)
