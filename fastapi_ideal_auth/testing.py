"""For the tests of applications: a signed-in client, a strict provider in memory, a settable clock.

Nothing here patches anything: the client gets the very cookie a sign-in sets, and the provider is
an ordinary ``provider=``.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

from .auth import IdealAuth
from .cookies import read
from .errors import ConfigurationError, ProviderError, ProviderUnavailable, RefreshRejected
from .generation import begin
from .oauth import TokenResponse
from .user import SessionUser

T = TypeVar("T")
U = TypeVar("U", bound=SessionUser)

START: Final = 1_800_000_000.0


class Clock:
    """``clock=Clock()``: Unix seconds that pass only when told to."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Client(Protocol):
    """Starlette's ``TestClient``, or an ``AsyncClient`` of httpx or httpx2."""

    @property
    def base_url(self) -> Any: ...
    @property
    def cookies(self) -> Any: ...


def login(client: Client, auth: IdealAuth[U], user: U, *, remember: bool | None = None) -> None:
    """Put into the client the cookie that a sign-in of ``user`` would have set just now.

    Raises `ConfigurationError` for a client that would not send it back.
    """
    url = client.base_url
    if not url.host:
        raise ConfigurationError("give the client a base_url, such as https://testserver")
    if auth.cookies.secure and url.scheme != "https":
        raise ConfigurationError(
            f"the session cookie is Secure, so a client of {url} never sends it: use "
            f"TestClient(app, base_url='https://testserver'), or IdealAuth(cookie_secure=False)"
        )
    auth.check(user)
    now = auth.clock()
    generation = begin(user, now=now, remember=remember, lifetimes=auth.lifetimes)
    if auth.rotation.endings.has_written:
        generation = _awaited(auth.rotation.endings.after_notices(generation))
    present = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
    lines = auth.cookie_lines(generation, read(present, auth.cookies), now=now)
    if auth.tokens_in_store:
        _awaited(auth.rotation.keep(generation))
    library = sys.modules[type(client.cookies).__module__.partition(".")[0]]
    request = library.Request("GET", url)
    headers = [("set-cookie", line) for line in lines]
    client.cookies.extract_cookies(library.Response(200, headers=headers, request=request))


def _awaited(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, on an event loop of its own: a test may have one running here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@dataclass(slots=True)
class _Grant:
    """One family of tokens: at most one refresh token of it is good."""

    refresh_token: str
    access_token: str
    revoked: bool = False
    resources: dict[str, str] = field(default_factory=dict[str, str])


class RotatingProvider:
    """An authorization server as strict as they come: each refresh token is good once, and
    presenting a spent one revokes its whole family, the newest tokens included.

    ``expires_in``: seconds its access tokens live. ``latency``: seconds each answer takes.
    ``calls`` counts the refreshes it was asked for, ``reused`` the spent tokens among them.
    """

    def __init__(self, *, expires_in: int = 300, latency: float = 0.0) -> None:
        self.expires_in = expires_in
        self.latency = latency
        self.calls = 0
        self.reused = 0
        self.revoked: list[str] = []
        self._grants: dict[str, _Grant] = {}
        self._faults: list[tuple[Literal["before", "after"], ProviderError]] = []

    def issue(self) -> TokenResponse:
        """The tokens of a new sign-in."""
        grant = _Grant(_token("rt"), _token("at"))
        self._grants[grant.refresh_token] = grant
        return self._response(grant, grant.access_token)

    def user(self, model: type[U], *, clock: Callable[[], float], **fields: Any) -> U:
        """A user of ``model`` who has just signed in here; ``fields`` may replace the tokens."""
        tokens = self.issue()
        given: dict[str, Any] = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "expires_at": int(clock()) + self.expires_in,
        }
        return model(**{**given, **fields})

    def is_alive(self, access_token: str) -> bool:
        """Whether an API would take this access token (but for its expiry)."""
        return any(
            access_token in (grant.access_token, *grant.resources.values()) and not grant.revoked
            for grant in self._grants.values()
        )

    def fail_next(self, error: ProviderError, times: int = 1) -> None:
        """Answer the next refreshes with ``error``; nothing is rotated."""
        self._faults.extend(("before", error) for _ in range(times))

    def lose_next_answer(self, times: int = 1) -> None:
        """Rotate at the next refreshes, and lose the answer on its way back."""
        lost = ProviderUnavailable("the answer was lost", in_doubt=True)
        self._faults.extend(("after", lost) for _ in range(times))

    async def refresh(self, refresh_token: str, *, resource: str | None = None) -> TokenResponse:
        """The next tokens; for a ``resource`` an access token for that, and the other lives on.

        Raises `RefreshRejected` for a spent, revoked or unknown token.
        """
        self.calls += 1
        fault = self._faults.pop(0) if self._faults else None
        if fault is not None and fault[0] == "before":
            await asyncio.sleep(self.latency)
            raise fault[1]
        response = self._rotated(refresh_token, resource)
        await asyncio.sleep(self.latency)  # rotated, and the answer is on its way
        if fault is not None:
            raise fault[1]
        return response

    async def revoke(self, refresh_token: str) -> bool:
        """RFC 7009: the whole grant goes."""
        self.revoked.append(refresh_token)
        grant = self._grants.get(refresh_token)
        if grant is not None:
            grant.revoked = True
        return True

    def _rotated(self, refresh_token: str, resource: str | None) -> TokenResponse:
        grant = self._grants.get(refresh_token)
        if grant is None:
            raise RefreshRejected
        if grant.refresh_token != refresh_token:
            self.reused += 1
            grant.revoked = True
        if grant.revoked:
            raise RefreshRejected
        grant.refresh_token = _token("rt")
        self._grants[grant.refresh_token] = grant
        if resource is None:
            grant.access_token = _token("at")
            return self._response(grant, grant.access_token)
        grant.resources[resource] = _token("at")
        return self._response(grant, grant.resources[resource])

    def _response(self, grant: _Grant, access_token: str) -> TokenResponse:
        return TokenResponse(
            access_token=access_token,
            refresh_token=grant.refresh_token,
            expires_in=self.expires_in,
        )


def _token(kind: str) -> str:
    return f"{kind}-{secrets.token_urlsafe(24)}"
