"""One session for Node and Python: what either writes, the other reads, refreshes and writes back.

The seals are made by the real npm packages. ideal-auth itself is not on npm: `IdealAuthNode` does
what its public documentation says of ``login``, ``touch`` and reading, with the real iron-session.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from fastapi_ideal_auth import (
    AESGCMSealer,
    ConfigurationError,
    IdealAuth,
    InvalidCookie,
    IronSealer,
    MemoryStore,
    OAuth2Provider,
    SessionUser,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.endings import CLOCKS_APART
from fastapi_ideal_auth.generation import Generation, Lifetimes, ResourceToken, begin, subject
from fastapi_ideal_auth.inspection import report
from fastapi_ideal_auth.payload import OWN, PayloadCodec
from fastapi_ideal_auth.seal import KeyRing
from fastapi_ideal_auth.testing import START, login

from .providers.iron_node import IRON_SESSION_8, IRON_SESSION_9, SESSIONS, NodeIron
from .support import SECRET, User, World, app_of

NAME = "ideal_session"
HOST_NAME = f"__Host-{NAME}"
OTHER = "another secret of these tests, as long"
WEEK, MONTH = 604_800, 2_592_000
LIFETIMES = Lifetimes(WEEK, MONTH)
CAMEL = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class Camel(User):
    """The user as a Next.js front end names its fields."""

    model_config = CAMEL

    display_name: str = "Ada L."


class Shared(World):
    """A FastAPI service behind a Node front end. Its clock is the real one: Node has no other."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"sealer": IronSealer(), **options})

    def another_auth(self, **options: Any) -> IdealAuth[Any]:
        if self.clock.now == START:
            self.clock.now = float(int(time.time()))
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
        return IdealAuth(Camel, **settings)

    def user(self, **fields: Any) -> Camel:
        return self.wire.provider.user(Camel, clock=self.clock, **{"id": "1", **fields})

    def held(self) -> str:
        """The value in the browser."""
        value = self.client.cookies.get(self.auth.cookie_name)
        assert value is not None
        return value

    def hold(self, value: str, name: str = NAME) -> None:
        """The browser gets another value, as from the Node side."""
        self.client.cookies.clear()
        self.client.cookies.set(name, value, domain="testserver.local")

    def due(self) -> None:
        self.clock.advance(self.wire.provider.expires_in - 30)


FIELDS = ("email", "name", "displayName", "accessToken", "refreshToken", "expiresAt")


@dataclass
class IdealAuthNode:
    """ideal-auth with ``sessionFields``: its payload in a seal of iron-session's."""

    node: NodeIron
    package: str = IRON_SESSION_9
    secret: str = SECRET
    fields: tuple[str, ...] = FIELDS

    def payload(self, value: str) -> dict[str, Any]:
        found: dict[str, Any] = self.node.unseal(self.package, value, self.secret)
        assert found["uid"]
        assert found["iat"]
        assert found["exp"]
        return {name: found[name] for name in ("uid", "iat", "exp", "ttl", "data")}

    def user(self, value: str) -> dict[str, Any]:
        payload = self.payload(value)
        return {**payload["data"], "id": payload["uid"]}

    def seal(self, payload: dict[str, Any]) -> str:
        return self.node.seal(self.package, payload, self.secret, ttl=payload["ttl"])

    def touch(self, value: str) -> str:
        payload = self.payload(value)
        return self.seal({**payload, "exp": int(time.time()) + payload["ttl"]})

    def login(self, user: dict[str, Any], ttl: int = WEEK) -> str:
        now = int(time.time())
        data = {name: user[name] for name in self.fields if name in user}
        return self.seal(
            {"uid": str(user["id"]), "iat": now, "exp": now + ttl, "ttl": ttl, "data": data}
        )


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture(params=SESSIONS)
def ideal(request: pytest.FixtureRequest, node_iron: NodeIron) -> IdealAuthNode:
    return IdealAuthNode(node_iron, request.param)


def tokens_of(user: SessionUser) -> dict[str, Any]:
    return {
        "accessToken": user.access_token,
        "refreshToken": user.refresh_token,
        "expiresAt": user.expires_at,
    }


def node_user(user: SessionUser, **more: Any) -> dict[str, Any]:
    named = {"id": "1", "email": "ada@example.test", "name": "Ada", "displayName": "Ada L."}
    return {**named, **tokens_of(user), **more}


# -- signed in here, read there -------------------------------------------------------------------


def test_node_reads_who_signed_in_here(shared: Shared, ideal: IdealAuthNode) -> None:
    user = shared.sign_in()
    found = ideal.user(shared.held())
    assert {name: found[name] for name in ("id", *FIELDS)} == node_user(user)
    assert set(found) - {"id", *FIELDS} == set(OWN)
    payload = ideal.payload(shared.held())
    assert payload["exp"] - payload["iat"] == payload["ttl"] == WEEK
    assert payload["iat"] == shared.clock.now


@pytest.mark.parametrize("remember", [None, True, False])
def test_the_cookie_is_set_as_iron_session_sets_it(
    shared: Shared, node_iron: NodeIron, remember: bool | None
) -> None:
    ttl = MONTH if remember else WEEK
    begun = begin(shared.user(), now=shared.clock.now, remember=remember, lifetimes=LIFETIMES)
    (ours,) = shared.auth.cookie_lines(begun, read("", shared.auth.cookies), now=shared.clock.now)
    # ideal-auth gives the cookie the session's own lifetime, and none with remember: false.
    options = {"cookieName": NAME, "ttl": ttl, "cookieOptions": {"maxAge": ttl}}
    (theirs,) = node_iron.save(IRON_SESSION_9, {"a": 1}, SECRET, **options)
    expected = attributes(theirs)
    if remember is False:
        expected.discard(f"Max-Age={WEEK}")
    assert attributes(ours) == expected
    assert ours.partition("=")[0] == theirs.partition("=")[0] == NAME


def attributes(line: str) -> set[str]:
    return set(line.split("; ")[1:])


@pytest.mark.parametrize("size", [200, 2_800, 3_000, 5_000, 8_000])
def test_a_long_session_is_cut_where_iron_session_cuts_it(
    shared: Shared, node_iron: NodeIron, size: int
) -> None:
    shared.sign_in()
    user = shared.user(display_name="x" * size)
    login(shared.client, shared.auth, user)
    ours = {cookie.name: str(cookie.value) for cookie in shared.client.cookies.jar}
    header = "; ".join(f"{name}={value}" for name, value in ours.items())
    options = {"cookieName": NAME, "ttl": WEEK, "cookieOptions": {"maxAge": WEEK}, "chunk": True}
    found = node_iron.read(IRON_SESSION_9, header, SECRET, **options)
    assert found["data"]["displayName"] == "x" * size
    theirs = node_iron.save(IRON_SESSION_9, found, SECRET, cookie=header, **options)
    kept = {line.partition("=")[0]: line.partition("=")[2].partition(";")[0] for line in theirs}
    kept = {name: value for name, value in kept.items() if value}
    assert {name: len(value) for name, value in kept.items()} == {
        name: len(value) for name, value in ours.items()
    }
    again = "; ".join(f"{name}={value}" for name, value in kept.items())
    found = shared.auth.opened(read(again, shared.auth.cookies), now=shared.clock.now)
    assert found is not None
    assert found.user == user


# -- signed in there, read here -------------------------------------------------------------------


def test_who_signed_in_at_node_is_signed_in_here(shared: Shared, ideal: IdealAuthNode) -> None:
    user = shared.user()
    shared.hold(ideal.login(node_user(user)))
    answer = shared.client.get("/me")
    assert answer.json() == {
        "id": "1",
        "email": "ada@example.test",
        "name": "Ada",
        "expires_at": user.expires_at,
    }
    assert shared.client.get("/token").json()["access_token"] == user.access_token
    assert "set-cookie" not in answer.headers
    assert (shared.store.calls, shared.wire.requests) == (0, 0)


def test_names_of_the_model_itself_are_read_too(shared: Shared, node_iron: NodeIron) -> None:
    user = shared.user()
    node = IdealAuthNode(node_iron, fields=("email", "access_token", "refresh_token", "expires_at"))
    names = {"id": 7, "email": "b@example.test", "access_token": user.access_token}
    shared.hold(node.login(names | {"expires_at": user.expires_at}))
    assert shared.client.get("/token").json() == {"access_token": user.access_token, "id": "7"}


def test_a_due_session_of_node_is_refreshed_here_once(shared: Shared, ideal: IdealAuthNode) -> None:
    shared.hold(ideal.login(node_user(shared.user())))
    shared.due()
    answers = asyncio.run(at_once(shared, 20))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["access_token"] for answer in answers}) == 1
    assert shared.wire.requests == 1
    (value,) = {answer.cookies[NAME] for answer in answers[:1]}
    assert ideal.user(value)["accessToken"] == answers[0].json()["access_token"]
    assert ideal.payload(value)["data"]["gen"] == 2


async def at_once(shared: Shared, count: int) -> list[httpx.Response]:
    transport = httpx.ASGITransport(shared.app)
    headers = {"cookie": f"{NAME}={shared.held()}"}
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        return await asyncio.gather(*(client.get("/token", headers=headers) for _ in range(count)))


def test_workers_meet_in_one_record_though_the_cookie_names_none(
    shared: Shared, ideal: IdealAuthNode
) -> None:
    shared.hold(ideal.login(node_user(shared.user())))
    shared.due()
    cookie = shared.held()
    second = shared.browser(app_of(shared.another_auth(sealer=IronSealer())))
    first = shared.client.get("/token").json()
    other = second.get("/token", headers={"cookie": f"{NAME}={cookie}"}).json()
    assert first == other
    assert shared.wire.requests == 1


# -- in turns -------------------------------------------------------------------------------------


def test_node_and_python_refresh_in_turns(shared: Shared, ideal: IdealAuthNode) -> None:
    shared.sign_in()
    for _ in range(5):
        shared.due()
        assert shared.client.get("/token").status_code == 200
        shared.due()
        shared.hold(refreshed_by_node(shared, ideal))
        assert shared.client.get("/token").status_code == 200
    assert (shared.wire.provider.calls, shared.wire.provider.reused) == (10, 0)


def refreshed_by_node(shared: Shared, ideal: IdealAuthNode) -> str:
    """As ideal-auth's guide on token refresh has it: ask, then ``login`` with the new tokens."""
    user = ideal.user(shared.held())
    tokens = asyncio.run(shared.wire.provider.refresh(user["refreshToken"]))
    assert tokens.expires_in is not None
    new = {
        "accessToken": tokens.access_token,
        "refreshToken": tokens.refresh_token,
        "expiresAt": int(shared.clock.now) + tokens.expires_in,
    }
    return ideal.login(user | new)


@pytest.mark.parametrize("fields", [FIELDS, (*FIELDS, *OWN)], ids=["dropped", "kept"])
def test_after_nodes_refresh_no_older_record_speaks_for_the_session(
    shared: Shared, node_iron: NodeIron, fields: tuple[str, ...]
) -> None:
    ideal = IdealAuthNode(node_iron, fields=fields)
    shared.sign_in()
    shared.due()
    old = shared.held()
    shared.client.get("/token")  # the record now says: generation 2, with tokens Node will spend
    shared.due()
    shared.hold(refreshed_by_node(shared, ideal))
    newest = ideal.user(shared.held())["accessToken"]
    assert shared.client.get("/token").json()["access_token"] == newest
    # A request that Node was quicker than comes late, and its refresh token is spent.
    shared.wire.fault = lambda _: httpx.Response(400, json={"error": "invalid_grant"})
    assert shared.present(old).status_code == 401
    shared.wire.fault = None
    shared.due()
    assert shared.client.get("/token").status_code == 200


def test_two_sides_that_refresh_at_once_are_one_too_many(
    shared: Shared, ideal: IdealAuthNode
) -> None:
    """A window of the README: what Node presents, no store of ours sees."""
    shared.sign_in()
    shared.due()
    cookie = shared.held()
    refreshed_by_node(shared, ideal)
    assert shared.present(cookie).status_code == 401
    assert shared.wire.provider.reused == 1


def test_a_sign_out_everywhere_does_not_reach_what_node_signs_in_after_it(
    node_iron: NodeIron,
) -> None:
    """A window of the README: ideal-auth refreshes with ``login()``, and a sign-in it is."""
    shared = Shared(check_ended_every=0)
    ideal = IdealAuthNode(node_iron, fields=(*FIELDS, *OWN))
    shared.sign_in()
    asyncio.run(shared.auth.end_sessions(user_id="1"))
    assert shared.present(shared.held()).status_code == 401
    again = ideal.payload(refreshed_by_node(shared, ideal))
    for seconds, answer in ((CLOCKS_APART, 401), (CLOCKS_APART + 1, 200)):
        signed_in = {"iat": int(shared.clock.now + seconds)}
        assert shared.present(ideal.seal(again | signed_in)).status_code == answer


def test_a_touch_of_node_keeps_the_session_that_it_is(shared: Shared, ideal: IdealAuthNode) -> None:
    shared.sign_in()
    before = ideal.payload(shared.held())["data"]
    shared.hold(ideal.touch(shared.held()))
    assert ideal.payload(shared.held())["data"] == before
    shared.due()
    shared.client.get("/token")
    after = ideal.payload(shared.held())["data"]
    assert (after["sid"], after["gen"]) == (before["sid"], before["gen"] + 1)


def test_a_touch_here_lasts_as_long_as_one_there(shared: Shared, ideal: IdealAuthNode) -> None:
    shared.hold(ideal.login(node_user(shared.user(), expiresAt=None)))
    shared.clock.advance(WEEK // 2 + 1)
    shared.client.post("/touch")
    payload = ideal.payload(shared.held())
    assert payload["exp"] == int(shared.clock.now) + WEEK
    assert payload["ttl"] == WEEK
    assert payload["iat"] < shared.clock.now - WEEK // 2


def test_a_signed_out_session_stays_out_whoever_resealed_it(
    shared: Shared, ideal: IdealAuthNode
) -> None:
    shared.sign_in()
    copy = ideal.touch(shared.held())
    shared.client.post("/leave")
    shared.due()
    assert shared.present(copy).status_code == 401
    assert shared.wire.provider.calls == 0


def test_a_signed_out_session_of_node_stays_out_too(shared: Shared, ideal: IdealAuthNode) -> None:
    shared.hold(ideal.login(node_user(shared.user())))
    copy = shared.held()
    shared.client.post("/leave")
    assert shared.client.cookies.get(NAME) is None
    shared.due()
    assert shared.present(copy).status_code == 401
    assert shared.wire.provider.calls == 0


# -- what goes along ------------------------------------------------------------------------------


def test_what_only_node_knows_survives_a_refresh_here(shared: Shared, node_iron: NodeIron) -> None:
    ideal = IdealAuthNode(node_iron, fields=(*FIELDS, "theme", "cart"))
    cart = {"items": [1, 2.5, None, "ключ 🗝"]}
    shared.hold(ideal.login(node_user(shared.user(), theme="dark", cart=cart)))
    shared.due()
    for _ in range(2):
        shared.client.get("/token")
        found = ideal.user(shared.held())
        assert (found["theme"], found["cart"]) == ("dark", cart)
        shared.due()
    assert shared.wire.provider.calls == 2


def test_what_only_node_knows_survives_beside_a_cookie_of_another_session(
    shared: Shared, node_iron: NodeIron
) -> None:
    """A stale one, or one that another subdomain set."""
    ideal = IdealAuthNode(node_iron, fields=(*FIELDS, "theme"))
    auth = shared.another_auth(sealer=[IronSealer(host_prefix=True), IronSealer()])
    other = ideal.login(node_user(shared.user(), id="2"))
    value = ideal.login(node_user(shared.user(), theme="dark"))
    for header in (f"{HOST_NAME}={other}; {NAME}={value}", f"{HOST_NAME}={value}; {NAME}={other}"):
        found = auth.opened(read(f"{NAME}={value}", auth.cookies), now=shared.clock.now)
        assert found is not None
        line, *_ = auth.cookie_lines(found, read(header, auth.cookies), now=shared.clock.now)
        assert ideal.user(line.partition(";")[0].partition("=")[2])["theme"] == "dark"


def test_what_node_knew_of_one_user_does_not_pass_to_the_next(
    shared: Shared, node_iron: NodeIron
) -> None:
    ideal = IdealAuthNode(node_iron, fields=(*FIELDS, "theme"))
    shared.hold(ideal.login(node_user(shared.user(), theme="dark")))
    login(shared.client, shared.auth, shared.user(id="2"))
    held = [cookie.value for cookie in shared.client.cookies.jar if cookie.name == NAME]
    assert any("theme" not in ideal.user(str(value)) for value in held)


@pytest.mark.parametrize("tokens", ["cookie", "store"])
@pytest.mark.parametrize("refreshes", [0, 1])
def test_what_node_changed_of_the_user_counts(
    node_iron: NodeIron, tokens: str, refreshes: int
) -> None:
    """A role that Node took away is gone, wherever the tokens are."""
    shared = Shared(tokens=tokens)
    ideal = IdealAuthNode(node_iron)
    shared.sign_in()
    for _ in range(refreshes):
        shared.due()
        shared.client.get("/token")
    payload = ideal.payload(shared.held())
    payload["data"]["name"] = "Changed"
    shared.hold(ideal.seal(payload))
    assert shared.client.get("/me").json()["name"] == "Changed"
    shared.due()
    assert shared.client.get("/me").json()["name"] == "Changed"
    assert ideal.user(shared.held())["name"] == "Changed"
    assert shared.client.get("/me").json()["name"] == "Changed"
    assert shared.wire.provider.calls == refreshes + 1


def test_a_member_of_the_payload_itself_survives_too(shared: Shared, node_iron: NodeIron) -> None:
    ideal = IdealAuthNode(node_iron)
    payload = ideal.payload(ideal.login(node_user(shared.user())))
    shared.hold(ideal.seal({**payload, "csrf": "abc"}))
    shared.due()
    shared.client.get("/token")
    assert node_iron.unseal(IRON_SESSION_9, shared.held(), SECRET)["csrf"] == "abc"


def test_a_browser_session_has_no_max_age_after_a_refresh(shared: Shared) -> None:
    shared.sign_in(remember=False)
    shared.due()
    answer = shared.client.get("/token")
    assert answer.status_code == 200
    assert "Max-Age" not in answer.headers["set-cookie"]


@pytest.mark.parametrize(("ttl", "after"), [(MONTH, MONTH), (WEEK, WEEK), (1000, WEEK)])
def test_a_session_of_node_keeps_the_mode_that_its_ttl_tells(
    shared: Shared, ideal: IdealAuthNode, ttl: int, after: int
) -> None:
    shared.hold(ideal.login(node_user(shared.user()), ttl=ttl))
    shared.due()
    shared.client.get("/token")
    payload = ideal.payload(shared.held())
    assert payload["exp"] == int(shared.clock.now) + after
    assert payload["ttl"] == after


def test_node_does_not_touch_a_session_past_its_absolute_deadline(node_iron: NodeIron) -> None:
    shared = Shared(absolute_max_age=1000)
    ideal = IdealAuthNode(node_iron)
    shared.sign_in()
    signed_in_there = ideal.login(node_user(shared.user(), expiresAt=None))
    for value in (ideal.touch(shared.held()), signed_in_there):
        shared.hold(value)
        assert shared.client.get("/session").json()["expires_at"] == int(shared.clock.now) + 1000


# -- refused --------------------------------------------------------------------------------------


def unreadable(payload: dict[str, Any]) -> list[Any]:
    data = payload["data"]
    return [
        {},
        {**payload, "data": None},
        {**payload, "data": []},
        {name: value for name, value in payload.items() if name != "data"},
        {name: value for name, value in payload.items() if name != "uid"},
        {name: value for name, value in payload.items() if name != "iat"},
        {name: value for name, value in payload.items() if name != "exp"},
        {**payload, "uid": None},
        {**payload, "uid": True},
        {**payload, "uid": {"a": 1}},
        {**payload, "exp": "soon"},
        {**payload, "exp": -1},
        {**payload, "exp": True},
        {**payload, "iat": None},
        {**payload, "exp": 1},
        {**payload, "data": {**data, "accessToken": None}},
        {**payload, "data": {**data, "accessToken": 7}},
        {**payload, "data": {**data, "email": {"not": "text"}}},
        {**payload, "data": {n: v for n, v in data.items() if n != "accessToken"}},
        {**payload, "data": {**data, "kept": {"for": "session:another"}}},
        {**payload, "data": {**data, "kept": {"for": "login:ideal_session"}}},
        {**payload, "data": {"email": data["email"], "kept": {"store": True}}},
    ]


def test_what_is_no_session_is_a_401(shared: Shared, node_iron: NodeIron) -> None:
    ideal = IdealAuthNode(node_iron)
    good = ideal.payload(ideal.login(node_user(shared.user())))
    assert shared.present(ideal.seal(good)).status_code == 200
    for payload in unreadable(good):
        value = node_iron.seal(IRON_SESSION_9, payload, SECRET)
        assert shared.present(value).status_code == 401, payload
    for text in ("null", "7", '"text"', "[]", "{", '{"uid":NaN}', "[" * 5000, ""):
        value = sealed_text(text)
        assert shared.present(value).status_code == 401, text


def sealed_text(text: str) -> str:
    from fastapi_ideal_auth import iron

    password = iron.Password("1", SECRET.encode())
    return iron.seal(
        text.encode(), password=password, expires_at=None, random_bytes=lambda size: bytes(size)
    )


@pytest.mark.parametrize(
    "own",
    [
        {"sid": 7},
        {"sid": "short"},
        {"sid": None},
        {"gen": "2"},
        {"gen": 0},
        {"gen": 2**40},
        {"gen": True},
        {"kept": 7},
        {"kept": {"at": "x", "until": [], "remember": 3, "subject": "?", "resources": 5}},
        {"kept": {"mark": 7}},
        {"kept": {"resources": [[1]]}},
    ],
)
def test_what_node_made_of_our_own_members_is_taken_for_dropped(
    shared: Shared, node_iron: NodeIron, own: dict[str, Any]
) -> None:
    ideal = IdealAuthNode(node_iron)
    shared.sign_in()
    payload = ideal.payload(shared.held())
    shared.hold(ideal.seal({**payload, "data": {**payload["data"], **own}}))
    shared.due()
    assert shared.client.get("/token").status_code == 200
    assert shared.wire.provider.calls == 1


def test_a_seal_for_another_cookie_of_ours_is_refused(shared: Shared) -> None:
    other = shared.another_auth(sealer=IronSealer(), cookie_name="admin_session")
    begun = begin(shared.user(), now=shared.clock.now, remember=None, lifetimes=LIFETIMES)
    (line,) = other.cookie_lines(begun, read("", other.cookies), now=shared.clock.now)
    name, _, value = line.partition(";")[0].partition("=")
    assert name == "admin_session"
    assert shared.present(value).status_code == 401


def test_a_refusal_hangs_on_nothing_and_tells_nothing(shared: Shared) -> None:
    (form,) = shared.auth._formats
    for text in ("", "Fe26.2", sealed_text("null"), sealed_text('{"uid":"at-secret"}')):
        with pytest.raises(InvalidCookie) as caught:
            form.open(text, name=NAME, now=shared.clock.now)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_an_expired_seal_is_refused_though_its_payload_is_not(
    shared: Shared, node_iron: NodeIron
) -> None:
    payload = IdealAuthNode(node_iron).payload(
        IdealAuthNode(node_iron).login(node_user(shared.user()))
    )
    value = node_iron.seal(IRON_SESSION_8, payload, SECRET, ttl=100)
    assert shared.present(value).status_code == 200
    shared.clock.advance(161)
    assert shared.present(value).status_code == 401


# -- the payload by itself ------------------------------------------------------------------------


class Address(BaseModel):
    model_config = CAMEL
    street_name: str


class Rich(SessionUser):
    model_config = CAMEL
    tags: tuple[str, ...] = ()
    born: float | None = None
    home: Address | None = None
    picked: str = Field(default="", validation_alias=AliasChoices("chosen", "picked"))
    secret_note: str = Field(default="none", exclude=True)


CODEC = PayloadCodec(Rich, lifetimes=LIFETIMES, use="session:ideal_session")
SECONDS = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
USERS = st.builds(
    Rich,
    id=TEXT,
    access_token=TEXT,
    refresh_token=st.none() | TEXT,
    id_token=st.none() | TEXT,
    expires_at=st.none() | SECONDS,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    born=st.none() | st.floats(-1e6, 1e6),
    home=st.none() | st.builds(Address, street_name=TEXT),
    picked=TEXT,
)
RESOURCES = st.lists(
    st.builds(ResourceToken, TEXT, TEXT, st.none() | SECONDS, SECONDS), max_size=2
).map(tuple)


@st.composite
def generations(draw: st.DrawFn) -> Generation[Rich]:
    user = draw(USERS)
    return Generation(
        sid=draw(st.binary(min_size=16, max_size=16)),
        gen=draw(st.integers(1, 2**32 - 1)),
        user=user,
        issued_at=draw(SECONDS),
        expires_at=draw(st.integers(0, 2**31)),
        deadline=draw(st.none() | st.integers(2**31, 2**32 - 1)),
        remember=draw(st.sampled_from([None, True, False])),
        token_at=draw(SECONDS),
        refresh_until=draw(st.none() | st.integers(2**31, 2**32 - 1)),
        subject=draw(st.just(subject(user.id_token)) | st.binary(min_size=32, max_size=32)),
        resources=draw(RESOURCES),
    )


@given(generations())
def test_every_generation_comes_back(generation: Generation[Rich]) -> None:
    assert CODEC.unpack(CODEC.pack(generation)) == generation


@given(generations())
def test_without_tokens_all_else_comes_back(generation: Generation[Rich]) -> None:
    data = CODEC.pack(generation, tokens=False)
    back = CODEC.unpack(data)
    bare = {"access_token": "", "refresh_token": None, "id_token": None}
    assert back == generation._replace(
        user=generation.user.model_copy(update=bare), complete=False, resources=()
    )


@given(generations())
def test_the_payload_is_json_that_says_each_thing_once(generation: Generation[Rich]) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    payload = json.loads(CODEC.pack(generation), object_pairs_hook=once)
    assert list(payload) == ["uid", "iat", "exp", "ttl", "data"]


def test_every_field_of_a_generation_is_in_the_payload() -> None:
    """Whoever gives `Generation` a field decides whether Node's cookie carries it."""
    from fastapi_ideal_auth.payload import _KEPT

    told_otherwise = {"sid", "gen", "user", "issued_at", "expires_at", "complete"}
    assert {member.field for member in _KEPT} | told_otherwise == set(Generation._fields)


def test_other_tokens_bring_nothing_that_belongs_to_the_old_ones(node_iron: NodeIron) -> None:
    user = Rich(id="1", access_token="a", refresh_token="r")
    old = begin(user, now=1_000, remember=False, lifetimes=Lifetimes(WEEK, MONTH, 5_000))._replace(
        gen=5,
        refresh_until=2_000,
        subject=b"s" * 32,
        resources=(ResourceToken("https://api.example", "of ada", None, 1_000),),
    )
    payload = json.loads(CODEC.pack(old))
    assert CODEC.unpack(json.dumps(payload).encode()) == old._replace(expires_at=2_000)
    payload["uid"] = "2"
    payload["data"]["accessToken"] = "of bob"
    found = CODEC.unpack(json.dumps(payload).encode())
    assert found.sid != old.sid
    assert (found.gen, found.resources, found.subject, found.refresh_until) == (1, (), b"", None)
    assert (found.remember, found.deadline) == (False, 6_000)


def test_the_id_of_a_session_without_one_is_made_from_its_user_and_tokens() -> None:
    def sid(uid: object = "1", **changes: Any) -> bytes:
        user = {"accessToken": "a", "refreshToken": "r", **changes}
        payload = {"uid": uid, "iat": 1, "exp": 9, "ttl": 8, "data": user}
        return CODEC.unpack(json.dumps(payload).encode()).sid

    assert len(sid()) == 16
    assert sid() == sid(tags=["other"]) == sid(1)
    others = (sid(accessToken="b"), sid(refreshToken="b"), sid(refreshToken=None), sid("2"))
    assert len({sid(), *others}) == 5


def test_the_payload_follows_the_models_aliases() -> None:
    user = Rich(id="1", access_token="a", id_token="i", home=Address(street_name="x"), picked="p")
    begun = begin(user, now=1, remember=None, lifetimes=LIFETIMES)
    data = json.loads(CODEC.pack(begun))["data"]
    assert data["accessToken"] == "a"
    assert data["idToken"] == "i"
    assert data["home"] == {"streetName": "x"}
    assert "refreshToken" not in data
    assert "secretNote" not in data


def test_a_larger_number_than_javascript_has_is_refused_at_sign_in(shared: Shared) -> None:
    class Counted(SessionUser):
        count: int = 0
        counts: dict[str, list[int]] = Field(default_factory=dict)

    auth = IdealAuth(Counted, secret=SECRET, sealer=IronSealer(), store=MemoryStore())
    auth.check(Counted(id="1", access_token="a", count=2**53 - 1))
    for fields in ({"count": 2**53}, {"counts": {"a": [-(2**60)]}}):
        with pytest.raises(ConfigurationError, match="JavaScript"):
            auth.check(Counted(id="1", access_token="a", **fields))  # type: ignore[arg-type]  # what is wrong is the point


def test_a_model_that_does_not_come_back_by_its_aliases_is_refused_at_sign_in() -> None:
    class OneWay(BaseModel):
        inner: str = Field(serialization_alias="outer")

    class Odd(SessionUser):
        thing: OneWay

    auth = IdealAuth(Odd, secret=SECRET, sealer=IronSealer(), store=MemoryStore())
    with pytest.raises(ConfigurationError):
        auth.check(Odd(id="1", access_token="a", thing=OneWay(inner="x")))


def test_fields_that_the_model_lets_pass_stay_the_users() -> None:
    class Open(SessionUser):
        model_config = ConfigDict(extra="allow")

    codec = PayloadCodec(Open, lifetimes=LIFETIMES, use="s")
    user = Open.model_validate({"id": "1", "access_token": "a", "theme": "dark"})
    begun = begin(user, now=1, remember=None, lifetimes=LIFETIMES)
    data = codec.pack(begun)
    assert codec.unpack(data) == begun
    rest = codec.rest(data)
    assert rest is not None
    assert codec.pack(begun, rests=[rest]) == data


def test_fields_that_the_model_forbids_are_still_nodes(node_iron: NodeIron) -> None:
    class Closed(SessionUser):
        model_config = ConfigDict(extra="forbid")

    codec = PayloadCodec(Closed, lifetimes=LIFETIMES, use="s")
    payload = {"uid": "1", "iat": 1, "exp": 9, "ttl": 8, "data": {"access_token": "a", "b": 2}}
    data = json.dumps(payload).encode()
    assert codec.unpack(data).user.access_token == "a"
    found = codec.rest(data)
    assert found is not None
    assert found.data == {"b": 2}


def test_a_text_that_javascript_cut_inside_a_character_stays_as_it_is(
    shared: Shared, node_iron: NodeIron
) -> None:
    """``"ad 🗝".slice(0, 4)`` ends in half a surrogate pair, which UTF-8 cannot hold."""
    ideal = IdealAuthNode(node_iron, fields=(*FIELDS, "theme"))
    shared.hold(ideal.login(node_user(shared.user(), theme={"cut \ud83d": "\udddd ключ 🗝"})))
    shared.due()
    assert shared.client.get("/token").status_code == 200
    assert ideal.user(shared.held())["theme"] == {"cut \ud83d": "\udddd ключ 🗝"}


@pytest.mark.parametrize("huge", ["9" * 400, "1e999", "-" + "9" * 400])
def test_a_number_beyond_all_bounds_upsets_nothing(shared: Shared, huge: str) -> None:
    kept = f'{{"accessToken":"a","kept":{{"until":{huge}}}}}'
    for text in (
        f'{{"uid":"1","iat":{huge},"exp":9999999999,"ttl":1,"data":{{"accessToken":"a"}}}}',
        f'{{"uid":"1","iat":1,"exp":9999999999,"ttl":1,"data":{kept}}}',
    ):
        value = sealed_text(text)
        assert shared.present(value).status_code in (200, 401)
        shared.hold(value)
        login(shared.client, shared.auth, shared.user())  # and it is replaced like any other
        assert report(value, ring=KeyRing(SECRET), cookie_name=NAME, now=shared.clock.now).lines


def test_what_is_no_payload_has_no_rest() -> None:
    assert CODEC.rest(b"") is None
    assert CODEC.rest(b"[]") is None
    assert CODEC.rest(b'{"uid":"1","iat":1,"data":7}') is None
    assert CODEC.rest(b'{"uid":"1","iat":"1","data":{}}') is None


# -- moving over ----------------------------------------------------------------------------------

NATIVE, IRON = AESGCMSealer(), IronSealer()


class Move:
    """A browser, and a service that is deployed anew with other options."""

    def __init__(self, **options: Any) -> None:
        self.world = Shared(**options)
        self.cookies: dict[str, str] = {}

    def sign_in(self) -> None:
        user = self.world.user()
        begun = begin(user, now=self.world.clock.now, remember=None, lifetimes=LIFETIMES)
        auth = self.world.auth
        self.hear(auth.cookie_lines(begun, read("", auth.cookies), now=self.world.clock.now))

    def hear(self, lines: list[str]) -> None:
        for line in lines:
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    def deploy(self, **options: Any) -> None:
        self.world.auth = self.world.another_auth(**options)
        self.world.app = app_of(self.world.auth)

    def get(self, path: str = "/token") -> Any:
        header = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self.world.browser().get(path, headers={"cookie": header})
        self.hear(answer.headers.get_list("set-cookie"))
        return answer

    def refresh(self) -> None:
        self.world.due()
        assert self.get().status_code == 200


@pytest.fixture
def move() -> Callable[..., Move]:
    return Move


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [(IRON, NATIVE, (NAME, HOST_NAME)), (NATIVE, IRON, (HOST_NAME, NAME))],
    ids=["to the native seal", "to iron-session's"],
)
def test_another_sealer_signs_nobody_out(
    before: Any, after: Any, names: tuple[str, str], move: Callable[..., Move]
) -> None:
    moving = move(sealer=before)
    moving.sign_in()
    assert list(moving.cookies) == [names[0]]
    old = dict(moving.cookies)
    moving.deploy(sealer=[after, before])
    fresh = moving.get()
    assert fresh.status_code == 200
    assert "set-cookie" not in fresh.headers
    moving.refresh()
    assert list(moving.cookies) == [names[1]]  # written anew, and the old one cleared
    sign_out_of = dict(moving.cookies)
    # A request that was under way with the old cookie still leads to the same session.
    moving.cookies = old
    assert moving.get().status_code == 200
    moving.cookies = sign_out_of
    moving.deploy(sealer=after)
    moving.refresh()
    assert moving.world.wire.provider.reused == 0
    assert moving.world.wire.provider.calls == 2


@pytest.mark.parametrize("sealer", [[NATIVE, IRON], [IRON, NATIVE]], ids=["after", "before"])
def test_a_native_seal_counts_under_its_own_name_alone(shared: Shared, sealer: Any) -> None:
    """A sibling subdomain can set the other name, and could have a session of its own to set."""
    auth, native = shared.another_auth(sealer=sealer), shared.another_auth(sealer=NATIVE)
    begun = begin(shared.user(), now=shared.clock.now, remember=None, lifetimes=LIFETIMES)
    (line,) = native.cookie_lines(begun, read("", native.cookies), now=shared.clock.now)
    name, _, value = line.partition(";")[0].partition("=")
    assert auth.opened(read(f"{name}={value}", auth.cookies), now=shared.clock.now) == begun
    assert auth.opened(read(f"{NAME}={value}", auth.cookies), now=shared.clock.now) is None


def test_hosts_before_and_after_a_change_of_sealers_serve_one_session(
    move: Callable[..., Move],
) -> None:
    """Accept, then seal: at no step does a host meet a cookie that it does not read."""
    for one, other in ((IRON, NATIVE), (NATIVE, IRON)):
        moving = move(sealer=one)
        moving.sign_in()
        for mixed in ([one], [one, other], [one], [one, other], [other, one], [one, other]):
            moving.deploy(sealer=mixed)
            moving.refresh()
        moving.deploy(sealer=[other, one])
        moving.refresh()
        for mixed in ([other], [other, one], [other]):
            moving.deploy(sealer=mixed)
            moving.refresh()
        assert moving.world.wire.provider.reused == 0


@pytest.mark.parametrize("sealer", [NATIVE, IRON], ids=["native", "iron"])
def test_secrets_are_accepted_then_seal_then_are_dropped(
    sealer: Any, move: Callable[..., Move]
) -> None:
    moving = move(sealer=sealer, secret=SECRET)
    moving.sign_in()
    untouched = dict(moving.cookies)
    first, second = SECRET, OTHER
    for secret in (first, [first, second], first, [first, second], [second, first]):
        moving.deploy(sealer=sealer, secret=secret)
        moving.refresh()
    moving.deploy(sealer=sealer, secret=[first, second])  # the last host of the step before
    moving.refresh()
    moving.deploy(sealer=sealer, secret=[second, first])
    moving.refresh()
    moving.deploy(sealer=sealer, secret=second)
    moving.refresh()
    assert moving.world.wire.provider.reused == 0
    moving.cookies = untouched
    assert moving.get().status_code == 401


@pytest.mark.parametrize("package", SESSIONS)
def test_secrets_are_rotated_on_both_sides(
    node_iron: NodeIron, package: str, move: Callable[..., Move]
) -> None:
    """With the numbers of Node's password map at every step."""
    moving = move(sealer=IronSealer(ids=[1]), secret=SECRET)
    moving.sign_in()
    steps: list[tuple[Any, list[int], dict[str, str]]] = [
        (SECRET, [1], {"1": SECRET}),
        ([SECRET, OTHER], [1, 2], {"1": SECRET, "2": OTHER}),
        ([OTHER, SECRET], [2, 1], {"1": SECRET, "2": OTHER}),
        (OTHER, [2], {"2": OTHER}),
    ]
    for secret, ids, passwords in steps:
        moving.deploy(sealer=IronSealer(ids=ids), secret=secret)
        moving.refresh()
        assert node_iron.unseal(package, moving.cookies[NAME], passwords)["uid"] == "1"
        theirs = node_iron.unseal(package, moving.cookies[NAME], passwords)
        moving.cookies[NAME] = node_iron.seal(package, theirs, passwords)
        if len(ids) == 1:
            assert moving.get().status_code == 200


def test_with_numbers_given_another_number_is_refused(shared: Shared, node_iron: NodeIron) -> None:
    ideal = IdealAuthNode(node_iron)
    payload = ideal.payload(ideal.login(node_user(shared.user())))
    value = node_iron.seal(IRON_SESSION_9, payload, {"7": SECRET})
    assert shared.present(value).status_code == 200
    exact = shared.browser(app_of(shared.another_auth(sealer=IronSealer(ids=[1]))))
    cookie = {"cookie": f"{NAME}={value}"}
    assert exact.get("/token", headers=cookie).status_code == 401
    right = shared.browser(app_of(shared.another_auth(sealer=IronSealer(ids=[7]))))
    assert right.get("/token", headers=cookie).status_code == 200


def test_the_number_that_is_written_is_the_highest(shared: Shared) -> None:
    for secret, sealer, number in (
        (SECRET, IronSealer(), "1"),
        ([SECRET, OTHER], IronSealer(), "2"),
        ([SECRET, OTHER], IronSealer(ids=[1, 2]), "1"),
        (SECRET, IronSealer(ids=[5]), "5"),
    ):
        auth = shared.another_auth(secret=secret, sealer=sealer)
        begun = begin(shared.user(), now=shared.clock.now, remember=None, lifetimes=LIFETIMES)
        (line,) = auth.cookie_lines(begun, read("", auth.cookies), now=shared.clock.now)
        assert line.split("*")[1] == number


# -- names and construction -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sealer": IRON}, NAME),
        ({"sealer": [IRON, NATIVE]}, NAME),
        ({"sealer": (NATIVE, IRON)}, HOST_NAME),
        ({"sealer": IronSealer(host_prefix=True)}, HOST_NAME),
        ({"sealer": IronSealer(host_prefix=True), "cookie_domain": "example.com"}, NAME),
        ({"sealer": IRON, "cookie_name": "app"}, "app"),
        ({"sealer": [NATIVE, IRON], "cookie_secure": False}, NAME),
        ({}, HOST_NAME),
    ],
)
def test_the_cookie_is_named_as_its_sealer_wants(options: dict[str, Any], name: str) -> None:
    assert IdealAuth(User, secret=SECRET, store=MemoryStore(), **options).cookie_name == name


@pytest.mark.parametrize(
    "sealer", [[], (), "IronSealer", IronSealer, [IronSealer], [IRON, None], 7]
)
def test_what_is_no_sealer_is_refused(sealer: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"IronSealer\(\)"):
        IdealAuth(User, secret=SECRET, sealer=sealer)


@pytest.mark.parametrize("ids", [[0], [-1], [1, 1], ["1"], [True], [1.0]])
def test_what_are_no_numbers_of_secrets_is_refused(ids: Any) -> None:
    with pytest.raises(ConfigurationError, match="ids"):
        IronSealer(ids=ids)


@pytest.mark.parametrize("ids", [[], [1, 2]])
def test_each_secret_needs_a_number(ids: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="one for each"):
        IdealAuth(User, secret=SECRET, sealer=IronSealer(ids=ids))


def test_two_sessions_of_one_name_are_refused_whatever_seals_them(shared: Shared) -> None:
    app = FastAPI()
    shared.another_auth(sealer=[NATIVE, IRON]).install(app)
    with pytest.raises(ConfigurationError, match="ideal_session already belongs to an IdealAuth"):
        shared.another_auth(sealer=IRON).install(app)
    shared.another_auth(sealer=IRON, cookie_name="admin_session").install(app)


def test_fields_that_are_called_as_our_own_members_are_refused() -> None:
    class Named(SessionUser):
        generation: int = Field(default=0, alias="gen")

    with pytest.raises(ConfigurationError, match="gen"):
        IdealAuth(Named, secret=SECRET, sealer=IRON)
    IdealAuth(Named, secret=SECRET, store=MemoryStore())


def test_a_sealer_shows_no_secret() -> None:
    assert repr(IronSealer(ids=[2])) == "IronSealer(ids=(2,), host_prefix=False)"
    auth = IdealAuth(User, secret=SECRET, sealer=IRON, store=MemoryStore())
    assert SECRET not in repr(auth._formats)


def test_the_sign_in_attempt_keeps_its_own_seal_and_name(shared: Shared) -> None:
    provider = OAuth2Provider(
        "https://op.example/token",
        client_id="tests",
        client_secret="tests-secret",
        authorization_endpoint="https://op.example/authorize",
        userinfo_endpoint="https://op.example/userinfo",
    )
    auth = shared.another_auth(provider=provider, sealer=IronSealer())
    app = app_of(auth)
    app.include_router(auth.router)
    client = TestClient(app, base_url="https://testserver", follow_redirects=False)
    line = client.get("/login").headers["set-cookie"]
    assert line.startswith(f"{HOST_NAME}-login-")
    assert "Fe26" not in line


def test_tokens_can_stay_in_the_store(node_iron: NodeIron) -> None:
    shared = Shared(tokens="store")
    ideal = IdealAuthNode(node_iron)
    user = shared.sign_in()
    assert shared.client.get("/token").json()["access_token"] == user.access_token
    assert not {"accessToken", "refreshToken"} & set(ideal.user(shared.held()))
    shared.hold(ideal.touch(shared.held()))
    assert shared.client.get("/token").json()["access_token"] == user.access_token
    shared.due()
    assert shared.client.get("/token").json()["access_token"] != user.access_token
    # A session of Node's moves its tokens into the store with the next refresh.
    shared.hold(ideal.login(node_user(shared.user())))
    shared.due()
    assert shared.client.get("/token").status_code == 200
    assert not {"accessToken", "refreshToken"} & set(ideal.user(shared.held()))
    assert shared.client.get("/token").status_code == 200


@pytest.mark.parametrize("own", [OWN, ("kept",), ("sid", "gen"), ()])
def test_nobody_gets_the_tokens_of_who_was_signed_in_before(
    node_iron: NodeIron, own: tuple[str, ...]
) -> None:
    """A Node side may spread the old session's members into the one of the next user."""
    for tokens in ("cookie", "store"):
        shared = Shared(tokens=tokens)
        ada = shared.user(id="ada")
        login(shared.client, shared.auth, ada)
        ideal = IdealAuthNode(node_iron, fields=(*FIELDS, *own))
        before = ideal.user(shared.held())
        bob = shared.user()
        spread = {**before, **node_user(bob, id="bob")}
        shared.hold(ideal.login(spread))
        told = shared.client.get("/token").json()
        assert told == {"access_token": bob.access_token, "id": "bob"}
        without = {name: value for name, value in spread.items() if "Token" not in name}
        shared.hold(ideal.login({**without, "id": "bob"}))
        assert shared.client.get("/token").status_code == 401


@pytest.mark.parametrize("tokens", ["cookie", "store"])
def test_users_with_the_same_tokens_are_not_one_session(node_iron: NodeIron, tokens: str) -> None:
    """A Node side may keep one grant for all of its users, or write a word for a token."""
    shared = Shared(tokens=tokens)
    ideal = IdealAuthNode(node_iron)
    of_all = node_user(shared.user())
    ada, bob = (ideal.login({**of_all, "id": name}) for name in ("ada", "bob"))
    shared.due()
    assert shared.present(ada).json()["id"] == "ada"
    # The grant is spent, which is between Node and its provider.
    assert shared.present(bob).json() == {"detail": "Not signed in"}


def test_a_sign_out_ends_no_session_of_another_user_with_the_same_token(
    node_iron: NodeIron,
) -> None:
    shared = Shared(check_ended_every=0)
    ideal = IdealAuthNode(node_iron)
    of_all = node_user(shared.user(), accessToken="none", refreshToken=None, expiresAt=None)
    ada, bob = (ideal.login({**of_all, "id": name}) for name in ("ada", "bob"))
    shared.hold(ada)
    shared.client.post("/leave")
    assert shared.present(ada).status_code == 401
    assert shared.present(bob).status_code == 200


def test_no_token_is_logged(
    shared: Shared, node_iron: NodeIron, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ideal = IdealAuthNode(node_iron)
    shared.hold(ideal.login(node_user(shared.user())))
    held = [shared.held()]
    shared.due()
    shared.client.get("/token")
    held.append(shared.held())
    secret = [ideal.user(value)[name] for value in held for name in ("accessToken", "refreshToken")]
    assert not any(each in caplog.text for each in [*secret, *held, SECRET])
