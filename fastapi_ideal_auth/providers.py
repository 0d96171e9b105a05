"""Ready-made registrations: what each of these authorization servers is asked, and what it does.

Decides addresses, scopes, parameters and dialects, as data with its sources. Does not know how a
request is sent, or what an answer means::

    from fastapi_ideal_auth import providers

    provider = providers.KEYCLOAK.provider(
        client_id="dashboard", client_secret="…", host="sso.example", realm="main"
    )

A fact that no document of the server states is ``None``; each other one names its source.
``docs/providers/`` has a page for each, with the settings it needs at the server.
"""

from __future__ import annotations

import inspect
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, cast

from .client import OAuthClient
from .errors import ConfigurationError
from .oauth import TokenEndpointAuthMethod
from .openid import OpenIDProvider
from .provider import OAuth2Provider

DAY: Final = 86_400


class Source(NamedTuple):
    """Where facts were read. They are the server's to change: look again before relying on one."""

    url: str
    facts: tuple[str, ...]
    """The fields of a `Registration` that it is the source of."""

    read: str = "2026-11-25"
    """The day it was read (ISO 8601)."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Registration:
    """An authorization server as data. `provider` makes what ``provider=`` takes."""

    name: str

    issuer: str | None = None
    """OpenID Connect Discovery: the issuer, where ``{field}`` stands for what `provider` is given.
    ``None``: the server is known by its endpoints."""

    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    """RFC 7009. ``None``: the one that is discovered, or none."""

    token_endpoint_auth_method: TokenEndpointAuthMethod = "client_secret_basic"  # noqa: S105 - a method
    """How a new client of this server authenticates (OpenID Connect Core §9)."""

    scope: tuple[str, ...] = ()
    """What to ask for at sign-in, so that a refresh token comes. Empty: the server's own."""

    authorization_params: Mapping[str, str] = field(default_factory=_nothing)
    """Further parameters of the authorization request, to the same end."""

    rejection_codes: frozenset[str] = frozenset()
    """Error codes by which this server, and no table of ``oauth``, says that a grant is dead."""

    default_expires_in: int | None = None
    """Seconds an access token is taken to live, for a server that does not say."""

    rotation: Literal["always", "never", "configurable"] | None = None
    """Whether a refresh gives a new refresh token."""

    grace: float | None = None
    """Seconds a refresh token still works after it was used, as the server is set up at first.
    ``inf``: using one never ends it."""

    refresh_token_lifetime: int | None = None
    """Seconds from sign-in after which only signing in again helps, as the server is set up at
    first."""

    refresh_token_idle_lifetime: int | None = None
    """Seconds a refresh token lives without being used, likewise."""

    access_token_survives: bool | None = None
    """Whether the old access token works on after a refresh."""

    rp_initiated_logout: bool | None = None
    """Whether the browser can be sent on to end the session at the server
    (OpenID Connect RP-Initiated Logout)."""

    backchannel_logout: bool | None = None
    """Whether the server tells of sessions that ended (OpenID Connect Back-Channel Logout)."""

    sources: tuple[Source, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """What `provider` must be given, by name, beside the client's credentials."""
        templates = filter(None, (self.issuer, *self._endpoints().values()))
        found = [part[1] for text in templates for part in string.Formatter().parse(text)]
        return tuple(dict.fromkeys(name for name in found if name))

    def provider(
        self, *, client_id: str, client_secret: str | None = None, **options: Any
    ) -> OAuthClient:
        """An `OpenIDProvider` where there is an `issuer`, else an `OAuth2Provider`; all is set.

        ``options`` are `fields`, each required, and any option of the provider's class.
        ``scope`` takes the place of the registration's; ``authorization_params`` and
        ``rejection_codes`` add to them, where a parameter of ``None`` is left out. Without a
        ``client_secret``, ``token_endpoint_auth_method`` must say how the client authenticates.

        Raises `ConfigurationError` for what is missing, unknown, or could bend an address.
        """
        values = self._filled(options)
        make: type[Any] = OAuth2Provider if self.issuer is None else OpenIDProvider
        given = {name: option for name, option in options.items() if name not in self.fields}
        self._check_options(given, make)
        if client_secret is None and "token_endpoint_auth_method" not in given:
            raise ConfigurationError(
                f"{self.name} needs a client_secret: is an environment variable missing? (A "
                f"client without one says token_endpoint_auth_method='none'.)"
            )
        settings: dict[str, Any] = {
            "token_endpoint_auth_method": self.token_endpoint_auth_method,
            "scope": self.scope or None,
            **self._facts(),
            **self._addresses(values),
            **given,
            "authorization_params": _merged(
                self.authorization_params, given.get("authorization_params")
            ),
            "rejection_codes": self.rejection_codes | _listed(given.get("rejection_codes")),
        }
        made: OAuthClient = make(client_id=client_id, client_secret=client_secret, **settings)
        return made

    def _endpoints(self) -> dict[str, str | None]:
        return {
            "authorization_endpoint": self.authorization_endpoint,
            "token_endpoint": self.token_endpoint,
            "userinfo_endpoint": self.userinfo_endpoint,
            "revocation_endpoint": self.revocation_endpoint,
        }

    def _addresses(self, values: Mapping[str, str]) -> dict[str, str]:
        templates = {"issuer": self.issuer, **self._endpoints()}
        return {name: text.format_map(values) for name, text in templates.items() if text}

    def _facts(self) -> dict[str, Any]:
        """The facts that are options of the provider's class."""
        if self.issuer is None:
            return {"default_expires_in": self.default_expires_in}
        return {
            "default_expires_in": self.default_expires_in,
            # What is discovered does not tell whether the standard is kept (Cognito).
            "rp_initiated_logout": self.rp_initiated_logout is not False,
        }

    def _filled(self, options: Mapping[str, Any]) -> dict[str, str]:
        missing = [name for name in self.fields if name not in options]
        if missing:
            wanted = " and ".join(f"{name}= ({_FIELDS[name].says})" for name in missing)
            raise ConfigurationError(f"{self.name} needs {wanted}")
        return {name: _checked(self.name, name, options[name]) for name in self.fields}

    def _check_options(self, given: Mapping[str, Any], make: type[Any]) -> None:
        known = inspect.signature(make).parameters.keys() - {"issuer"} - self._endpoints().keys()
        unknown = sorted(given.keys() - known - self._open_endpoints())
        if unknown:
            takes = ", ".join(self.fields) or "none"
            raise ConfigurationError(
                f"{self.name} does not take {', '.join(unknown)} (its own fields: {takes}; the "
                f"rest are the options of {make.__name__})"
            )

    def _open_endpoints(self) -> set[str]:
        """Endpoints this registration does not know, which the application may."""
        if self.issuer is not None:
            return set()
        return {name for name, address in self._endpoints().items() if address is None}


class _Field(NamedTuple):
    pattern: re.Pattern[str]
    says: str


# Nothing that ends a host or a path segment, or begins something else, is in any of these.
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_~-](?:[A-Za-z0-9._~-]*[A-Za-z0-9_~-])?")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_POOL: Final = re.compile(r"[a-z0-9-]+_[A-Za-z0-9]+")

_FIELDS: Final[Mapping[str, _Field]] = {
    "host": _Field(_HOST, "its host, in lower case, as in sso.example"),
    "domain": _Field(_HOST, "its host, in lower case, as in example.eu.auth0.com"),
    "realm": _Field(_SEGMENT, "the realm's name: letters, digits and . _ ~ -"),
    "authorization_server": _Field(_SEGMENT, "the server's id: letters, digits and . _ ~ -"),
    # The issuer is compared exactly, and of "common" or a domain name it holds something else.
    "tenant": _Field(_UUID, "the Directory (tenant) ID: a UUID in lower case, no name"),
    "region": _Field(_REGION, "the AWS region, as in eu-west-1"),
    "user_pool_id": _Field(_POOL, "the user pool's id, as in eu-west-1_AbC123dEf"),
}


def _checked(registration: str, name: str, value: object) -> str:
    wanted = _FIELDS[name]
    if not isinstance(value, str) or not wanted.pattern.fullmatch(value):
        # The value is not repeated: it may be the secret, given by the wrong name.
        raise ConfigurationError(f"{registration}: {name}= is {wanted.says}")
    return value


def _merged(base: Mapping[str, str], given: object) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError("authorization_params is a mapping of names to strings")
    added = cast("Mapping[str, Any]", given or {})
    return {name: value for name, value in {**base, **added}.items() if value is not None}


def _listed(codes: object) -> frozenset[str]:
    if isinstance(codes, str) or not isinstance(codes, Iterable | None):
        raise ConfigurationError("rejection_codes is a collection of codes: put it in brackets")
    return frozenset(cast("Iterable[str]", codes or ()))


_OPENID: Final = ("openid", "profile", "email")


GOOGLE: Final = Registration(
    name="Google",
    issuer="https://accounts.google.com",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=_OPENID,
    # Without consent asked for anew, only a user's first sign-in brings a refresh token.
    authorization_params=MappingProxyType({"access_type": "offline", "prompt": "consent"}),
    rotation="never",
    refresh_token_idle_lifetime=180 * DAY,  # "six months"
    rp_initiated_logout=False,
    backchannel_logout=False,
    sources=(
        Source(
            "https://developers.google.com/identity/openid-connect/reference",
            ("issuer",),
        ),
        Source(
            "https://github.com/iamgbsmith/til/blob/master/security/"
            "get-openid-connect-provider-configuration.md",
            ("token_endpoint_auth_method", "scope", "rp_initiated_logout", "backchannel_logout"),
        ),
        Source("https://github.com/scribejava/scribejava/issues/655", ("authorization_params",)),
        Source("https://github.com/dnplus/streamlit-oauth/issues/40", ("rotation",)),
        Source(
            "https://docs.gitguardian.com/secrets-detection/secrets-detection-engine/detectors/"
            "specifics/google_oauth2_refresh_token",
            ("refresh_token_idle_lifetime",),
        ),
    ),
)

ENTRA_ID: Final = Registration(
    name="Microsoft Entra ID",
    issuer="https://login.microsoftonline.com/{tenant}/v2.0",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=(*_OPENID, "offline_access"),
    rotation="always",
    grace=math.inf,
    refresh_token_idle_lifetime=90 * DAY,
    rp_initiated_logout=True,
    backchannel_logout=False,  # a front channel only: the browser is sent to a LogoutUrl
    sources=(
        Source(
            "https://learn.microsoft.com/en-us/entra/identity-platform/v2-protocols-oidc",
            ("issuer", "token_endpoint_auth_method", "rp_initiated_logout", "backchannel_logout"),
        ),
        Source(
            "https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow",
            ("scope",),
        ),
        Source(
            "https://learn.microsoft.com/en-us/entra/identity-platform/refresh-tokens",
            ("rotation", "grace", "refresh_token_idle_lifetime"),
        ),
    ),
)

AUTH0: Final = Registration(
    name="Auth0",
    issuer="https://{domain}/",  # with the slash: it is compared exactly
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=(*_OPENID, "offline_access"),
    rotation="configurable",
    grace=0,
    refresh_token_lifetime=30 * DAY,
    rp_initiated_logout=True,
    backchannel_logout=True,
    sources=(
        Source("https://qiita.com/smesh/items/db9b90bc6735cf9381af", ("issuer", "scope")),
        Source(
            "https://github.com/auth0/express-openid-connect/issues/363",
            ("token_endpoint_auth_method",),
        ),
        Source(
            "https://auth0.com/docs/secure/tokens/refresh-tokens/configure-refresh-token-rotation",
            ("rotation", "grace", "refresh_token_lifetime"),
        ),
        Source(
            "https://auth0.com/docs/authenticate/login/logout/log-users-out-of-auth0",
            ("rp_initiated_logout",),
        ),
        Source(
            "https://auth0.com/docs/authenticate/login/logout/back-channel-logout/"
            "configure-back-channel-logout",
            ("backchannel_logout",),
        ),
    ),
)

_OKTA_SOURCES: Final = (
    Source(
        "https://github.com/api-evangelist/okta/blob/main/well-known/"
        "okta-apis-openid-configuration.json",
        ("issuer", "token_endpoint_auth_method", "scope", "rp_initiated_logout"),
    ),
    Source("https://developer.okta.com/docs/guides/refresh-tokens/main/", ("rotation",)),
    Source(
        "https://github.com/okta/okta-sdk-dotnet/blob/master/docs/"
        "OpenIdConnectApplicationSettingsRefreshToken.md",
        ("grace",),
    ),
    Source(
        "https://support.okta.com/help/s/article/refresh-token-expiration-behavior",
        ("refresh_token_lifetime",),
    ),
    Source("https://developer.okta.com/docs/guides/single-logout/main/", ("backchannel_logout",)),
)

OKTA: Final = Registration(
    name="Okta",
    issuer="https://{domain}",
    scope=(*_OPENID, "offline_access"),
    rotation="configurable",
    grace=30,
    refresh_token_lifetime=90 * DAY,
    rp_initiated_logout=True,
    backchannel_logout=False,  # a front channel only
    sources=_OKTA_SOURCES,
)
"""The org authorization server, which every Okta organization has."""

OKTA_CUSTOM: Final = Registration(
    name="Okta (custom authorization server)",
    issuer="https://{domain}/oauth2/{authorization_server}",
    scope=(*_OPENID, "offline_access"),
    rotation="configurable",
    grace=30,
    rp_initiated_logout=True,
    backchannel_logout=False,
    sources=(
        *_OKTA_SOURCES,
        Source("https://github.com/okta/samples-nodejs-express-4/issues/60", ("issuer",)),
    ),
)
"""A custom authorization server (``default`` is one), whose access tokens are for your own API."""

KEYCLOAK: Final = Registration(
    name="Keycloak",
    issuer="https://{host}/realms/{realm}",
    # No offline_access: the refresh token then lives and dies with the session at Keycloak.
    scope=_OPENID,
    rotation="configurable",
    rp_initiated_logout=True,
    backchannel_logout=True,
    sources=(
        Source(
            "https://www.keycloak.org/securing-apps/oidc-layers",
            ("issuer", "rp_initiated_logout"),
        ),
        Source(
            "https://github.com/keycloak/keycloak/blob/main/docs/documentation/server_admin/"
            "topics/sessions/timeouts.adoc",
            ("rotation",),
        ),
        Source(
            "https://github.com/keycloak/keycloak/blob/main/docs/documentation/server_admin/"
            "topics/sessions/offline.adoc",
            ("scope",),
        ),
        Source(
            "https://github.com/keycloak/keycloak/blob/main/docs/documentation/server_admin/"
            "topics/clients/oidc/con-confidential-client-credentials.adoc",
            ("token_endpoint_auth_method",),
        ),
        Source(
            "https://github.com/keycloak/keycloak/blob/main/docs/documentation/server_admin/"
            "topics/clients/oidc/con-basic-settings.adoc",
            ("backchannel_logout",),
        ),
    ),
)

COGNITO: Final = Registration(
    name="Amazon Cognito",
    issuer="https://cognito-idp.{region}.amazonaws.com/{user_pool_id}",
    scope=_OPENID,
    rotation="configurable",  # with a grace of up to 60 seconds, of which no default is named
    refresh_token_lifetime=30 * DAY,
    # Its /logout takes client_id and logout_uri, not the parameters of the standard.
    rp_initiated_logout=False,
    sources=(
        Source(
            "https://github.com/api-evangelist/covatic/blob/main/well-known/"
            "covatic-openid-configuration.json",
            ("issuer", "scope"),
        ),
        Source(
            "https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html",
            ("token_endpoint_auth_method",),
        ),
        Source(
            "https://docs.aws.amazon.com/cognito/latest/developerguide/"
            "amazon-cognito-user-pools-using-the-refresh-token.html",
            ("rotation", "refresh_token_lifetime"),
        ),
        Source(
            "https://docs.aws.amazon.com/cognito/latest/developerguide/logout-endpoint.html",
            ("rp_initiated_logout",),
        ),
    ),
)

GITHUB_APP: Final = Registration(
    name="GitHub App",
    authorization_endpoint="https://github.com/login/oauth/authorize",
    token_endpoint="https://github.com/login/oauth/access_token",  # noqa: S106 - an address
    userinfo_endpoint="https://api.github.com/user",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    rotation="always",
    grace=0,
    refresh_token_idle_lifetime=15_811_200,  # "6 months"; each answer says so
    access_token_survives=False,
    sources=(
        Source(
            "https://docs.github.com/en/apps/creating-github-apps/"
            "authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app",
            ("authorization_endpoint", "userinfo_endpoint", "scope"),
        ),
        Source(
            "https://docs.github.com/en/apps/creating-github-apps/"
            "authenticating-with-a-github-app/refreshing-user-access-tokens",
            (
                "token_endpoint",
                "token_endpoint_auth_method",
                "rotation",
                "grace",
                "access_token_survives",
                "refresh_token_idle_lifetime",
            ),
        ),
    ),
)

GITLAB: Final = Registration(
    name="GitLab",
    issuer="https://{host}",
    scope=_OPENID,
    rotation="always",
    grace=0,
    access_token_survives=False,
    rp_initiated_logout=False,
    backchannel_logout=False,
    sources=(
        Source(
            "https://github.com/api-evangelist/gitlab/blob/main/well-known/"
            "gitlab-openid-configuration.json",
            (
                "issuer",
                "token_endpoint_auth_method",
                "scope",
                "rp_initiated_logout",
                "backchannel_logout",
            ),
        ),
        Source(
            "https://docs.gitlab.com/api/oauth2/", ("rotation", "grace", "access_token_survives")
        ),
    ),
)

SLACK: Final = Registration(
    name="Slack",
    authorization_endpoint="https://slack.com/oauth/v2/authorize",
    token_endpoint="https://slack.com/api/oauth.v2.access",  # noqa: S106 - an address
    userinfo_endpoint="https://slack.com/api/auth.test",
    # `scope` would ask for a bot's token; a session is a user's.
    authorization_params=MappingProxyType({"user_scope": "users:read"}),
    rotation="always",
    grace=0,
    sources=(
        Source(
            "https://docs.slack.dev/reference/methods/oauth.v2.access",
            ("authorization_endpoint", "token_endpoint", "token_endpoint_auth_method"),
        ),
        Source("https://docs.slack.dev/reference/methods/auth.test", ("userinfo_endpoint",)),
        Source(
            "https://docs.slack.dev/reference/methods/oauth.v2.user.access",
            ("authorization_params",),
        ),
        Source("https://docs.slack.dev/authentication/using-token-rotation", ("rotation", "grace")),
    ),
)

SALESFORCE: Final = Registration(
    name="Salesforce",
    # By endpoints: its issuers differ between the login host and a My Domain.
    authorization_endpoint="https://{host}/services/oauth2/authorize",
    token_endpoint="https://{host}/services/oauth2/token",  # noqa: S106 - an address
    userinfo_endpoint="https://{host}/services/oauth2/userinfo",
    revocation_endpoint="https://{host}/services/oauth2/revoke",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=("openid", "refresh_token"),
    default_expires_in=900,  # the shortest session time-out an org can have
    rotation="configurable",
    grace=0,
    rp_initiated_logout=False,
    backchannel_logout=False,
    sources=(
        Source(
            "https://login.salesforce.com/.well-known/openid-configuration",
            (
                "authorization_endpoint",
                "token_endpoint",
                "userinfo_endpoint",
                "revocation_endpoint",
                "token_endpoint_auth_method",
                "scope",
                "rp_initiated_logout",
                "backchannel_logout",
            ),
        ),
        Source(
            "http://www.sfdc316.com/2015/03/salesforce-session-settings-session.html",
            ("default_expires_in",),
        ),
        Source(
            "https://help.salesforce.com/s/articleView?"
            "id=xcloud.remoteaccess_oauth_refresh_token_flow.htm",
            ("rotation", "grace"),
        ),
    ),
)

HUBSPOT: Final = Registration(
    name="HubSpot",
    authorization_endpoint="https://app.hubspot.com/oauth/authorize",
    token_endpoint="https://api.hubapi.com/oauth/2026-03/token",  # noqa: S106 - an address
    revocation_endpoint="https://api.hubapi.com/oauth/2026-03/token/revoke",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=("oauth",),
    sources=(
        Source(
            "https://developers.hubspot.com/docs/api-reference/auth-oauth-v3/guide",
            ("authorization_endpoint", "token_endpoint_auth_method"),
        ),
        Source(
            "https://developers.hubspot.com/changelog/v1-oauth-api-deprecation",
            ("token_endpoint", "revocation_endpoint"),
        ),
        Source(
            "https://cdn.cdata.com/help/DHM/mcp/RSBHubspot_p_OAuthRequiredScopes.htm", ("scope",)
        ),
    ),
)

ATLASSIAN: Final = Registration(
    name="Atlassian",
    authorization_endpoint="https://auth.atlassian.com/authorize",
    token_endpoint="https://auth.atlassian.com/oauth/token",  # noqa: S106 - an address
    userinfo_endpoint="https://api.atlassian.com/me",
    token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method
    scope=("read:me", "offline_access"),
    authorization_params=MappingProxyType({"audience": "api.atlassian.com", "prompt": "consent"}),
    rotation="always",
    grace=600,
    refresh_token_lifetime=365 * DAY,
    refresh_token_idle_lifetime=90 * DAY,
    sources=(
        Source(
            "https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/",
            ("authorization_endpoint", "authorization_params"),
        ),
        Source(
            "https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens",
            ("token_endpoint", "scope"),
        ),
        Source(
            "https://github.com/pilcrowonpaper/arctic/issues/63", ("token_endpoint_auth_method",)
        ),
        Source("https://next-auth.js.org/providers/atlassian", ("userinfo_endpoint",)),
        Source(
            "https://community.developer.atlassian.com/t/updated-31-january-2022-action-required-"
            "deprecating-persistent-refresh-tokens/54172",
            ("rotation", "grace", "refresh_token_lifetime", "refresh_token_idle_lifetime"),
        ),
    ),
)
