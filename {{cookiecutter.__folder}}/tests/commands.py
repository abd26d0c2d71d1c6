"""Runs programs as a user would, with the settings of the test only."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from alembic.config import Config
from alembic.script import ScriptDirectory

from dev.databases import environment_without_settings
from tests import callers

__all__ = ["PROJECT", "database_name", "environment", "newest_revision", "run"]

PROJECT = Path(__file__).resolve().parent.parent


def environment(database_url: str = "", **env: str) -> dict[str, str]:
    """Return an environment with the programs of this venv, and without the settings of the user who runs the tests."""
    return {
        **environment_without_settings(),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(PROJECT),
        "DATABASE_URL": database_url,
        "DATABASE_PROBE_PAUSE": "0",
        **callers.environment(),
        **env,
    }


def database_name(url: str) -> str:
    """Return the name of the database in a URL."""
    return urlsplit(url).path.removeprefix("/")


def newest_revision() -> str | None:
    """Return the revision that `alembic upgrade head` leads to."""
    return ScriptDirectory.from_config(Config(toml_file=PROJECT / "pyproject.toml")).get_current_head()


def run(*command: str, database_url: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends, in a folder without .env."""
    if command[0] == "alembic":
        command = ("alembic", "-c", str(PROJECT / "pyproject.toml"), *command[1:])
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env=environment(database_url, **env),
    )
