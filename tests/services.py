"""Runs the baked service, on databases of a test's own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from commands import free_port, run, serving
from sql import execute

PATIENT = {"DATABASE_POOL_TIMEOUT": "60", "PROCESSOR_TIMEOUT": "0"}
"""Settings with which no request is refused, for tests of other laws with many clients, however slow the machine is."""


def program(project: Path, name: str) -> str:
    return str(project / ".venv" / "bin" / name)


def failing_start(project: Path, url: str, *, workers: int, **env: str) -> subprocess.CompletedProcess[str]:
    """Start the service, which must fail to start."""
    arguments = ["app.main:app", "--port", str(free_port()), "--workers", str(workers)]
    return run(program(project, "uvicorn"), *arguments, cwd=project, timeout=300, check=False, DATABASE_URL=url, **env)


def new_database(project: Path, *, copy_of: str = "template1") -> str:
    """Create a database on the server of ``make db``, which is started unless it runs. Return its URL."""
    name = f"test_{os.urandom(6).hex()}"
    statement = f"CREATE DATABASE {name} TEMPLATE {copy_of}"
    try:
        execute(_url(project), statement)
    except (OSError, asyncpg.PostgresError):
        run("make", "db", cwd=project)
        execute(_url(project), statement)
    return f"{_url(project).rpartition('/')[0]}/{name}"


def _url(project: Path) -> str:
    """Return the URL that ``make db`` has written."""
    lines = (project / ".env").read_text().splitlines()
    return next(line for line in lines if line.startswith("DATABASE_URL=")).removeprefix("DATABASE_URL=").split()[0]


@contextmanager
def service(project: Path, url: str, *arguments: str, **env: str) -> Iterator[tuple[str, Any]]:
    """Serve; yield the address and the process."""
    port = free_port()
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port), *arguments]
    with serving(command, cwd=project, port=port, DATABASE_URL=url, LOG_LEVEL="WARNING", **env) as process:
        yield f"http://127.0.0.1:{port}", process
