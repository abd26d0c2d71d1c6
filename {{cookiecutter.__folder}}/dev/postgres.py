"""The embedded PostgreSQL of ``make run``, ``make db`` and the tests, as a command: ``python -m dev.postgres``.

If the user has set DATABASE_URL, in the environment or in .env, that server is used and none is started. A line in .env
that ``make db`` wrote means the embedded server.
"""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from dotenv import dotenv_values

from app.database.internal.url import parse_database_url
from app.database.password import read_password_file
from app.metadata import NAME
from dev.cluster import Cluster, cluster_in_use
from dev.databases import ensure_database, environment_without_settings, scratch_database, scratch_server
from dev.programs import PostgresError, program

_PROJECT: Final = Path(__file__).resolve().parent.parent
_FOLDER: Final = _PROJECT / ".postgres"
_ENV: Final = _PROJECT / ".env"
_MARK: Final = "  # written by make db"
_DATABASE: Final = NAME.replace("-", "_")


@click.group()
def main() -> None:
    """Run the embedded PostgreSQL of this project."""


@main.command()
def start() -> None:
    """Start the server, and write its URL to .env."""
    if where := _own_server():
        click.echo(f"DATABASE_URL is set in {where}: that server is used, none is started.")
        return
    cluster = Cluster(_FOLDER)
    cluster.start(keep=True)
    ensure_database(cluster.url(), _DATABASE)
    _write_env(cluster.url(_DATABASE))
    click.echo("PostgreSQL is running, and .env has its URL; `make db-stop` stops it and keeps its data.")


@main.command()
def stop() -> None:
    """Stop the server, and keep its data."""
    Cluster(_FOLDER).stop()
    click.echo("PostgreSQL is stopped; its data is kept.")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Run COMMAND with DATABASE_URL set; the server runs until it ends."""
    with _server() as environment:
        code = _call(command, environment)
    raise SystemExit(code)


@main.command()
def psql() -> None:
    """Open psql on the database."""
    with _server() as environment:
        values = _settings(dotenv_values(_ENV)) | _settings(environment)
        url = values["DATABASE_URL"]
        password = values.get("DATABASE_PASSWORD")
        if file := values.get("DATABASE_PASSWORD_FILE"):
            password = read_password_file(Path(file))
        password = parse_database_url(url, password).password
        if password is not None:  # not as an argument, which all users of the machine can read
            environment["PGPASSWORD"] = password
        if schema := values.get("DATABASE_SCHEMA"):
            quoted = schema.replace('"', '""').replace("\\", "\\\\").replace(" ", "\\ ")
            environment["PGOPTIONS"] = f'-csearch_path="{quoted}"'
        without_password = re.sub(r"^\w+(\+\w+)?://(([^:@/?]*)(:[^/?]*)?@)?", _without_password, url)
        code = _call([str(program("psql")), without_password], environment)
    raise SystemExit(code)


@main.command()
def drift() -> None:
    """Check, on an empty database, that the migrations create what the models declare."""
    environment = environment_without_settings()
    alembic = ["alembic", "-c", str(_PROJECT / "pyproject.toml")]
    # In a folder without .env: an empty variable does not override its values.
    with scratch_server() as server, scratch_database(server) as url, tempfile.TemporaryDirectory() as folder:
        for command in (["upgrade", "head"], ["check"]):
            code = subprocess.call([*alembic, *command], env=environment | {"DATABASE_URL": url}, cwd=folder)
            if code:
                raise SystemExit(code)


@contextmanager
def _server() -> Iterator[dict[str, str]]:
    """Yield an environment for a command that needs the database."""
    if _own_server():
        yield dict(os.environ)
        return
    with cluster_in_use(_FOLDER) as cluster:
        ensure_database(cluster.url(), _DATABASE)
        if _MARK in _env_text():
            _write_env(cluster.url(_DATABASE))  # the port may have changed
        yield {**os.environ, "DATABASE_URL": cluster.url(_DATABASE)}


def _call(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command until it ends, in spite of signals, so that the server is stopped after it."""
    with subprocess.Popen(command, env=environment) as process:
        # A signal to the process group, such as Ctrl-C, reaches the command too, and uvicorn's reloader hangs if two
        # come at once. So SIGTERM is passed on only if the command still runs a second later.
        def wait_a_second(*_: object) -> None:
            signal.alarm(1)

        def pass_on(*_: object) -> None:
            process.terminate()

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, wait_a_second)
        signal.signal(signal.SIGALRM, pass_on)
        return process.wait()


def _without_password(match: re.Match[str]) -> str:
    return f"postgresql://{match[3]}@" if match[2] else "postgresql://"


def _env_text() -> str:
    try:
        return _ENV.read_text(encoding="utf-8") if _ENV.exists() else ""
    except UnicodeDecodeError:
        raise PostgresError(".env: is not UTF-8 text; save it as UTF-8") from None


def _settings(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return the variables that are set, as the service reads them: in any letter case, without empty values."""
    return {name.upper(): value for name, value in values.items() if value}


def _without_marked_line() -> list[str]:
    return [line for line in _env_text().splitlines() if not line.endswith(_MARK)]


def _own_server() -> str | None:
    """Return where the user has set DATABASE_URL, None if nowhere."""
    exported = _settings(os.environ)
    if "DATABASE_URL" in exported:
        return "the environment"
    written = _settings(dotenv_values(stream=io.StringIO("\n".join(_without_marked_line()))))
    if "DATABASE_URL" in written:
        _write_env(None)  # the last of two lines counts, and that may be the marked one
        return ".env"
    for name in {"DATABASE_PASSWORD", "DATABASE_PASSWORD_FILE"} & {**exported, **written}.keys():
        raise PostgresError(f"{name}: is set without a DATABASE_URL; remove it, or set DATABASE_URL too")
    return None


def _write_env(url: str | None) -> None:
    """Write the URL of the embedded server to .env; None: remove it."""
    lines = _without_marked_line()
    if url is not None:
        lines.append(f"DATABASE_URL={url}{_MARK}")
    elif _MARK not in _env_text():
        return
    _ENV.touch()
    _ENV.chmod(0o600)  # the URL has a password
    _ENV.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except PostgresError as error:
        sys.exit(str(error))
