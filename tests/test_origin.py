"""The cross-origin guard against its table, and ``next`` against every trick that leads away."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_ideal_auth import ConfigurationError
from fastapi_ideal_auth.origin import CROSS_ORIGIN, CrossOriginGuard, local_path

from .processes import require_program

UNSAFE = ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "PROPFIND", "")
SAFE = ("GET", "HEAD", "OPTIONS")

HOST = "app.example"
TRUSTED = "https://spa.example"

ORIGINS: dict[str, str | None] = {
    "absent": None,
    "own": "https://app.example",
    "own-http": "http://app.example",
    "other-port": "https://app.example:8443",
    "subdomain": "https://www.app.example",
    "foreign": "https://evil.example",
    "trusted": "https://spa.example",
    "null": "null",
    "empty": "",
    "malformed": "https://app.example/",
}

# Origin        Sec-Fetch-Site:
TABLE = """
              absent  same-origin  none  same-site  cross-site  other
absent        pass    pass         pass  no         no          no
own           pass    pass         pass  no         no          no
own-http      pass    pass         pass  no         no          no
other-port    no      pass         pass  no         no          no
subdomain     no      pass         pass  no         no          no
foreign       no      pass         pass  no         no          no
trusted       pass    pass         pass  pass       pass        pass
null          no      pass         pass  no         no          no
empty         no      pass         pass  no         no          no
malformed     no      pass         pass  no         no          no
"""


def rows() -> list[tuple[str, str, bool]]:
    head, *lines = (line.split() for line in TABLE.strip().splitlines())
    return [
        (origin, site, verdict == "pass")
        for origin, *verdicts in lines
        for site, verdict in zip(head, verdicts, strict=True)
    ]


def headers(**given: str | None) -> list[tuple[bytes, bytes]]:
    return [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in given.items()
        if value is not None
    ]


def asked(origin: str, site: str, *, host: str = HOST) -> list[tuple[bytes, bytes]]:
    fetch = None if site == "absent" else site
    return headers(host=host, origin=ORIGINS[origin], sec_fetch_site=fetch, cookie="s=v")


GUARD = CrossOriginGuard.of([TRUSTED])


def test_the_table_is_whole() -> None:
    assert {origin for origin, _, _ in rows()} == set(ORIGINS)
    assert len(rows()) == len(ORIGINS) * 6


@pytest.mark.parametrize(("origin", "site", "passes"), rows())
def test_an_unsafe_request_is_judged_by_the_table(origin: str, site: str, passes: bool) -> None:
    for method in UNSAFE:
        verdict = GUARD.check(method, asked(origin, site))
        assert verdict == (None if passes else CROSS_ORIGIN)


@pytest.mark.parametrize(("origin", "site", "passes"), rows())
def test_a_websocket_handshake_is_judged_as_unsafe(origin: str, site: str, passes: bool) -> None:
    for method in ("GET", "CONNECT", ""):  # RFC 8441 has CONNECT; ASGI gives no method at all
        verdict = GUARD.check(method, asked(origin, site), websocket=True)
        assert verdict == (None if passes else CROSS_ORIGIN)


@pytest.mark.parametrize(("origin", "site"), [(origin, site) for origin, site, _ in rows()])
def test_a_safe_request_always_passes(origin: str, site: str) -> None:
    for method in SAFE:
        assert GUARD.check(method, asked(origin, site)) is None


def test_without_trusted_origins_none_is_trusted() -> None:
    verdict = CrossOriginGuard.of(()).check("POST", asked("trusted", "cross-site"))
    assert verdict == CROSS_ORIGIN
    assert CrossOriginGuard().check("POST", asked("trusted", "absent")) == CROSS_ORIGIN


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        # default ports
        ("https://a.example", "a.example:443", True),
        ("https://a.example:443", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("http://a.example:80", "a.example", True),
        ("https://a.example", "a.example:80", False),
        ("http://a.example", "a.example:443", False),
        ("https://a.example:80", "a.example", False),
        ("http://a.example:443", "a.example", False),
        # other ports
        ("http://a.example:8000", "a.example:8000", True),
        ("http://a.example:8000", "a.example:8001", False),
        ("http://a.example:8000", "a.example", False),
        ("http://a.example", "a.example:8000", False),
        # case
        ("https://A.Example", "a.example", True),
        ("https://a.example", "A.EXAMPLE:443", True),
        ("HTTPS://a.example", "a.example", True),
        # names that are alike
        ("https://a.example", "b.example", False),
        ("https://a.example.evil.example", "a.example", False),
        ("https://a.example", "a.example.evil.example", False),
        ("https://a.example", "xa.example", False),
        ("https://a.example.", "a.example", False),
        ("https://user@a.example", "a.example", False),
        ("https://evil.example@a.example", "a.example", False),
        # addresses
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://127.0.0.1:8000", "localhost:8000", False),
        ("http://[::1]", "[::1]", True),
        ("http://[::1]:80", "[::1]", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[2001:DB8::1]", "[2001:db8::1]", True),
        ("http://[::1]", "[::2]", False),
        ("http://[::1]", "::1", False),
        # what is no http origin
        ("null", "null", False),
        ("", "", False),
        ("a.example", "a.example", False),
        ("//a.example", "a.example", False),
        ("ftp://a.example", "a.example", False),
        ("ws://a.example", "a.example", False),
        ("chrome-extension://abcdef", "abcdef", False),
        ("file://", "a.example", False),
        ("https://", "a.example", False),
        ("https://:443", ":443", False),
        ("https://a.example, https://a.example", "a.example", False),
        ("https://a.example https://b.example", "a.example", False),
        ("https://a.example/", "a.example", False),
        ("https://a.example?", "a.example", False),
        ("https://a.example#", "a.example", False),
        ("https://a.example\\", "a.example", False),
        (" https://a.example", "a.example", False),
        ("https://a.example ", "a.example", False),
        ("https://a.example\n", "a.example", False),
        ("https://a.example:", "a.example", False),
        ("https://a.example:x", "a.example", False),
        ("https://a.example:-1", "a.example", False),
        ("https://a.example:999999", "a.example:999999", False),
        ("https://a\xe9.example", "a\xe9.example", False),
        # a host that is none
        ("https://a.example", "", False),
        ("https://a.example", "a.example/", False),
        ("https://a.example", "evil@a.example", False),
        ("https://a.example", "a.example, b.example", False),
        ("https://a.example", None, False),
    ],
)
def test_an_older_browser_is_judged_by_host_and_port(
    origin: str, host: str | None, passes: bool
) -> None:
    verdict = CrossOriginGuard().check("POST", headers(host=host, origin=origin))
    assert (verdict is None) is passes


@pytest.mark.parametrize("site", ["Same-Origin", "same-origin ", "", "none, none", "same_origin"])
def test_an_unknown_sec_fetch_site_does_not_pass(site: str) -> None:
    verdict = GUARD.check("POST", headers(host=HOST, origin=ORIGINS["own"], sec_fetch_site=site))
    assert verdict == CROSS_ORIGIN


@pytest.mark.parametrize(
    "twice",
    [
        headers(host=HOST, origin="https://app.example") + headers(origin="https://app.example"),
        headers(host=HOST, origin="https://app.example") + headers(origin="https://evil.example"),
        headers(host=HOST, origin=TRUSTED) + headers(origin="https://evil.example"),
        headers(host=HOST, sec_fetch_site="same-origin") + headers(sec_fetch_site="same-origin"),
        headers(host=HOST, sec_fetch_site="same-origin") + headers(sec_fetch_site="cross-site"),
        headers(host=HOST, origin="https://app.example") + headers(host=HOST),
        headers(host=HOST, origin="https://app.example") + headers(host="evil.example"),
    ],
)
def test_a_header_that_decides_and_comes_twice_does_not_pass(
    twice: list[tuple[bytes, bytes]],
) -> None:
    assert GUARD.check("POST", twice) == CROSS_ORIGIN
    assert GUARD.check("POST", twice[::-1]) == CROSS_ORIGIN
    assert GUARD.check("GET", twice) is None


def test_a_second_host_does_not_matter_where_the_browser_says_where_it_comes_from() -> None:
    both = headers(host=HOST, sec_fetch_site="same-origin") + headers(host="other.example")
    assert GUARD.check("POST", both) is None


def test_a_program_that_is_no_browser_passes() -> None:
    assert (
        GUARD.check("POST", headers(host=HOST, cookie="s=v", referer="https://evil.example"))
        is None
    )
    assert GUARD.check("POST", []) is None


@given(st.binary(max_size=40), st.binary(max_size=20), st.sampled_from(["POST", "GET"]))
def test_no_header_is_an_error_and_none_that_is_odd_passes(
    origin: bytes, host: bytes, method: str
) -> None:
    said = [(b"origin", origin), (b"host", host)]
    verdict = GUARD.check(method, said, websocket=True)
    if not re.fullmatch(rb"https?://.+", origin, re.I):
        assert verdict == CROSS_ORIGIN


HOSTS = st.sampled_from(["a", "b", "a.b", "127.0.0.1", "[::1]"])
PORTS = st.sampled_from([None, 80, 443, 8000])


@given(st.sampled_from(["http", "https"]), HOSTS, PORTS, HOSTS, PORTS)
def test_host_and_port_are_equal_or_the_request_is_refused(
    scheme: str, name: str, port: int | None, host_name: str, host_port: int | None
) -> None:
    default = {"http": 80, "https": 443}[scheme]
    origin = f"{scheme}://{name}" + (f":{port}" if port else "")
    host = host_name + (f":{host_port}" if host_port else "")
    equal = (name, port or default) == (host_name, host_port or default)
    verdict = CrossOriginGuard().check("POST", headers(origin=origin, host=host))
    assert (verdict is None) is equal


@pytest.mark.parametrize("origin", ["https://" + "a" * 1_000_000, "https://a:" + "1" * 1_000_000])
def test_a_megabyte_of_origin_takes_no_time(origin: str) -> None:
    started = time.perf_counter()
    assert GUARD.check("POST", headers(origin=origin, host=HOST)) == CROSS_ORIGIN
    assert time.perf_counter() - started < 0.5


# -- trusted origins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "origin"),
    [
        ("https://a.example", "https://a.example:443"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example", "http://a.example:80"),
        ("HTTPS://A.Example", "https://a.example"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:80"),
        ("https://my_app.example", "https://my_app.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_a_trusted_origin_passes_in_every_spelling(trusted: str, origin: str) -> None:
    said = headers(host=HOST, origin=origin, sec_fetch_site="cross-site")
    assert CrossOriginGuard.of([trusted]).check("POST", said) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://spa.example",
        "https://spa.example:8443",
        "https://spa.example.evil.example",
        "https://xspa.example",
        "https://spa.example/",
        "null",
    ],
)
def test_what_is_like_a_trusted_origin_is_not_trusted(origin: str) -> None:
    said = headers(host=HOST, origin=origin, sec_fetch_site="cross-site")
    assert GUARD.check("POST", said) == CROSS_ORIGIN


@pytest.mark.parametrize(
    "wrong",
    [
        "null",
        "*",
        "",
        "a.example",
        "//a.example",
        "https://",
        "https://a.example/",
        "https://a.example/app",
        "https://a.example?x",
        "https://a.example#x",
        "https://*.example",
        "https://user@a.example",
        "https://a.example:",
        "https://a.example:port",
        "https://a b.example",
        "https://a.example\n",
        " https://a.example",
        "wss://a.example",
        "https://::1",
        # A browser says xn--bcher-kva: this one would never match, without a word.
        "https://bücher.example",
        "https://a.example:٤٤٣",
        "http\u017f://a.example",
        "https://a\x00.example",
        None,
        5,
        b"https://a.example",
    ],
)
def test_what_is_no_origin_cannot_be_trusted(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_origins takes origins such as"):
        CrossOriginGuard.of(["https://good.example", wrong])


def test_one_string_is_not_a_sequence_of_origins() -> None:
    with pytest.raises(ConfigurationError, match="a sequence of origins, not one string"):
        CrossOriginGuard.of("https://a.example")


@given(st.text(max_size=30).map(lambda text: f"https://{text}"))
@example("http\u017f://a")
def test_every_text_is_an_origin_or_a_configuration_error(text: str) -> None:
    try:
        (normal,) = CrossOriginGuard.of([text]).trusted
    except ConfigurationError:
        return
    assert re.fullmatch(r"https?://[!-~]+:\d+", normal)


# -- where ``next`` may lead ----------------------------------------------------------------------

GOOD = (
    "/",
    "/a",
    "/a/b",
    "/a//b",
    "/a?x=1&y=2#z",
    "/?next=https://a.example/",
    "/a?u=//a.example",
    "/a:b",
    "/@a",
    "/.",
    "/..",
    "/a/../..//b",
    "/%2f%2fevil.example",
    "/%5cevil.example",
    "/%09/evil.example",
    "/ünïcödé/✓",
    "/a;b=c",
    "/" + "a" * 2047,
)

TRICKS = (
    None,
    "",
    "a",
    "a/b",
    "?a",
    "#a",
    "https://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "HTTPS://evil.example",
    "http://app.example/",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,x",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "//",
    "//@evil.example",
    "//app.example@evil.example",
    "/\\evil.example",
    "/\\/evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/a\\b",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "\t//evil.example",
    "\n/a",
    " /a",
    "/a ",
    "/ /evil.example",
    "\x00//evil.example",
    "/\x00/evil.example",
    "/\x0b/evil.example",
    "/\x1f",
    "/a\r\nSet-Cookie: x=y",
    "/a\x85b",
    "/a\u2028b",
    "/a\x7f",
    "／／evil.example",
    "\u2215evil.example",
    "/" + "a" * 2048,
)


@pytest.mark.parametrize("path", GOOD)
def test_a_path_of_this_origin_is_kept(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize("path", TRICKS)
def test_a_trick_leads_to_the_default(path: str | None) -> None:
    assert local_path(path) == "/"
    assert local_path(path, "/home") == "/home"


APP = "https://app.example"
SIGNS = ["/", "\\", ":", "@", "?", "#", ".", "..", "%2f", "%5c", "%00", ";", "&", "=", "[", "]"]
BLANKS = ["\t", "\n", "\r", " ", "\0", "\x0b", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff"]
WORDS = ["https:", "http:", "javascript:", "//", "::1", "evil.example", "app.example", "a"]
LIKENESSES = ["／", "＼", "．", "。", "\u2215", "ſ", "\ud800"]
PARTS = [*SIGNS, *BLANKS, *WORDS, *LIKENESSES]
LURES = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


def origin_by_the_standard(reference: str) -> str:
    """Where a browser goes from a page of ours, in the few rules of WHATWG URL that decide it."""
    url = reference.strip("".join(map(chr, range(0x21))))
    url = re.sub(r"[\t\n\r]", "", url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and scheme[1].lower() != "https":
        return scheme[1].lower()
    rest = url[scheme.end() :] if scheme else url
    if not re.match(r"[/\\]{2}", rest):
        return APP
    authority = re.split(r"[/\\?#]", rest.lstrip("/\\"), maxsplit=1)[0]
    return f"https://{authority.rpartition('@')[2].lower()}"


@given(st.one_of(LURES, LURES.map(lambda lure: f"/{lure}"), st.text(max_size=20)))
@example("/.//evil.example")
@example("/..//evil.example")
@example("/[")
@example("/a//[")
def test_whatever_is_let_through_stays_here(path: str) -> None:
    kept = local_path(path, "(default)")
    if kept == "(default)":
        return
    assert kept == path
    joined = urlsplit(urljoin(f"{APP}/login", path))
    assert (joined.scheme, joined.netloc) == ("https", "app.example")
    assert origin_by_the_standard(path) == APP
    assert not re.search(r"[\x00-\x20\x7f\\]", path)


@given(st.from_regex(r"/([a-z0-9._~%-]+/?)*(\?[a-z=&/]*)?(#[a-z]*)?", fullmatch=True))
def test_every_plain_path_is_let_through(path: str) -> None:
    assert local_path(path) == path


RESOLVE = """
const read = JSON.parse(require("fs").readFileSync(0, "utf8"));
const origin = (text) => {
  try { return new URL(text, "https://app.example/login?next=x").origin; } catch { return null; }
};
process.stdout.write(JSON.stringify(read.map(origin)));
"""


def lured(chance: random.Random) -> str:
    return chance.choice(["/", "/", "/", ""]) + "".join(
        chance.choices(PARTS, k=chance.randint(1, 5))
    )


def test_a_real_url_parser_agrees() -> None:
    node = require_program("node", "nodejs")
    chance = random.Random(31)
    paths = [*GOOD, *(path for path in TRICKS if path is not None)]
    paths += [lured(chance) for _ in range(3_000)]
    kept = [path for path in paths if local_path(path, "(default)") != "(default)"]
    told = subprocess.run(
        [node, "-e", RESOLVE],
        input=json.dumps([*paths, *kept]),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    origins: list[str | None] = json.loads(told.stdout)
    assert set(origins[len(paths) :]) == {APP}
    assert len(kept) > 200
    # The lures are good ones: some of them do lead away.
    assert sum(origin != APP for origin in origins) > 200
