"""The pages of docs/ say what is so: their programs run, their links lead somewhere.

A block stands on its own or on the page's first one. Those that sign in do so at an OpenID provider
in this process. docs/providers/ is tried in test_provider_pages.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

import fastapi_ideal_auth
from fastapi_ideal_auth import ConfigurationError, IdealAuth, TokenResponse
from fastapi_ideal_auth.http import HTTP
from fastapi_ideal_auth.testing import Clock, login

from .openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIDServer, key, opened

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = {
    page: re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for page, text in PAGES.items()
}
APP = "https://your.app"
FILLED_IN = {
    'secret="…",': f'secret="{"s" * 32}",',
    'client_id="…"': f'client_id="{CLIENT_ID}"',
    'client_secret="…"': f'client_secret="{CLIENT_SECRET}"',
}
PACKAGE = Path(fastapi_ideal_auth.__file__).parent
SOURCE = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))


def block(page: str, holding: str) -> str:
    """The one block of a page that holds this."""
    (found,) = (each for each in BLOCKS[page] if holding in each)
    return found


def run(page: str, *holding: str) -> dict[str, Any]:
    """The page's first block, and then these."""
    namespace: dict[str, Any] = {"__name__": page}
    for each in (BLOCKS[page][0], *(block(page, text) for text in holding)):
        program = each
        # The secret of IdealAuth stands first or alone: it must not fill in client_secret's.
        for blank, value in FILLED_IN.items():
            program = re.sub(rf"(?<!_){re.escape(blank)}", lambda _, v=value: v, program)
        exec(compile(program, f"docs/{page}.md", "exec"), namespace)  # noqa: S102 - that is the test
    return namespace


@pytest.fixture(autouse=True)
def _keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that programs read."""
    monkeypatch.chdir(tmp_path)
    for name, kty in (("client-key", "RSA"), ("dpop-key", "EC")):
        pem = key(kty, f"docs-{name}").as_pem(private=True)  # type: ignore[union-attr]  # an asymmetric key has one
        (tmp_path / f"{name}.pem").write_bytes(pem)


def served(auth: IdealAuth[Any], issuer: str = "https://op.example") -> OpenIDServer:
    """The provider of a program, in this process."""
    server = OpenIDServer(Clock(time.time()), issuer=issuer)
    server.metadata["end_session_endpoint"] = f"{issuer}/end"
    auth.provider.use(HTTP(server.client(httpx)))  # type: ignore[union-attr]  # the page's provider is one of ours
    return server


def browser(app: FastAPI, origin: str = APP) -> TestClient:
    return TestClient(app, base_url=origin, follow_redirects=False)


def signed_in(program: dict[str, Any], server: OpenIDServer, prefix: str = "") -> TestClient:
    client = browser(program["app"])
    back = server.approve(client.get(f"{prefix}/login").headers["location"])
    answer = client.get(back)
    assert answer.status_code == 303, answer.text
    return client


def with_user(program: dict[str, Any], **fields: Any) -> TestClient:
    client = browser(program["app"])
    given = {"id": "ada", "email": "ada@example.test", "name": "Ada", "access_token": "at"}
    user = program["User"](**{**given, "refresh_token": "rt", **fields})
    login(client, program["auth"], user)
    return client


# -- every page -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "index"), [(page, n) for page, blocks in BLOCKS.items() for n in range(len(blocks))]
)
def test_each_block_runs(page: str, index: int) -> None:
    program = BLOCKS[page][index]
    assert run(page, *([program] if index else []))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        text = (ROOT / "docs" / path).read_text() if path else PAGES[page]
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("page", PAGES)
def test_names_that_are_imported_are_public(page: str) -> None:
    for names in re.findall(r"from fastapi_ideal_auth import ([\w, ]+)", PAGES[page]):
        assert set(names.split(", ")) <= set(fastapi_ideal_auth.__all__)


@pytest.mark.parametrize("page", PAGES)
def test_log_lines_that_are_quoted_are_logged(page: str) -> None:
    quoted = re.findall(r"`([a-z][a-z ,-]+):`", PAGES[page])
    assert page not in ("signing-in", "signing-out") or quoted
    for line in quoted:
        assert f'"{line}: %s"' in SOURCE, line


# -- signing in -----------------------------------------------------------------------------------


def test_the_first_program_signs_in() -> None:
    program = run("signing-in")
    client = signed_in(program, served(program["auth"]))
    assert client.get("/").json()["name"] == "Ada Lovelace"
    assert browser(program["app"]).get("/").headers["location"] == "/login?next=%2F"


def test_the_endpoints_sign_in() -> None:
    provider = run("signing-in", "userinfo_endpoint=")["provider"]
    url = provider.authorization_url(state="s", code_challenge="c", redirect_uri=APP)
    assert url.startswith("https://op.example/authorize?")


def test_a_sign_in_of_ones_own_is_remembered() -> None:
    program = run("signing-in", '@app.post("/sign-in")')
    client = browser(program["app"])
    answer = client.post("/sign-in", params={"name": "ada", "password": "…"})
    assert "Max-Age=2592000" in answer.headers["set-cookie"]
    assert client.get("/").json()["email"] == "ada@example.test"


async def test_scopes_and_max_age_are_asked_for() -> None:
    provider = run("signing-in", '"max_age"')["provider"]
    provider.use(HTTP(OpenIDServer().client(httpx)))
    where = await provider.authorization_request(
        state="s", code_challenge="c", redirect_uri=f"{APP}/callback"
    )
    query = parse_qs(urlsplit(where).query)
    assert (query["scope"], query["max_age"]) == (["openid email offline_access"], ["3600"])


def test_claims_make_the_employee() -> None:
    auth, app = run("signing-in", "class Employee")["auth"], FastAPI()
    auth.install(app)
    app.include_router(auth.router)
    server = served(auth)
    server.in_id_token["groups"] = ["staff"]
    app.get("/me")(_groups_of(auth.fresh_user))
    client = signed_in({"app": app}, server)
    assert client.get("/me").json() == ["staff"]


def _groups_of(door: Any) -> Callable[..., Any]:
    async def groups(user: Any = Depends(door)) -> list[str]:  # noqa: B008 - a dependency
        named: list[str] = user.groups
        return named

    return groups


def test_the_redirect_uri_is_the_one_that_was_named() -> None:
    program = run("signing-in", "redirect_uri=")
    assert program["provider"].redirect_uri == f"{APP}/callback"


async def test_a_client_with_keys_for_secrets_signs_and_binds() -> None:
    program = run("signing-in", "private_key_jwt")
    provider = program["provider"]
    server = OpenIDServer(Clock(time.time()))
    server.client_public = key("RSA", "docs-client-key")
    provider.use(HTTP(server.client(httpx)))
    where = await provider.authorization_request(
        state="s", code_challenge="c", redirect_uri=f"{APP}/callback", nonce="n"
    )
    query = parse_qs(urlsplit(where).query)
    assert query["resource"] == ["https://api.example", "https://files.example"]
    server.refresh_tokens["rt"] = "ada"
    tokens = await provider.refresh("rt")
    assert tokens.token_type == "DPoP"
    assert server.form()["resource"] == ["https://api.example"]


def test_two_providers_sign_in_side_by_side() -> None:
    program = run("signing-in", "staff = IdealAuth(")
    client = browser(program["app"])
    for name in ("staff", "guests"):
        server = served(program[name], f"https://{name}-op.example")
        where = client.get(f"/{name}/login").headers["location"]
        assert parse_qs(urlsplit(where).query)["redirect_uri"] == [f"{APP}/{name}/callback"]
        assert client.get(server.approve(where)).status_code == 303
    assert [client.get(f"/{name}/me").status_code for name in ("staff", "guests")] == [200, 200]


# -- signing out ----------------------------------------------------------------------------------


def test_signing_out_goes_on_to_the_provider() -> None:
    program = run("signing-out")
    client = signed_in(program, served(program["auth"]))
    where = client.post("/logout").headers["location"]
    query = parse_qs(urlsplit(where).query)
    assert where.startswith("https://op.example/end?")
    assert query["post_logout_redirect_uri"] == [f"{APP}/"]
    assert "id_token_hint" in query


def test_leaving_by_a_route_of_ones_own_stays_here() -> None:
    program = run("signing-out", "/leave")
    server = served(program["auth"])
    client = signed_in(program, server)
    assert client.post("/leave").status_code == 200
    assert client.get("/me").status_code == 401
    assert len(server.revoked) == 1


def test_everywhere_is_everywhere() -> None:
    program = run("signing-out", "sign-out-everywhere")
    server = served(program["auth"])
    laptop, phone = signed_in(program, server), signed_in(program, server)
    assert laptop.post("/sign-out-everywhere").status_code == 200
    assert [laptop.get("/me").status_code, phone.get("/me").status_code] == [401, 401]


def test_a_check_of_ones_own_refuses() -> None:
    program = run("signing-out", "validate_session=")
    client = with_user(program)
    assert client.get("/me").json() == "Ada"
    program["disabled"].add("ada")
    assert client.get("/me").status_code == 401


# -- calling APIs ---------------------------------------------------------------------------------


class API:
    """Whatever host is asked: it says what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers
        self.seen.append((str(request.url), headers.get("authorization"), headers.get("dpop")))
        return httpx.Response(200, json=["seen"])


def calling(*holding: str) -> tuple[dict[str, Any], API]:
    program, api = run("calling-apis", *holding), API()
    program["api"] = httpx.AsyncClient(transport=httpx.MockTransport(api))
    return program, api


def test_the_token_goes_to_its_api() -> None:
    program, api = calling()
    assert with_user(program).get("/orders").json() == ["seen"]
    assert api.seen == [("https://api.example/orders", "Bearer at", None)]


@pytest.mark.parametrize("name", ["files", "mail"])
def test_each_resource_gets_its_token(name: str) -> None:
    program, api = calling(f'"/{name}"')
    server = served(program["auth"])
    server.refresh_tokens["rt"] = "ada"
    assert with_user(program).get(f"/{name}").json() == ["seen"]
    assert server.form()["resource"] == [f"https://{name}.example"]
    ((url, authorization, _),) = api.seen
    assert urlsplit(url).netloc == f"{name}.example"
    assert authorization is not None
    assert authorization.startswith("Bearer at-")


def test_a_bound_token_goes_with_a_proof() -> None:
    program, api = calling("dpop_auth")
    assert with_user(program).get("/orders").json() == ["seen"]
    ((_, authorization, proof),) = api.seen
    assert authorization == "DPoP at"
    assert proof is not None
    _, claims = opened(proof, key("EC", "docs-dpop-key"))
    assert (claims["htm"], claims["htu"]) == ("GET", "https://api.example/orders")


def test_a_background_task_asks_again() -> None:
    program, api = calling("BackgroundTasks, session")
    clock = Clock(time.time())
    refreshed: list[str] = []

    async def refresh(refresh_token: str) -> TokenResponse:
        refreshed.append(refresh_token)
        return TokenResponse("newer", refresh_token="rt-2", expires_in=300)

    program["auth"] = auth = IdealAuth(
        program["User"], secret="s" * 32, provider=refresh, clock=clock
    )
    program["app"] = FastAPI()
    auth.install(program["app"])
    # The block's routes, in an app whose clock can be set.
    exec(block("calling-apis", "BackgroundTasks, session"), program)  # noqa: S102 - the page's own
    build: Callable[[Any], Any] = program["build"]

    async def later(session: Any) -> None:
        clock.advance(299)
        await build(session)

    program["build"] = later
    client = with_user(program, expires_at=int(clock()) + 300)
    assert client.post("/report").status_code == 200
    assert refreshed == ["rt"]
    assert api.seen == [("https://api.example/reports", "Bearer newer", None)]


def test_a_token_goes_to_no_other_host() -> None:
    user = run("calling-apis")["User"](id="1", email="e", name="n", access_token="at")
    request = httpx.Request("GET", "https://evil.example")
    with pytest.raises(ConfigurationError, match="may not go to"):
        user.bearer("api.example")(request)


# -- several domains ------------------------------------------------------------------------------


def test_a_session_is_taken_along() -> None:
    program = run("several-domains")
    served(program["auth"])
    shop = browser(program["app"], "https://shop.example")
    pay = browser(program["app"], "https://shop-pay.example")
    user = program["User"](id="ada", email="e", name="Ada", access_token="at")
    login(shop, program["auth"], user)
    (link,) = re.findall(r'href="(/transfer[^"]+)"', PAGES["several-domains"])
    page = shop.get(link.replace("&amp;", "&"))
    (action,) = re.findall(r'action="([^"]+)"', page.text)
    (ticket,) = re.findall(r'value="([^"]+)"', page.text)
    assert action.startswith("https://shop-pay.example")
    headers = {"origin": "https://shop.example", "sec-fetch-site": "cross-site"}
    answer = pay.post("/transfer", data={"ticket": ticket}, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/checkout")
    assert pay.get("/me").json()["name"] == "Ada"
