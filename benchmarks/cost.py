"""What keeping 100 million sessions fresh costs: measured for one refresh, and multiplied.

Counts the store operations and bytes of a refresh, of a hand-over and of a fresh request, and the
bytes a record takes, for an opaque token and for a JWT of 1,000 characters.

    python -m benchmarks.cost
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from benchmarks.fresh_path import User, jwt
from benchmarks.waiting import worker
from fastapi_ideal_auth import MemoryStore, RefreshStore, TokenResponse
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import begin
from fastapi_ideal_auth.record import Change
from fastapi_ideal_auth.stores import Applied
from fastapi_ideal_auth.testing import RotatingProvider

SESSIONS: Final = 100_000_000
TOKEN_LIFE: Final = 3600
"""Seconds an access token lives; each session is in use and refreshes once in that time."""


@dataclass
class Counting(RefreshStore):
    """Counts what goes through it."""

    inner: RefreshStore = field(default_factory=MemoryStore)
    reads: int = 0
    writes: int = 0
    bytes_written: int = 0
    record: int = 0

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        applied = await self.inner.apply(key, change, now=now)
        self.reads += 1
        if applied.after is not None and applied.after is not applied.before:
            self.writes += 1
            self.record = len(applied.after.to_bytes())
            self.bytes_written += self.record
        return applied


class LargeTokens(RotatingProvider):
    """Its access tokens are JWTs of about 1,000 characters."""

    async def refresh(self, refresh_token: str) -> TokenResponse:
        return replace(await super().refresh(refresh_token), access_token=jwt(1000))


async def one(provider: RotatingProvider) -> dict[str, Counting]:
    store = Counting()
    auth, app = worker(provider, store)
    tokens = provider.issue()
    now = auth.clock()
    user = User(
        id="1",
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=int(now) - 1,
    )
    generation = begin(user, now=now - 300, remember=None, lifetimes=auth.lifetimes)
    lines = auth.cookie_lines(generation, read(None, auth.cookies), now=now)
    old = lines[0].split(";")[0]
    found: dict[str, Counting] = {}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as client:
        cookie = old
        for what in ("a refresh", "a late request", "a fresh request"):
            store.reads = store.writes = store.bytes_written = 0
            response = await client.get("/", headers={"cookie": cookie})
            assert response.status_code == 200
            found[what] = Counting(
                reads=store.reads,
                writes=store.writes,
                bytes_written=store.bytes_written,
                record=store.record,
            )
            client.cookies.clear()
            if what == "a late request":
                cookie = response.headers["set-cookie"].split(";")[0]
    return found


async def main() -> None:
    print("measured, one session\n")
    print("| tokens | | changes asked of the store | of which written | bytes written |")
    print("|---|---|---:|---:|---:|")
    measured = {"opaque": await one(RotatingProvider()), "JWT": await one(LargeTokens())}
    for name, found in measured.items():
        for what, counted in found.items():
            row = f"{counted.reads} | {counted.writes} | {counted.bytes_written:,}"
            print(f"| {name} | {what} | {row} |")
    refreshes = SESSIONS / TOKEN_LIFE
    print(f"\nmultiplied by {SESSIONS:,} sessions that refresh once in {TOKEN_LIFE} s\n")
    print(
        "| tokens | refreshes a second | store changes a second | MB written a second | GB kept |"
    )
    print("|---|---:|---:|---:|---:|")
    for name, found in measured.items():
        refresh = found["a refresh"]
        written = refresh.bytes_written * refreshes / 1e6
        kept = refresh.record * SESSIONS / 1e9
        row = f"{refreshes:,.0f} | {refresh.reads * refreshes:,.0f} | {written:,.0f} | {kept:,.0f}"
        print(f"| {name} | {row} |")


if __name__ == "__main__":
    asyncio.run(main())
