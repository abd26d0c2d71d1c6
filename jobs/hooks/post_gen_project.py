"""Adds PgQueuer, the migration of its tables, the module, the worker and their tests, and prints the next commands."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

HERE = Path.cwd()
PROJECT = HERE.parent
REVISION = "5c1f0e7a9d42"


def run(*command):
    """Run a command in the project and return what it prints; exit if it fails."""
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    ended = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return ended.stdout


run("make", "--no-print-directory", "install")
heads = re.findall(r"^\w+", run(".venv/bin/alembic", "heads"), re.MULTILINE)
if len(heads) > 1:
    raise SystemExit(
        f"ERROR: migrations/versions has several heads, {', '.join(heads)}: merge them first (alembic merge)"
    )
uv = shutil.which("uv") or str(PROJECT / ".tools" / "bin" / "uv")
run(uv, "add", "--quiet", "--no-sync", "pgqueuer>=1.6")
run("make", "--no-print-directory", "install")

versions = PROJECT / "migrations" / "versions"
(versions / "pgqueuer.sql").write_text(run(".venv/bin/pgq", "sql", "install"))
migration = (HERE / "migrations" / "add_jobs.py").read_text()
now = datetime.now(UTC)
migration = migration.replace("<time>", f"{now:%Y-%m-%d %H:%M} UTC").replace("<revision>", REVISION)
migration = migration.replace("<before>", heads[0] if heads else "")
migration = migration.replace('down_revision = ""', "down_revision = None")
(versions / f"{now:%Y%m%d_%H%M}_{REVISION}_add_jobs.py").write_text(migration)

# Autogeneration must leave tables alone that have no models.
environment = PROJECT / "migrations" / "env.py"
environment.write_text(
    re.sub(
        r"context\.configure\(\s*connection=connection,",
        '\\g<0> include_name=lambda name, kind, _: kind != "table" or not (name or "").startswith("pgqueuer"),',
        environment.read_text(),
    )
)
for name in ("app/jobs.py", "app/scripts/worker.py", "tests/test_jobs.py"):
    shutil.move(HERE / name, PROJECT / name)
shutil.rmtree(HERE)
run(".venv/bin/ruff", "format", "--quiet", "migrations")

print("""
Wrote app/jobs.py, app/scripts/worker.py, tests/test_jobs.py and a migration. Added PgQueuer to pyproject.toml, and to
migrations/env.py that autogeneration ignores its tables. Then:

  make migrate
  make check
  make test
  .venv/bin/python -m dev.postgres run -- python -m app.scripts.worker    does jobs until Ctrl-C

To add a job in a session's transaction: await add_job(session, "hello", name="Ada"). HANDLERS in the worker says
what is done.
""")
