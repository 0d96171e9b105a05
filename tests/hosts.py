"""Two hosts that share nothing but a Redis on a third; knows nothing of sessions and tokens.

Each is a network namespace (Debian ``iproute2``, root) with a loopback of its own. A cable (a veth
pair) runs from either host to the one with Redis, and there is no way from host to host. All
addresses exist only in there: the machine's own network is neither used nor changed.

The test run stands outside. It talks to a host's uvicorn through a Unix socket, which knows no
namespaces, so that a cut cable is never its own. The authorization server runs in a thread of the
test run, and listens on the loopback of both hosts: plain http is for loopback only.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn as uvicorn_server

from .processes import ROOT, WORKER_READY, Process, missing, require_program, start

HOSTS = ("a", "b")
WORKERS = 2
PROVIDER_PORT = 9000  # on the loopback of every host: nobody else is there
TOKEN_ENDPOINT = f"http://127.0.0.1:{PROVIDER_PORT}/token"

PREFIX = "ideal-auth-test"
CLONE_NEWNET = 0x40000000  # <linux/sched.h>


# -- namespaces -----------------------------------------------------------------------------------


class Refused(Exception):
    """``ip`` failed; the message is its own."""


def _ip(*arguments: str) -> str:
    command = [require_program("ip"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def require_namespaces() -> None:
    """End the test as `missing` does, where no namespace with a cable in it can be made."""
    try:
        with namespace("probe") as space:
            _ip("-n", space, "link", "add", "one", "type", "veth", "peer", "name", "other")
            listener(space, PROVIDER_PORT).close()
            subprocess.run(inside(space, ["true"]), check=True, capture_output=True)
    except (Refused, OSError, subprocess.CalledProcessError) as error:
        missing(f"network namespaces cannot be made here: {error}")


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace with a loopback and nothing else, gone when the block ends."""
    full = f"{PREFIX}-{os.getpid()}-{name}"
    _ip("netns", "add", full)
    try:
        _ip("-n", full, "link", "set", "dev", "lo", "up")
        yield full
    finally:
        _ip("netns", "delete", full)


def sweep() -> None:
    """Delete what a killed test run has left; its children, a watchdog has ended."""
    found = re.findall(rf"^({PREFIX}-(\d+)-\S+)", _ip("netns", "list"), re.MULTILINE)
    for name, pid in found:
        if not Path(f"/proc/{pid}").exists():
            with suppress(Refused):  # another run may be sweeping, too
                _ip("netns", "delete", name)


def inside(space: str, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` in a namespace."""
    return [require_program("ip"), "netns", "exec", space, *command]


def listener(space: str, port: int) -> socket.socket:
    """A socket of this process that listens on the loopback of a namespace."""

    def made() -> socket.socket:
        # `os.setns` is there from Python 3.12 on.
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", space).open("rb") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns failed")
        return socket.create_server(("127.0.0.1", port), backlog=512)

    # A thread moves alone, and is gone afterwards; what it opened there stays there.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(made).result()


# -- cables ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cable:
    """A host's only way out: from its ``eth0`` to the namespace where Redis is."""

    host: str
    far: str
    far_end: str

    @contextmanager
    def pulled(self) -> Iterator[None]:
        """The host knows: whatever it sends fails at once."""
        with _down(self.host, "eth0"):
            yield

    @contextmanager
    def dead(self) -> Iterator[None]:
        """The host does not know: what it sends is lost in silence."""
        with _down(self.far, self.far_end):
            yield


@contextmanager
def _down(space: str, link: str) -> Iterator[None]:
    _ip("-n", space, "link", "set", "dev", link, "down")
    try:
        yield
    finally:
        _ip("-n", space, "link", "set", "dev", link, "up")


def _cable(host: str, far: str, number: int) -> tuple[Cable, str]:
    """The cable, and the address at its far end."""
    cable, address = Cable(host, far, f"to-host{number}"), f"10.77.{number}"
    ends = (cable.host, "eth0", f"{address}.2"), (cable.far, cable.far_end, f"{address}.1")
    near_end = ["name", "eth0", "netns", host]
    _ip("link", "add", *near_end, "type", "veth", "peer", "name", cable.far_end, "netns", far)
    for space, link, own in ends:
        _ip("-n", space, "address", "add", f"{own}/24", "dev", link)
        _ip("-n", space, "link", "set", "dev", link, "up")
    return cable, f"{address}.1"


# -- hosts ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Host:
    """A host on which uvicorn serves ``tests.served:app`` with `WORKERS` workers."""

    cable: Cable
    process: Process
    door: Path

    def client(self, connections: int = 10) -> httpx.AsyncClient:
        """A browser's way in, which no cut touches. It keeps no connection."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
        way = httpx.AsyncHTTPTransport(uds=str(self.door), limits=limits)
        return httpx.AsyncClient(transport=way, base_url="http://host", timeout=30)


@dataclass(frozen=True, slots=True)
class Site:
    """Both hosts and what they share."""

    hosts: tuple[Host, ...]
    redis: Process

    @contextmanager
    def redis_stopped(self) -> Iterator[None]:
        """Redis is there, accepts, and says nothing."""
        self.redis.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.redis.signal(signal.SIGCONT)


@contextmanager
def site(provider: Callable[..., Any], env: Mapping[str, str]) -> Iterator[Site]:
    """Run two hosts, with ``provider`` (an ASGI application) at `TOKEN_ENDPOINT` for both.

    ``env``: what else ``tests.served`` reads. Skips where namespaces cannot be made.
    """
    require_namespaces()
    sweep()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="ideal-auth-")))
        far = stack.enter_context(namespace("redis"))
        spaces = [stack.enter_context(namespace(name)) for name in HOSTS]
        cables = [_cable(space, far, number) for number, space in enumerate(spaces, 1)]
        stack.enter_context(_served(provider, [listener(s, PROVIDER_PORT) for s in spaces]))
        redis = stack.enter_context(_redis(far))
        hosts = [
            stack.enter_context(_host(directory / name, cable, address, env))
            for name, (cable, address) in zip(HOSTS, cables, strict=True)
        ]
        for host in hosts:
            _await_workers(host)
        yield Site(tuple(hosts), redis)


@contextmanager
def _redis(space: str) -> Iterator[Process]:
    every = "0.0.0.0"  # noqa: S104 - of a namespace that only the two hosts can reach
    command = [require_program("redis-server"), "--bind", every, "--protected-mode", "no"]
    command += ["--save", "", "--appendonly", "no"]
    with start(inside(space, command), ready=re.compile("Ready to accept connections")) as process:
        yield process


@contextmanager
def _host(
    directory: Path, cable: Cable, redis_address: str, env: Mapping[str, str]
) -> Iterator[Host]:
    """The host, begun; `_await_workers` is for later, so that both hosts begin together."""
    directory.mkdir(mode=0o700)
    door = directory / "door"
    command = [sys.executable, "-m", "uvicorn", "tests.served:app", "--uds", str(door)]
    command += ["--workers", str(WORKERS), "--no-access-log"]
    own = {
        "TOKEN_ENDPOINT": TOKEN_ENDPOINT,
        "REDIS_URL": f"redis://{redis_address}/0",
        "XDG_STATE_HOME": str(directory),
    }
    with start(
        inside(cable.host, command), ready=lambda _: True, env={**env, **own}, cwd=ROOT
    ) as process:
        yield Host(cable, process, door)


def _await_workers(host: Host, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while host.process.output().count(WORKER_READY) < WORKERS:
        assert host.process.alive, host.process.output()
        assert time.monotonic() < deadline, host.process.output()
        time.sleep(0.02)


@contextmanager
def _served(app: Callable[..., Any], sockets: list[socket.socket]) -> Iterator[None]:
    config = uvicorn_server.Config(app, log_level="error")
    server = uvicorn_server.Server(config)
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(5)
        for each in sockets:
            each.close()


@dataclass(slots=True)
class Gate:
    """An ASGI application in front of another: its answers can be held back."""

    app: Callable[..., Any]
    arrived: threading.Event = field(default_factory=threading.Event)
    """A request came while the gate was closed; the work behind it is done."""
    _open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._open.set()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Do the work, and keep the answers until the block ends."""
        self.arrived.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def later(message: Any) -> None:
            while not self._open.is_set():
                self.arrived.set()
                await asyncio.sleep(0.01)
            await send(message)

        await self.app(scope, receive, later if scope["type"] == "http" else send)
