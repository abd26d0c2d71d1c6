"""Runs the baked service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import free_port, serving


def program(project: Path, name: str) -> str:
    return str(project / ".venv" / "bin" / name)


@contextmanager
def service(project: Path, url: str, *arguments: str, **env: str) -> Iterator[tuple[str, Any]]:
    """Serve, and give the address and the process."""
    port = free_port()
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port), *arguments]
    with serving(command, cwd=project, port=port, DATABASE_URL=url, LOG_LEVEL="WARNING", **env) as process:
        yield f"http://127.0.0.1:{port}", process
