"""Answers in, a project out."""

import ast
import shutil
import sys
from pathlib import Path

from bakes import RAW, data, files
from commands import TEMPLATE, run


def test_the_default_answers_bake_without_a_network(tmp_path: Path) -> None:
    """The hooks included, which are processes of their own."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n\ndef connect(*_):\n    raise OSError('no network')\n\nsocket.socket.connect = connect\n"
    )
    python = [sys.executable, "-c"]
    closed = run(*python, "import socket; socket.socket().connect(('', 1))", cwd=tmp_path, check=False, PYTHONPATH=".")
    assert "no network" in closed.stderr
    bake = ["-m", "cookiecutter", "--no-input", "--output-dir", str(tmp_path), str(TEMPLATE)]
    run(sys.executable, *bake, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    project = tmp_path / "fastapi-service"
    assert data(project)["pyproject.toml"][0]["project"]["name"] == "fastapi-service"


def test_the_generated_python_carries_no_jinja() -> None:
    for name, path in files(RAW).items():
        if path.suffix == ".py":
            ast.parse(path.read_text())
            assert "cookiecutter" not in path.read_text(), name


def test_types_and_lint_hold_on_the_raw_template(guarded: Path, tmp_path: Path) -> None:
    """The raw files are what is edited: the tools must work there, with the packages of a project that has them all.

    The files of the two answers to ``auth`` have equal names, so each are looked at with all others.
    """
    programs = guarded / ".venv" / "bin"
    for folder in RAW.glob("{{*}}/"):
        raw = tmp_path / folder.name
        for part in (RAW, folder):
            shutil.copytree(part, raw, dirs_exist_ok=True, ignore=shutil.ignore_patterns("{{*"))
        mypy = ["--cache-dir", str(tmp_path / "cache"), "--python-executable", str(programs / "python")]
        run(str(programs / "mypy"), *mypy, cwd=raw, MYPYPATH=str(raw))
        run(str(programs / "ruff"), "check", "--no-cache", cwd=raw)
