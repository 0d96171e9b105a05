"""What people would pick instead, each as its own documentation has it: a route that needs a user.

Every contender keeps the same user and answers the same route; what it cannot keep in a cookie it
keeps in memory. A peer that is not installed (``make bench`` installs them) is named, not measured.
"""

import base64
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request, Response

from fastapi_ideal_auth import SessionUser

App = Callable[..., Awaitable[None]]
Contender = tuple[App, str]
"""An app whose ``/`` needs a signed-in user, and the Cookie header of one."""

SECRET: Final = "a secret of the benchmark, 32 characters or more"

FERNET_KEY: Final = base64.urlsafe_b64encode(hashlib.sha256(SECRET.encode()).digest()).decode()


class User(SessionUser):
    email: str = "ada@example.test"
    name: str = "Ada Lovelace"


def fields_of(user: User) -> dict[str, Any]:
    """Everything a session keeps of a user, the tokens included."""
    return {
        **user.model_dump(),
        "access_token": user.access_token,
        "refresh_token": user.refresh_token,
    }


def protected(dependency: Callable[..., Any], app: FastAPI | None = None) -> FastAPI:
    """An app whose ``/`` needs what the dependency gives."""
    app = app or FastAPI()

    @app.get("/")
    async def index(user: Annotated[Any, Depends(dependency)]) -> dict[str, bool]:
        return {"ok": True}

    return app


def _opened_by(name: str, open_: Callable[[str], bytes]) -> FastAPI:
    """The one dependency that a person would write around a sealed cookie."""

    async def current(request: Request) -> User:
        value = request.cookies.get(name)
        if value is None:
            raise HTTPException(401)
        return User.model_validate_json(open_(value))

    return protected(current)


def fernet(user: User) -> Contender:
    from cryptography.fernet import Fernet

    box = Fernet(FERNET_KEY)
    value = box.encrypt(json.dumps(fields_of(user)).encode()).decode()
    return _opened_by("session", box.decrypt), f"session={value}"


def joserfc_jwe(user: User) -> Contender:
    from joserfc import jwe
    from joserfc.jwk import OctKey

    key = OctKey.import_key(hashlib.sha256(SECRET.encode()).digest())
    data = json.dumps(fields_of(user)).encode()
    value = jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, data, key)

    def opened(value: str) -> bytes:
        return jwe.decrypt_compact(value, key).plaintext or b""

    return _opened_by("session", opened), f"session={value}"


def starlette_session(user: User) -> Contender:
    """Signed, not sealed: whoever has the cookie can read the tokens."""
    from starlette.middleware.sessions import SessionMiddleware

    async def current(request: Request) -> User:
        return User.model_validate(request.session["user"])

    app = protected(current)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, https_only=True)
    return app, f"session={_signed({'user': fields_of(user)})}"


def authlib_session(user: User) -> Contender:
    """Authlib keeps its token in Starlette's session; signed, not sealed."""
    from authlib.oauth2.rfc6749 import OAuth2Token
    from starlette.middleware.sessions import SessionMiddleware

    async def current(request: Request) -> User:
        token = OAuth2Token.from_dict(request.session["token"])
        if token.is_expired():
            raise HTTPException(401)
        return User.model_validate({**request.session["user"], **token})

    app = protected(current)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, https_only=True)
    fields = fields_of(user)
    names = ("access_token", "refresh_token", "expires_at")
    token = {name: fields.pop(name) for name in names}
    return app, f"session={_signed({'token': token, 'user': fields})}"


def _signed(session: dict[str, Any]) -> str:
    from itsdangerous import TimestampSigner

    data = base64.b64encode(json.dumps(session).encode())
    return TimestampSigner(SECRET).sign(data).decode()


def starsessions(user: User) -> Contender:
    """Signed, not sealed."""
    from itsdangerous import TimestampSigner
    from starsessions import CookieStore, SessionMiddleware, load_session

    async def current(request: Request) -> User:
        await load_session(request)
        return User.model_validate(request.session["user"])

    app = protected(current)
    app.add_middleware(SessionMiddleware, store=CookieStore(secret_key=SECRET), lifetime=3600)
    data = base64.b64encode(json.dumps({"user": fields_of(user)}).encode())
    return app, f"session={TimestampSigner(SECRET).sign(data).decode()}"


def fastapi_users(user: User) -> Contender:
    """The cookie names the user, who is looked up in memory."""
    from fastapi_users import BaseUserManager, FastAPIUsers
    from fastapi_users.authentication import AuthenticationBackend, CookieTransport, JWTStrategy
    from fastapi_users.db import BaseUserDatabase
    from fastapi_users.jwt import generate_jwt

    row = SimpleNamespace(id="1", is_active=True, is_verified=True, is_superuser=False, user=user)

    class Database(BaseUserDatabase[Any, str]):
        async def get(self, id: str) -> Any:  # noqa: A002  # as its base has it
            return {"1": row}.get(id)

    class Manager(BaseUserManager[Any, str]):
        def parse_id(self, value: Any) -> str:
            return str(value)

    async def manager() -> Any:
        yield Manager(Database())

    def strategy() -> JWTStrategy[Any, str]:
        return JWTStrategy(secret=SECRET, lifetime_seconds=3600)

    backend = AuthenticationBackend(
        name="jwt", transport=CookieTransport(cookie_name="session"), get_strategy=strategy
    )
    users = FastAPIUsers[Any, str](manager, [backend])
    claims = {"sub": "1", "aud": ["fastapi-users:auth"]}
    return protected(users.current_user(active=True)), f"session={generate_jwt(claims, SECRET)}"


def authx(user: User) -> Contender:
    """Signed, not sealed."""
    from authx import AuthX, AuthXConfig

    config = AuthXConfig(
        JWT_SECRET_KEY=SECRET,
        JWT_TOKEN_LOCATION=["cookies"],
        JWT_ACCESS_COOKIE_NAME="session",
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(hours=1),
    )
    auth = AuthX(config=config)
    token = auth.create_access_token(uid="1", data={"user": fields_of(user)})
    return protected(auth.access_token_required), f"session={token}"


def workos(user: User) -> Contender:
    """Its sealed session is opened; the check of the JWT in it, against keys of theirs, is not."""
    from workos.session import seal_data, unseal_data

    async def current(request: Request) -> User:
        value = request.cookies.get("session")
        if value is None:
            raise HTTPException(401)
        return User.model_validate(unseal_data(value, FERNET_KEY))

    return protected(current), f"session={seal_data(fields_of(user), FERNET_KEY)}"


def auth0_state(user: User, audience: str = "default") -> dict[str, Any]:
    """The session as auth0-fastapi keeps it."""
    token = {
        "audience": audience,
        "access_token": user.access_token,
        "scope": "",
        "expires_at": user.expires_at,
    }
    return {
        "user": {"sub": user.id, "email": user.email, "name": user.name},
        "id_token": None,
        "refresh_token": user.refresh_token,
        "token_sets": [token],
        "connection_token_sets": [],
        "domain": "op.example",
        "internal": {"sid": "1", "created_at": int(time.time())},
    }


def auth0_client() -> Any:
    from auth0_fastapi.auth.auth_client import AuthClient
    from auth0_fastapi.config import Auth0Config

    config = Auth0Config(
        domain="op.example",
        client_id="dashboard",
        client_secret="a client secret",
        app_base_url="https://app.example",
        secret=SECRET,
    )
    return AuthClient(config)


def auth0_cookies(user: User) -> dict[str, str]:
    from auth0_server_python.encryption import encrypt

    value = encrypt(auth0_state(user), SECRET, "_a0_session")
    return {
        f"_a0_session_{n}": value[at : at + 4075] for n, at in enumerate(range(0, len(value), 4075))
    }


def auth0(user: User) -> Contender:
    client = auth0_client()
    cookies = auth0_cookies(user)

    async def current(request: Request, response: Response) -> Any:
        return await client.require_session(request, response)

    return protected(current), "; ".join(f"{name}={value}" for name, value in cookies.items())


def scalekit_auth(client: object) -> Any:
    from scalekit.frameworks.fastapi import ScalekitAuth

    return ScalekitAuth(
        client=client,
        redirect_uri="https://app.example/callback",
        cookie_encryption_secret=SECRET,
        cookie_name="session",
    )


def scalekit_payload(user: User) -> dict[str, Any]:
    claims = {"sub": user.id, "email": user.email, "name": user.name, "exp": user.expires_at}
    return {
        "user": claims,
        "access_token": user.access_token,
        "refresh_token": user.refresh_token,
        "id_token": None,
        "expires_at": user.expires_at,
    }


def scalekit(user: User) -> Contender:
    auth = scalekit_auth(object())
    app = FastAPI()
    auth.install(app)
    value = auth.manager.create_session_cookie(scalekit_payload(user))
    return protected(auth.requires_auth, app), f"session={value}"


PEERS: Final[dict[str, Callable[[User], Contender]]] = {
    "Fernet, by hand": fernet,
    "joserfc JWE, by hand": joserfc_jwe,
    "Starlette's session (signed only)": starlette_session,
    "Authlib in Starlette's session (signed only)": authlib_session,
    "starsessions (signed only)": starsessions,
    "fastapi-users (the user's id only)": fastapi_users,
    "authx (signed only)": authx,
    "workos (unsealed, not verified)": workos,
    "auth0-fastapi": auth0,
    "scalekit": scalekit,
}


def installed(user: User) -> tuple[dict[str, Contender], dict[str, str]]:
    """The peers for this user, and why there is no other."""
    found: dict[str, Contender] = {}
    absent: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            found[name] = make(user)
        except ImportError as error:
            absent[name] = f"not installed ({error.name})"
        except ValueError as error:
            absent[name] = str(error).partition(";")[0]
    return found, absent
