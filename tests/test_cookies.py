"""Cookies as the wire has them, and a browser that drops, keeps and hears answers out of order."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastapi_ideal_auth import ConfigurationError, CookieTooLarge, IdealAuth, MemoryStore
from fastapi_ideal_auth.cookies import (
    LONGEST,
    MAX_CHUNKS,
    CookieSettings,
    Presented,
    candidates,
    clear_cookie_line,
    clear_lines,
    read,
    set_cookie_line,
    set_lines,
)
from fastapi_ideal_auth.generation import Generation, begin

from .support import SECRET, User

HOST = CookieSettings.of()
NAME = "__Host-ideal_session"
PLAIN = CookieSettings.of(name="s", secure=False)
NOTHING = Presented()
WEEK = 604_800


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "bare", "chunks", "names"),
    [
        # nothing of ours
        (None, None, (), ()),
        (b"", None, (), ()),
        (b"a=1; b=2", None, (), ()),
        (b"s", None, (), ()),
        (b"s;", None, (), ()),
        (b"=s", None, (), ()),
        (b"x=s=1", None, (), ()),
        (b"xs=1", None, (), ()),
        (b"sx=1", None, (), ()),
        (b"s-=1", None, (), ()),
        (b"S=1", None, (), ()),
        (b"s =1", None, (), ()),
        (b"a=1,s=1", None, (), ()),
        # the whole cookie
        (b"s=v", "v", (), ("s",)),
        (b"s=", "", (), ("s",)),
        (b"s==", "=", (), ("s",)),
        (b"s=v=w", "v=w", (), ("s",)),
        (b"a=1; s=v; b=2", "v", (), ("s",)),
        (b"a=1;s=v;b=2", "v", (), ("s",)),
        (b" \t s=v \t ", "v", (), ("s",)),
        (b"s= v ", "v", (), ("s",)),
        (b's="v"', "v", (), ("s",)),
        (b"s=v;", "v", (), ("s",)),
        (b";;s=v;;", "v", (), ("s",)),
        (b"a; s=v; =; b", "v", (), ("s",)),
        (b"sx=1; s=v; s.x=2", "v", (), ("s",)),
        # the first of a name counts
        (b"s=v; s=w", "v", (), ("s",)),
        (b"s=; s=w", "", (), ("s",)),
        (b"s.0=a; s.0=b", None, ("a",), ("s.0",)),
        # chunks
        (b"s.0=a; s.1=b", None, ("a", "b"), ("s.0", "s.1")),
        (b"s.1=b; s.0=a", None, ("a", "b"), ("s.1", "s.0")),
        (b"s.0=a; s.1=b; s.2=c; s.3=d", None, tuple("abcd"), ("s.0", "s.1", "s.2", "s.3")),
        (b"s.0=a; s.2=c", None, ("a",), ("s.0", "s.2")),
        (b"s.1=b", None, (), ("s.1",)),
        (b"s=v; s.0=a", "v", ("a",), ("s", "s.0")),
        # chunks that are none
        (b"s.4=e", None, (), ()),
        (
            b"s.0=a; s.1=b; s.2=c; s.3=d; s.4=e",
            None,
            tuple("abcd"),
            tuple(f"s.{n}" for n in range(4)),
        ),
        (b"s.=x", None, (), ()),
        (b"s.00=x", None, (), ()),
        (b"s.01=x", None, (), ()),
        (b"s.-1=x", None, (), ()),
        (b"s.+1=x", None, (), ()),
        (b"s.10=x", None, (), ()),
        (b"s.a=x", None, (), ()),
        (b"s.0x=x", None, (), ()),
        (b"s.0.0=x", None, (), ()),
        (b"s. 0=x", None, (), ()),
        (b"s.\xb2=x", None, (), ()),  # a superscript two in Latin-1
        (b"s./=x", None, (), ()),  # the neighbours of 0 and 9 in ASCII
        (b"s.:=x", None, (), ()),
        (b"s.0", None, (), ()),
        # bytes that no cookie should have
        (b"s=\xff\x00\xe9", "\xff\x00\xe9", (), ("s",)),
        (b"\xff\xfe; s=v; \x80=1", "v", (), ("s",)),
        ("s=é", "é", (), ("s",)),
        ("€=1; s=€", "?", (), ("s",)),
    ],
)
def test_what_a_header_presents(
    header: bytes | str | None, bare: str | None, chunks: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert read(header, PLAIN) == Presented(bare, chunks, names)


def test_a_prefixed_name_is_not_mistaken_for_its_likes() -> None:
    likes = (
        "__Host-ideal_sessionx=1; ideal_session=2; __Host-ideal_session-=3; __host-ideal_session=4"
    )
    assert not read(likes, HOST)
    assert read(f"{likes}; {NAME}=v", HOST) == Presented("v", (), (NAME,))


def test_a_name_with_regular_expression_signs_is_taken_literally() -> None:
    dotted = CookieSettings.of(name="a.b+c", secure=False)
    assert not read("aXb+c=1; abc=2", dotted)
    assert read("a.b+c=v; a.b+c.0=w", dotted) == Presented("v", ("w",), ("a.b+c", "a.b+c.0"))


@given(st.binary(max_size=60))
def test_no_bytes_are_an_error(noise: bytes) -> None:
    presented = read(noise + b"; s=v", PLAIN)
    assert presented
    list(candidates(presented))


@given(st.lists(st.sampled_from([b"s", b"=", b".", b"0", b"3", b";", b" ", b'"', b"\xff"])))
def test_no_mixture_of_its_signs_is_an_error(parts: list[bytes]) -> None:
    presented = read(b"".join(parts), PLAIN)
    assert bool(presented) == bool(presented.names)
    assert len(list(candidates(presented))) <= 1 + MAX_CHUNKS


@pytest.mark.parametrize(
    "header",
    [
        b"; " * 500_000,
        b"s=" * 500_000,
        b"s=;" * 300_000,
        b"s.0=;" * 200_000,
        b"s.;" * 300_000,
        b"s.0" * 300_000,
        b"s=" + b'"' * 1_000_000,
        b"s=" + b" " * 1_000_000 + b"x",
        b"".join(b"s.%d=v;" % n for n in range(120_000)),
        b"".join(b"c%d=v;" % n for n in range(120_000)) + b"s=v",
    ],
    ids=lambda header: repr(header[:6]),
)
def test_a_megabyte_of_header_is_read_in_one_pass(header: bytes) -> None:
    started = time.perf_counter()
    presented = read(header, PLAIN)
    assert time.perf_counter() - started < 1
    assert len(presented.names) <= 1 + MAX_CHUNKS


def test_candidates_are_the_bare_cookie_and_then_the_longest_run_first() -> None:
    presented = read("s.2=c; s=v; s.0=a; s.1=b", PLAIN)
    assert list(candidates(presented)) == ["v", "abc", "ab", "a"]
    assert list(candidates(NOTHING)) == []
    assert list(candidates(read("s=", PLAIN))) == [""]


# -- attributes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, f"{NAME}=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=Lax"),
        ({"name": "n"}, "__Host-n=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=Lax"),
        ({"secure": False}, "ideal_session=v; Path=/; Max-Age=9; HttpOnly; SameSite=Lax"),
        (
            {"domain": "a.example"},
            "ideal_session=v; Path=/; Domain=a.example; Max-Age=9; HttpOnly; Secure; SameSite=Lax",
        ),
        ({"path": "/app"}, "ideal_session=v; Path=/app; Max-Age=9; HttpOnly; Secure; SameSite=Lax"),
        ({"samesite": "strict"}, f"{NAME}=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=Strict"),
        ({"samesite": "none"}, f"{NAME}=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=None"),
        (
            {"secure": False, "domain": "localhost", "path": "/a b", "samesite": "strict"},
            "ideal_session=v; Path=/a b; Domain=localhost; Max-Age=9; HttpOnly; SameSite=Strict",
        ),
    ],
)
def test_each_setting_shows_in_the_line(options: dict[str, Any], line: str) -> None:
    chosen = CookieSettings.of(**options)
    assert set_lines("v", chosen, NOTHING, max_age=9) == [line]
    assert next(iter(chosen.names)) == chosen.name.encode()


def test_a_line_may_have_a_same_site_of_its_own() -> None:
    line = set_cookie_line("n", "v", PLAIN, max_age=9, samesite="strict")
    assert line.endswith("; SameSite=Strict")


@pytest.mark.parametrize("size", [10, 9_000])
def test_a_browser_session_cookie_has_neither_max_age_nor_expires(size: int) -> None:
    for line in set_lines("v" * size, HOST, NOTHING, max_age=None):
        assert "max-age" not in line.lower()
        assert "expires" not in line.lower()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"secure": False},
        {"domain": "a.example"},
        {"path": "/app"},
        {"samesite": "strict"},
        {"samesite": "none"},
    ],
)
def test_a_clear_carries_the_attributes_the_cookie_was_set_with(options: dict[str, Any]) -> None:
    # A browser forgets by name, domain and path; and takes a Secure name from Secure lines only.
    chosen = CookieSettings.of(**options)
    told = set_cookie_line(chosen.name, "", chosen, max_age=None).split("; ")
    cleared = clear_cookie_line(chosen.name, chosen).split("; ")
    assert cleared[0] == f"{chosen.name}="
    assert [part for part in cleared if part not in told] == [
        "Max-Age=0",
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
    ]
    assert set(told) <= set(cleared)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "cookie_name"),
        ({"name": "a b"}, "cookie_name"),
        ({"name": "a=b"}, "cookie_name"),
        ({"name": "a;b"}, "cookie_name"),
        ({"name": "a\n"}, "cookie_name"),
        ({"name": "ä"}, "cookie_name"),
        ({"name": "__Host-a"}, "leave the prefix out"),
        ({"name": "__SECURE-a"}, "leave the prefix out"),
        ({"samesite": "Lax"}, "cookie_samesite"),
        ({"samesite": ""}, "cookie_samesite"),
        ({"samesite": "none", "secure": False}, "cookie_secure=True"),
        ({"domain": ""}, "cookie_domain"),
        ({"domain": "a.example; HttpOnly"}, "cookie_domain"),
        ({"domain": "a.example\r\nX: y"}, "cookie_domain"),
        ({"domain": "https://a.example"}, "cookie_domain"),
        ({"domain": "a.example:8000"}, "cookie_domain"),
        ({"domain": "a_b"}, "cookie_domain"),
        ({"domain": "-a"}, "cookie_domain"),
        ({"domain": "bücher.example"}, "cookie_domain"),
        ({"path": ""}, "cookie_path"),
        ({"path": "app"}, "cookie_path"),
        ({"path": "/a;Domain=b"}, "cookie_path"),
        ({"path": "/a\r\nX: y"}, "cookie_path"),
        ({"path": "/\x7f"}, "cookie_path"),
        ({"path": "/ä"}, "cookie_path"),
    ],
)
def test_an_attribute_that_browsers_refuse_is_refused_first(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        CookieSettings.of(**options)


# -- cutting --------------------------------------------------------------------------------------

SHAPES = [
    (HOST, WEEK),
    (HOST, None),
    (PLAIN, 0),
    (
        CookieSettings.of(name="n" * 60, domain="a.very.long.example", path="/" + "p" * 200),
        2_592_000,
    ),
]


def room(chosen: CookieSettings, max_age: int | None, *, chunk: bool) -> int:
    """Bytes of value in one line of 4,096."""
    name = f"{chosen.name}.0" if chunk else chosen.name
    return 4096 - len(set_cookie_line(name, "", chosen, max_age=max_age))


def values(lines: list[str]) -> dict[str, str]:
    return dict(line.split("; ")[0].split("=", 1) for line in lines)


@pytest.mark.parametrize(("chosen", "max_age"), SHAPES)
def test_a_line_of_4096_bytes_is_whole_and_one_byte_more_is_cut(
    chosen: CookieSettings, max_age: int | None
) -> None:
    most = room(chosen, max_age, chunk=False)
    for size in (most - 1, most):
        (line,) = set_lines("v" * size, chosen, NOTHING, max_age=max_age)
        assert len(line) == 4096 - (most - size)
    cut = set_lines("v" * (most + 1), chosen, NOTHING, max_age=max_age)
    assert [line.split("=")[0] for line in cut] == [f"{chosen.name}.0", f"{chosen.name}.1"]


@pytest.mark.parametrize(("chosen", "max_age"), SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_full_chunks_hold_to_the_last_byte(
    chosen: CookieSettings, max_age: int | None, count: int
) -> None:
    full = count * room(chosen, max_age, chunk=True)
    for size in (full - 1, full):
        lines = set_lines("v" * size, chosen, NOTHING, max_age=max_age)
        assert len(lines) == count
        assert [len(line) for line in lines] == [4096] * (count - 1) + [4096 - (full - size)]
    if count < MAX_CHUNKS:
        assert len(set_lines("v" * (full + 1), chosen, NOTHING, max_age=max_age)) == count + 1
    else:
        with pytest.raises(CookieTooLarge):
            set_lines("v" * (full + 1), chosen, NOTHING, max_age=max_age)


def test_a_path_that_leaves_no_room_is_too_large_rather_than_silent() -> None:
    # 4,096 bytes of attributes: nothing can be set, and an answer without a cookie would lose it.
    long = CookieSettings.of(path="/" + "p" * 4100)
    with pytest.raises(CookieTooLarge):
        set_lines("v" * 100, long, NOTHING, max_age=None)


@given(st.integers(0, 17_000), st.sampled_from(SHAPES))
def test_what_is_cut_is_read_back(size: int, shape: tuple[CookieSettings, int | None]) -> None:
    chosen, max_age = shape
    value = "".join(random.Random(size).choices("ABCDEFGH", k=size))
    try:
        lines = set_lines(value, chosen, NOTHING, max_age=max_age)
    except CookieTooLarge:
        assert size > MAX_CHUNKS * (LONGEST - 400)
        return
    assert max(map(len, lines)) <= 4096
    assert len(lines) <= MAX_CHUNKS
    header = "; ".join(f"{name}={part}" for name, part in values(lines).items())
    assert next(candidates(read(header, chosen))) == value


def test_a_shrinking_session_clears_what_it_leaves_behind() -> None:
    four = read("s.0=a; s.1=b; s.2=c; s.3=d", PLAIN)
    lines = set_lines("v", PLAIN, four, max_age=9)
    assert lines[0].startswith("s=v; ")
    assert lines[1:] == [clear_cookie_line(f"s.{n}", PLAIN) for n in range(4)]
    two = set_lines("v" * 5_000, PLAIN, four, max_age=9)
    assert [line.split("=")[0] for line in two] == ["s.0", "s.1", "s.2", "s.3"]
    assert two[2:] == [clear_cookie_line("s.2", PLAIN), clear_cookie_line("s.3", PLAIN)]


def test_a_growing_session_clears_the_whole_cookie() -> None:
    lines = set_lines("v" * 5_000, PLAIN, read("s=v", PLAIN), max_age=9)
    assert [line.split("=")[0] for line in lines] == ["s.0", "s.1", "s"]
    assert lines[2] == clear_cookie_line("s", PLAIN)


def test_clearing_names_all_that_is_there_and_the_whole_cookie_always() -> None:
    presented = read("s.2=c; a=1; s.0=a; s.7=x", PLAIN)
    assert clear_lines(PLAIN, presented) == [
        clear_cookie_line(name, PLAIN) for name in ("s", "s.2", "s.0")
    ]
    assert clear_lines(PLAIN, NOTHING) == [clear_cookie_line("s", PLAIN)]


# -- a browser ------------------------------------------------------------------------------------


class Jar:
    """What Chromium does with Set-Cookie: over 4,096 bytes of name and value the line is dropped
    without a word, and the cookie that was there stays."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def hear(self, lines: list[str]) -> None:
        for line in lines:
            pair, *attributes = line.split("; ")
            name, value = pair.split("=", 1)
            if len(name) + len(value) > 4096:
                continue
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    @property
    def header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


NOW = 1_800_000_000.0
AUTH = IdealAuth(User, secret=SECRET, store=MemoryStore(), cookie_name="s", clock=lambda: NOW)
SIZES = st.one_of(
    st.integers(0, 13_000),
    st.sampled_from([2_700, 2_800, 2_850, 2_900, 5_700, 5_800, 8_600, 8_700, 11_500, 11_700]),
)


def generation(number: int, size: int) -> Generation[User]:
    user = User(id="1", access_token="t", name="n" * size)
    return begin(user, now=NOW, remember=None, lifetimes=AUTH.lifetimes)._replace(
        sid=b"a session of 16 ", gen=number
    )


class Browser(RuleBasedStateMachine):
    """Requests overlap, answers are late, lost or in any order, and cookies vanish one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.jar = Jar()
        self.sent: dict[int, Generation[User]] = {}
        self.under_way: list[tuple[int, list[str]]] = []

    def presented(self) -> Presented:
        return read(self.jar.header, AUTH.cookies)

    def session(self) -> Generation[User] | None:
        return AUTH.opened(self.presented(), now=NOW)

    def answered(self, size: int) -> tuple[int, list[str]] | None:
        """The server's answer to a request that is sent now."""
        made = generation(len(self.sent) + 1, size)
        try:
            lines = AUTH.cookie_lines(made, self.presented(), now=NOW)
        except CookieTooLarge:
            return None
        assert all(len(line) <= 4096 for line in lines)
        self.sent[made.gen] = made
        return made.gen, lines

    def deliver(self, answer: tuple[int, list[str]]) -> None:
        number, lines = answer
        self.jar.hear(lines)
        got = self.session()
        # All of the last answer is in the jar, so it, or a newer one that is whole, is the session.
        assert got is not None
        assert got.gen >= number

    @rule(size=SIZES)
    def a_request_is_answered_in_time(self, size: int) -> None:
        answer = self.answered(size)
        if answer is not None:
            self.deliver(answer)
            assert self.session() == self.sent[answer[0]]

    @rule(size=SIZES)
    def a_request_is_sent(self, size: int) -> None:
        answer = self.answered(size)
        if answer is not None:
            self.under_way.append(answer)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.under_way) - 1))
        self.deliver(self.under_way.pop(at))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def an_answer_is_lost(self, data: st.DataObject) -> None:
        self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))

    @precondition(lambda self: self.under_way)
    @rule()
    def all_answers_arrive_in_order(self) -> None:
        for answer in self.under_way:
            self.deliver(answer)
        newest = self.under_way[-1][0]
        self.under_way.clear()
        got = self.session()
        assert got is not None
        assert got.gen >= newest
        if newest == len(self.sent):
            assert got == self.sent[newest]

    @precondition(lambda self: self.jar.cookies)
    @rule(data=st.data())
    def the_browser_makes_room(self, data: st.DataObject) -> None:
        del self.jar.cookies[data.draw(st.sampled_from(sorted(self.jar.cookies)))]

    @invariant()
    def it_is_a_session_that_was_set_or_none(self) -> None:
        got = self.session()
        assert got is None or got == self.sent[got.gen]


def test_a_browser_that_hears_answers_in_any_order_never_has_a_mixture() -> None:
    run_state_machine_as_test(
        Browser, settings=settings(max_examples=150, stateful_step_count=25, deadline=None)
    )


@pytest.mark.parametrize("stale", [1, 2, 3])
@pytest.mark.parametrize("size", [100, 4_000, 7_000])
def test_stale_chunks_behind_a_good_set_do_no_harm(stale: int, size: int) -> None:
    jar = Jar()
    jar.hear(AUTH.cookie_lines(generation(1, 11_000), NOTHING, now=NOW))
    assert len(jar.cookies) == 4
    # The second was made for a request that carried none of them: nothing is cleared.
    second = generation(2, size)
    jar.hear(AUTH.cookie_lines(second, NOTHING, now=NOW))
    assert AUTH.opened(read(jar.header, AUTH.cookies), now=NOW) == second


def test_chunks_of_two_generations_are_no_session() -> None:
    jar, other = Jar(), Jar()
    jar.hear(AUTH.cookie_lines(generation(1, 5_000), NOTHING, now=NOW))
    other.hear(AUTH.cookie_lines(generation(2, 5_000), NOTHING, now=NOW))
    mixed = f"__Host-s.0={jar.cookies['__Host-s.0']}; __Host-s.1={other.cookies['__Host-s.1']}"
    assert AUTH.opened(read(mixed, AUTH.cookies), now=NOW) is None


def test_of_a_whole_and_a_cut_cookie_the_newer_generation_counts() -> None:
    for whole, cut in ((1, 2), (2, 1)):
        jar = Jar()
        jar.hear(AUTH.cookie_lines(generation(whole, 10), NOTHING, now=NOW))
        jar.hear(AUTH.cookie_lines(generation(cut, 5_000), NOTHING, now=NOW))
        got = AUTH.opened(read(jar.header, AUTH.cookies), now=NOW)
        assert got is not None
        assert got.gen == 2


def test_of_two_sessions_the_later_sign_in_counts_whatever_its_generation() -> None:
    # A refresh that grew the old session and a sign-in overlapped; neither answer could clear
    # what the other set.
    jar = Jar()
    jar.hear(AUTH.cookie_lines(generation(7, 10), NOTHING, now=NOW))
    presented = read(jar.header, AUTH.cookies)
    ada = User(id="2", access_token="t", name="Ada")
    signed_in = begin(ada, now=NOW + 5, remember=None, lifetimes=AUTH.lifetimes)
    jar.hear(AUTH.cookie_lines(generation(8, 5_000), presented, now=NOW + 4))
    jar.hear(AUTH.cookie_lines(signed_in, presented, now=NOW + 5))
    assert len(jar.cookies) == 3
    assert AUTH.opened(read(jar.header, AUTH.cookies), now=NOW + 6) == signed_in


def test_a_whole_cookie_that_is_damaged_does_not_hide_a_cut_one() -> None:
    jar = Jar()
    jar.hear(AUTH.cookie_lines(generation(3, 5_000), NOTHING, now=NOW))
    got = AUTH.opened(read(f"__Host-s=damaged; {jar.header}", AUTH.cookies), now=NOW)
    assert got is not None
    assert got.gen == 3


def test_too_large_a_session_names_the_bytes_of_each_field() -> None:
    with pytest.raises(CookieTooLarge, match=r"name 13002, ") as caught:
        AUTH.cookie_lines(generation(1, 13_000), NOTHING, now=NOW)
    assert caught.value.sizes["name"] == 13_002
    assert not re.search("nnn", str(caught.value))
