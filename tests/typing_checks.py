"""Read by mypy and pyright, never run: what the types promise to those who program against them."""

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI

from fastapi_ideal_auth import (
    AESGCMSealer,
    IdealAuth,
    IronSealer,
    MemoryStore,
    OAuth2Provider,
    Provider,
    Session,
    SessionUser,
    TokenResponse,
    providers,
)
from fastapi_ideal_auth.testing import Clock, RotatingProvider


class User(SessionUser):
    email: str


auth = IdealAuth(
    User,
    secret=["a first secret of at least 32 characters", "an old one of at least 32 characters"],
    provider=OAuth2Provider(
        token_endpoint="https://op.example/token", client_id="app", client_secret="…"
    ),
    store=MemoryStore(),
    clock=Clock(),
)
assert_type(auth, IdealAuth[User])

app = FastAPI()
auth.install(app)

CurrentUser = Annotated[User, Depends(auth.fresh_user)]


@app.get("/me")
async def me(user: CurrentUser) -> User:
    assert_type(user, User)
    assert_type(user.access_token, str)
    assert_type(user.refresh_token, str | None)
    return user


@app.post("/sign-in")
async def sign_in(session: Annotated[Session[User], Depends(auth.session)]) -> None:
    assert_type(session.user, User | None)
    assert_type(await session.fresh_user(), User)
    await session.login(User(id="1", access_token="…", email="…"), remember=True)


async def doors() -> None:
    from starlette.requests import HTTPConnection

    connection = HTTPConnection({"type": "http"})
    assert_type(await auth.fresh_user(connection), User)
    assert_type(await auth.optional_user(connection), User | None)
    assert_type(await auth.user_or_login(connection), User)
    assert_type(await auth.session(connection), Session[User])


class Own:
    async def refresh(self, refresh_token: str) -> TokenResponse:
        return TokenResponse("…")


async def bare(refresh_token: str) -> TokenResponse | None:
    return None


own: Provider = Own()
strict: Provider = RotatingProvider()
IdealAuth(User, secret="…", provider=Own())
IdealAuth(User, secret="…", provider=bare)
IdealAuth(User, secret="…", sealer=IronSealer(ids=[2], host_prefix=True))
IdealAuth(User, secret="…", sealer=[AESGCMSealer(), IronSealer()])
IdealAuth(User, secret="…", validate_session=lambda session: session.user is not None)
IdealAuth(
    User,
    secret="…",
    provider=providers.KEYCLOAK.provider(
        client_id="…", client_secret="…", host="sso.example", realm="main"
    ),
)
