"""Checks the folder before any file is written: exit code 1, and one line for each problem."""

import re
import sys
from pathlib import Path

PROJECT = Path.cwd().parent  # cookiecutter runs this in the folder that it has just created
MODELS_ARE_COMPARED = re.compile(r"context\.configure\(\s*connection=connection,")


def problems():
    """Yield the problems of the folder."""
    environment = PROJECT / "migrations" / "env.py"
    if not environment.exists() or not (PROJECT / "app" / "database" / "session.py").exists():
        yield "this is not the folder of a project of this template: change to that folder, and run this again"
        return
    for name in (
        "app/jobs.py",
        "app/jobs",
        "app/scripts/worker.py",
        "tests/test_jobs.py",
        "migrations/versions/pgqueuer.sql",
    ):
        if (PROJECT / name).exists():
            yield f"{name} exists, and nothing is overwritten"
    if len(MODELS_ARE_COMPARED.findall(environment.read_text())) != 1:
        yield "migrations/env.py: must have one call that begins with `context.configure(connection=connection,`"


found = list(problems())
for problem in found:
    print(f"ERROR: {problem}", file=sys.stderr)
sys.exit(1 if found else 0)
