"""Two providers in one app: two `IdealAuth`, each with a cookie and a router prefix of its own."""

from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_ideal_auth import IdealAuth, MemoryStore, OpenIDProvider
from fastapi_ideal_auth.testing import Clock

from .openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIDServer
from .support import SECRET, User

APP = "https://testserver"


class Site:
    """Staff sign in at one provider, guests at another; one secret, one store."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.servers = {
            name: OpenIDServer(self.clock, issuer=f"https://{name}-op.example")
            for name in ("staff", "guests")
        }
        self.servers["guests"].userinfo |= {"name": "A guest"}
        for server in self.servers.values():
            server.metadata["end_session_endpoint"] = f"{server.issuer}/end"
        store = MemoryStore()
        self.app = FastAPI()
        self.auths = {name: self.auth(name, store, **options) for name in self.servers}
        for name, auth in self.auths.items():
            auth.install(self.app)
            self.app.include_router(auth.router, prefix=f"/{name}")
            self.add_routes(name, auth)
        self.browser = TestClient(self.app, base_url=APP, follow_redirects=False)

    def auth(self, name: str, store: MemoryStore, **options: Any) -> IdealAuth[User]:
        server = self.servers[name]
        return IdealAuth(
            User,
            secret=SECRET,
            store=store,
            clock=self.clock,
            cookie_name=f"{name}_session",
            login_path=f"/{name}/login",
            http_client=server.client(httpx),
            provider=OpenIDProvider(server.issuer, CLIENT_ID, CLIENT_SECRET, clock=self.clock),
            **options,
        )

    def add_routes(self, name: str, auth: IdealAuth[User]) -> None:
        @self.app.get(f"/{name}/me")
        async def me(user: Annotated[User, Depends(auth.fresh_user)]) -> User:
            return user

        @self.app.get(f"/{name}/page")
        async def page(user: Annotated[User, Depends(auth.user_or_login)]) -> str:
            return user.name

    def begin(self, name: str) -> str:
        where: str = self.browser.get(f"/{name}/login?next=/{name}/me").headers["location"]
        assert where.startswith(f"{self.servers[name].issuer}/authorize?")
        return where

    def sign_in(self, name: str) -> httpx.Response:
        return self.browser.get(self.servers[name].approve(self.begin(name)))

    def who(self) -> list[str | None]:
        answers = [self.browser.get(f"/{name}/me") for name in self.auths]
        return [a.json()["name"] if a.status_code == 200 else None for a in answers]


@pytest.fixture(params=["cookie", "store"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(tokens=request.param)


def test_a_browser_can_be_signed_in_at_both(site: Site) -> None:
    assert site.sign_in("staff").headers["location"] == "/staff/me"
    assert site.who() == ["Ada Lovelace", None]
    site.sign_in("guests")
    assert site.who() == ["Ada Lovelace", "A guest"]


def test_each_is_refreshed_at_its_own(site: Site) -> None:
    site.sign_in("staff")
    site.sign_in("guests")
    for _ in range(3):
        site.clock.advance(280)
        assert site.who() == ["Ada Lovelace", "A guest"]
    for server in site.servers.values():
        assert len(server.asked_for("/token")) == 4


def test_signing_out_of_one_leaves_the_other(site: Site) -> None:
    site.sign_in("staff")
    site.sign_in("guests")
    where = site.browser.post("/staff/logout").headers["location"]
    assert where.startswith("https://staff-op.example/end?")
    assert site.who() == [None, "A guest"]


async def test_sign_out_everywhere_is_of_one(site: Site) -> None:
    """The two providers call different people the same."""
    site.sign_in("staff")
    site.sign_in("guests")
    await site.auths["staff"].end_sessions(user_id="ada")
    site.clock.advance(280)
    assert site.who() == [None, "A guest"]


def test_a_logout_token_ends_the_sessions_of_its_own_provider(site: Site) -> None:
    site.sign_in("staff")
    site.sign_in("guests")
    token = {"logout_token": site.servers["guests"].logout_token(without="sid")}
    assert site.browser.post("/staff/backchannel-logout", data=token).status_code == 400
    assert site.browser.post("/guests/backchannel-logout", data=token).status_code == 200
    site.clock.advance(280)
    assert site.who() == ["Ada Lovelace", None]


def test_a_page_leads_to_the_sign_in_of_its_own(site: Site) -> None:
    for name in site.auths:
        location = site.browser.get(f"/{name}/page").headers["location"]
        assert location.startswith(f"/{name}/login?")


def test_the_code_of_one_provider_is_not_taken_to_the_other(site: Site) -> None:
    """The mix-up attack: each has a redirect URI of its own (RFC 9700 §4.4.2.2), and an attempt
    at one is unknown at the other."""
    staff = site.begin("staff")
    assert parse_qs(urlsplit(staff).query)["redirect_uri"] == [f"{APP}/staff/callback"]
    back = site.servers["staff"].approve(staff)
    elsewhere = site.browser.get(back.replace("/staff/", "/guests/"))
    assert elsewhere.status_code == 400
    assert not site.servers["guests"].asked_for("/token")
    assert site.who() == [None, None]


def test_the_cookie_of_one_is_no_cookie_of_the_other(site: Site) -> None:
    site.sign_in("staff")
    staff, guests = (auth.cookie_name for auth in site.auths.values())
    value = site.browser.cookies[staff]
    stranger = TestClient(site.app, base_url=APP)
    answer = stranger.get("/guests/me", headers={"cookie": f"{guests}={value}"})
    assert answer.status_code == 401


def test_the_document_knows_both(site: Site) -> None:
    document = site.app.openapi()
    for name in site.auths:
        assert document["paths"][f"/{name}/me"]["get"]["security"] == [{f"{name}_session": []}]
        assert f"/{name}/backchannel-logout" in document["paths"]
