"""The layer rule: a pure core that imports only downwards, and a shell above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastapi_ideal_auth

PACKAGE = Path(fastapi_ideal_auth.__file__).parent

# From the bottom up: a module imports only from lines above its own.
CORE = [
    "errors",
    "bearer",
    "user",
    "seal",
    "iron",
    "packing",
    "jose",
    "cookies",
    "origin",
    "oauth",
    "options",
    "metadata",
    "idtoken",
    "proof",
    "generation",
    "payload",
    "sealers",
    "inspection",
    "refresh",
    "record",
    "notices",
    "events",
]
EDGE = [
    "stores.base",
    "stores.memory",
    "stores.sqlite",
    "stores.redis",
    "stores",
    "http",
    "documents",
    "client",
    "provider",
    "openid",
    "providers",
]
SHELL = [
    "guarded",
    "endings",
    "rotation",
    "telemetry",
    "session",
    "dependencies",
    "middleware",
    "openapi",
    "pages",
    "login",
    "logout",
    "transfer",
    "auth",
    "testing",
    "__main__",
    "__init__",
]
ORDER = [*CORE, *EDGE, *SHELL]
OUTSIDE_CORE = {
    "httpx",
    "fastapi",
    "starlette",
    "asyncio",
    "time",
    "sqlite3",
    "redis",
    "logging",
    "ssl",
}


def path_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports at run time: of this package, and of others."""
    own: set[str] = set()
    others: set[str] = set()
    tree = ast.parse(path_of(module).read_text())
    for node in _run_time(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            own |= _resolved(module, node)
    return own, others


def _resolved(module: str, node: ast.ImportFrom) -> set[str]:
    package = "stores." if module.startswith("stores") and node.level == 1 else ""
    if node.module:
        return {f"{package}{node.module}".removesuffix(".")}
    return {f"{package}{alias.name}" for alias in node.names}


def _run_time(node: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        found += [child, *_run_time(child)]
    return found


def test_every_module_has_its_place() -> None:
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    }
    assert modules == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_only_go_down(module: str) -> None:
    own, _ = imports(module)
    below = set(ORDER[: ORDER.index(module)])
    assert own <= below


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_pure(module: str) -> None:
    _, others = imports(module)
    assert not others & OUTSIDE_CORE
    tree = ast.parse(path_of(module).read_text())
    impure = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(tree) if isinstance(node, impure)]


def test_only_one_module_sends() -> None:
    assert [m for m in ORDER if "httpx" in imports(m)[1]] == ["http"]
    assert [m for m in ORDER if "redis" in imports(m)[1]] == ["stores.redis"]


def own_names(body: list[ast.stmt]) -> set[str]:
    """What these statements import from this package."""
    own = [node for node in body if isinstance(node, ast.ImportFrom) and node.level > 0]
    return {alias.name for node in own for alias in node.names}


def test_all_is_exact_and_sorted() -> None:
    tree = ast.parse(path_of("__init__").read_text())
    (lazy,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(lazy.test) == "TYPE_CHECKING"
    # The one name that needs an extra: type checkers import it, and `__getattr__` when asked.
    assert own_names(lazy.body) == {"RedisStore"}
    assert set(fastapi_ideal_auth.__all__) == own_names(tree.body) | own_names(lazy.body)
    assert sorted(fastapi_ideal_auth.__all__) == fastapi_ideal_auth.__all__


def test_every_public_name_is_there_and_no_other() -> None:
    for name in fastapi_ideal_auth.__all__:
        assert getattr(fastapi_ideal_auth, name).__name__ == name
    with pytest.raises(AttributeError, match="NoSuchStore"):
        _ = fastapi_ideal_auth.NoSuchStore


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None  # what an import finds where it is not installed
import fastapi_ideal_auth
from fastapi_ideal_auth import *
try:
    RedisStore("redis://127.0.0.1/0")
except fastapi_ideal_auth.ConfigurationError as error:
    print(error)
"""


def test_without_the_redis_extra_only_its_store_is_missing() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_REDIS], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "pip install 'fastapi_ideal_auth[redis]'" in ran.stdout


def test_importing_the_package_does_not_import_redis() -> None:
    code = "import sys, fastapi_ideal_auth; print('redis' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "False\n"
