"""What is said to PyPI and to GitHub is true: classifiers, bounds, workflows.

The built files themselves are tried by `make package`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
MAJOR = re.compile(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)")


def workflow(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
    # YAML 1.1, which PyYAML reads, has `on` for true.
    return {"on" if key is True else key: value for key, value in parsed.items()}


def steps(jobs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in jobs.values():
        yield from job.get("steps", [])


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


# -- metadata -------------------------------------------------------------------------------------


def test_every_python_it_is_for_is_a_classifier_and_is_tried() -> None:
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    versions = [version for version in named if version != "3 :: Only"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    job = workflow("ci.yml")["jobs"]["python"]
    assert job["strategy"]["matrix"]["python"] == versions


def test_every_dependency_has_a_lowest_version_and_no_highest() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["dependencies"], *extras]:
        assert re.fullmatch(r"[a-z]+>=\d+(\.\d+)*", line), line


# -- workflows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_little_and_pins_what_it_uses(path: Path) -> None:
    read = workflow(path.name)
    assert read["permissions"] == {"contents": "read"}
    assert "secrets" not in path.read_text()
    assert "pull_request_target" not in read["on"]
    for step in steps(read["jobs"]):
        assert ("run" in step) != ("uses" in step)
        assert "uses" not in step or MAJOR.fullmatch(step["uses"]), step
        # What somebody else names (a branch, a title) must not become a line of shell.
        assert "${{" not in step.get("run", ""), step


def test_ci_runs_what_a_change_must_pass() -> None:
    jobs = workflow("ci.yml")["jobs"]
    assert ".ci/run" in commands(jobs["everything"])
    assert {"make test PYTHON=python", "make package PYTHON=python"} <= {*commands(jobs["python"])}
    assert commands(jobs["lowest"]) == ["make lowest PYTHON=python"]


def test_only_a_tag_is_published_and_only_after_ci() -> None:
    publish = workflow("publish.yml")
    assert publish["on"] == {"push": {"tags": ["v*"]}}
    jobs = publish["jobs"]
    assert jobs["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("ci", "build")
    assert "make package PYTHON=python" in commands(jobs["build"])


def test_only_the_job_that_publishes_has_an_identity() -> None:
    jobs = workflow("publish.yml")["jobs"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    # It runs no code of this repository: two actions, what was tested comes in and goes out.
    assert not commands(jobs["publish"])
    *_, last = jobs["publish"]["steps"]
    assert last == {"uses": "pypa/gh-action-pypi-publish@release/v1"}


def test_every_command_of_the_workflows_is_one_of_make() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [
        target for path in WORKFLOWS for target in re.findall(r"make ([a-z]+)", path.read_text())
    ]
    assert set(named) <= set(targets)
