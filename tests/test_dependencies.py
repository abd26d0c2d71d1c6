"""What the baked project depends on: named and reasoned, true from the lowest version that is allowed to the newest."""

import re
import tomllib
from pathlib import Path

import pytest
from bakes import OPTIONS, bake, data
from commands import TEMPLATE, run
from cookiecutter.exceptions import FailedHookException


def dependencies(project: Path) -> dict[str, str]:
    """Return the lower bound of each direct dependency, those for development too."""
    declared = data(project)["pyproject.toml"][0]
    groups = declared["dependency-groups"]
    listed = [*declared["project"]["dependencies"], *groups["dev"], *groups["telemetry"]]
    listed.remove({"include-group": "telemetry"})
    found = [re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z]+\])?>=([0-9.]+)(?:;.*)?", line) for line in listed]
    assert all(found), listed
    return {match[1]: match[2] for match in found if match}


def locked(project: Path) -> dict[str, str]:
    """Return the version of each package of the lock file, but for the project's own."""
    packages = tomllib.loads((project / "uv.lock").read_text())["package"]
    return {package["name"]: package["version"] for package in packages if "registry" in package["source"]}


def test_each_dependency_is_explained(tmp_path: Path) -> None:
    text = (TEMPLATE / "docs" / "decisions.md").read_text()
    explained = set(re.findall(r"[a-z0-9-]+", text.split("## Dependencies of the generated project")[1]))
    assert set(dependencies(bake(tmp_path, auth="oidc"))) <= explained


def test_no_project_can_have_the_name_of_what_it_depends_on(guarded: Path, tmp_path: Path) -> None:
    """If only by way of another package: no set of versions would fit."""
    names = {*locked(guarded), *dependencies(guarded)}
    assert len(names) > 50
    for name in sorted(names):
        with pytest.raises(FailedHookException):
            bake(tmp_path, project_slug=name)


def test_no_python_is_taken_that_is_newer_than_the_newest_that_is_tested(tmp_path: Path) -> None:
    """The embedded PostgreSQL is there for these: on a machine with a newer one make lets uv take an older one."""
    minors = sorted(int(version.removeprefix("3.")) for version in OPTIONS["python_version"])
    project = bake(tmp_path)
    assert data(project)["pyproject.toml"][0]["project"]["requires-python"] == f">=3.{minors[0]}"
    assert f"UV_PYTHON ?= >=3.{minors[0]},<3.{minors[-1] + 1}\n" in (project / "Makefile").read_text()


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("python", ["3.11", "3.14"])
def test_nothing_has_to_be_compiled(project: Path, resolution: str, python: str) -> None:
    """On the oldest Python that is allowed and on the newest."""
    wheels = ["--only-binary", ":all:", "--python-version", python, "--resolution", resolution]
    run(
        "uv",
        "pip",
        "compile",
        "--quiet",
        "pyproject.toml",
        "--group",
        "dev",
        *wheels,
        cwd=project,
        UV_PYTHON_DOWNLOADS="never",
    )
