"""What OpenAPI says of protected routes, and that the dashboard answers nothing else."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, MemoryStore, Session, SessionUser

from .support import SECRET, User


@pytest.fixture
def auth() -> IdealAuth[User]:
    return IdealAuth(User, secret=SECRET, store=MemoryStore())


@pytest.fixture
def schema(auth: IdealAuth[User]) -> dict[str, Any]:
    app = FastAPI()
    auth.install(app)

    @app.get("/public")
    async def public() -> None: ...

    @app.get("/direct")
    async def direct(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
        return user

    async def sub(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
        return user

    @app.get("/sub")
    async def through(user: Annotated[User, Depends(sub)]) -> None: ...

    @app.get("/optional")
    async def optional(user: Annotated[User | None, Depends(auth.optional_user)]) -> None: ...

    @app.get("/page")
    async def page(user: Annotated[User, Depends(auth.user_or_login)]) -> None: ...

    @app.get("/session")
    async def session(session: Annotated[Session[User], Depends(auth.session)]) -> None: ...

    @app.get("/own", responses={401: {"description": "mine"}})
    async def own(user: Annotated[User, Depends(auth.fresh_user)]) -> None: ...

    @app.post("/body")
    async def body(user: User) -> None: ...

    router = APIRouter(dependencies=[Depends(auth.fresh_user)])

    @router.get("/on-router")
    async def on_router() -> None: ...

    app.include_router(router, prefix="/v1")
    app.openapi()
    return app.openapi()  # asked twice: what was documented is not documented again


def statuses(schema: dict[str, Any], path: str) -> set[str]:
    return set(schema["paths"][path]["get"]["responses"]) - {"200", "422"}


@pytest.mark.parametrize("path", ["/direct", "/sub", "/own", "/v1/on-router"])
def test_a_protected_route_documents_cookie_401_403_and_503(
    schema: dict[str, Any], path: str
) -> None:
    assert statuses(schema, path) == {"401", "403", "503"}
    assert schema["paths"][path]["get"]["security"] == [{"ideal_session": []}]


def test_a_public_route_documents_nothing(schema: dict[str, Any]) -> None:
    assert statuses(schema, "/public") == set()
    assert "security" not in schema["paths"]["/public"]["get"]


def test_an_optional_user_needs_no_cookie(schema: dict[str, Any]) -> None:
    assert statuses(schema, "/optional") == {"403", "503"}
    assert schema["paths"]["/optional"]["get"]["security"] == [{"ideal_session": []}, {}]
    assert statuses(schema, "/session") == {"403", "503"}


def test_a_page_documents_its_redirect(schema: dict[str, Any]) -> None:
    assert statuses(schema, "/page") == {"303", "403", "503"}


def test_a_routes_own_words_stay(schema: dict[str, Any]) -> None:
    assert schema["paths"]["/own"]["get"]["responses"]["401"] == {"description": "mine"}


def test_there_is_one_scheme_the_cookie_on_the_wire(schema: dict[str, Any]) -> None:
    schemes = schema["components"]["securitySchemes"]
    assert list(schemes) == ["ideal_session"]
    found = schemes["ideal_session"]
    assert (found["type"], found["in"], found["name"]) == (
        "apiKey",
        "cookie",
        "__Host-ideal_session",
    )


def test_the_tokens_are_in_no_schema(schema: dict[str, Any]) -> None:
    for token in ("access_token", "refresh_token", "id_token"):
        assert token not in str(schema)
    assert "expires_at" in str(schema)


def test_responses_document_a_router_by_hand(auth: IdealAuth[User]) -> None:
    assert set(auth.responses) == {401, 403, 503}
    app = FastAPI()
    router = APIRouter(responses=auth.responses)

    @router.get("/x")
    async def x() -> None: ...

    app.include_router(router)
    assert statuses(app.openapi(), "/x") == {"401", "403", "503"}


def test_a_dependency_can_be_overridden(auth: IdealAuth[User]) -> None:
    app = FastAPI()
    auth.install(app)

    @app.get("/me")
    async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
        return user

    client = TestClient(app, base_url="https://testserver")
    assert client.get("/me").status_code == 401
    app.dependency_overrides[auth.fresh_user] = lambda: User(id="7", access_token="t")
    assert client.get("/me").json()["id"] == "7"


def test_two_sessions_in_one_app_are_two_schemes() -> None:
    class Admin(SessionUser):
        pass

    users: Any = IdealAuth(User, secret=SECRET, store=MemoryStore())
    admins: Any = IdealAuth(
        Admin, secret=SECRET, store=MemoryStore(), cookie_name="admin", login_path="/admin/login"
    )
    app = FastAPI()
    users.install(app)
    admins.install(app)

    @app.get("/both")
    async def both(
        user: Annotated[User, Depends(users.fresh_user)],
        admin: Annotated[Admin, Depends(admins.fresh_user)],
    ) -> None: ...

    schema = app.openapi()
    assert schema["paths"]["/both"]["get"]["security"] == [{"ideal_session": []}, {"admin": []}]
    assert set(schema["components"]["securitySchemes"]) == {"ideal_session", "admin"}
