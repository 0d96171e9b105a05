"""The dashboard: one page, the three endpoints it calls, and how the plugin is wired to them.

Everything about sessions and tokens is the plugin's; this file only says who may call what.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from examples.dashboard.pages import STATIC, fill
from fastapi_ideal_auth import IdealAuth, OAuth2Provider, Session, SessionUser

PROVIDER = os.environ.get("DASHBOARD_PROVIDER", "http://127.0.0.1:9000")


class User(SessionUser):
    """Who is signed in: the claims of ``/userinfo``, whose ``sub`` is the ``id``."""

    email: str
    name: str


def _secret(name: str) -> str:
    """From the environment, where ``__main__`` puts it for all workers; else new at each start."""
    return os.environ.get(name) or secrets.token_urlsafe(32)


auth = IdealAuth(
    User,
    secret=_secret("DASHBOARD_SECRET"),
    provider=OAuth2Provider(
        token_endpoint=f"{PROVIDER}/token",
        client_id="dashboard",
        client_secret=_secret("DASHBOARD_CLIENT_SECRET"),
        authorization_endpoint=f"{PROVIDER}/authorize",
        userinfo_endpoint=f"{PROVIDER}/userinfo",
        revocation_endpoint=f"{PROVIDER}/revoke",
    ),
    # The demo speaks plain http on loopback, where not every browser keeps a Secure cookie.
    # Anywhere else leave this out: the default is True.
    cookie_secure=False,
    login_path="/login",
)

FreshUser = Annotated[User, Depends(auth.fresh_user)]
OptionalUser = Annotated[User | None, Depends(auth.optional_user)]
CurrentSession = Annotated[Session[User], Depends(auth.session)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    """Opens the client with which ``/api/stats`` asks the authorization server."""
    async with httpx.AsyncClient(base_url=PROVIDER, timeout=2, trust_env=False) as http:
        yield {"http": http}


app = FastAPI(
    title="Dashboard",
    version="1.0.0",
    summary="A page whose access tokens live seconds, and whose session does not notice.",
    lifespan=lifespan,
    redoc_url=None,
    openapi_tags=[
        {"name": "page", "description": "What a person looks at."},
        {"name": "api", "description": "What the page calls."},
        {"name": "session", "description": "Signing in and out."},
    ],
)
auth.install(app)
app.include_router(auth.router)
app.mount("/static", StaticFiles(directory=STATIC), name="static")


class Work(BaseModel):
    """What one request of a burst brings home."""

    ok: bool
    token: str = Field(description="The first eight hex digits of the access token's SHA-256.")
    expires_at: int | None = Field(description="Unix seconds at which the access token expires.")


class Stats(BaseModel):
    """The authorization server's own count, so that the page need not trust the plugin's."""

    now: float = Field(description="The authorization server's clock, in Unix seconds.")
    access_token_lifetime: int = Field(description="Seconds.")
    refreshes: int = Field(description="Of this session; of all sessions when signed out.")
    reuse_detected: int = Field(description="Spent refresh tokens presented, by anyone.")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


@app.get("/", response_class=HTMLResponse, tags=["page"], summary="The dashboard, or a welcome")
async def page(user: OptionalUser) -> HTMLResponse:
    return HTMLResponse(fill("welcome") if user is None else _dashboard(user))


def _dashboard(user: User) -> str:
    return fill(
        "dashboard",
        name=user.name,
        first_name=user.name.partition(" ")[0],
        email=user.email,
        initial=user.name[:1],
        expires_at=user.expires_at or 0,
    )


@app.get("/api/me", tags=["api"], summary="Who is signed in")
async def me(user: FreshUser) -> User:
    return user


@app.get("/api/work", tags=["api"], summary="Something that needs a fresh access token")
async def work(user: FreshUser) -> Work:
    """Shows which generation of the token this request was given, and not the token."""
    digest = hashlib.sha256(user.access_token.encode()).hexdigest()
    return Work(ok=True, token=digest[:8], expires_at=user.expires_at)


@app.get(
    "/api/stats",
    tags=["api"],
    summary="How often the authorization server refreshed",
    responses={502: {"model": Problem, "description": "The authorization server did not answer"}},
)
async def stats(request: Request, session: CurrentSession) -> Stats:
    """Reads the session as it is and refreshes nothing: asking does not change the count."""
    counts = await _counts(request.state.http, session.user)
    family = counts["family"] or counts
    return Stats(
        now=counts["now"],
        access_token_lifetime=counts["access_token_ttl"],
        refreshes=family["refreshes"],
        reuse_detected=counts["reuse_detected"],
    )


async def _counts(http: httpx.AsyncClient, user: User | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {user.access_token}"} if user else {}
    try:
        answer = await http.get("/stats", headers=headers)
        counts: dict[str, Any] = answer.raise_for_status().json()
    except httpx.HTTPError:
        raise HTTPException(502, "the authorization server did not answer") from None
    return counts


PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@app.middleware("http")
async def page_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Everything comes from here: no other host, no inline script or style."""
    response = await call_next(request)
    if request.url.path != app.docs_url:  # FastAPI's page for /docs loads Swagger from elsewhere
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
    if response.headers.get("content-type", "").startswith("text/html"):
        response.headers.setdefault("Cache-Control", "no-store")  # it may hold a name
    return response
