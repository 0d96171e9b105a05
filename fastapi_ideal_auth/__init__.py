"""Sealed cookie sessions for FastAPI whose access tokens stay fresh."""

from .auth import IdealAuth
from .errors import (
    AuthError,
    ConfigurationError,
    CookieTooLarge,
    InvalidCookie,
    ProviderError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshRejected,
    StoreUnavailable,
)
from .oauth import TokenResponse
from .provider import OAuth2Provider, Provider
from .seal import AESGCMSealer
from .session import Session
from .stores import MemoryStore, RefreshStore, SQLiteStore
from .user import SessionUser

__all__ = [
    "AESGCMSealer",
    "AuthError",
    "ConfigurationError",
    "CookieTooLarge",
    "IdealAuth",
    "InvalidCookie",
    "MemoryStore",
    "OAuth2Provider",
    "Provider",
    "ProviderError",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "RefreshRejected",
    "RefreshStore",
    "SQLiteStore",
    "Session",
    "SessionUser",
    "StoreUnavailable",
    "TokenResponse",
]
