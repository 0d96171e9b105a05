"""The smallest program: one protected route. Run it with ``uvicorn examples.minimal:app``."""

from __future__ import annotations

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI

from fastapi_ideal_auth import IdealAuth, OAuth2Provider, SessionUser


class User(SessionUser):  # the fields of this model are the session's fields
    email: str
    name: str


auth = IdealAuth(
    User,
    # Set it (``python -m fastapi_ideal_auth secret`` prints one): without it each start has its
    # own and signs everybody out, and several workers cannot read each other's cookies.
    secret=os.environ.get("SESSION_SECRET") or secrets.token_urlsafe(32),
    provider=OAuth2Provider(
        token_endpoint=os.environ.get("TOKEN_ENDPOINT", "https://op.example/token"),
        client_id=os.environ.get("CLIENT_ID", "dashboard"),
        client_secret=os.environ.get("CLIENT_SECRET", "not set"),
    ),
)
fresh_user = auth.fresh_user

app = FastAPI()
auth.install(app)


@app.get("/me")
async def me(user: Annotated[User, Depends(fresh_user)]) -> User:
    return user  # tokens never appear in a response, a repr, a log or the schema
