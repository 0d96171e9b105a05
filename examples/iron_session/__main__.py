"""Starts all three: the authorization server, the FastAPI back end and the Node front end.

It decides on ports and secrets, and how they come down; it knows no route of any of them.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from examples.dashboard import authorization_server
from examples.iron_session import packages

HOST = "127.0.0.1"
START_WITHIN = 20  # seconds
TOKEN_LIFETIME = 15  # seconds


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    node, root = packages.program("node"), packages.directory()
    back_end, front_end, provider = (
        _bound(port) for port in (given.port, given.node_port, given.provider_port)
    )
    node_port = _port(front_end)
    urls = {name: f"http://{HOST}:{_port(each)}" for name, each in _names(provider, back_end)}
    urls["EXAMPLE_FRONT_END"] = f"http://{HOST}:{node_port}"
    os.environ.update(urls)
    for name in ("EXAMPLE_SECRET", "EXAMPLE_CLIENT_SECRET"):
        os.environ.setdefault(name, secrets.token_urlsafe(48))
    # As the library does it on the other side: never more than a quarter of the token's life.
    os.environ["EXAMPLE_BUFFER"] = str(given.token_lifetime // 4)
    apps: list[tuple[socket.socket, FastAPI | str]] = [
        (provider, _authorization_server(given.token_lifetime)),
        (back_end, "examples.iron_session.app:app"),
    ]
    front_end.close()  # node opens the port itself
    with _served(apps), _node(node, root):
        print(_greeting(), flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    print("\nStopped.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.iron_session",
        description="A Node front end with iron-session and a FastAPI back end, on one cookie. "
        "Installs iron-session from npm into the user's cache, once.",
    )
    parser.add_argument("--port", type=int, default=8000, help="of the FastAPI back end (8000)")
    parser.add_argument("--node-port", type=int, default=3000, help="of the front end (3000)")
    parser.add_argument("--provider-port", type=int, default=0, help="of the authorization server")
    parser.add_argument(
        "--token-lifetime", type=int, default=TOKEN_LIFETIME, help="seconds (15, at least 4)"
    )
    return parser


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        sys.exit(f"Port {port} on {HOST} cannot be used ({error.strerror}); see --help for others.")
    return listener


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _names(provider: socket.socket, back_end: socket.socket) -> list[tuple[str, socket.socket]]:
    return [("EXAMPLE_PROVIDER", provider), ("EXAMPLE_BACK_END", back_end)]


def _authorization_server(token_lifetime: int) -> FastAPI:
    sides = (os.environ["EXAMPLE_FRONT_END"], os.environ["EXAMPLE_BACK_END"])
    client = authorization_server.Client(
        client_id="example",
        redirect_uris=tuple(f"{side}/callback" for side in sides),
        client_secret=os.environ["EXAMPLE_CLIENT_SECRET"],
    )
    return authorization_server.create_app(clients=[client], access_token_ttl=token_lifetime)


@contextmanager
def _served(apps: Sequence[tuple[socket.socket, FastAPI | str]]) -> Generator[None]:
    """Runs each app in a thread of this process."""
    servers = [
        uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
        )
        for _, app in apps
    ]
    threads = [
        threading.Thread(target=server.run, args=([listener],), daemon=True)
        for server, (listener, _) in zip(servers, apps, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        _wait(lambda: all(server.started for server in servers), "a server")
        yield
    finally:
        for server in servers:
            server.should_exit = True
        for thread in threads:
            thread.join(4)


@contextmanager
def _node(node: str, root: os.PathLike[str]) -> Generator[None]:
    """Runs the front end; it ends when its standard input does, and so with this process."""
    with subprocess.Popen([node, "server.mjs"], cwd=root, stdin=subprocess.PIPE) as process:
        try:
            _wait(lambda: _answers(int(os.environ["EXAMPLE_FRONT_END"].rpartition(":")[2])), "node")
            yield
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _wait(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_WITHIN
    while not ready():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not start; its reason is shown above.")
        time.sleep(0.02)


def _greeting() -> str:
    return f"""
  Open  {os.environ["EXAMPLE_FRONT_END"]}  and sign in on either side.

  Access tokens live seconds; both servers refresh them, on one cookie.
  Front end (Node, iron-session): {os.environ["EXAMPLE_FRONT_END"]}
  Back end (FastAPI, IronSealer): {os.environ["EXAMPLE_BACK_END"]}
  Stop with Ctrl-C.
"""


if __name__ == "__main__":
    main()
