"""An authorization server as its endpoints: what a sign-in, a refresh and a revocation ask of it.

Decides which request each of them is. Does not know how one travels (``http``), nor what an answer
means (``oauth``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast, get_args, runtime_checkable

from . import oauth
from .errors import (
    ConfigurationError,
    ProviderError,
    RefreshRejected,
)
from .http import HTTP, TIMEOUT, Answer, AsyncHTTPClient
from .oauth import TokenEndpointAuthMethod, TokenResponse

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
    }
)
_RESERVED_IN_REFRESH: Final = frozenset(
    {"grant_type", "refresh_token", "client_id", "client_secret"}
)


@runtime_checkable
class Provider(Protocol):
    """Whoever refreshes tokens. Any object with this method can be ``provider=``."""

    async def refresh(self, refresh_token: str) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6).

        Raises `RefreshRejected` where the grant is dead, `ProviderUnavailable` where trying later
        may help, and `ProviderMisconfigured` where an operator must look.
        """
        ...


class OAuth2Provider:
    """An authorization server, known by its endpoints (RFC 6749 §3).

    ``token_endpoint`` and the other endpoints
        ``https``; ``http`` on loopback only.
    ``client_secret``
        ``None``: a public client, which says no more than its ``client_id``.
    ``token_endpoint_auth_method``
        ``client_secret_basic``, ``client_secret_post`` or ``none`` (OpenID Connect Core §9). It is
        never found out by trying: a server may burn a refresh token that comes with a wrong
        secret.
    ``redirect_uri``
        Where the server sends the browser back to. ``None``: worked out from the request.
    ``scope``
        What to ask for at sign-in: a string, or a sequence of scopes. ``None``: the server's own.
    ``authorization_params``, ``refresh_params``
        Further parameters of the authorization request (``prompt``, ``audience``) and fields of
        the refresh request (``scope``, ``resource``).
    ``rejection_codes``
        Error codes by which this server, and no table here, says that a grant is dead.
    ``timeout``
        Seconds one request may take in all.
    ``http_client``
        An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` for this provider alone; it stays yours
        to close. ``None``: the one of `IdealAuth`.

    Raises `ConfigurationError` at once for whatever could not work.
    """

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        token_endpoint_auth_method: TokenEndpointAuthMethod = "client_secret_basic",  # noqa: S107 - a method
        revocation_endpoint: str | None = None,
        authorization_endpoint: str | None = None,
        userinfo_endpoint: str | None = None,
        redirect_uri: str | None = None,
        scope: str | Sequence[str] | None = None,
        authorization_params: Mapping[str, str] | None = None,
        refresh_params: Mapping[str, str] | None = None,
        rejection_codes: Iterable[str] = (),
        timeout: float = TIMEOUT,
        http_client: AsyncHTTPClient | None = None,
    ) -> None:
        self.token_endpoint = oauth.check_endpoint("token_endpoint", token_endpoint)
        self.revocation_endpoint = _endpoint("revocation_endpoint", revocation_endpoint)
        self.authorization_endpoint = _endpoint("authorization_endpoint", authorization_endpoint)
        self.userinfo_endpoint = _endpoint("userinfo_endpoint", userinfo_endpoint)
        self.redirect_uri = _endpoint("redirect_uri", redirect_uri)
        self.client_id = _text("client_id", client_id)
        self._client_secret = (
            None if client_secret is None else _text("client_secret", client_secret)
        )
        self.token_endpoint_auth_method: TokenEndpointAuthMethod = _method(
            token_endpoint_auth_method, client_secret
        )
        self.scope = _scope(scope)
        self.authorization_params = _params(
            "authorization_params", authorization_params, _RESERVED_IN_AUTHORIZATION
        )
        self.refresh_params = _params("refresh_params", refresh_params, _RESERVED_IN_REFRESH)
        self.rejection_codes = _codes(rejection_codes)
        self.timeout = _seconds("timeout", timeout)
        self.http = HTTP(http_client)
        self._has_own_client = http_client is not None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(token_endpoint={self.token_endpoint!r}, "
            f"client_id={self.client_id!r})"
        )

    def use(self, http: HTTP) -> None:
        """Send over ``http`` from now on, unless this provider was given a client of its own."""
        if not self._has_own_client:
            self.http = http

    async def refresh(self, refresh_token: str) -> TokenResponse:
        """New tokens for a refresh token (RFC 6749 §6), asked for once.

        Raises `RefreshRejected`, `ProviderUnavailable` or `ProviderMisconfigured`.
        """
        form = oauth.refresh_form(refresh_token, self.refresh_params)
        return await self._grant(form, "refresh token")

    async def exchange_code(
        self, code: str, *, redirect_uri: str, code_verifier: str
    ) -> TokenResponse:
        """The tokens of a sign-in (RFC 6749 §4.1.3, RFC 7636 §4.5).

        ``redirect_uri`` and ``code_verifier`` as in the authorization request. Raises
        `RefreshRejected` where the code is dead, else as `refresh`.
        """
        form = oauth.code_form(code, redirect_uri, code_verifier)
        return await self._grant(form, "authorization code")

    async def revoke(
        self,
        token: str,
        *,
        token_type_hint: str = "refresh_token",  # noqa: S107 - a kind of token, none itself
    ) -> bool:
        """Whether the server confirmed that the token is gone (RFC 7009). Never raises an error
        of the provider's: ``False`` too where there is no endpoint, or no answer.
        """
        if self.revocation_endpoint is None:
            return False
        form = oauth.revocation_form(token, token_type_hint)
        try:
            answer = await self._post(self.revocation_endpoint, form)
            if answer.status == 503:  # RFC 7009 §2.2.1: the token still exists, and may be retried
                answer = await self._post(self.revocation_endpoint, form)
        except ProviderError:
            return False
        return oauth.judge_revocation(answer.status)

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        """The claims about the user (OpenID Connect Core §5.3).

        Raises `ConfigurationError` without a ``userinfo_endpoint``, `RefreshRejected` where the
        access token is refused, else as `refresh`.
        """
        if self.userinfo_endpoint is None:
            raise ConfigurationError("give OAuth2Provider(userinfo_endpoint=...) to ask it")
        if not oauth.is_bearer(access_token):
            raise RefreshRejected("the access token cannot stand in a header")
        headers = {"authorization": f"Bearer {access_token}"}
        answer = await self.http.get(self.userinfo_endpoint, headers, timeout=self.timeout)
        return oauth.judge_userinfo(answer.status, answer.headers, answer.body, now=time.time())

    def authorization_url(
        self,
        *,
        state: str,
        code_challenge: str,
        redirect_uri: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Where to send the browser to sign in (RFC 6749 §4.1.1), with a PKCE ``S256`` challenge.

        ``extra``: parameters of this one request, over ``authorization_params``. Raises
        `ConfigurationError` without an ``authorization_endpoint`` or a redirect URI.
        """
        redirect_uri = redirect_uri or self.redirect_uri
        if self.authorization_endpoint is None or redirect_uri is None:
            raise ConfigurationError(
                "signing in needs OAuth2Provider(authorization_endpoint=...) and a redirect_uri"
            )
        return oauth.authorization_url(
            self.authorization_endpoint,
            client_id=self.client_id,
            redirect_uri=redirect_uri,
            scope=self.scope,
            state=state,
            code_challenge=code_challenge,
            extra={**self.authorization_params, **(extra or {})},
        )

    async def _grant(self, form: Mapping[str, str], grant: str) -> TokenResponse:
        answer = await self._post(self.token_endpoint, form)
        return oauth.judge_token_response(
            answer.status,
            answer.headers,
            answer.body,
            now=time.time(),
            rejection_codes=self.rejection_codes,
            grant=grant,
        )

    async def _post(self, endpoint: str, form: Mapping[str, str]) -> Answer:
        headers, credentials = oauth.client_authentication(
            self.token_endpoint_auth_method, self.client_id, self._client_secret
        )
        form = {**form, **credentials}
        return await self.http.post(endpoint, form, headers, timeout=self.timeout)


# -- what it may be given -------------------------------------------------------------------------


def _endpoint(name: str, url: str | None) -> str | None:
    return None if url is None else oauth.check_endpoint(name, url)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} is empty: is an environment variable missing?")
    if not value.isprintable():
        raise ConfigurationError(
            f"{name} holds a character that cannot be meant: has it been read with the newline at "
            f"the end of its file?"
        )
    return value


def _method(method: object, client_secret: str | None) -> TokenEndpointAuthMethod:
    if method not in get_args(TokenEndpointAuthMethod):
        raise ConfigurationError(
            f"token_endpoint_auth_method is one of {', '.join(get_args(TokenEndpointAuthMethod))}"
        )
    if method == "none" and client_secret is not None:
        raise ConfigurationError(
            "token_endpoint_auth_method='none' sends no secret: leave out client_secret, or name "
            "the method that sends it"
        )
    if method == "client_secret_post" and client_secret is None:
        raise ConfigurationError(
            "token_endpoint_auth_method='client_secret_post' needs a client_secret; a public "
            "client has 'none'"
        )
    # The default method of a client without a secret: there is nothing to authenticate with.
    return "none" if client_secret is None else cast("TokenEndpointAuthMethod", method)


def _scope(scope: object) -> str | None:
    if scope is None:
        return None
    parts = scope.split() if isinstance(scope, str) else scope
    if not isinstance(parts, Sequence):
        raise ConfigurationError("scope is a string, or a sequence of them")
    return " ".join(_text("scope", part) for part in cast("Sequence[object]", parts)) or None


def _params(name: str, params: object, reserved: frozenset[str]) -> dict[str, str]:
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise ConfigurationError(f"{name} is a mapping of names to strings")
    given = dict(cast("Mapping[object, object]", params))
    if not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise ConfigurationError(f"{name} is a mapping of names to strings")
    taken = sorted(reserved & given.keys(), key=str)
    if taken:
        raise ConfigurationError(
            f"{name} may not hold {', '.join(map(str, taken))}: each request has its own"
        )
    return cast("dict[str, str]", given)


def _codes(codes: object) -> frozenset[str]:
    if isinstance(codes, str) or not isinstance(codes, Iterable):
        raise ConfigurationError("rejection_codes is a collection of codes: put it in brackets")
    listed = list(cast("Iterable[object]", codes))
    return frozenset(_text("a code in rejection_codes", code).lower() for code in listed)


def _seconds(name: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConfigurationError(f"{name} is a positive number of seconds")
    return float(value)
