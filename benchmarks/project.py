"""A generated project with its PostgreSQL, and the database for the measurements."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

TEMPLATE = Path(__file__).resolve().parent.parent
DATABASE_CORE, SERVER_CORE = "0", "1"


class Project:
    """An installed project, whose PostgreSQL runs on its own core."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / ".venv" / "bin"
        self.environment = {name: value for name, value in os.environ.items() if name not in OURS} | {
            "PATH": f"{self.programs}:{os.environ['PATH']}"
        }
        run("make", "install", cwd=folder, env=self.environment)
        # orjson is what hand-written code would use; the service does not.
        run("uv", "pip", "install", "--quiet", "--python", self.programs / "python", "orjson", cwd=folder)
        run("taskset", "--cpu-list", DATABASE_CORE, "make", "db", cwd=folder, env=self.environment)
        line = next(line for line in (folder / ".env").read_text().splitlines() if line.startswith("DATABASE_URL="))
        self.url = line.removeprefix("DATABASE_URL=").split("  #")[0]
        self.environment["DATABASE_URL"] = self.url
        run(self.programs / "alembic", "upgrade", "head", cwd=folder, env=self.environment)

    def seed(self, users: int, *, deleted: bool = False) -> None:
        """Replace all users by a number of new ones, which were deleted long ago if asked for."""
        self.sql("TRUNCATE users")
        self.sql(
            "INSERT INTO users (id, email, name, created_at, updated_at, deleted_at) "
            "SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, "
            "'user' || n || '@example.com', 'User ' || n, "
            "now() - interval '1 day' + n * interval '1 ms', now(), "
            f"CASE WHEN {deleted} THEN now() - interval '1 year' END FROM generate_series(1, {users}) n"
        )
        self.sql("VACUUM ANALYZE users")
        self.sql("CHECKPOINT")

    def stop(self) -> None:
        """Stop PostgreSQL."""
        run("make", "db-stop", cwd=self.folder, env=self.environment)

    def sql(self, statement: str) -> list[asyncpg.Record]:
        """Run a query."""

        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.url, command_timeout=600)
            try:
                return await connection.fetch(statement)
            finally:
                await connection.close()

        return asyncio.run(ask())


OURS = {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a command; if it fails, show its output and exit."""
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{ended.stdout}{ended.stderr}")


def bake(folder: Path, template: Path = TEMPLATE, **answers: str) -> Path:
    """Generate a project in a folder, with the default answers except for the given ones."""
    given = [f"{name}={answer}" for name, answer in answers.items()]
    run("cookiecutter", "--no-input", "--output-dir", folder, template, *given, cwd=template)
    return folder / "fastapi-service"


@contextmanager
def baked_project(**answers: str) -> Iterator[Project]:
    """Generate and install a project, and remove it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # if we are root, PostgreSQL runs as another user and must get through
        project = Project(bake(folder, **answers))
        try:
            yield project
        finally:
            project.stop()
