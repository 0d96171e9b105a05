"""Records in Redis or Valkey, where every worker of every host meets.

Decides how a record is replaced only if it is still what was read, how waiters are woken, and that
no call hangs. Does not know what a record means, but for the moments it holds: hosts' clocks
differ, so those are kept in the server's time.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, cast
from weakref import WeakValueDictionary

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import MovedError, NoScriptError, ResponseError

from ..errors import ConfigurationError, StoreUnavailable
from ..record import Change, Record
from .base import POLL, Applied, RefreshStore

TIMEOUT: Final = 2.0
"""Seconds one change of a record may take in all. A server nearby answers in one millisecond; the
rest is for this process, which may be busy with a thousand requests when the answer comes."""
MAX_CONNECTIONS: Final = 50
"""Connections of an own pool, one event loop; who comes when all are in use waits for one."""
HEALTH_CHECK: Final = 15
"""Seconds after which an idle connection is tried first: load balancers drop them in silence, the
shortest-tempered after a minute."""
MEASURE_EVERY: Final = 60.0
"""Seconds between two looks at the server's clock."""
LONGEST_LIFE: Final = 10 * 365 * 86_400
"""Seconds after which a key goes, whatever its record says. Redis refuses what overflows."""

LOOK_AGAIN: Final = 1.0
"""Seconds a waiter trusts its subscription; a notification is sent once, and may be lost."""
SETTLE: Final = 0.05
"""Seconds after a subscription or a notification in which waiters poll. What a waiter read last
may be older than either, and nobody tells it a second time."""
TICK: Final = 0.02
"""Seconds between two looks of the listener at what shall be listened to."""
LINGER: Final = 5.0
"""Seconds a channel stays subscribed with nobody waiting: the same waiter is back at once."""
DEAF: Final = 1.0
"""Seconds of polling after listening has failed."""

_SWAP: Final = """
local there = redis.call('GET', KEYS[1])
if (there or '') ~= ARGV[1] then
  return {0, there}
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.pcall('PUBLISH', KEYS[1], '')
return {1, false}
"""
"""The record under ``KEYS[1]`` becomes ``ARGV[2]`` for ``ARGV[3]`` milliseconds, if it is still
``ARGV[1]`` (empty: nothing). `pcall`, because a user that may not publish may write all the same.
In a cluster PUBLISH reaches every node, so that one subscriber anywhere hears of every session; a
sharded SPUBLISH would need a connection to each node, for two short messages a refresh."""
_SWAP_SHA: Final = hashlib.sha1(_SWAP.encode(), usedforsecurity=False).hexdigest()
_TIME: Final = "return redis.call('TIME')"
_GET: Final = "return redis.call('GET', KEYS[1])"
_FROM_REPLICAS: Final = ("read_from_replicas", "load_balancing_strategy")
"""What a `RedisCluster` that reads from replicas has."""
_ODD: Final = "the refresh store in Redis cannot be used: its answers are not those of a Redis"
_RAW: Final = {NEVER_DECODE: True}
"""Makes a client with ``decode_responses=True`` answer in bytes all the same."""


class _PubSub(Protocol):
    async def __aenter__(self) -> _PubSub: ...
    async def __aexit__(self, *error: object) -> None: ...
    async def subscribe(self, *channels: str) -> None: ...
    async def unsubscribe(self, *channels: str) -> None: ...
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...


class _Client(Protocol):
    """What is used of a client, be it of one server or of a cluster."""

    async def execute_command(self, *command: Any, **options: Any) -> Any: ...
    def pubsub(self) -> _PubSub: ...


class _Skew(NamedTuple):
    ahead: float
    """Seconds by which the callers' clock is ahead of the server's."""
    measured: float


class RedisStore(RefreshStore):
    """Workers and hosts that share one Redis (6.2 or later) or Valkey, alone or a cluster.

    ``url_or_client``
        ``redis://``, ``rediss://`` or ``unix://``: the store brings its own connections, at most
        50 an event loop; who comes when all are in use waits. Or a ``redis.asyncio`` client you
        already have, ``Redis`` or ``RedisCluster``: it is used as it is, and stays yours to
        close. While somebody waits for another's refresh, one more connection listens.
    ``prefix``
        What every key and channel begins with; no braces. There is one key a session, whose hash
        tag is the session's, and it expires with its session.
    ``timeout``
        Seconds one change of a record may take in all; then `StoreUnavailable`.

    The moments in a record are kept in the server's time, measured once a minute: hosts whose
    clocks are half a minute apart agree on when a lease ends. Give the server a
    ``maxmemory-policy`` of ``noeviction``: a record that is evicted takes a refresh token, or a
    sign-out, with it. A user of the server's needs ``+get +mget +set +del +eval +evalsha +time``,
    ``+publish +subscribe`` to wake waiters, who poll without. Raises `ConfigurationError` for
    whatever could not work.
    """

    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        prefix: str = "ideal_auth:",
        timeout: float = TIMEOUT,
    ) -> None:
        self._prefix = _prefix(prefix)
        self._timeout = _seconds(timeout)
        self._url: str | None = None
        self._given: _Client | None = None
        if isinstance(url_or_client, str):
            self._url = _url(url_or_client, self._timeout)
        else:
            self._given = _given(url_or_client)
        # Connections belong to an event loop, and there may be several: without a lifespan
        # Starlette's TestClient runs every request in a new one.
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._skew = _Skew(0.0, -math.inf)

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"  # the URL may hold a password

    async def open(self) -> None:
        await self._line()

    async def aclose(self) -> None:
        """Close this event loop's own connections. A client that was given stays open."""
        line = self._lines.get(asyncio.get_running_loop())
        if line is not None:
            await line.kept.aclose()

    async def apply(self, key: str, change: Change, *, now: float) -> Applied:
        line = await self._line()
        try:
            # Changes of one record queue up here: those of one process need not outbid each other.
            async with asyncio.timeout(self._timeout), line.lock(key):
                return await self._apply(line.client, key, change, now)
        except TimeoutError:
            pass
        raise StoreUnavailable(f"Redis did not answer within {self._timeout:g} s")

    async def look(self, keys: Sequence[str], *, now: float) -> list[Record | None]:
        line = await self._line()
        names = [self._name(key) for key in keys]
        try:
            async with asyncio.timeout(self._timeout):
                ahead = await self._ahead(line.client, now)
                return [_opened(data, ahead, now) for data in await _read(line.client, names)]
        except TimeoutError:
            pass
        raise StoreUnavailable(f"Redis did not answer within {self._timeout:g} s")

    async def wait(self, key: str, *, timeout: float) -> None:
        line = await self._line()
        await line.ear.wait(self._name(key), timeout)

    # -- one change -----------------------------------------------------------------------------

    async def _apply(self, client: _Client, key: str, change: Change, now: float) -> Applied:
        name = self._name(key)
        ahead = await self._ahead(client, now)
        there = _value(await _asked_twice(client, *_reading(client, name)))
        while True:
            before = _opened(there, ahead, now)
            after = change(before)
            if after is before:
                return Applied(before, before)
            wanted = b"" if after is None else _moved(after, -ahead).to_bytes()
            life = 0 if after is None else _milliseconds(after.expires_at - now)
            swapped, there = await _swapped(client, name, there or b"", wanted, life)
            if swapped:
                return Applied(before, after)

    async def _ahead(self, client: _Client, now: float) -> float:
        """Seconds by which the callers' clock is ahead of the server's.

        Measured seldom, not with every command, so that a record comes back as it was written. A
        cluster's nodes have clocks of their own: asking by key asks the same node each time.
        """
        asked = time.monotonic()
        if asked - self._skew.measured < MEASURE_EVERY:
            return self._skew.ahead
        clock = f"{self._prefix}clock"
        seconds, micros = _pair(await _asked_twice(client, "EVAL", _TIME, 1, clock))
        answered = time.monotonic()
        ahead = now + (answered - asked) / 2 - (_number(seconds) + _number(micros) / 1e6)
        # A binary fraction: adding and subtracting it gives back the very same float.
        self._skew = _Skew(round(ahead * 1024) / 1024, answered)
        return self._skew.ahead

    def _name(self, key: str) -> str:
        return f"{self._prefix}v1:{{{key}}}"

    # -- one event loop's connections -----------------------------------------------------------

    async def _line(self) -> _Line:
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            for other in [other for other in list(self._lines) if other.is_closed()]:
                self._lines.pop(other, None)
            own = None if self._url is None else _client(self._url, self._timeout)
            client = cast("_Client", self._given if own is None else own)
            line = self._lines[loop] = _Line(client, self._timeout, self._keep(loop, own))
            # Begun here, the generator is ended by the loop's own end (`shutdown_asyncgens`),
            # lifespan or not: the one way to close connections while their loop still runs.
            await anext(line.kept)
        return line

    async def _keep(
        self, loop: asyncio.AbstractEventLoop, own: Redis | None
    ) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            line = self._lines.pop(loop)
            await line.ear.aclose()
            if own is not None:
                await own.aclose()


class _Line:
    """What one event loop has: a client, a listener, and a queue for each record in use."""

    def __init__(self, client: _Client, timeout: float, kept: AsyncGenerator[None]) -> None:
        self.client = client
        self.ear = _Ear(client, timeout)
        self.kept = kept
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())


# -- commands -------------------------------------------------------------------------------------


async def _asked(client: _Client, *command: Any) -> Any:
    reason: str
    try:
        return await client.execute_command(*command, **_RAW)
    except NoScriptError:
        raise
    except Exception as error:  # its text may quote keys, addresses, the user's name
        reason = _reason(error)
    raise StoreUnavailable(f"the refresh store in Redis cannot be used: {reason}")


async def _asked_twice(client: _Client, *command: Any) -> Any:
    """For commands that change nothing: the first may find a connection that died while idle."""
    with suppress(StoreUnavailable):
        return await _asked(client, *command)
    # A connection that hangs while it is made swallows the time-out's cancellation (Python 3.11).
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise StoreUnavailable("Redis did not answer in time")
    return await _asked(client, *command)


async def _read(client: _Client, names: Sequence[str]) -> list[bytes | None]:
    if isinstance(client, RedisCluster):  # each name has a slot of its own
        found: Any = [await _asked_twice(client, *_reading(client, name)) for name in names]
    else:
        found = await _asked_twice(client, "MGET", *names) if names else []
    if not isinstance(found, list) or len(cast("list[object]", found)) != len(names):
        raise StoreUnavailable(_ODD)
    return [_value(each) for each in cast("list[object]", found)]


async def _swapped(
    client: _Client, name: str, there: bytes, wanted: bytes, life: int
) -> tuple[bool, bytes | None]:
    """Whether the record was replaced; if not, what is there now."""
    arguments = (1, name, there, wanted, life)
    answer: list[Any] | None = None
    with suppress(NoScriptError):  # a server that is new here, or began anew, gets the whole script
        answer = await _asked(client, "EVALSHA", _SWAP_SHA, *arguments)
    swapped, found = _pair(answer or await _asked(client, "EVAL", _SWAP, *arguments))
    return _number(swapped) == 1, _value(found)


def _reading(client: _Client, name: str) -> tuple[object, ...]:
    # A client that reads from replicas sends them every GET, and they are behind; a script it
    # sends to the primary.
    behind = any(getattr(client, option, None) for option in _FROM_REPLICAS)
    return ("EVAL", _GET, 1, name) if behind else ("GET", name)


# What answers may be: a proxy in between, or what is no Redis at all, may say anything.


def _pair(answer: Any) -> tuple[Any, Any]:
    match answer:
        case [first, second]:
            return first, second
        case _:
            raise StoreUnavailable(_ODD)


def _value(answer: object) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    raise StoreUnavailable(_ODD)


def _number(answer: object) -> int:
    if isinstance(answer, bytes) and answer.isdigit() and len(answer) < 20:
        return int(answer)
    if isinstance(answer, int):
        return answer
    raise StoreUnavailable(_ODD)


def _reason(error: Exception) -> str:
    code = str(error).partition(" ")[0] if isinstance(error, ResponseError) else ""
    if isinstance(error, MovedError) or code == "MOVED":
        return "it is a cluster, so give RedisStore a redis.asyncio.RedisCluster"
    return f"{type(error).__name__} {code}" if code.isupper() else type(error).__name__


def _opened(data: bytes | None, ahead: float, now: float) -> Record | None:
    if data is None:
        return None
    try:
        record = Record.from_bytes(data)
    except ValueError:
        record = None
    if record is None:
        raise StoreUnavailable("Redis holds something else where a record should be")
    return _moved(record, ahead) if record.expires_at > now else None


def _moved(record: Record, by: float) -> Record:
    """The record by a clock that is ``by`` seconds ahead. A moment of 0 is none, and stays."""
    return replace(
        record,
        lease_until=record.lease_until and record.lease_until + by,
        retry_at=record.retry_at and record.retry_at + by,
        seen_at=record.seen_at and record.seen_at + by,
    )


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, LONGEST_LIFE) * 1000))


# -- waking ---------------------------------------------------------------------------------------


class _Topic:
    """One record's channel, and who waits for it."""

    def __init__(self) -> None:
        self.rung_at = math.inf  # not subscribed yet
        self.left_at = math.inf
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.add(future)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            self._waiters.discard(future)
            self.left_at = loop.time()

    def ring(self, now: float) -> None:
        self.rung_at = now
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    def is_idle(self, now: float) -> bool:
        return not self._waiters and now - self.left_at > LINGER


class _Ear:
    """One subscriber for all who wait in one event loop, there while somebody does.

    One task alone talks to it: were another to subscribe meanwhile, a reconnect in either would
    pull the connection from under the other. Where it cannot listen (no permission; a cluster,
    with an older redis-py) waiters poll.
    """

    def __init__(self, client: _Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._topics: dict[str, _Topic] = {}
        self._listener: asyncio.Task[None] | None = None
        self._deaf_until = -math.inf

    async def wait(self, channel: str, seconds: float) -> None:
        """Return when something is heard, at the latest after ``seconds``; soon, where something
        may have gone unheard."""
        now = asyncio.get_running_loop().time()
        if now < self._deaf_until:
            await asyncio.sleep(min(seconds, POLL))
            return
        topic = self._topics.setdefault(channel, _Topic())
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        calm = now - topic.rung_at > SETTLE
        await topic.wait(min(seconds, LOOK_AGAIN if calm else POLL))

    async def aclose(self) -> None:
        listener = self._listener
        if listener is not None:
            listener.cancel()
            await asyncio.wait((listener,), timeout=self._timeout)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._client.pubsub() as pubsub:
                await self._hear(pubsub)
        except Exception:  # whatever it was, polling does
            self._deaf_until = loop.time() + DEAF
        finally:
            topics, self._topics, self._listener = self._topics, {}, None
            for topic in topics.values():
                topic.ring(loop.time())

    async def _hear(self, pubsub: _PubSub) -> None:
        loop = asyncio.get_running_loop()
        subscribed: set[str] = set()
        look_at = loop.time() + LINGER
        while self._topics:
            new = self._topics.keys() - subscribed
            if new:
                async with asyncio.timeout(self._timeout):
                    await pubsub.subscribe(*new)
                subscribed |= new
            # A confirmed subscription rings too: what came before it was not heard.
            message = await pubsub.get_message(timeout=TICK)
            if message is not None:
                self._ring(message["channel"], loop.time())
            if loop.time() >= look_at:
                look_at = loop.time() + LINGER
                idle = self._forget_idle(loop.time())
                if idle and self._topics:
                    await pubsub.unsubscribe(*idle)
                subscribed -= idle

    def _ring(self, channel: bytes | str | None, now: float) -> None:
        name = channel.decode() if isinstance(channel, bytes) else channel
        topic = None if name is None else self._topics.get(name)
        if topic is not None:
            topic.ring(now)

    def _forget_idle(self, now: float) -> set[str]:
        idle = {name for name, topic in self._topics.items() if topic.is_idle(now)}
        for name in idle:
            del self._topics[name]
        return idle


# -- what it may be given -------------------------------------------------------------------------


def _client(url: str, timeout: float) -> Redis:
    pool = cast("Any", BlockingConnectionPool).from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout,
        # Half of the whole: where a connection died in silence there is time for a second.
        socket_timeout=timeout / 2,
        socket_connect_timeout=timeout / 2,
        health_check_interval=HEALTH_CHECK,
        # A change sent twice might be made twice; what may be repeated is repeated here.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def _url(url: str, timeout: float) -> str:
    reason: str
    try:
        pool = cast("Any", _client(url, timeout).connection_pool)
        pool.make_connection()
        if pool.max_connections < 2:  # one listens while somebody waits, and one must be left
            raise ConfigurationError("RedisStore needs max_connections of at least 2")
    except (ValueError, TypeError, AttributeError) as error:
        reason = type(error).__name__
    else:
        return url
    # Neither the URL nor the error's words: they may hold the password.
    raise ConfigurationError(
        "RedisStore takes redis://host:port/0, rediss://host:port/0 (TLS) or unix:///path; what "
        f"it got is none of them, or has an option that redis-py does not know ({reason})"
    )


def _given(client: object) -> _Client:
    if isinstance(client, Redis | RedisCluster):
        return cast("_Client", client)
    raise ConfigurationError(
        "RedisStore takes a URL or a client of redis.asyncio (Redis or RedisCluster), not a "
        f"{type(client).__module__}.{type(client).__qualname__}"
    )


def _prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix.isprintable() or {"{", "}"} & set(prefix):
        raise ConfigurationError(
            "prefix is a string without braces: in a Redis Cluster those would put every session "
            "on one node"
        )
    return prefix


def _seconds(timeout: object) -> float:
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not math.isfinite(timeout)
        or timeout <= 0
    ):
        raise ConfigurationError("timeout is a positive number of seconds")
    return float(timeout)
