"""Starts the demo: the authorization server on a port of its own, and the dashboard.

It decides on ports and secrets and how both come down; it knows no route of either.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import TypedDict

import uvicorn
from fastapi import FastAPI

from examples.dashboard import authorization_server

HOST = "127.0.0.1"
START_WITHIN = 10  # seconds
STOP_WITHIN = 3  # seconds; a browser that keeps asking must not hold up Ctrl-C
TOKEN_LIFETIME = 15  # seconds


class Quiet(TypedDict):
    """Options of uvicorn that both servers share."""

    log_level: str
    access_log: bool
    timeout_graceful_shutdown: int


QUIET: Quiet = {
    "log_level": "warning",
    "access_log": False,
    "timeout_graceful_shutdown": STOP_WITHIN,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    dashboard = _listen(options.port, "--port")
    provider = _listen_or_elsewhere(options.provider_port)
    provider_url = f"http://{HOST}:{_port(provider)}"
    client_secret = _share_secrets(provider_url)
    with _authorization_server(provider, client_secret, _port(dashboard)):
        print(_greeting(_port(dashboard), provider_url, options.workers), flush=True)
        # uvicorn answers Ctrl-C by closing first and raising afterwards.
        with suppress(KeyboardInterrupt):
            _serve_dashboard(dashboard, options.workers)
    print("\nStopped.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.dashboard",
        description="A dashboard whose access tokens live 15 seconds, with its own "
        "authorization server. Nothing to configure.",
    )
    parser.add_argument("--port", type=_port_number, default=8000, help="of the dashboard (8000)")
    parser.add_argument(
        "--provider-port",
        type=_port_number,
        help="of the authorization server (9000, or a free one when that is taken)",
    )
    parser.add_argument(
        "--workers", type=_workers, default=1, help="processes that serve the dashboard (1)"
    )
    return parser


def _port_number(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 (any free one) to 65535")
    return number


def _workers(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one worker is needed")
    return number


# -- ports -----------------------------------------------------------------------------------


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere this option would share a port that is in use
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def _listen(port: int, option: str) -> socket.socket:
    try:
        return _bind(port)
    except OSError as error:
        sys.exit(
            f"Port {port} on {HOST} cannot be used ({error.strerror}). "
            f"Stop what is running there, or choose another: "
            f"{sys.executable} -m examples.dashboard {option} "
            f"{port + 1 if port < 65535 else 8001}"
        )


def _listen_or_elsewhere(port: int | None) -> socket.socket:
    if port is not None:
        return _listen(port, "--provider-port")
    try:
        return _bind(9000)
    except OSError:
        return _bind(0)


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


# -- the two servers -------------------------------------------------------------------------


def _share_secrets(provider_url: str) -> str:
    """Puts into the environment what all workers must agree on; returns the client's secret."""
    os.environ["DASHBOARD_PROVIDER"] = provider_url
    os.environ.setdefault("DASHBOARD_SECRET", secrets.token_urlsafe(32))
    return os.environ.setdefault("DASHBOARD_CLIENT_SECRET", secrets.token_urlsafe(32))


@contextmanager
def _authorization_server(
    listener: socket.socket, client_secret: str, dashboard_port: int
) -> Generator[None]:
    """Runs it in a thread of this process: it holds no state worth outliving the demo."""
    hosts = (HOST, "localhost")
    client = authorization_server.Client(
        client_id="dashboard",
        redirect_uris=tuple(f"http://{host}:{dashboard_port}/callback" for host in hosts),
        client_secret=client_secret,
    )
    app = authorization_server.create_app(clients=[client], access_token_ttl=TOKEN_LIFETIME)
    server = uvicorn.Server(_config(app))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    _wait_until_started(server, thread)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(STOP_WITHIN + 1)


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_WITHIN
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            sys.exit("The demo's authorization server did not start; its reason is shown above.")
        time.sleep(0.01)


def _serve_dashboard(listener: socket.socket, workers: int) -> None:
    """Returns, or raises ``KeyboardInterrupt``, once the dashboard is down."""
    name = "examples.dashboard.app:app"
    if workers == 1:
        uvicorn.Server(_config(name)).run([listener])
        return
    # uvicorn hands workers a socket of its own making only, so the port is let go just before.
    port = _port(listener)
    listener.close()
    uvicorn.run(name, host=HOST, port=port, workers=workers, **QUIET)


def _config(app: FastAPI | str) -> uvicorn.Config:
    return uvicorn.Config(app, **QUIET)


def _greeting(port: int, provider_url: str, workers: int) -> str:
    served = "" if workers == 1 else f", served by {workers} workers"
    return f"""
  Open  http://{HOST}:{port}  and sign in as anybody{served}.

  Access tokens live {TOKEN_LIFETIME} seconds; watch them being replaced.
  Authorization server: {provider_url} (its log: {provider_url}/events)
  Stop with Ctrl-C.
"""


if __name__ == "__main__":
    main()
