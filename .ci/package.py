"""Builds the package and tries what was built where the source cannot be reached.

``newest`` tries it with the newest dependencies and leaves the files in dist/; ``lowest`` with the
oldest versions that pyproject.toml allows. Knows which tests are quick, not what they say.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import PathDistribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
NAME: Final = "fastapi_ideal_auth"
QUICK: Final = (
    # the core
    "bearer",
    "cookies",
    "core_refusals",
    "generation",
    "idtoken",
    "inspection",
    "iron",
    "jose",
    "layers",
    "metadata",
    "oauth",
    "origin",
    "outcomes",
    "packing",
    "record",
    "seal",
    # what depends on other packages' versions
    "client",
    "construction",
    "events",
    "login",
    "logout",
    "openapi",
    "openid",
    "provider",
    "responses",
    "sign_in",
    "stores",
    # what is said of it
    "docs",
    "how_to",
    "package",
    "readme",
)
QUICK_WITH_LOWEST: Final = (*QUICK, "redis_store")
NEVER: Final = re.compile(r"(__pycache__|node_modules|\.\w+_cache|\.hypothesis|\.venv)/|\.py[cod]$")
IS_INSTALLED: Final = f"""
import pathlib, sysconfig, {NAME}
found = pathlib.Path({NAME}.__file__)
print("imported from", found.parent)
assert found.is_relative_to(sysconfig.get_path("purelib"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", choices=["newest", "lowest"])
    lowest = parser.parse_args().versions == "lowest"
    with TemporaryDirectory(prefix=f"{NAME}-") as directory:
        there = Path(directory)
        sdist, wheel = build(there / "dist")
        tree = without_source(sdist, there)
        if lowest:
            test(lowest_environment(wheel, tree, there / "lowest"), tree, lowest=True)
        else:
            try_core_only(wheel, tree, there / "core")
            test(newest_environment(wheel, tree, there / "newest"), tree, lowest=False)
            keep(sdist, wheel)


def run(*command: str | Path, cwd: Path, environ: Mapping[str, str] | None = None) -> None:
    """Ends the program with the command's status where that is not 0."""
    print("$", " ".join(str(word).replace("\n", " ").strip() for word in command), flush=True)
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environ or {})}, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


# -- what is built --------------------------------------------------------------------------------


def build(into: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel made from it, both looked through."""
    run(sys.executable, "-m", "build", "--outdir", into, ROOT, cwd=into.parent)
    (sdist,) = into.glob("*.tar.gz")
    (wheel,) = into.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=into)
    check_files(sdist, wheel)
    check_metadata(wheel)
    return sdist, wheel


def check_files(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        source = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as unpacked:
        installed = {name for name in unpacked.namelist() if ".dist-info/" not in name}
    never = sorted(name for name in source | installed if NEVER.search(name))
    if never:
        sys.exit(f"not to be published: {never}")
    tracked = tracked_files() or source - {"PKG-INFO"}
    same("the sdist", source, tracked | {"PKG-INFO"})
    same("the wheel", installed, {name for name in tracked if name.startswith(f"{NAME}/")})
    if f"{NAME}/py.typed" not in installed:
        sys.exit("the wheel has no py.typed")


def tracked_files() -> set[str]:
    """What git knows of, staged files too; nothing in a tree that is no checkout."""
    if not (ROOT / ".git").exists():
        print("no git checkout: the files built are not compared with those tracked")
        return set()
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        sys.exit(f"git cannot list the files: {listed.stderr.strip()}")
    return set(filter(None, listed.stdout.split("\0")))


def same(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        sys.exit(
            f"{what} has what git does not track (add or ignore it): {sorted(found - expected)}; "
            f"it lacks: {sorted(expected - found)}"
        )


def check_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as unpacked:
        info = f"{NAME}-{project()['version']}.dist-info"
        built = PathDistribution(zipfile.Path(unpacked, f"{info}/")).metadata
        assert built["License-Expression"] == project()["license"]
        assert built.get_all("License-File") == project()["license-files"]
        for name in project()["license-files"]:
            assert unpacked.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()
        assert built["Description"] == (ROOT / "README.md").read_text()


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def keep(sdist: Path, wheel: Path) -> None:
    """Put into dist/ what passed, so that nothing else is published."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for file in (sdist, wheel):
        shutil.copy(file, dist)
        print(f"{dist.name}/{file.name}")


# -- where it is tried ----------------------------------------------------------------------------


def without_source(sdist: Path, into: Path) -> Path:
    """The sdist's tests, examples and pages, without the package."""
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    tree = into / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(tree / NAME)
    return tree


def newest_environment(wheel: Path, tree: Path, where: Path) -> Path:
    python = environment(where)
    group = f"{tree / 'pyproject.toml'}:quick"
    install = (python, "-m", "pip", "install", "--quiet")
    run(*install, "--upgrade", "pip>=25.1", cwd=tree)
    run(*install, "--group", group, with_extras(wheel), cwd=tree)
    return python


def lowest_environment(wheel: Path, tree: Path, where: Path) -> Path:
    """The package's own dependencies at their lowest, the tests' at their newest."""
    uv = Path(sys.executable).parent / "uv"
    oldest = project()["requires-python"].removeprefix(">=")
    lowest = where.with_suffix(".txt")
    # Of the project and not of the wheel: to uv a wheel's dependencies are not direct ones.
    resolve = (uv, "pip", "compile", "--quiet", "--no-deps", "--all-extras", "pyproject.toml")
    options = ("--python-version", oldest, "--resolution", "lowest-direct", "--no-annotate")
    run(*resolve, *options, "--no-header", "--output-file", lowest, cwd=tree)
    print(lowest.read_text(), end="")
    run(uv, "venv", "--quiet", "--python", oldest, where, cwd=tree)
    python = where / "bin" / "python"
    install = (uv, "pip", "install", "--quiet", "--python", python, "--constraints", lowest)
    run(*install, "--group", f"{tree / 'pyproject.toml'}:quick", with_extras(wheel), cwd=tree)
    return python


def environment(where: Path) -> Path:
    run(sys.executable, "-m", "venv", where, cwd=where.parent)
    return where / "bin" / "python"


def with_extras(wheel: Path) -> str:
    extras = ",".join(sorted(project()["optional-dependencies"]))
    return f"{NAME}[{extras}] @ {wheel.as_uri()}"


# -- how it is tried ------------------------------------------------------------------------------


def try_core_only(wheel: Path, tree: Path, where: Path) -> None:
    """What a plain ``pip install`` gives: no warning, and a word on what extras are for."""
    python = environment(where)
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tree)
    run(python, "-W", "error", "-c", f"import {NAME}", cwd=tree)
    run(python, "-W", "error", "-c", IS_INSTALLED, cwd=tree)
    run(python, "-W", "error", "tests/core_only.py", cwd=tree)


def test(python: Path, tree: Path, *, lowest: bool) -> None:
    run(python, "-c", IS_INSTALLED, cwd=tree)
    names = QUICK_WITH_LOWEST if lowest else QUICK
    files = [f"tests/test_{name}.py" for name in names]
    # An old starlette calls what a new anyio has deprecated; with the newest versions, which are
    # tried too, a warning is an error.
    allowed = ("-W", "ignore::DeprecationWarning") if lowest else ()
    # The caches of a person's own runs stay as they are.
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    run(python, "-m", "pytest", "-q", *allowed, *files, cwd=tree, environ=own)


if __name__ == "__main__":
    main()
