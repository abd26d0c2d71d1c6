"""Answers in, a project out."""

import ast
import socket
from pathlib import Path
from typing import Any

import pytest
from bakes import RAW, data, files
from commands import run


def test_the_default_answers_bake_without_a_network(bake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    project = bake()
    assert project.name == "fastapi-service"
    assert data(project)["pyproject.toml"][0]["project"]["name"] == "fastapi-service"


def test_the_generated_python_carries_no_jinja() -> None:
    for name, path in files(RAW).items():
        if path.suffix == ".py":
            ast.parse(path.read_text())
            assert "cookiecutter" not in path.read_text(), name


def test_types_and_lint_hold_on_the_raw_template(project: Path, tmp_path: Path) -> None:
    """The raw files are what is edited: the tools must work there, with the packages of a baked project."""
    programs = project / ".venv" / "bin"
    env = {"MYPYPATH": str(RAW)}
    mypy = [str(programs / "mypy"), "--cache-dir", str(tmp_path), "--python-executable", str(programs / "python")]
    run(*mypy, cwd=RAW, **env)
    run(str(programs / "ruff"), "check", "--no-cache", cwd=RAW)
