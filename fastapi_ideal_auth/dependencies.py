"""The doors a route signature names. Each opens the request's session; none decides anything.

Every door is a ``SecurityBase``, so that FastAPI documents the cookie; it takes an
``HTTPConnection``, so that HTTP and WebSocket routes use the same one.
"""

# No ``from __future__ import annotations`` here: FastAPI reads the annotations of a callable
# object, which has no globals in which a string could be resolved.
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

from fastapi import HTTPException
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from .origin import local_path
from .refresh import Gets
from .session import Session, session_of
from .user import SessionUser

if TYPE_CHECKING:
    from .auth import IdealAuth

U = TypeVar("U", bound=SessionUser)

# ``scheme_name`` carries what the door may answer into the OpenAPI document, where
# ``openapi.document`` reads it and puts the real name in its place.
PROTECTED: Final = ""
OPTIONAL: Final = ".optional"
PAGE: Final = ".page"
SESSION: Final = ".session"


class _Door(SecurityBase, Generic[U]):
    kind = PROTECTED

    def __init__(self, auth: "IdealAuth[U]") -> None:
        self._auth = auth
        self.model = APIKey.model_validate(
            {
                "in": APIKeyIn.cookie,
                "name": auth.cookie_name,
                "description": "The sealed session cookie. The browser sends it by itself.",
            }
        )
        self.scheme_name = auth.scheme_name + self.kind


class FreshUser(_Door[U]):
    """``Depends(auth.fresh_user)``: the user, refreshed if due; 401 when signed out."""

    async def __call__(self, connection: HTTPConnection) -> U:
        session: Session[U] = session_of(connection, self._auth)
        await session._decide()
        return session._user_or_raise()


class OptionalUser(_Door[U]):
    """``Depends(auth.optional_user)``: the user, refreshed, or ``None`` when signed out."""

    kind = OPTIONAL

    async def __call__(self, connection: HTTPConnection) -> U | None:
        session: Session[U] = session_of(connection, self._auth)
        await session._decide()
        return session._user_or_none()


class UserOrLogin(_Door[U]):
    """``Depends(auth.user_or_login)``: the user, or a 303 to the login page."""

    kind = PAGE

    async def __call__(self, connection: HTTPConnection) -> U:
        session: Session[U] = session_of(connection, self._auth)
        if await session._decide() is Gets.UNAUTHORIZED and connection.scope["type"] == "http":
            session._forget()
            raise HTTPException(303, "Sign in first", {"Location": self._login(connection)})
        return session._user_or_raise()

    def _login(self, connection: HTTPConnection) -> str:
        if connection.scope["method"] not in ("GET", "HEAD"):
            return self._auth.login_path  # a form post cannot be repeated by a redirect
        # The path is decoded in the scope, so it is encoded again; the query never was.
        query = connection.scope["query_string"].decode("latin-1")
        target = quote(connection.scope["path"], safe="/:@!$&'()*+,;=~")
        target = local_path(f"{target}?{query}" if query else target)
        return f"{self._auth.login_path}?{urlencode({'next': target})}"


class CurrentSession(_Door[U]):
    """``Depends(auth.session)``: the request's `Session`, signed in or not, not refreshed yet."""

    kind = SESSION

    async def __call__(self, connection: HTTPConnection) -> Session[U]:
        session: Session[U] = session_of(connection, self._auth)
        await session._load()
        return session
