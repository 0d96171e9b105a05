"""Somebody has all that the store holds, and the server's secret: no token and no id comes of it.

The dump is taken as a thief would: the files of SQLite, every key and value of Redis.
"""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from fastapi_ideal_auth import (
    InvalidCookie,
    MemoryStore,
    RedisStore,
    RefreshRejected,
    RefreshStore,
    SQLiteStore,
)
from fastapi_ideal_auth.cookies import read
from fastapi_ideal_auth.generation import SID_BYTES, label
from fastapi_ideal_auth.packing import pack_token
from fastapi_ideal_auth.record import key_of
from fastapi_ideal_auth.seal import VERSION, KeyRing

from .support import SECRET, User, World

EXPIRED = 301

Dump = dict[bytes, bytes]
"""Names, and what is under them."""


def dumped(store: RefreshStore, directory: Path, url: str | None) -> Dump:
    if isinstance(store, MemoryStore):
        return {key.encode(): record.to_bytes() for key, record in store._records.items()}
    if isinstance(store, SQLiteStore):
        files = sorted(directory.glob("refresh.sqlite3*"))
        assert len(files) > 1  # what is not in the file yet is in its log
        raw = {file.name.encode(): file.read_bytes() for file in files}
        with closing(sqlite3.connect(store.path)) as db:
            return raw | {k.encode(): v for k, v in db.execute("SELECT key, value FROM record")}
    assert url is not None
    with Redis.from_url(url) as server:
        names: list[bytes] = server.keys(f"{directory.name}:*")
        return {name: server.get(name) for name in names}


class Lives:
    """Sessions in every state a record can be in, and all that must not be found of them."""

    def __init__(self, store: RefreshStore, tokens: str) -> None:
        self.world = World(store=store, tokens=tokens)
        self.sids: list[bytes] = []
        self.tokens: set[str] = set()
        for ends in (self.refreshed, self.refreshed_twice, self.rejected, self.signed_out):
            self.world.client = self.world.browser()
            self.seen(self.world.sign_in())
            ends()

    def seen(self, user: User) -> None:
        assert user.refresh_token is not None
        self.tokens |= {user.access_token, user.refresh_token}
        self.note()

    def note(self) -> None:
        world = self.world
        header = f"{world.auth.cookie_name}={world.cookie}"
        generation = world.auth.opened(read(header, world.auth.cookies), now=world.clock())
        assert generation is not None
        self.sids.append(generation.sid)
        if generation.complete:
            assert generation.user.refresh_token is not None
            self.tokens |= {generation.user.access_token, generation.user.refresh_token}

    def refreshed(self) -> None:
        self.world.clock.advance(EXPIRED)
        self.tokens.add(self.world.client.get("/token").json()["access_token"])
        self.note()

    def refreshed_twice(self) -> None:
        self.refreshed()
        self.refreshed()

    def rejected(self) -> None:
        self.world.clock.advance(EXPIRED)
        self.world.wire.provider.fail_next(RefreshRejected())
        assert self.world.client.get("/token").status_code == 401

    def signed_out(self) -> None:
        self.refreshed()
        assert self.world.client.post("/leave").status_code == 200


@pytest.fixture
def lives(store: RefreshStore, tokens: str) -> Lives:
    return Lives(store, tokens)


@pytest.fixture
def dump(lives: Lives, store: RefreshStore, tmp_path: Path, request: pytest.FixtureRequest) -> Dump:
    redis = isinstance(store, RedisStore)
    return dumped(store, tmp_path, request.getfixturevalue("redis_url") if redis else None)


def spellings(secret: bytes) -> Iterator[bytes]:
    """As it is, and as one might write it."""
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret).rstrip(b"=")
    yield base64.urlsafe_b64encode(secret).rstrip(b"=")


@pytest.mark.parametrize("tokens", ["cookie", "store"])
def test_a_dump_holds_no_token_no_id_and_no_user(dump: Dump, lives: Lives) -> None:
    text = b"\n".join(part for pair in dump.items() for part in pair)
    assert all(key_of(sid).encode() in text for sid in lives.sids)  # it is the right dump
    for sid in lives.sids:
        assert not any(spelling in text for spelling in spellings(sid))
        assert label(sid).encode() not in text  # nor can logs be matched with it
    for token in lives.tokens:
        assert not any(spelling in text for spelling in spellings(token.encode()))
        assert pack_token(token) not in text
    assert b"ada@example.test" not in text


PURPOSES = ("record", "session", "login", "store", "")


def seals(dump: Dump, ring: KeyRing) -> list[bytes]:
    """Whatever may be a seal of the ring's: it begins with its version and a key's id."""
    heads = [VERSION + key.id for key in ring._keys]
    found: list[bytes] = []
    for value in dump.values():
        for head in heads:
            found += [value[at:] for at in range(len(value)) if value.startswith(head, at)]
    return found


def bindings(dump: Dump) -> set[bytes]:
    """Whatever in a dump may be an id, or may lead to one."""
    found = {bytes(SID_BYTES), b""}
    for name, value in dump.items():
        for key in re.findall(rb"[0-9a-f]{64}", name + b"\n" + value):
            digest = bytes.fromhex(key.decode())
            found |= {key, digest, digest[:SID_BYTES], digest[SID_BYTES:]}
    return found


@pytest.mark.parametrize("tokens", ["cookie", "store"])
def test_the_secret_opens_nothing_in_a_dump(dump: Dump, lives: Lives) -> None:
    ring = KeyRing(SECRET)
    sealed = seals(dump, ring)
    assert len(sealed) >= 2  # of each session that is alive, and has been refreshed
    for binding in bindings(dump):
        for purpose in PURPOSES:
            for each in sealed:
                with pytest.raises(InvalidCookie):
                    ring.open(each, purpose=purpose, binding=binding)


@pytest.mark.parametrize("tokens", ["cookie", "store"])
async def test_it_is_the_id_that_opens_a_record(lives: Lives, store: RefreshStore) -> None:
    """So that the test before does not pass for want of a key."""
    ring = KeyRing(SECRET)
    _, record = await store.apply(key_of(lives.sids[0]), lambda r: r, now=lives.world.clock())
    assert record is not None
    assert record.sealed is not None
    ring.open(record.sealed, purpose="record", binding=lives.sids[0])
    with pytest.raises(InvalidCookie):
        ring.open(record.sealed, purpose="record", binding=lives.sids[-1])
