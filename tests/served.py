"""The app that the tests serve with uvicorn and several workers, configured by its environment."""

import os
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from fastapi_ideal_auth import IdealAuth, OAuth2Provider, RedisStore

from .support import User

auth = IdealAuth(
    User,
    secret=os.environ["SESSION_SECRET"],
    provider=OAuth2Provider(
        os.environ["TOKEN_ENDPOINT"],
        os.environ["CLIENT_ID"],
        os.environ["CLIENT_SECRET"],
        authorization_endpoint=os.environ.get("AUTHORIZATION_ENDPOINT"),
        userinfo_endpoint=os.environ.get("USERINFO_ENDPOINT"),
        revocation_endpoint=os.environ.get("REVOCATION_ENDPOINT"),
        scope="openid email profile offline_access",
        authorization_params={"prompt": "consent"},  # oidc-provider: offline access needs it
    ),
    store=RedisStore(os.environ["REDIS_URL"]) if "REDIS_URL" in os.environ else None,
    cookie_secure="COOKIE_SECURE" in os.environ,
)
app = FastAPI()
auth.install(app)
if "AUTHORIZATION_ENDPOINT" in os.environ:
    app.include_router(auth.router)


@app.get("/token")
async def token(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, str | int]:
    return {"access_token": user.access_token, "id": user.id, "worker": os.getpid()}


@app.get("/")
async def page(user: Annotated[User | None, Depends(auth.optional_user)]) -> HTMLResponse:
    who = "Signed out" if user is None else f"Signed in as {escape(user.email)}"
    return HTMLResponse(f"<!doctype html><title>Page</title><h1>{who}</h1>")
