"""What many tests share: a user model, an app with every kind of route, a provider on the wire."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qs

import httpx
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_ideal_auth import (
    IdealAuth,
    MemoryStore,
    OAuth2Provider,
    RefreshRejected,
    RefreshStore,
    Session,
    SessionUser,
)
from fastapi_ideal_auth.record import Change
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import Clock, RotatingProvider, login

SECRET = "a secret of the tests, at least 32 characters long"
BASE = "https://testserver"


class User(SessionUser):
    email: str = "ada@example.test"
    name: str = "Ada"


class CountingStore(RefreshStore):
    """Another store, and how often it was asked."""

    def __init__(self, inner: RefreshStore | None = None) -> None:
        self.inner = MemoryStore() if inner is None else inner
        self.calls = 0
        self.fault: Exception | None = None

    async def open(self) -> None:
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        return await self.inner.apply(key, change, now=now)

    async def wait(self, key: str, *, timeout: float) -> None:
        await self.inner.wait(key, timeout=timeout)


Answering = Callable[[httpx.Request], httpx.Response]


class Wire:
    """The strict provider behind a token endpoint; ``fault`` answers in its place."""

    def __init__(self, *, expires_in: int = 300) -> None:
        self.provider = RotatingProvider(expires_in=expires_in)
        self.requests = 0
        self.fault: Answering | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.fault is not None:
            return self.fault(request)
        form = parse_qs(request.content.decode())
        try:
            tokens = await self.provider.refresh(form["refresh_token"][0])
        except RefreshRejected:
            return httpx.Response(400, json={"error": "invalid_grant"})
        return httpx.Response(
            200,
            json={
                "access_token": tokens.access_token,
                "refresh_token": tokens.refresh_token,
                "expires_in": tokens.expires_in,
                "token_type": "Bearer",
            },
        )


class World:
    """One app, one provider on the wire, one store, one clock; and a browser."""

    def __init__(self, *, expires_in: int = 300, store: RefreshStore | None = None, **options: Any):
        self.clock = Clock()
        self.wire = Wire(expires_in=expires_in)
        self.store = CountingStore(store)
        self.auth = self.another_auth(**options)
        self.app = app_of(self.auth)
        self.client = self.browser()

    def another_auth(self, **options: Any) -> IdealAuth[User]:
        """A second worker: it shares nothing with the first but store, provider and clock."""
        settings: dict[str, Any] = {
            "secret": SECRET,
            "provider": OAuth2Provider(
                "https://op.example/token", client_id="tests", client_secret="tests-secret"
            ),
            "http_client": httpx.AsyncClient(transport=httpx.MockTransport(self.wire)),
            "store": self.store,
            "clock": self.clock,
            **options,
        }
        return IdealAuth(User, **settings)

    def browser(self, app: FastAPI | None = None) -> TestClient:
        return TestClient(
            app or self.app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False
        )

    def user(self, **fields: Any) -> User:
        return self.wire.provider.user(User, clock=self.clock, **{"id": "1", **fields})

    def sign_in(self, client: TestClient | None = None, **options: Any) -> User:
        user = self.user()
        login(client or self.client, self.auth, user, **options)
        return user

    @property
    def cookie(self) -> str | None:
        return self.client.cookies.get(self.auth.cookie_name)

    def present(self, cookie: str, path: str = "/token", **options: Any) -> Any:
        """A request from elsewhere that carries just this cookie; nothing is kept."""
        headers = {"cookie": f"{self.auth.cookie_name}={cookie}"}
        return self.browser().get(path, headers=headers, **options)

    def token_in(self, cookie: str) -> str:
        """The access token inside a cookie."""
        from fastapi_ideal_auth.cookies import read

        header = f"{self.auth.cookie_name}={cookie}"
        generation = self.auth.opened(read(header, self.auth.cookies), now=self.clock())
        assert generation is not None
        return generation.user.access_token


def app_of(auth: IdealAuth[User]) -> FastAPI:
    app = FastAPI()
    auth.install(app)

    @app.get("/token")
    async def token(user: Annotated[User, Depends(auth.fresh_user)]) -> dict[str, str]:
        return {"access_token": user.access_token, "id": user.id}

    @app.get("/me")
    async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
        return user

    @app.get("/maybe")
    async def maybe(user: Annotated[User | None, Depends(auth.optional_user)]) -> User | None:
        return user

    @app.get("/page")
    async def page(user: Annotated[User, Depends(auth.user_or_login)]) -> str:
        return user.name

    @app.post("/leave")
    async def leave(session: Annotated[Session[User], Depends(auth.session)]) -> None:
        await session.logout()

    @app.get("/session")
    async def session(session: Annotated[Session[User], Depends(auth.session)]) -> dict[str, Any]:
        return {
            "user": session.user,
            "issued_at": session.issued_at,
            "expires_at": session.expires_at,
        }

    @app.post("/touch")
    async def touch(session: Annotated[Session[User], Depends(auth.session)]) -> None:
        await session.touch()

    return app
