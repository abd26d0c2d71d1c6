"""Migrations, by Alembic's own command line."""

import asyncio
import shutil
import subprocess
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import alembic.config
import asyncpg
import pytest

import app.main  # noqa: F401  # brings all models
from app.database.base import Base
from tests.commands import PROJECT, database_name, environment, newest_revision, run

TABLES = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information)' ORDER BY 1"

Alembic = Callable[..., None]


@pytest.fixture
def alembic_command(monkeypatch: pytest.MonkeyPatch) -> Alembic:
    """Run Alembic in this process, which spares the start of one."""

    def call(*arguments: str, **env: str) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        alembic.config.main(["-c", str(PROJECT / "pyproject.toml"), *arguments])

    return call


def execute(url: str, *statements: str) -> None:
    async def execute_all() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(execute_all())


def in_schema(schema: str) -> list[str]:
    return sorted(f"{schema}.{table}" for table in ("alembic_version", *Base.metadata.tables))


def tables(url: str) -> list[str]:
    return _fetch(url, TABLES)


def relations(url: str) -> list[str]:
    return _fetch(url, "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class")


def _fetch(url: str, query: str) -> list[str]:
    async def fetch() -> list[str]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(query)
        await connection.close()
        return [row[0] for row in rows]

    return asyncio.run(fetch())


@pytest.fixture
def with_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[str]]:
    """Write a newest revision, and give the start of a command that knows it."""

    def write(upgrade: str) -> list[str]:
        shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
        shutil.copy(PROJECT / "pyproject.toml", tmp_path)
        (tmp_path / "migrations" / "versions" / "newest.py").write_text(
            f"from alembic import op\nrevision = 'newest'\ndown_revision = {newest_revision()!r}\n\n{upgrade}"
        )
        monkeypatch.setattr("app.database.revision.PROJECT_FILE", tmp_path / "pyproject.toml")
        return ["-c", str(tmp_path / "pyproject.toml")]

    return write


def test_upgrade_downgrade_upgrade_and_no_drift(empty_database_url: str, alembic_command: Alembic) -> None:
    for command in (["upgrade", "head"], ["downgrade", "base"], ["upgrade", "head"], ["check"]):
        alembic_command(*command, DATABASE_URL=empty_database_url)
    assert tables(empty_database_url) == in_schema("public")


@pytest.mark.parametrize("schema", ["mine", 'Mine "too"'])
def test_a_schema_of_ones_own_is_made_and_holds_all_tables(
    empty_database_url: str, alembic_command: Alembic, schema: str
) -> None:
    for command in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        alembic_command(*command, DATABASE_URL=empty_database_url, DATABASE_SCHEMA=schema)
    assert tables(empty_database_url) == in_schema(schema)


def test_an_upgrade_needs_no_right_to_create_a_schema_that_is_there(
    empty_database_url: str, server_url: str, alembic_command: Alembic
) -> None:
    role = database_name(empty_database_url)
    execute(empty_database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'pw'", f"CREATE SCHEMA mine AUTHORIZATION {role}")
    url = f"postgresql://{role}:pw@{empty_database_url.split('@')[1]}"
    try:
        alembic_command("upgrade", "head", DATABASE_URL=url, DATABASE_SCHEMA="mine")
    finally:
        execute(empty_database_url, f"DROP OWNED BY {role}")
        execute(server_url, f"DROP ROLE {role}")


def test_an_upgrade_waits_for_one_that_runs(empty_database_url: str) -> None:
    """As when several copies of a service are deployed at once."""

    async def upgrade_while_locked() -> None:
        connection = await asyncpg.connect(empty_database_url)
        async with connection.transaction():
            assert await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", zlib.crc32(b"alembic "))
            process = subprocess.Popen(
                ["alembic", "-c", str(PROJECT / "pyproject.toml"), "upgrade", "head"],
                env=environment(empty_database_url),
                cwd="/",
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            assert "waiting for another migration" in process.stderr.readline()
            assert await connection.fetch(TABLES) == []
        await connection.close()
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest

    asyncio.run(upgrade_while_locked())
    assert tables(empty_database_url) == in_schema("public")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("UPDATE alembic_version SET version_num = 'from_the_future'", "is ahead of this code"),
        ("INSERT INTO alembic_version VALUES ('of_another_branch')", "has diverged"),
    ],
)
def test_an_old_copy_says_in_one_line_that_it_changes_nothing(
    database_url: str, alembic_command: Alembic, capsys: pytest.CaptureFixture[str], version: str, says: str
) -> None:
    """In a rolling deploy the old migrations may run after the new ones, and so they do when a deploy is undone."""
    execute(database_url, version)
    try:
        alembic_command("upgrade", "head", DATABASE_URL=database_url)
        ended = 0
    except SystemExit as error:
        ended = int(str(error.code))
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert ended == ("diverged" in says)


def test_a_migration_gives_up_on_a_lock_that_somebody_holds(database_url: str, alembic_command: Alembic) -> None:
    """Else all that come after it would wait as well, for as long as that takes."""

    async def downgrade_while_read() -> None:
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE alembic_version IN EXCLUSIVE MODE")
            with pytest.raises(SystemExit) as raised:
                await asyncio.to_thread(alembic_command, "downgrade", "base", DATABASE_URL=database_url)
            assert raised.value.code == 1
        await connection.close()

    asyncio.run(downgrade_while_read())


@pytest.mark.parametrize(
    ("statement", "is_run"),
    [
        ("CREATE INDEX CONCURRENTLY by_name ON users (name)", False),
        ("CREATE INDEX by_name ON mine.alembic_version (version_num)", True),
    ],
)
def test_sql_in_an_autocommit_block_must_name_the_schema_of_ones_own(
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    with_revision: Callable[[str], list[str]],
    statement: str,
    is_run: bool,
) -> None:
    """Outside of a transaction nothing can lead it there, and another service's table may have the same name."""
    execute(empty_database_url, "CREATE TABLE users (name text)")
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("DATABASE_SCHEMA", "mine")
    command = with_revision(
        f"def upgrade():\n    with op.get_context().autocommit_block():\n        op.execute({statement!r})\n"
    )
    command += ["upgrade", "head"]
    if is_run:
        alembic.config.main(command)
    else:
        with pytest.raises(SystemExit):
            alembic.config.main(command)
    assert ("mine.by_name" in relations(empty_database_url)) is is_run
    assert "public.by_name" not in relations(empty_database_url)


@pytest.mark.parametrize("command", ["current", "check", "history"])
def test_a_command_that_looks_makes_no_schema(empty_database_url: str, alembic_command: Alembic, command: str) -> None:
    with suppress(SystemExit):
        alembic_command(command, DATABASE_URL=empty_database_url, DATABASE_SCHEMA="mistyped")
    execute(empty_database_url, "CREATE SCHEMA mistyped")


def test_a_concurrent_index_does_not_wait_for_the_lock_of_its_own_migration(
    database_url: str, with_revision: Callable[[str], list[str]]
) -> None:
    """Nor where transactions keep their snapshot, so that the index waits for their end."""
    name = database_name(database_url)
    execute(database_url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    command = with_revision(
        "def upgrade():\n    with op.get_context().autocommit_block():\n"
        "        op.execute('CREATE INDEX CONCURRENTLY by_name ON things (name)')\n"
    )
    done = run("env", "alembic", *command, "upgrade", "head", database_url=database_url)
    assert done.returncode == 0, done.stderr
    assert "public.by_name" in relations(database_url)


def test_offline_sql_is_what_the_migration_says(
    empty_database_url: str, with_revision: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """To the driver a percent sign has a meaning."""
    command = with_revision("def upgrade():\n    op.execute(\"CREATE TABLE a (b text DEFAULT '100%')\")\n")
    alembic.config.main([*command, "upgrade", "head", "--sql"])
    printed = capsys.readouterr().out
    assert "DEFAULT '100%')" in printed
    execute(empty_database_url, printed)


@pytest.mark.parametrize("schema", ["", "mine", "a% :b"])
def test_offline_sql_needs_no_database_and_does_what_an_upgrade_does(
    empty_database_url: str, alembic_command: Alembic, capsys: pytest.CaptureFixture[str], schema: str
) -> None:
    alembic_command("upgrade", "head", "--sql", DATABASE_SCHEMA=schema)
    execute(empty_database_url, capsys.readouterr().out)
    assert tables(empty_database_url) == in_schema(schema or "public")
    alembic_command("check", DATABASE_URL=empty_database_url)


@pytest.mark.parametrize(
    ("env", "code", "says"),
    [
        ({}, 78, "DATABASE_URL: is not set"),
        (
            {"DATABASE_URL": "postgresql://127.0.0.1:1/orders"},
            1,
            "DATABASE_URL: cannot reach PostgreSQL at 127.0.0.1:1",
        ),
    ],
)
def test_what_the_user_can_fix_is_a_line_and_an_exit_code(
    alembic_command: Alembic, capsys: pytest.CaptureFixture[str], env: dict[str, str], code: int, says: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        alembic_command("upgrade", "head", DATABASE_PROBE_TRIES="1", **env)
    assert raised.value.code == code
    assert capsys.readouterr().err.startswith(says)
