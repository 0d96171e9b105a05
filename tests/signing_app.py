"""The app that signs people in at a real OpenID provider, configured by its environment."""

import os
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from fastapi_ideal_auth import IdealAuth, OpenIDProvider

from .support import User

auth = IdealAuth(
    User,
    secret=os.environ["SESSION_SECRET"],
    provider=OpenIDProvider(
        issuer=os.environ["ISSUER"],
        client_id=os.environ["CLIENT_ID"],
        client_secret=os.environ["CLIENT_SECRET"],
        post_logout_redirect_uri=os.environ["HOME_URL"],
        # oidc-provider: offline access needs it
        authorization_params={"prompt": "consent"} if "PROMPT_CONSENT" in os.environ else None,
    ),
    cookie_name=os.environ.get("COOKIE_NAME", "ideal_session"),
    check_ended_every=1,
)
app = FastAPI()
auth.install(app)
app.include_router(auth.router)


@app.get("/")
async def page(user: Annotated[User | None, Depends(auth.optional_user)]) -> HTMLResponse:
    who = "Signed out" if user is None else f"Signed in as {escape(user.email)}"
    return HTMLResponse(f"<!doctype html><title>Page</title><h1>{who}</h1>")


@app.get("/me")
async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
    return user


@app.get("/token")
async def token(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, str]:
    return {"access_token": user.access_token}


@app.post("/everywhere")
async def everywhere(user: Annotated[User, Depends(auth.fresh_user)]) -> None:
    await auth.end_sessions(user_id=user.id)
