"""The scaffold of jobs, as its user runs it (``cookiecutter <template> --directory jobs``), and events on top of it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import TEMPLATE, environment, run, started
from services import program
from test_guide_steps import follow

COOKIECUTTER = str(Path(sys.executable).parent / "cookiecutter")
ADD_A_JOB = """
import asyncio
from app.config import load_settings
from app.jobs import add_job
from app.startup import open_database
from app.users import repository
from app.users.schemas import NewUser

async def main():
    async with open_database(load_settings()) as database, database.session() as session:
        user = await repository.create_user(session, NewUser(email="ada@example.com", name="Ada"))
        await add_job(session, "welcome", user_id=str(user.id))

asyncio.run(main())
"""


def scaffold(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the scaffold in a project."""
    command = [COOKIECUTTER, str(TEMPLATE), "--directory", "jobs", "--no-input"]
    return run(*command, cwd=project, check=False, timeout=300)


def contents(project: Path) -> dict[Path, bytes]:
    """Return all files of a project."""
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".venv" not in path.parts}


@pytest.fixture
def fresh(project: Path, bake: Any) -> Path:
    """A fresh bake, whose venv is its own: PgQueuer goes into it."""
    baked: Path = bake()
    (baked / "uv.lock").write_bytes((project / "uv.lock").read_bytes())
    yield baked
    run("make", "db-stop", cwd=baked)


@pytest.mark.slow
def test_the_guides_on_jobs_and_events(fresh: Path, uvx: Path, pooler: str) -> None:
    """They end with a project that passes its own checks and tests. A killed worker loses no job and no event."""
    path = f"{uvx}:{environment()['PATH']}"
    follow("background-jobs-and-scripts.md", fresh, TEMPLATE=str(TEMPLATE), PATH=path)
    _jobs_are_done_behind_a_pooler(fresh, pooler)
    assert scaffold(fresh).returncode == 1, "nothing is overwritten"
    assert "4 passed" in run(program(fresh, "pytest"), "tests/test_jobs.py", cwd=fresh).stdout
    follow("events.md", fresh)
    refused = run(program(fresh, "python"), "-m", "app.scripts.worker", cwd=fresh, check=False, DATABASE_URL=pooler)
    assert (refused.returncode, refused.stderr.count("\n")) == (78, 1)
    assert refused.stderr.startswith("WEBHOOK_URL, WEBHOOK_SECRET: ")


def _jobs_are_done_behind_a_pooler(project: Path, pooler: str) -> None:
    env = {"DATABASE_URL": pooler, "DATABASE_SCHEMA": "jobs_there", "DATABASE_POOLER": "pgbouncer"}
    run(program(project, "alembic"), "upgrade", "head", cwd=project, **env)
    run(program(project, "alembic"), "check", cwd=project, **env)
    run(program(project, "python"), "-c", ADD_A_JOB, cwd=project, **env)
    command = [program(project, "python"), "-m", "app.scripts.worker"]
    with started(command, cwd=project, stderr=subprocess.PIPE, **env) as worker:
        assert any("job done" in line for line in worker.stderr)
        worker.terminate()
        assert worker.wait(60) == 0


@pytest.mark.parametrize("name", ["app/jobs.py", "app/jobs", "app/scripts/worker.py", "tests/test_jobs.py"])
def test_what_is_there_is_never_overwritten(bake: Any, name: str) -> None:
    project = bake()
    (project / name).touch()
    before = contents(project)
    refused = scaffold(project)
    assert (refused.returncode, contents(project)) == (1, before)
    assert f"ERROR: {name} exists, and nothing is overwritten" in refused.stderr


def test_a_project_whose_migrations_are_its_own_is_told_so(bake: Any) -> None:
    project = bake()
    environment_file = project / "migrations" / "env.py"
    environment_file.write_text(re.sub(r"connection=connection,", "**options,", environment_file.read_text()))
    before = contents(project)
    refused = scaffold(project)
    assert (refused.returncode, contents(project)) == (1, before)
    assert "ERROR: migrations/env.py: must have one call that begins with" in refused.stderr


def test_it_runs_in_the_folder_of_a_project_alone(tmp_path: Path) -> None:
    refused = scaffold(tmp_path)
    assert refused.returncode == 1
    assert "this is not the folder of a project" in refused.stderr
    assert list(tmp_path.iterdir()) == []
