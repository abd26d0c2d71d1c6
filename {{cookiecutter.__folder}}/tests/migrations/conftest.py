"""Fixtures of the migrations' tests: Alembic's own command line, and revisions that only a test has."""

import shutil
from collections.abc import Callable
from pathlib import Path

import alembic.config
import pytest

from tests.commands import PROJECT, newest_revision

Alembic = Callable[..., None]
Revisions = Callable[..., list[str]]


@pytest.fixture
def alembic_command(monkeypatch: pytest.MonkeyPatch) -> Alembic:
    """Run Alembic in this process, which spares the start of one."""

    def call(*arguments: str, config: str = str(PROJECT / "pyproject.toml"), **env: str) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        alembic.config.main(["-c", config, *arguments])

    return call


@pytest.fixture
def with_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Revisions:
    """Write a newest revision, or several, and give the start of a command that knows them."""

    def write(*upgrades: str) -> list[str]:
        shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
        shutil.copy(PROJECT / "pyproject.toml", tmp_path)
        before = newest_revision()
        for number, upgrade in enumerate(upgrades):
            name = "newest" + "_of_all" * number
            (tmp_path / "migrations" / "versions" / f"{name}.py").write_text(
                f'"""A test."""\nfrom alembic import op\nrevision = {name!r}\ndown_revision = {before!r}\n\n{upgrade}'
            )
            before = name
        monkeypatch.setattr("app.database.internal.revision.PROJECT_FILE", tmp_path / "pyproject.toml")
        return ["-c", str(tmp_path / "pyproject.toml")]

    return write
