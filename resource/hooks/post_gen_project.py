"""Moves the files to their places, formats them, writes the migration if asked, and prints the line to add."""

import re
import shutil
import subprocess
from pathlib import Path

PLURAL = "{{ cookiecutter.plural }}"
MIGRATION = "{{ cookiecutter.migration }}"
HAS_QUERY = "{{ 'yes' if (cookiecutter | resource).has_query }}"
HERE = Path.cwd()
PROJECT = HERE.parent
APP, TESTS = f"app/{PLURAL}", f"tests/{PLURAL}"


def run(*command):
    """Run a command in the project, and exit if it fails."""
    ended = subprocess.run(command, cwd=PROJECT, check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)


run("make", "--no-print-directory", "install")
shutil.move(HERE / "app", PROJECT / APP)
shutil.move(HERE / "tests", PROJECT / TESTS)
if HAS_QUERY and not (PROJECT / "app" / "list_query.py").exists():  # the first list with filters or orders
    for path in sorted((HERE / "lists").rglob("*.py")):
        target = PROJECT / path.relative_to(HERE / "lists")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
shutil.rmtree(HERE)
if not (PROJECT / "app" / "idempotency").exists():  # the project is older, or its owner has removed it
    routes = PROJECT / APP / "routes.py"
    routes.write_text(re.sub(r"^(@once|from app\.idempotency\..*)\n", "", routes.read_text(), flags=re.MULTILINE))
# Which imports are needed, their order and the line breaks depend on the names and the fields.
run(
    ".venv/bin/ruff",
    "check",
    "--quiet",
    "--fix-only",
    "--config",
    "lint.isort.split-on-trailing-comma=false",
    APP,
    TESTS,
)
run(".venv/bin/ruff", "format", "--quiet", "--config", "format.skip-magic-trailing-comma=true", APP, TESTS)
migration = f'make migration m="add {PLURAL}"'
if MIGRATION == "yes":
    run("make", "--no-print-directory", "migration", f"m=add {PLURAL}")
    migration = "read the migration: the newest file in migrations/versions/"

print(f"""
Wrote {APP}/ and {TESTS}/. To serve it, add one line to _FEATURES in app/main.py:

    "{PLURAL}",

Then:

  {migration}
  make migrate        (also if `make run` is open: it has migrated at its start, only)
  make check
  make test
""")
