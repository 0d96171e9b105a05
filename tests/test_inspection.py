"""``python -m fastapi_ideal_auth inspect``: all that an operator needs, and nothing to steal."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from fastapi_ideal_auth import AESGCMSealer, ConfigurationError, IdealAuth, IronSealer, MemoryStore
from fastapi_ideal_auth.__main__ import secrets_in
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import Generation, ResourceToken, begin, label
from fastapi_ideal_auth.inspection import report
from fastapi_ideal_auth.seal import KeyRing, b64encode

from .support import SECRET, User
from .test_shared_session import Camel

OTHER = "another-secret-of-these-tests-that-is-as-long"
NOW = 1_800_000_000
SEALERS = pytest.mark.parametrize("sealer", [AESGCMSealer(), IronSealer()], ids=["native", "iron"])


def jwt(claims: dict[str, Any], alg: str = "RS256") -> str:
    def part(what: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(what).encode()).rstrip(b"=").decode()

    return f"{part({'alg': alg, 'kid': 'key-1'})}.{part(claims)}.{'s' * 40}"


ACCESS = jwt({"sub": "ada", "exp": NOW + 300, "roles": ["admin"]})
USER = Camel(
    id="user-1",
    email="ada@example.test",
    display_name="Ada",
    access_token=ACCESS,
    refresh_token="refresh-token-of-ada",
    expires_at=NOW + 300,
)


def auth_with(sealer: Any, **options: Any) -> IdealAuth[Any]:
    settings = {"secret": SECRET, "store": MemoryStore(), **options}
    return IdealAuth(Camel, sealer=sealer, **settings)


def generation(auth: IdealAuth[Any], user: User = USER) -> Generation[Any]:
    begun = begin(user, now=NOW, remember=None, lifetimes=auth.lifetimes)
    held = ResourceToken("https://api.example", "resource-token-of-ada", NOW + 60, NOW)
    return begun._replace(gen=3, resources=(held,))


def header_of(auth: IdealAuth[Any], user: User = USER) -> str:
    lines = auth.cookie_lines(generation(auth, user), read("", auth.cookies), now=NOW)
    return "; ".join(line.partition(";")[0] for line in lines)


def told(text: str, *, secret: Any = SECRET, now: float = NOW + 10, **options: Any) -> str:
    settings = {"cookie_name": "ideal_session", **options}
    found = report(text, ring=KeyRing(secret), now=now, **settings)
    assert found.good == found.lines[-1].startswith("good")
    return "\n".join(found.lines)


@SEALERS
def test_a_good_cookie_is_told_without_a_token_or_a_value(sealer: Any) -> None:
    auth = auth_with(sealer)
    text = told(header_of(auth))
    assert text.endswith("good: a live session, unless it was signed out in the store")
    assert "generation 3" in text
    assert "signed in   2027-01-15 08:00:00 UTC (10 seconds ago)" in text
    assert "ends        2027-01-22 08:00:00 UTC (in 6 days)" in text
    assert f"{len(ACCESS)} characters, a JWT, alg RS256, exp {NOW + 300}" in text
    assert "20 characters" in text
    assert "(secret 1 of 1)" in text
    for secret in (ACCESS, *ACCESS.split("."), "of-ada", "ada@", "Ada", "admin", "user-1", SECRET):
        assert secret not in text


@SEALERS
def test_a_value_a_pair_and_a_header_read_the_same(sealer: Any) -> None:
    pair = header_of(auth_with(sealer))
    value = pair.partition("=")[2]
    header = f"Cookie: theme=dark; {pair}; other=1\n"
    assert told(value) == told(pair) == told(header) == told(f"  {pair}\n")


@SEALERS
def test_a_cookie_in_parts_is_put_together(sealer: Any) -> None:
    auth = auth_with(sealer)
    header = header_of(auth, USER.model_copy(update={"display_name": "x" * 6_000}))
    assert header.count("; ") >= 1
    text = told(header)
    assert " 6002  display" in text
    assert "good" in text.splitlines()[-1]
    first = header.partition(";")[0]
    assert "bad: " in told(first)


@SEALERS
def test_the_secret_that_fits_is_named(sealer: Any) -> None:
    header = header_of(auth_with(sealer))
    assert "(secret 2 of 2)" in told(header, secret=[OTHER, SECRET])


@SEALERS
def test_the_session_is_named_as_in_the_logs(sealer: Any) -> None:
    auth = auth_with(sealer)
    begun = generation(auth)
    lines = auth.cookie_lines(begun, read("", auth.cookies), now=NOW)
    text = told(lines[0].partition(";")[0])
    assert label(begun.sid) in text
    assert b64encode(begun.sid) not in text
    assert begun.sid.hex() not in text


@SEALERS
def test_a_session_that_has_ended_is_told_and_bad(sealer: Any) -> None:
    text = told(header_of(auth_with(sealer)), now=NOW + 10_000_000)
    assert "generation 3" in text
    assert text.splitlines()[-1] in ("bad: the session has ended", "bad: it has expired")


def changed(header: str, at: int) -> str:
    name, _, value = header.partition("=")
    at %= len(value)
    return f"{name}={value[:at]}{'A' if value[at] != 'A' else 'B'}{value[at + 1 :]}"


NATIVE_FAULTS = {
    "another secret": (lambda h: h, {"secret": OTHER}, "none of the secrets has its key id"),
    "another purpose": (lambda h: h, {"purpose": "login"}, "another purpose or cookie name"),
    "its end": (lambda h: changed(h, -3), {}, "ciphertext is damaged"),
    "its salt": (lambda h: changed(h, 12), {}, "its salt is damaged"),
    "cut short": (lambda h: h[: len("__Host-ideal_session=") + 40], {}, "cut off, or of another"),
    "another version": (lambda h: h.replace("=A", "=C", 1), {}, "of a version"),
    "no base64url": (lambda h: h + "!", {}, "neither base64url nor Fe26.2"),
}
IRON_FAULTS = {
    "another secret": (lambda h: h, {"secret": OTHER}, "no secret gives its MAC"),
    "another purpose": (lambda h: h, {"purpose": "login"}, "made for session:ideal_session"),
    "its ciphertext": (lambda h: changed(h, 120), {}, "no secret gives its MAC"),
    "cut short": (lambda h: h[:60], {}, "cut off, or of another format"),
}


@pytest.mark.parametrize("fault", NATIVE_FAULTS)
def test_a_native_cookie_is_told_which_check_it_failed(fault: str) -> None:
    change, options, reason = NATIVE_FAULTS[fault]
    text = told(change(header_of(auth_with(AESGCMSealer()))), **options)
    assert text.splitlines()[-1].startswith("bad: ")
    assert reason in text


@pytest.mark.parametrize("fault", IRON_FAULTS)
def test_an_iron_cookie_is_told_which_check_it_failed(fault: str) -> None:
    change, options, reason = IRON_FAULTS[fault]
    text = told(change(header_of(auth_with(IronSealer()))), **options)
    assert text.splitlines()[-1].startswith("bad: ")
    assert reason in text


def test_another_cookie_name_is_another_use() -> None:
    for sealer in (AESGCMSealer(), IronSealer()):
        value = header_of(auth_with(sealer, cookie_name="admin")).partition("=")[2]
        assert "another purpose" in told(value) or "made for session:admin" in told(value)
        assert "good" in told(value, cookie_name="admin").splitlines()[-1]
        assert "good" in told(value, cookie_name="__Host-admin").splitlines()[-1]


def test_a_header_without_the_cookie_names_what_is_there() -> None:
    assert "names found: a, b" in told("a=1; b=2")
    assert "names found: none" in told("")
    assert "\x1b" not in told("\x1b[2J=1; b=2")


def iron_of(payload: object) -> str:
    from fastapi_ideal_auth import iron

    return iron.seal(
        json.dumps(payload).encode(),
        password=iron.Password("1", SECRET.encode()),
        expires_at=None,
        random_bytes=os.urandom,
    )


@pytest.mark.parametrize("payload", [{}, None, [], {"uid": "1"}, {"data": 7, "iat": 1, "exp": 2}])
def test_a_seal_with_something_else_inside_is_no_session(payload: object) -> None:
    assert "no session that this version can read" in told(iron_of(payload))


def test_a_native_seal_with_something_else_inside_is_no_session() -> None:
    sealed = KeyRing(SECRET).seal(b"else", purpose="session", binding=b"__Host-ideal_session")
    assert "no session that this version can read" in told(b64encode(sealed))


def test_a_session_of_nodes_alone_is_told_too() -> None:
    data = {"accessToken": ACCESS, "expiresAt": NOW + 60, "\x1b[31m": 1}
    text = told(node_session(data))
    assert "(without sid, gen, kept: an id made from its user and tokens)" in text
    assert "expires_at  2027-01-15 08:01:00 UTC (in 50 seconds)" in text
    assert "\x1b" not in text
    assert "good" in text


def node_session(data: dict[str, Any], **members: Any) -> str:
    return iron_of({"uid": "1", "iat": NOW, "exp": NOW + 100, "ttl": 100, "data": data} | members)


def test_a_session_that_node_refreshed_is_named_as_in_the_logs_too() -> None:
    """Node carries sid, gen and kept along, and for other tokens they do not count."""
    auth = auth_with(IronSealer())
    codec: Any = auth._formats[0].codec
    payload = json.loads(codec.pack(generation(auth)))
    assert f"session     {label(codec.unpack(as_json(payload)).sid)}, generation 3\n" in told(
        iron_of(payload)
    )
    payload["data"]["accessToken"] = "another"
    name = label(codec.unpack(as_json(payload)).sid)
    assert f"{name}, generation 1 (tokens or user changed since" in told(iron_of(payload))


def as_json(payload: object) -> bytes:
    return json.dumps(payload).encode()


@pytest.mark.parametrize(
    "data",
    [
        {"accessToken": ACCESS, "refreshToken": 7},
        {"accessToken": ACCESS, "expiresAt": NOW + 0.5},
        {"token": ACCESS},
        {},
    ],
)
def test_tokens_that_no_model_reads_are_told(data: dict[str, Any]) -> None:
    text = told(node_session(data))
    assert "not readable here: accessToken is text, expiresAt whole seconds" in text
    assert ACCESS not in text


def test_milliseconds_are_told() -> None:
    assert "expires_at  no date: seconds" in told(
        node_session({"accessToken": ACCESS, "expiresAt": NOW * 1000})
    )


@pytest.mark.parametrize(
    "data",
    [
        {"gen": "a secret thing", "sid": "AAAAAAAAAAAAAAAAAAAAAA"},
        {"sid": "a secret thing"},
        {"kept": {"for": {"a secret": "thing"}}},
        {"kept": {"at": "a secret thing", "until": "a secret thing"}},
    ],
)
def test_no_value_is_told_wherever_node_put_it(data: dict[str, Any]) -> None:
    assert "secret thing" not in told(node_session({"accessToken": "a", **data}))


def test_a_long_key_id_is_cut() -> None:
    head, _, rest = iron_of({}).partition("*1*")
    assert max(map(len, told(f"{head}*{'9' * 5_000}*{rest}").splitlines())) < 120


def test_the_cookie_that_a_native_seal_is_of_is_told() -> None:
    assert "sealed for  __Host-ideal_session\n" in told(header_of(auth_with(AESGCMSealer())))
    plain = header_of(auth_with(AESGCMSealer(), cookie_secure=False))
    assert "sealed for  ideal_session\n" in told(plain)


@pytest.mark.parametrize(
    "token",
    ["opaque", "a.b.c", jwt({}, alg="no; such\nalg"), f"{b64encode(b'[]')}.{b64encode(b'[]')}.s"],
)
def test_what_is_no_jwt_is_told_by_its_length_alone(token: str) -> None:
    data = {"accessToken": token}
    text = told(iron_of({"uid": "1", "iat": NOW, "exp": NOW + 100, "ttl": 100, "data": data}))
    assert f"accessToken: {len(token)} characters\n" in text


def test_other_purposes_are_opened_and_not_told() -> None:
    sealed = KeyRing(SECRET).seal(b"an attempt", purpose="login", binding=b"__Host-a-login-1")
    found = report(
        b64encode(sealed),
        ring=KeyRing(SECRET),
        cookie_name="__Host-a-login-1",
        purpose="login",
        now=NOW,
    )
    assert found.good
    assert "an attempt" not in "\n".join(found.lines)


# -- the command ----------------------------------------------------------------------------------


def run(text: str, env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastapi_ideal_auth", "inspect", *arguments]
    rest = {name: value for name, value in os.environ.items() if name != "IDEAL_AUTH_SECRET"}
    return subprocess.run(
        command, input=text, env=rest | env, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_command_reads_standard_input_and_the_environment() -> None:
    auth = IdealAuth(Camel, secret=SECRET, sealer=IronSealer(), store=MemoryStore())
    user = USER.model_copy(update={"expires_at": None})
    import time

    begun = begin(user, now=time.time(), remember=None, lifetimes=auth.lifetimes)
    (line,) = auth.cookie_lines(begun, read("", auth.cookies), now=time.time())
    cookie = line.partition(";")[0]
    good = run(cookie, {"IDEAL_AUTH_SECRET": f"{OTHER}\n{SECRET}\n"})
    assert (good.returncode, good.stderr) == (0, "")
    assert "(secret 2 of 2)" in good.stdout
    bad = run(cookie, {"IDEAL_AUTH_SECRET": OTHER})
    assert (bad.returncode, bad.stderr) == (1, "")
    assert bad.stdout.splitlines()[-1].startswith("bad: no secret gives its MAC")
    elsewhere = run(cookie, {"MINE": SECRET}, "--secret-variable", "MINE")
    assert elsewhere.returncode == 0
    none = run(cookie, {})
    assert none.returncode == 2
    assert "IDEAL_AUTH_SECRET" in none.stderr
    assert cookie not in good.stdout + bad.stdout + none.stderr
    assert run("", {"IDEAL_AUTH_SECRET": SECRET}).returncode == 1
    assert run("", {"IDEAL_AUTH_SECRET": SECRET}, cookie).returncode == 2  # never an argument


def test_bytes_of_no_encoding_upset_no_one() -> None:
    command = [sys.executable, "-m", "fastapi_ideal_auth", "inspect"]
    env = os.environ | {"IDEAL_AUTH_SECRET": SECRET, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        command, input=b"\xff\xfe=1; b=2", env=env, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"names found: ??, b" in done.stdout


def test_who_runs_it_at_a_terminal_is_told_what_it_waits_for() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"a=1\n\x04")
        done = subprocess.run(
            [sys.executable, "-m", "fastapi_ideal_auth", "inspect"],
            stdin=theirs,
            env=os.environ | {"IDEAL_AUTH_SECRET": SECRET},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stderr.startswith("Paste the cookie, then Enter and Ctrl-D")
    assert "names found: a" in done.stdout


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        (SECRET, [SECRET]),
        (OTHER, [OTHER]),
        (f"{OTHER} {OTHER}2", [OTHER, f"{OTHER}2"]),
        (f" {SECRET}\n\n{OTHER}\n", [SECRET, OTHER]),
        (f"{OTHER} short", [f"{OTHER} short"]),
    ],
)
def test_secrets_stand_a_line_each_or_apart(value: str, secrets: list[str]) -> None:
    assert secrets_in({"IDEAL_AUTH_SECRET": value}, "IDEAL_AUTH_SECRET") == secrets


@pytest.mark.parametrize("environment", [{}, {"IDEAL_AUTH_SECRET": " \n "}])
def test_without_a_secret_there_is_nothing_to_open_with(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        secrets_in(environment, "IDEAL_AUTH_SECRET")


def test_a_purpose_that_no_seal_can_have_is_wrong_usage() -> None:
    answer = run("x", {"IDEAL_AUTH_SECRET": SECRET}, "--purpose", "ü" * 128)
    assert answer.returncode == 2
    assert "at most 255 bytes" in answer.stderr
