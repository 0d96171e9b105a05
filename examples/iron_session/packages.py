"""Puts the Node side's packages where node finds them, once, in a cache of the user's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_WITHIN = 120  # seconds


def directory() -> Path:
    """Where ``server.mjs`` lies beside what it imports; ends the program where it cannot."""
    manifest = (HERE / "package.json").read_bytes()
    root = _cache() / f"example-iron-session-{hashlib.sha256(manifest).hexdigest()[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "node_modules" / "iron-session").exists():
        (root / "package.json").write_bytes(manifest)
        _install(root)
    shutil.copyfile(HERE / "server.mjs", root / "server.mjs")
    return root


def program(name: str) -> str:
    """The path of a program, or the end of this one."""
    path = shutil.which(name)
    if path is None:
        sys.exit(f"This example needs {name} (Node 20 or newer, with npm).")
    return path


def _cache() -> Path:
    named = os.environ.get("FASTAPI_IDEAL_AUTH_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastapi_ideal_auth"


def _install(root: Path) -> None:
    print("Installing iron-session from npm …", flush=True)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            [program("npm"), "install", *options],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=INSTALL_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"npm install took longer than {INSTALL_WITHIN} s.")
    if done.returncode != 0:
        sys.exit(f"npm install failed:\n{done.stderr[-2000:]}")
