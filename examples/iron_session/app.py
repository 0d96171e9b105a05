"""The back end: FastAPI with `IronSealer`, on the very cookie that the Node front end uses."""

from __future__ import annotations

import hashlib
import os
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from fastapi_ideal_auth import IdealAuth, IronSealer, OAuth2Provider, SessionUser

PROVIDER = os.environ.get("EXAMPLE_PROVIDER", "http://127.0.0.1:9000")
FRONT_END = os.environ.get("EXAMPLE_FRONT_END", "http://127.0.0.1:3000")


class User(SessionUser):
    """The aliases are the names that the Node side reads: ``accessToken``, ``expiresAt`` …"""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    email: str
    name: str


auth = IdealAuth(
    User,
    secret=os.environ["EXAMPLE_SECRET"],  # the Node side's password
    sealer=IronSealer(),
    provider=OAuth2Provider(
        token_endpoint=f"{PROVIDER}/token",
        client_id="example",
        client_secret=os.environ["EXAMPLE_CLIENT_SECRET"],
        authorization_endpoint=f"{PROVIDER}/authorize",
        userinfo_endpoint=f"{PROVIDER}/userinfo",
        revocation_endpoint=f"{PROVIDER}/revoke",
    ),
    trusted_origins=[FRONT_END],  # its page may sign out here
    cookie_secure=False,  # plain http on loopback; leave it out anywhere else
)

app = FastAPI(title="The back end")
auth.install(app)
app.include_router(auth.router)


class Me(BaseModel):
    """What both sides say of the session. The token itself stays where it is."""

    side: str
    id: str
    name: str
    token: str
    """The first eight hex digits of the access token's SHA-256."""


@app.get("/api/me")
async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> Me:
    token = hashlib.sha256(user.access_token.encode()).hexdigest()[:8]
    return Me(side="python", id=user.id, name=user.name, token=token)


@app.get("/", include_in_schema=False)
async def front_end() -> RedirectResponse:
    """Where signing in and out at this side ends."""
    return RedirectResponse(FRONT_END, status_code=303)
