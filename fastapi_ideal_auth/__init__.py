"""Sealed cookie sessions for FastAPI whose access tokens stay fresh."""

from typing import TYPE_CHECKING, Any

from .auth import IdealAuth
from .bearer import BearerAuth
from .errors import (
    AuthError,
    ConfigurationError,
    CookieTooLarge,
    IdentityRejected,
    InvalidCookie,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)
from .events import Event, EventKind
from .oauth import TokenResponse
from .openid import OpenIDProvider
from .provider import OAuth2Provider, Provider
from .seal import AESGCMSealer
from .sealers import IronSealer
from .session import Session
from .stores import MemoryStore, RefreshStore, SQLiteStore
from .user import SessionUser

if TYPE_CHECKING:
    from .stores import RedisStore
else:

    def __getattr__(name: str) -> Any:
        if name != "RedisStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .stores import RedisStore  # an extra, imported when it is asked for

        return RedisStore


__all__ = [
    "AESGCMSealer",
    "AuthError",
    "BearerAuth",
    "ConfigurationError",
    "CookieTooLarge",
    "Event",
    "EventKind",
    "IdealAuth",
    "IdentityRejected",
    "InvalidCookie",
    "IronSealer",
    "MemoryStore",
    "OAuth2Provider",
    "OpenIDProvider",
    "Provider",
    "ProviderError",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "RedisStore",
    "RefreshRejected",
    "RefreshStore",
    "SQLiteStore",
    "Session",
    "SessionUser",
    "StoreUnavailable",
    "TokenResponse",
]
