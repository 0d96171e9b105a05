"""The app that signs people in at a real OpenID provider, configured by its environment."""

import json
import os
from html import escape
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from fastapi_ideal_auth import IdealAuth, OpenIDProvider, Session

from .support import User

# The arguments that only one of the providers needs, as JSON: keys, resources, a prompt.
provider = OpenIDProvider(
    issuer=os.environ["ISSUER"],
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ.get("CLIENT_SECRET"),
    post_logout_redirect_uri=os.environ["HOME_URL"],
    **json.loads(os.environ.get("PROVIDER_OPTIONS", "{}")),
)
auth = IdealAuth(
    User,
    secret=os.environ["SESSION_SECRET"],
    provider=provider,
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


@app.get("/api")
async def api(
    url: str,
    user: Annotated[User, Depends(auth.fresh_user)],
    session: Annotated[Session[User], Depends(auth.session)],
    resource: str | None = None,
) -> dict[str, Any]:
    """What an API of the provider's says to a token that is bound to this app's key."""
    token = user.access_token if resource is None else await session.token_for(resource)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            url, auth=provider.dpop_auth(token, httpx.URL(url).netloc.decode())
        )
    return {"status": answer.status_code, "said": answer.json()}
