"""A baked project with its PostgreSQL, and the database that is measured on."""

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
    """A baked project, installed, its PostgreSQL running on a core of its own."""

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
        """Have that many users in the table, and no other; deleted long ago, if asked."""
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

    def sql(self, statement: str) -> list[asyncpg.Record]:
        """Ask the database."""

        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.url, command_timeout=600)
            try:
                return await connection.fetch(statement)
            finally:
                await connection.close()

        return asyncio.run(ask())


OURS = {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a command, and show what it said where it fails."""
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{ended.stdout}{ended.stderr}")


def bake(folder: Path, **answers: str) -> Path:
    """Bake the default answers into a folder, but for those that are given."""
    given = [f"{name}={answer}" for name, answer in answers.items()]
    run("cookiecutter", "--no-input", "--output-dir", folder, TEMPLATE, *given, cwd=TEMPLATE)
    return folder / "fastapi-service"


@contextmanager
def baked_project(**answers: str) -> Iterator[Project]:
    """Make a project, and leave nothing of it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where we are root, PostgreSQL is not, and must get through
        project = Project(bake(folder, **answers))
        try:
            yield project
        finally:
            run("make", "db-stop", cwd=project.folder, env=project.environment)
