"""The layer rule: a pure core that imports only downwards, and a shell above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastapi_ideal_auth

PACKAGE = Path(fastapi_ideal_auth.__file__).parent

# From the bottom up: a module imports only from lines above its own.
CORE = [
    "errors",
    "user",
    "seal",
    "packing",
    "cookies",
    "origin",
    "oauth",
    "generation",
    "refresh",
    "record",
]
EDGE = ["stores.base", "stores.memory", "stores.sqlite", "stores", "provider"]
SHELL = [
    "rotation",
    "session",
    "dependencies",
    "middleware",
    "openapi",
    "login",
    "auth",
    "testing",
    "__main__",
    "__init__",
]
ORDER = [*CORE, *EDGE, *SHELL]
OUTSIDE_CORE = {"httpx", "fastapi", "starlette", "asyncio", "time", "sqlite3", "logging", "ssl"}


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
    assert [m for m in ORDER if "httpx" in imports(m)[1]] == ["provider"]


def test_all_is_exact_and_sorted() -> None:
    tree = ast.parse(path_of("__init__").read_text())
    named = {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(fastapi_ideal_auth.__all__) == named
    assert sorted(fastapi_ideal_auth.__all__) == fastapi_ideal_auth.__all__
