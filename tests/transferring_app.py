"""The app on two domains that the tests serve: one sign-in without a provider, one transfer."""

import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from fastapi_ideal_auth import IdealAuth, OAuth2Provider, Session

from .support import User

auth = IdealAuth(
    User,
    secret=os.environ["SESSION_SECRET"],
    provider=OAuth2Provider(
        "https://op.example/token",
        "tests",
        authorization_endpoint="https://op.example/authorize",
        userinfo_endpoint="https://op.example/userinfo",
    ),
    transfer_origins=os.environ["ORIGINS"].split(),
)
app = FastAPI()
auth.install(app)
app.include_router(auth.router)


@app.middleware("http")
async def policy(request: Any, call_next: Any) -> Any:
    response = await call_next(request)
    if "REFERRER_POLICY" in os.environ:
        response.headers["Referrer-Policy"] = os.environ["REFERRER_POLICY"]
    return response


@app.get("/in/{name}")
async def sign_in(name: str, session: Annotated[Session[User], Depends(auth.session)]) -> str:
    await session.login(User(id=name, email=f"{name}@example.test", access_token="at"))
    return "in"


@app.get("/who")
async def who(user: Annotated[User | None, Depends(auth.optional_user)]) -> HTMLResponse:
    return HTMLResponse(f"<!doctype html><h1>{user.id if user else 'nobody'}</h1>")
