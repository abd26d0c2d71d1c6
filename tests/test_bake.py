"""Answers in, a project out: or a clear refusal and nothing."""

import ast
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import TEMPLATE, environment, run
from cookiecutter.exceptions import FailedHookException

RUFF = str(Path(sys.executable).with_name("ruff"))
RAW = next(TEMPLATE.glob("{{*}}"))
LICENSES = {
    "MIT": "MIT License",
    "Apache-2.0": "Apache License",
    "BSD-3-Clause": "BSD 3-Clause",
    "proprietary": "All rights reserved",
}
HOSTILE = {
    "quotes": 'it\'s "quoted" `here`',
    "backslashes": r"a\b \n \u0041 \\",
    "emoji": "fast 🚀 and ünïcode",
    "markup": "<b>&amp; {% raw %} ${HOME} ${{ x }} $(id) #{y}",
    "right-to-left": "שלום",
    "toml": "x = [1] # no comment",
}


def test_the_default_answers_bake_without_a_network(bake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    project = bake()
    assert project.name == "fastapi-service"
    for path in project.rglob("*"):
        if path.is_file():
            assert not re.search(r"cookiecutter|\{%|\{\{(?! )", path.read_text()), path


def test_the_generated_python_carries_no_jinja() -> None:
    for path in RAW.rglob("*.py"):
        ast.parse(path.read_text())
        assert "cookiecutter" not in path.read_text(), path


@pytest.mark.parametrize("field", ["project_name", "description", "author_name"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_any_text_bakes_into_files_that_parse(tmp_path: Path, field: str, kind: str) -> None:
    """Typed at the prompts: cookiecutter takes an answer given by a program for a template of its own."""
    text = HOSTILE[kind]
    answers = {"project_name": "", "project_slug": "order-service", "description": "", "author_name": "", field: text}
    typed = "\n".join([*answers.values(), "", "", "", ""])
    command = [str(Path(sys.executable).with_name("cookiecutter")), str(TEMPLATE), "--output-dir", str(tmp_path)]
    subprocess.run(command, input=typed, text=True, check=True, env=environment())
    project = tmp_path / "order-service"
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    if field == "description":
        assert declared["description"] == text
    if field == "author_name":
        assert declared["authors"][0]["name"] == text
        assert text in (project / "LICENSE").read_text()
    if field == "project_name":
        assert text in (project / "README.md").read_text()
    run(RUFF, "check", "--no-cache", cwd=project)
    run(RUFF, "format", "--no-cache", "--check", cwd=project)


@pytest.mark.parametrize("license_", LICENSES)
@pytest.mark.parametrize("python", ["3.11", "3.14"])
def test_every_licence_bakes(bake: Any, license_: str, python: str) -> None:
    project = bake(license=license_, python_version=python)
    text = (project / "LICENSE").read_text()
    assert LICENSES[license_] in text
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["license"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"project_slug": "a/b"}, "project_slug"),
        ({"project_slug": "Order_Service"}, "project_slug"),
        ({"project_slug": "1st"}, "project_slug"),
        ({"project_slug": "x" * 51}, "project_slug"),
        ({"project_slug": "test"}, "project_slug"),
        ({"project_slug": "con"}, "project_slug"),
        ({"author_email": "nobody"}, "author_email"),
        ({"author_email": 'a"b@example.com'}, "author_email"),
        ({"author_name": " "}, "author_name"),
        ({"description": "two\nlines"}, "description"),
        ({"description": "x" * 301}, "description"),
        ({"project_name": "x" * 101, "project_slug": "x"}, "project_name"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_name_and_leaves_nothing(
    bake: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], answer: dict[str, str], says: str
) -> None:
    with pytest.raises(FailedHookException):
        bake(**answer)
    assert f"ERROR: {says}" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_types_and_lint_hold_on_the_raw_template(project: Path, tmp_path: Path) -> None:
    """The raw files are what is edited: the tools must work there, with the packages of a baked project."""
    programs = project / ".venv" / "bin"
    env = {"MYPYPATH": str(RAW)}
    mypy = [str(programs / "mypy"), "--cache-dir", str(tmp_path), "--python-executable", str(programs / "python")]
    run(*mypy, cwd=RAW, **env)
    run(str(programs / "ruff"), "check", "--no-cache", cwd=RAW)
