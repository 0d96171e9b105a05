"""The real provider behaves as the tests that lean on it assume: rotation, reuse, faults, time."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlsplit

import anyio
import httpx
import pytest

from .processes import (
    ROOT,
    NotReady,
    listens,
    missing,
    redis_server,
    require_chromium,
    require_program,
    start,
    uvicorn,
)
from .providers.harness import (
    BASIC,
    HERE,
    POST,
    PUBLIC,
    REDIRECT_URI,
    SECRET,
    OIDCServer,
    hash_of,
    oidc_provider,
)
from .providers.listener import Listener, listening


@pytest.fixture(scope="module")
def running() -> Iterator[OIDCServer]:
    with oidc_provider() as server:
        yield server


@pytest.fixture
def op(running: OIDCServer) -> OIDCServer:
    running.reset()
    return running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5) as client:
        yield client


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


Refresh = Callable[..., httpx.Response]


@pytest.fixture
def refresh(op: OIDCServer, http: httpx.Client) -> Refresh:
    def call(refresh_token: str, client_id: str = BASIC) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return as_client(http, op.token_endpoint, form, client_id)

    return call


def as_client(
    http: httpx.Client, url: str, form: dict[str, str], client_id: str = BASIC
) -> httpx.Response:
    """POST a form as one of the default clients authenticates itself."""
    if client_id == BASIC:
        return http.post(url, data=form, auth=(quote_plus(BASIC), quote_plus(SECRET)))
    form = {**form, "client_id": client_id}
    if client_id == POST:
        form["client_secret"] = SECRET
    return http.post(url, data=form)


def api(op: OIDCServer, http: httpx.Client, access_token: str) -> httpx.Response:
    return http.get(op.resource, headers={"Authorization": f"Bearer {access_token}"})


# ---- rotation


@pytest.mark.parametrize("client_id", [BASIC, POST, PUBLIC])
def test_a_session_made_without_a_browser_refreshes(
    op: OIDCServer, refresh: Refresh, client_id: str
) -> None:
    session = op.session("ada", client_id)
    answer = refresh(session["refresh_token"], client_id)
    assert answer.status_code == 200
    tokens = answer.json()
    assert tokens["refresh_token"] != session["refresh_token"]
    assert tokens["access_token"] != session["access_token"]
    assert tokens["token_type"] == "Bearer"
    assert op.alive(tokens["access_token"])


def test_a_spent_refresh_token_is_refused_and_takes_the_winner_with_it(
    op: OIDCServer, refresh: Refresh
) -> None:
    session = op.session()
    winner = refresh(session["refresh_token"]).json()
    assert op.alive(winner["access_token"])

    again = refresh(session["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert not op.alive(winner["access_token"])
    assert refresh(winner["refresh_token"]).json()["error"] == "invalid_grant"
    assert op.stats()["grants_revoked"] == 1


def test_a_server_that_does_not_rotate_gives_the_same_refresh_token_again(
    op: OIDCServer, refresh: Refresh
) -> None:
    op.settings(rotate_refresh_token=False)
    session = op.session()
    for _ in range(2):
        assert refresh(session["refresh_token"]).json()["refresh_token"] == session["refresh_token"]
    assert op.stats()["spent_presented"] == 0


def test_revoking_a_refresh_token_ends_its_grant(
    op: OIDCServer, http: httpx.Client, refresh: Refresh
) -> None:
    session = op.session()
    done = as_client(http, op.revocation_endpoint, {"token": session["refresh_token"]})
    assert done.status_code == 200
    assert not op.alive(session["access_token"])
    assert refresh(session["refresh_token"]).json()["error"] == "invalid_grant"
    assert op.stats()["revocation_calls"] == 1


# ---- access tokens


def test_an_access_token_dies_on_time(op: OIDCServer, http: httpx.Client) -> None:
    op.settings(access_token_ttl=1)
    began = time.time()
    session = op.session()
    assert session["expires_in"] == 1
    while api(op, http, session["access_token"]).status_code == 200:
        assert time.time() < began + 3
        time.sleep(0.05)
    assert not op.alive(session["access_token"])


def test_the_api_tells_a_live_token_from_a_dead_one(op: OIDCServer, http: httpx.Client) -> None:
    session = op.session("grace")
    good = api(op, http, session["access_token"])
    assert (good.status_code, good.json()["sub"]) == (200, "grace")
    for token in (session["access_token"][:-4] + "AAAA", "a.b.c", "opaque"):
        bad = api(op, http, token)
        assert bad.status_code == 401
        assert 'error="invalid_token"' in bad.headers["www-authenticate"]
    assert http.get(op.resource).headers["www-authenticate"] == "Bearer"


def test_access_tokens_are_jwts_after_a_refresh_too(op: OIDCServer, refresh: Refresh) -> None:
    session = op.session()
    refreshed = refresh(session["refresh_token"]).json()
    for tokens in (session, refreshed):
        assert tokens["access_token"].count(".") == 2
        assert tokens["id_token"].count(".") == 2
        assert tokens["scope"] == "openid email profile offline_access"


def test_opaque_access_tokens_work_at_userinfo_and_introspection(
    op: OIDCServer, http: httpx.Client, refresh: Refresh
) -> None:
    op.settings(jwt_access_tokens=False)
    tokens = refresh(op.session("grace")["refresh_token"]).json()
    assert "." not in tokens["access_token"]
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert http.get(f"{op.issuer}/me", headers=bearer).json() == {
        "sub": "grace",
        "email": "grace@example.test",
        "email_verified": True,
        "name": "Grace",
    }
    form = {"token": tokens["access_token"]}
    assert as_client(http, f"{op.issuer}/token/introspection", form).json()["active"] is True
    assert api(op, http, tokens["access_token"]).json()["sub"] == "grace"


# ---- faults and statistics


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_lost_answer_looks_the_same_whether_or_not_the_token_is_spent(
    op: OIDCServer, refresh: Refresh, where: Any, kind: Any
) -> None:
    session = op.session()
    op.fault(where, kind)
    with pytest.raises(httpx.RemoteProtocolError):
        refresh(session["refresh_token"])
    assert op.stats()["faults_fired"] == 1
    second = refresh(session["refresh_token"])
    assert second.status_code == {"before": 200, "after": 400}[where]


@pytest.mark.parametrize(("where", "second"), [("before", 200), ("after", 400)])
def test_a_status_can_stand_in_for_the_answer(
    op: OIDCServer, refresh: Refresh, where: Any, second: int
) -> None:
    session = op.session()
    op.fault(where, "status", status=429, body="<p>slow down</p>", headers={"Retry-After": "7"})
    answer = refresh(session["refresh_token"])
    assert (answer.status_code, answer.text) == (429, "<p>slow down</p>")
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["content-type"].startswith("text/html")
    assert refresh(session["refresh_token"]).status_code == second


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_status_may_carry_json(op: OIDCServer, refresh: Refresh, where: Any) -> None:
    op.fault(where, "status", status=400, body={"error": "temporarily_unavailable"})
    answer = refresh(op.session()["refresh_token"])
    assert answer.json() == {"error": "temporarily_unavailable"}
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_delayed_answer_is_a_good_one(op: OIDCServer, refresh: Refresh, where: Any) -> None:
    session = op.session()
    op.fault(where, "delay", ms=150)
    began = time.monotonic()
    assert refresh(session["refresh_token"]).status_code == 200
    assert time.monotonic() - began >= 0.14


def test_faults_last_as_often_as_told_and_can_be_cleared(op: OIDCServer, refresh: Refresh) -> None:
    session = op.session()
    op.fault("before", "status", times=2)
    assert [refresh(session["refresh_token"]).status_code for _ in range(3)] == [502, 502, 200]
    op.fault("before", "status", times=9)
    op.clear_faults()
    session = op.session()
    assert refresh(session["refresh_token"]).status_code == 200


def test_statistics_count_calls_by_outcome_and_presentations_by_token(
    op: OIDCServer, refresh: Refresh
) -> None:
    first = op.session()["refresh_token"]
    second = refresh(first).json()["refresh_token"]
    refresh(first)
    refresh("never issued")
    op.fault("before", "status")
    refresh(second)
    stats = op.stats()
    assert stats["token_calls"] == {"refresh_token": {"ok": 1, "invalid_grant": 2, "fault": 1}}
    assert stats["refresh_tokens"] == {
        hash_of(first): {"presented": 2, "spent": 1},
        hash_of(second): {"presented": 1, "spent": 0},
        hash_of("never issued"): {"presented": 1, "spent": 0},
    }
    assert stats["spent_presented"] == 1
    assert (stats["in_flight"], stats["most_in_flight"]) == (0, 1)
    op.reset_stats()
    assert op.stats()["token_calls"] == {}


async def test_of_two_refreshes_at_once_one_is_counted_as_spent(op: OIDCServer) -> None:
    token = op.session()["refresh_token"]
    op.fault("after", "delay", ms=100, times=2)
    form = {"grant_type": "refresh_token", "refresh_token": token}
    outcomes: list[int] = []
    async with httpx.AsyncClient(
        trust_env=False, auth=(quote_plus(BASIC), quote_plus(SECRET))
    ) as client:

        async def once() -> None:
            outcomes.append((await client.post(op.token_endpoint, data=form)).status_code)

        async with anyio.create_task_group() as group:
            group.start_soon(once)
            group.start_soon(once)
    stats = op.stats()
    assert sorted(outcomes) == [200, 400]
    assert stats["refresh_tokens"][hash_of(token)] == {"presented": 2, "spent": 1}
    assert stats["most_in_flight"] == 2


def test_thirty_sessions_take_a_moment(op: OIDCServer) -> None:
    began = time.monotonic()
    tokens = {op.session(f"person{number}")["refresh_token"] for number in range(30)}
    assert len(tokens) == 30
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda op: op.session(client_id="nobody"),
        lambda op: op.settings(colour=1),
        lambda op: op.fault("during", "drop"),
        lambda op: op.fault("before", "explode"),
        lambda op: op.client("broken", redirect_uris="nonsense"),
    ],
)
def test_a_wrong_control_call_says_so(op: OIDCServer, wrong: Callable[[OIDCServer], None]) -> None:
    with pytest.raises(ValueError, match=r"."):
        wrong(op)


# ---- signing in and out through pages


def first_form(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", text):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        fields[attributes["name"]] = attributes["value"]
    return fields


def pkce() -> tuple[str, str]:
    verifier = secrets.token_urlsafe(32)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorize(
    op: OIDCServer, http: httpx.Client, challenge: str, client_id: str = BASIC
) -> httpx.Response:
    """Go to the authorization endpoint; return the sign-in page."""
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": REDIRECT_URI,
        "scope": "openid email profile offline_access",
        "prompt": "consent",
        "state": "the state",
        "nonce": "the nonce",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    return http.get(f"{op.issuer}/auth", params=parameters, follow_redirects=True)


def follow_to(target: str, http: httpx.Client, answer: httpx.Response) -> dict[str, str]:
    """Follow redirects until they leave for ``target``; return its query."""
    while not answer.headers["location"].startswith(target):
        answer = http.get(answer.headers["location"])
    query = urlsplit(answer.headers["location"]).query
    return {name: values[0] for name, values in parse_qs(query).items()}


def sign_in(
    op: OIDCServer, http: httpx.Client, login: str, client_id: str = BASIC
) -> dict[str, Any]:
    """The whole authorization code flow with PKCE."""
    verifier, challenge = pkce()
    page = authorize(op, http, challenge, client_id)
    assert list(first_form(page.text)) == ["login"]
    back = follow_to(REDIRECT_URI, http, http.post(page.url, data={"login": login}))
    assert (back["state"], back["iss"]) == ("the state", op.issuer)
    form = {
        "grant_type": "authorization_code",
        "code": back["code"],
        "redirect_uri": REDIRECT_URI,
        "code_verifier": verifier,
    }
    answer = as_client(http, op.token_endpoint, form, client_id)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


@pytest.mark.parametrize("client_id", [BASIC, POST, PUBLIC])
def test_signing_in_takes_one_form(
    op: OIDCServer, http: httpx.Client, refresh: Refresh, client_id: str
) -> None:
    tokens = sign_in(op, http, "ada", client_id)
    assert op.alive(tokens["access_token"])
    payload = tokens["id_token"].split(".")[1]
    claims = httpx.Response(200, content=base64.urlsafe_b64decode(payload + "==")).json()
    assert (claims["sub"], claims["aud"]) == ("ada", client_id)
    assert (claims["nonce"], claims["iss"]) == ("the nonce", op.issuer)
    assert (claims["email"], claims["name"]) == ("ada@example.test", "Ada")
    assert op.alive(refresh(tokens["refresh_token"], client_id).json()["access_token"])
    assert op.stats()["token_calls"]["authorization_code"] == {"ok": 1}


def test_who_is_signed_in_at_the_provider_only_confirms(op: OIDCServer, http: httpx.Client) -> None:
    sign_in(op, http, "ada")
    page = authorize(op, http, pkce()[1])
    assert first_form(page.text) == {"login": "ada"}
    assert sign_in(op, http, "ada")["refresh_token"]


def test_a_person_may_refuse(op: OIDCServer, http: httpx.Client) -> None:
    page = authorize(op, http, pkce()[1])
    back = follow_to(REDIRECT_URI, http, http.get(f"{page.url}?refuse"))
    assert back["error"] == "access_denied"


def test_an_empty_login_is_refused(op: OIDCServer, http: httpx.Client) -> None:
    page = authorize(op, http, pkce()[1])
    assert http.post(page.url, data={"login": ""}).status_code == 400


def test_pushed_authorization_requests_are_taken(op: OIDCServer, http: httpx.Client) -> None:
    form = {"client_id": BASIC, "response_type": "code", "scope": "openid"}
    form["redirect_uri"] = REDIRECT_URI
    pushed = as_client(http, f"{op.issuer}/request", form)
    assert pushed.status_code == 201, pushed.text
    asked = {"client_id": BASIC, "request_uri": pushed.json()["request_uri"]}
    page = http.get(f"{op.issuer}/auth", params=asked, follow_redirects=True)
    assert "login" in first_form(page.text)


def test_a_client_can_be_added_while_the_server_runs(op: OIDCServer) -> None:
    op.client("late", redirect_uris=[REDIRECT_URI], token_endpoint_auth_method="none")
    assert op.alive(op.session(client_id="late")["access_token"])


def test_signing_out_at_the_provider_tells_the_client_and_leaves_offline_tokens_alive(
    op: OIDCServer, http: httpx.Client, refresh: Refresh, listener: Listener
) -> None:
    """Back-channel logout (OpenID Connect Back-Channel Logout §2.5) reaches a loopback client."""
    home = "http://127.0.0.1:8000/"
    op.client(
        "told",
        redirect_uris=[REDIRECT_URI],
        post_logout_redirect_uris=[home],
        token_endpoint_auth_method="none",
        backchannel_logout_uri=listener.url,
        backchannel_logout_session_required=True,
    )
    tokens = sign_in(op, http, "ada", "told")
    hint = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": home}
    page = http.get(f"{op.issuer}/session/end", params=hint)
    form = {**first_form(page.text), "logout": "yes"}
    done = http.post(f"{op.issuer}/session/end/confirm", data=form)
    assert done.headers["location"] == home
    assert len(listener.forms) == 1
    assert refresh(tokens["refresh_token"], "told").status_code == 200


# ---- processes


def test_a_program_that_never_gets_ready_shows_what_it_wrote() -> None:
    sleeper = [sys.executable, "-c", "print('so far', flush=True); import time; time.sleep(60)"]
    with (
        pytest.raises(NotReady, match=r"(?s)not ready within 0\.3 s.*so far"),
        start(sleeper, ready=re.compile("never"), timeout=0.3),
    ):
        pass


def test_a_program_that_ends_early_shows_what_it_wrote() -> None:
    with (
        pytest.raises(NotReady, match=r"(?s)ended with status 3.*oh no"),
        start([sys.executable, "-c", "print('oh no'); exit(3)"], ready=re.compile("never")),
    ):
        pass


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether no such process runs any more; a zombie that nobody reaps counts as gone."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


FAMILY = "sleep 300 & echo pid:$!: && wait"


def test_children_of_a_child_end_with_it() -> None:
    with start(["sh", "-c", FAMILY], ready=re.compile(r"pid:\d+:")) as process:
        grandchild = int(process.output().split(":")[1])
    assert not process.alive
    assert gone(grandchild)


def test_a_stopped_program_is_ended_too() -> None:
    with start(["sh", "-c", FAMILY], ready=re.compile(r"pid:\d+:")) as process:
        process.signal(signal.SIGSTOP)
    assert not process.alive


def test_nothing_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import re, time
        from tests.processes import start
        with start(["sh", "-c", {FAMILY!r}], ready=re.compile(r"pid:\\d+:")) as process:
            print(process.output(), flush=True)
            time.sleep(60)
        """
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, env=env
    )
    assert run.stdout is not None
    with run.stdout:
        grandchild = int(run.stdout.readline().split(b":")[1])
    run.kill()
    run.wait()
    assert gone(grandchild)


def test_uvicorn_serves_with_every_worker_ready(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(
        textwrap.dedent(
            """
            import os

            async def app(scope, receive, send):
                if scope["type"] != "http":
                    raise RuntimeError("no lifespan here")
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": os.environ["SAYS"].encode()})
            """
        )
    )
    with uvicorn("served:app", workers=2, env={"SAYS": "hello"}, cwd=tmp_path) as server:
        assert httpx.get(server.url, trust_env=False).text == "hello"
        assert server.process.output().count("Started server process") == 2
    assert not listens(server.port)


def test_redis_starts_empty_and_ends() -> None:
    with redis_server() as server:
        assert listens(server.port)
    assert not listens(server.port)


def test_what_is_missing_skips_by_name_and_fails_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FASTAPI_IDEAL_AUTH_REQUIRE_REAL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed: no-such-program"):
        require_program("no-such-program")
    monkeypatch.setenv("FASTAPI_IDEAL_AUTH_REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match="because"):
        missing("because")


def test_chromium_is_an_executable() -> None:
    assert os.access(require_chromium(), os.X_OK)


def test_nothing_is_installed_inside_the_repository() -> None:
    assert sorted(entry.name for entry in HERE.iterdir()) == ["package.json", "server.mjs"]
