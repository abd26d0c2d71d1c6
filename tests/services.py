"""Runs the baked service."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import free_port, run, serving

PATIENT = {"DATABASE_POOL_TIMEOUT": "60", "PROCESSOR_TIMEOUT": "0"}
"""Settings with which no request is refused, for tests of other laws with many clients, however slow the machine is."""


def program(project: Path, name: str) -> str:
    return str(project / ".venv" / "bin" / name)


def failing_start(project: Path, url: str, *, workers: int, **env: str) -> subprocess.CompletedProcess[str]:
    """Start the service, which must fail to start."""
    arguments = ["app.main:app", "--port", str(free_port()), "--workers", str(workers)]
    return run(program(project, "uvicorn"), *arguments, cwd=project, timeout=300, check=False, DATABASE_URL=url, **env)


@contextmanager
def service(project: Path, url: str, *arguments: str, **env: str) -> Iterator[tuple[str, Any]]:
    """Serve; yield the address and the process."""
    port = free_port()
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port), *arguments]
    with serving(command, cwd=project, port=port, DATABASE_URL=url, LOG_LEVEL="WARNING", **env) as process:
        yield f"http://127.0.0.1:{port}", process
