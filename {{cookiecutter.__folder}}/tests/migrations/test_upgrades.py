"""Migrations, by Alembic's own command line."""

import asyncio
import subprocess
import zlib
from collections.abc import Callable
from contextlib import suppress

import alembic.command
import alembic.config
import asyncpg
import pytest
from sqlalchemy.dialects import postgresql

import app.main  # noqa: F401  # brings all models
from app.database.base import Base
from app.metadata import NAME
from tests.commands import PROJECT, database_name, environment, newest_revision, run
from tests.migrations.databases import OUTSIDE, TABLES, execute, fetch, relations, tables

pytestmark = pytest.mark.slow

Alembic = Callable[..., None]


def in_schema(schema: str) -> list[str]:
    return sorted(f"{schema}.{table}" for table in ("alembic_version", *Base.metadata.tables))


def test_upgrade_downgrade_upgrade_and_no_drift(empty_database_url: str, alembic_command: Alembic) -> None:
    for command in (["upgrade", "head"], ["downgrade", "base"], ["upgrade", "head"], ["check"]):
        # The pool of the settings would be too small: one connection migrates, and another one holds the lock.
        alembic_command(*command, DATABASE_URL=empty_database_url, DATABASE_POOL_SIZE="1")
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
    """As when several copies of a service are deployed at once. One of another service does not.

    Neither the one that waits nor the one that runs is ended as an idle transaction.
    """
    limit = "SET idle_in_transaction_session_timeout = '100ms'"
    execute(empty_database_url, f"ALTER DATABASE {database_name(empty_database_url)} {limit}")

    async def upgrade_while_locked() -> None:
        connection = await asyncpg.connect(empty_database_url)
        async with connection.transaction():
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            assert await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", zlib.crc32(b"alembic "))
            process = subprocess.Popen(
                [*upgrade[:1], "-c", str(PROJECT / "pyproject.toml"), *upgrade[1:]],
                env=environment(empty_database_url),
                cwd="/",
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            assert "waiting for another migration" in process.stderr.readline()
            other = await asyncio.to_thread(run, *upgrade, database_url=empty_database_url, DATABASE_SCHEMA="other")
            assert other.returncode == 0, other.stderr
            assert [row[0] for row in await connection.fetch(TABLES)] == in_schema("other")
        await connection.close()
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
        assert "waiting for another migration" not in rest  # said once
        checked = run("alembic", "check", database_url=empty_database_url)  # in a process that has imported no model
        assert checked.returncode == 0, checked.stdout

    upgrade = ("alembic", "upgrade", "head")
    asyncio.run(upgrade_while_locked())
    assert tables(empty_database_url) == in_schema("other") + in_schema("public")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("UPDATE alembic_version SET version_num = 'from_the_future'", "is ahead of this code"),
        ("INSERT INTO alembic_version VALUES ('of_another_branch')", "has diverged"),
        ("SELECT 1", ""),
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
    lines = [line for line in capsys.readouterr().err.splitlines() if "the schema" in line]
    assert [says in line for line in lines] == [True] * bool(says)
    assert ended == ("diverged" in says)


def test_the_revision_of_newer_code_can_be_replaced(database_url: str, alembic_command: Alembic) -> None:
    """After a return to old code for good. Only an upgrade has nothing to do."""
    execute(database_url, "UPDATE alembic_version SET version_num = 'from_the_future'")
    alembic_command("stamp", "--purge", "head", DATABASE_URL=database_url)
    assert fetch(database_url, "SELECT version_num FROM alembic_version") == [newest_revision()]


def test_a_migration_that_fails_leaves_the_ones_before_it(
    empty_database_url: str, with_revision: Callable[[str], list[str]]
) -> None:
    """Each is a transaction, so that none keeps its locks while the next one runs."""
    command = with_revision("def upgrade():\n    op.execute('CREATE TABLE a (b int)')\n    raise ZeroDivisionError\n")
    assert run("env", "alembic", *command, "upgrade", "head", database_url=empty_database_url).returncode == 1
    assert tables(empty_database_url) == in_schema("public")
    assert fetch(empty_database_url, "SELECT version_num FROM alembic_version") == [newest_revision()]


def test_a_program_can_migrate(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no command line then."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    alembic.command.downgrade(alembic.config.Config(toml_file=PROJECT / "pyproject.toml"), "base")
    assert tables(database_url) == ["public.alembic_version", "public.things"]


def test_a_migration_has_no_time_limit_and_is_named_in_the_list_of_connections(
    database_url: str, with_revision: Callable[[str], list[str]]
) -> None:
    """Neither the driver's limit, nor that of the role or the database."""
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        execute(database_url, f"ALTER DATABASE {database_name(database_url)} SET {limit} = '100ms'")
    command = with_revision(
        "import time\n\ndef upgrade():\n    op.execute('SELECT pg_sleep(1.2)')\n    time.sleep(0.2)\n"
        "    op.execute(\"CREATE TABLE named AS SELECT current_setting('application_name') AS own_name\")\n"
    )
    env = {"database_url": database_url, "DATABASE_STATEMENT_TIMEOUT": "0.1"}
    done = run("env", "alembic", *command, "upgrade", "head", **env)
    assert done.returncode == 0, done.stderr
    assert fetch(database_url, "SELECT own_name FROM named") == [f"{NAME} migrations"]


def test_what_a_migration_runs_outside_of_a_transaction_has_no_time_limit(
    database_url: str, with_revision: Callable[[str], list[str]]
) -> None:
    execute(database_url, f"ALTER DATABASE {database_name(database_url)} SET statement_timeout = '100ms'")
    command = with_revision(f"def upgrade():\n    {OUTSIDE}    op.execute('SELECT pg_sleep(0.2)')\n")
    done = run("env", "alembic", *command, "upgrade", "head", database_url=database_url)
    assert done.returncode == 0, done.stderr


def test_all_constraints_have_the_name_that_the_models_give_them(database_url: str) -> None:
    """Code recognizes a violated constraint by its name, and a later migration drops it by its name."""
    format_constraint = postgresql.dialect().identifier_preparer.format_constraint  # type: ignore[no-untyped-call]
    named = [format_constraint(part) for table in Base.metadata.tables.values() for part in table.constraints]
    query = (
        "SELECT conname FROM pg_constraint WHERE contype <> 'n' AND connamespace = 'public'::regnamespace "
        "AND conrelid::regclass::text NOT IN ('alembic_version', 'things')"
    )
    assert sorted(fetch(database_url, query)) == sorted(filter(None, named))
    assert {f"pk_{name}" for name in Base.metadata.tables} <= set(named)


@pytest.mark.parametrize(
    ("statements", "is_run"),
    [
        (f"{OUTSIDE}    op.execute('CREATE INDEX CONCURRENTLY by_name ON users (name)')", False),
        (f"{OUTSIDE}    op.execute('CREATE INDEX by_name ON mine.alembic_version (version_num)')", True),
        (f"{OUTSIDE}    op.create_index('by_name', 'alembic_version', ['version_num'])", True),
        ("op.execute('CREATE INDEX by_name ON alembic_version (version_num)')", True),
    ],
)
def test_sql_in_an_autocommit_block_must_name_the_schema_of_ones_own(
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    with_revision: Callable[[str], list[str]],
    statements: str,
    is_run: bool,
) -> None:
    """Outside of a transaction nothing can lead it there, and another service's table may have the same name."""
    execute(empty_database_url, "CREATE TABLE users (name text)")
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("DATABASE_SCHEMA", "mine")
    command = [*with_revision(f"def upgrade():\n    {statements}\n"), "upgrade", "head"]
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
    """To the driver a percent sign has a meaning. Names are as in an upgrade, and each migration is a transaction."""
    command = with_revision(
        "import sqlalchemy as sa\n\ndef upgrade():\n    op.execute(\"CREATE TABLE a (b text DEFAULT '100%')\")\n"
        "    numbers = op.create_table('c', sa.Column('n', sa.Integer, unique=True))\n"
        "    op.execute(numbers.insert().values(n=5))\n"
    )
    alembic.config.main([*command, "upgrade", "head", "--sql"])
    printed = capsys.readouterr().out
    assert "DEFAULT '100%')" in printed
    assert printed.count("BEGIN;") == 1 + len(list((PROJECT / "migrations" / "versions").glob("*.py")))
    execute(empty_database_url, printed)
    assert "public.uq_c_n" in relations(empty_database_url)
    assert fetch(empty_database_url, "SELECT n::text FROM c") == ["5"]


@pytest.mark.parametrize(
    ("schema", "before"),
    [("", "SELECT 1"), ("mine", "SELECT 1"), ("mine", "CREATE SCHEMA mine"), ("a% :b", "SELECT 1")],
)
def test_offline_sql_needs_no_database_and_does_what_an_upgrade_does(
    empty_database_url: str, alembic_command: Alembic, capsys: pytest.CaptureFixture[str], schema: str, before: str
) -> None:
    execute(empty_database_url, before)
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
        alembic_command("upgrade", "head", DATABASE_PROBE_TRIES="2", DATABASE_PROBE_PAUSE="0.01", **env)
    assert raised.value.code == code
    *waits, line = capsys.readouterr().err.splitlines()
    assert line.startswith(says)
    assert ["attempts left: 1, next in 0.01 s" in wait for wait in waits] == [True] * (code == 1)
