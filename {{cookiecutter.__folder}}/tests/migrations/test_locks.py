"""Migrations of busy tables: they wait in short attempts, say who holds the lock, and change all or nothing."""

import asyncio
import json
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import alembic.config
import asyncpg
import pytest

from tests.commands import database_name, environment, newest_revision
from tests.migrations.databases import OUTSIDE, execute

pytestmark = pytest.mark.slow

Revisions = Callable[..., list[str]]

_READS = "SELECT 'secret' FROM things"
_ADDS_COLUMN = "def upgrade():\n    op.execute('ALTER TABLE things ADD COLUMN added text')\n"
_ADDS_INDEX = f"def upgrade():\n    {OUTSIDE}    op.execute('CREATE INDEX CONCURRENTLY added ON things (name)')\n"
_BUSY = "did not get a lock on things, held by "
# In the databases of other tests, tables have the same numbers.
_LOCKS = "pg_locks JOIN pg_database ON database = pg_database.oid WHERE datname = current_database() AND"


@asynccontextmanager
async def transaction(url: str, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction of another program, which keeps its locks until the end of the block."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "a report"})
    try:
        await connection.execute("BEGIN")
        for statement in statements:
            await connection.execute(statement)
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def upgrading(start: list[str], url: str, target: str = "head", **env: str) -> AsyncIterator[Process]:
    """Run an upgrade beside the test."""
    command = ["alembic", *start, "upgrade", target]
    process = await asyncio.create_subprocess_exec(*command, cwd="/", env=environment(url, **env), stderr=PIPE)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line_with(words: str, process: Process) -> str:
    """Wait for a line of the log."""
    assert process.stderr is not None
    seen = []
    async with asyncio.timeout(50):
        async for line in process.stderr:
            seen.append(line.decode())
            if words in seen[-1]:
                return seen[-1]
    raise AssertionError("".join(seen))


async def end_of(process: Process) -> tuple[int | None, str]:
    """Wait for the exit code and the rest of the log."""
    async with asyncio.timeout(50):
        _, rest = await process.communicate()
    return process.returncode, rest.decode()


async def result(url: str, query: str) -> list[object]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(query)
    await connection.close()
    return [row[0] for row in rows]


async def until_true(url: str, query: str) -> None:
    """Repeat a query until it returns true."""
    async with asyncio.timeout(50):
        while True:
            if await result(url, query) == [True]:
                return
            await asyncio.sleep(0.05)


async def columns(url: str) -> list[object]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname = 'added'"
    return await result(url, query)


async def revision(url: str) -> object:
    (version,) = await result(url, "SELECT version_num FROM alembic_version")
    return version


@pytest.mark.parametrize(
    ("held_by", "statement"),
    [
        (_READS, "ALTER TABLE things ADD COLUMN added text"),
        ("UPDATE things SET name = 'secret'", "ALTER TABLE things ADD CHECK (name <> '') NOT VALID"),
        ("UPDATE things SET name = 'secret'", "UPDATE things SET name = ''"),
    ],
)
async def test_a_busy_table_delays_a_migration_which_says_who_holds_it(
    database_url: str, with_revision: Revisions, held_by: str, statement: str
) -> None:
    """Each attempt runs the revision from its beginning, and others wait only briefly behind it."""
    start = with_revision(f'def upgrade():\n    op.execute("CREATE TABLE a (b int)")\n    op.execute("{statement}")\n')
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO things (id, email, name) VALUES (gen_random_uuid(), 'ada@example.com', 'Ada')"
    )
    await connection.execute("SET lock_timeout = '2s'")

    async def read() -> None:
        while True:
            await connection.fetch("SELECT FROM things")
            await asyncio.sleep(0.01)

    async with transaction(database_url, held_by) as holder, upgrading(start, database_url) as process:
        reader = asyncio.create_task(read())
        lines = [await line_with(_BUSY, process) for _ in range(2)]
        await holder.execute("ROLLBACK")
        code, rest = await end_of(process)
        assert not reader.done()
        reader.cancel()
        await connection.close()
        pid = holder.get_server_pid()
    assert code == 0, rest
    who = rf"pid {pid} \(application a report, role \w+, idle in transaction, transaction open for \d+ s\)"
    for line in lines:
        assert re.search(rf"upgrade \w+ -> newest, A test: {_BUSY}{who}; trying again for \d+ s", line), line
        assert "secret" not in line
        assert statement not in line
    assert await revision(database_url) == "newest"


async def test_a_migration_gives_up_in_one_line_that_names_the_holder(
    database_url: str, with_revision: Revisions
) -> None:
    """The line is not about DATABASE_URL."""
    start = with_revision(_ADDS_COLUMN)
    async with (
        transaction(database_url, _READS) as holder,
        upgrading(start, database_url, DATABASE_MIGRATION_LOCK_WAIT="1", LOG_LEVEL="ERROR") as process,
    ):
        code, said = await end_of(process)
        pid = holder.get_server_pid()
    assert code == 1
    (line,) = said.splitlines()
    assert re.match(rf"upgrade \w+ -> newest, A test: {_BUSY}pid {pid} \(application a report", line), line
    assert "given up after 1 s (DATABASE_MIGRATION_LOCK_WAIT), nothing of it was changed" in line
    assert "DATABASE_URL" not in line
    assert await columns(database_url) == []


async def test_a_role_that_may_not_see_other_sessions_is_told_the_pid(
    empty_database_url: str, with_revision: Revisions
) -> None:
    role = database_name(empty_database_url)
    start = with_revision(_ADDS_COLUMN)
    url = f"postgresql://{role}:pw@{empty_database_url.split('@')[1]}"
    execute_now = asyncio.to_thread
    await execute_now(
        execute, empty_database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'pw'", f"GRANT ALL ON SCHEMA public TO {role}"
    )
    try:
        async with upgrading(start, url, str(newest_revision())) as process:
            assert (await end_of(process))[0] == 0
        await execute_now(execute, url, "CREATE TABLE things (name text)")
        async with transaction(empty_database_url, _READS) as holder, upgrading(start, url) as process:
            line = await line_with(_BUSY, process)
            assert f"pid {holder.get_server_pid()} (application a report, role " in line
            assert "state not visible to this role)" in line
            await holder.execute("ROLLBACK")
            assert (await end_of(process))[0] == 0
    finally:
        await execute_now(execute, empty_database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_prepared_transaction_is_named_and_the_pauses_grow(database_url: str, with_revision: Revisions) -> None:
    """It has no session, so nobody knows for how long it has held the lock."""
    start, name = with_revision(_ADDS_COLUMN), database_name(database_url)
    async with transaction(database_url, _READS) as holder:
        try:
            await holder.execute(f"PREPARE TRANSACTION '{name}'")
        except asyncpg.ObjectNotInPrerequisiteStateError:
            pytest.skip("the server of TEST_DATABASE_URL has max_prepared_transactions = 0")
        try:
            async with upgrading(start, database_url) as process:
                lines = [json.loads(await line_with(_BUSY, process)) for _ in range(4)]
        finally:
            await holder.execute(f"ROLLBACK PREPARED '{name}'")
    assert f"{_BUSY}a prepared transaction (pg_prepared_xacts); trying again for " in lines[0]["event"]
    third, fourth = (datetime.fromisoformat(line["timestamp"]) for line in lines[2:])
    assert fourth - third > timedelta(seconds=2)  # an attempt, and a pause that has doubled twice


async def test_an_attempt_ends_although_the_revision_has_no_lock_timeout(
    database_url: str, with_revision: Revisions
) -> None:
    """All its waits together are limited, since others wait for the locks that it already has."""
    start = with_revision(_ADDS_COLUMN.replace("    op", "    op.execute('SET LOCAL lock_timeout = 0')\n    op"))
    async with transaction(database_url, _READS) as holder, upgrading(start, database_url) as process:
        await line_with(_BUSY, process)
        await holder.execute("ROLLBACK")
        assert (await end_of(process))[0] == 0


async def test_a_migration_that_somebody_cancels_is_not_repeated(database_url: str, with_revision: Revisions) -> None:
    start = with_revision("def upgrade():\n    op.execute('SELECT pg_sleep(50)')\n")
    # By its wait, not by its text: a statement that is prepared, and does not run yet, cannot be canceled.
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with upgrading(start, database_url) as process:
        await until_true(database_url, cancel)
        code, said = await end_of(process)
    assert code == 1
    assert "canceling statement due to user request" in said
    assert "trying again" not in said


async def test_each_revision_may_wait_for_the_whole_time(database_url: str, with_revision: Revisions) -> None:
    """The second one has as long as the first one had."""
    start = with_revision(_ADDS_COLUMN, _ADDS_COLUMN.replace("things", "users"))
    async with (
        transaction(database_url, _READS) as holder,
        transaction(database_url, "SELECT FROM users"),
        upgrading(start, database_url) as process,
    ):
        first = [await line_with(_BUSY, process) for _ in range(4)]
        await holder.execute("ROLLBACK")
        second = await line_with("did not get a lock on users", process)
    left = [int(re.findall(r"for (\d+) s", line)[-1]) for line in (first[-1], second)]
    assert left[0] < left[1]


async def test_of_a_deadlock_the_migration_is_the_one_that_begins_anew(
    database_url: str, with_revision: Revisions
) -> None:
    """Where the server looks for deadlocks sooner than an attempt ends."""
    name = database_name(database_url)
    await asyncio.to_thread(execute, database_url, f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
    waits = f"EXISTS (SELECT FROM {_LOCKS} NOT granted AND relation = 'users'::regclass)"
    start = with_revision(
        "tried = []\n\ndef upgrade():\n    op.execute('ALTER TABLE users ADD COLUMN added text')\n"
        "    if not tried:\n        tried.append(True)\n"
        f'        op.execute("DO $$ BEGIN WHILE NOT {waits} LOOP PERFORM pg_sleep(0.05); END LOOP; END $$")\n'
        "    op.execute('ALTER TABLE things ADD COLUMN added text')\n"
    )
    has_users = waits.replace("NOT granted", "mode = 'AccessExclusiveLock'")
    waits_for_long = "SET deadlock_timeout = '1min'"
    async with transaction(database_url, _READS, waits_for_long) as holder, upgrading(start, database_url) as process:
        await until_true(database_url, f"SELECT {has_users}")
        await holder.execute("SELECT FROM users")
        await line_with("trying again", process)
        await holder.execute("ROLLBACK")
        code, rest = await end_of(process)
    assert code == 0, rest
    assert await columns(database_url) == ["added"]


async def test_sigterm_ends_a_migration_that_waits(database_url: str, with_revision: Revisions) -> None:
    """Also as the first process of a container, which ignores the signal by default."""
    async with (
        transaction(database_url, _READS),
        upgrading(with_revision(_ADDS_COLUMN), database_url) as process,
    ):
        await line_with(_BUSY, process)
        process.send_signal(signal.SIGTERM)
        assert await end_of(process) == (128 + signal.SIGTERM, "")
    assert await revision(database_url) == newest_revision()


async def test_a_relative_target_stays_the_same_after_a_wait(database_url: str, with_revision: Revisions) -> None:
    start = with_revision("def upgrade():\n    pass\n", _ADDS_COLUMN, "def upgrade():\n    raise AssertionError\n")
    async with transaction(database_url, _READS) as holder, upgrading(start, database_url, "+2") as process:
        await line_with(_BUSY, process)
        assert await revision(database_url) == "newest"
        await holder.execute("ROLLBACK")
        code, rest = await end_of(process)
    assert code == 0, rest
    assert await revision(database_url) == "newest_of_all"


@pytest.mark.parametrize(
    ("before", "is_repeated"),
    [
        (f"    {OUTSIDE}", True),
        (f"    op.execute('CREATE TABLE a (b int)')\n    {OUTSIDE}", False),
        (f"    {OUTSIDE}    op.execute('ANALYZE')\n    ", False),
    ],
)
async def test_what_an_autocommit_block_has_committed_is_not_run_twice(
    database_url: str, with_revision: Revisions, before: str, is_repeated: bool
) -> None:
    """Nor what the revision has done before the block, which ends the transaction."""
    start = with_revision(f"def upgrade():\n{before}    op.execute('ALTER TABLE things ADD COLUMN added text')\n")
    async with transaction(database_url, _READS) as holder, upgrading(start, database_url) as process:
        line = await line_with(_BUSY, process)
        await holder.execute("ROLLBACK")
        code, rest = await end_of(process)
    assert ("trying again" in line) is is_repeated, line
    assert ("not repeated, since a part of it is already committed" in line) is not is_repeated, line
    assert code == (not is_repeated), rest
    assert await columns(database_url) == ["added"] * is_repeated


async def test_an_index_that_blocks_nobody_waits_longer_than_an_attempt(
    database_url: str, with_revision: Revisions
) -> None:
    """If it ended early, it would leave an invalid index. The log says what it waits for."""
    start = with_revision(_ADDS_INDEX)
    update = "UPDATE things SET name = 'secret'"
    async with transaction(database_url, update) as holder, upgrading(start, database_url) as process:
        line = await line_with("waiting for a lock on things, held by ", process)
        assert f"pid {holder.get_server_pid()} (application a report" in line
        waits = (
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE datname = current_database() AND NOT granted AND clock_timestamp() - waitstart > '1.5s'"
        )
        while await result(database_url, waits) == [0]:
            assert process.returncode is None
            await asyncio.sleep(0.1)
        await holder.execute("ROLLBACK")
        code, rest = await end_of(process)
    assert code == 0, rest
    assert await result(database_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'added'::regclass") == [True]


async def test_an_index_that_waits_for_too_long_is_given_up_and_not_repeated(
    database_url: str, with_revision: Revisions
) -> None:
    start = with_revision(_ADDS_INDEX)
    async with (
        transaction(database_url, "UPDATE things SET name = 'secret'"),
        upgrading(start, database_url, DATABASE_MIGRATION_LOCK_WAIT="1", LOG_LEVEL="ERROR") as process,
    ):
        code, said = await end_of(process)
    assert code == 1
    (line,) = said.splitlines()
    assert f"{_BUSY}pid " in line
    assert "has left an invalid index" in line


def test_printed_sql_has_the_same_limits(
    database_url: str, with_revision: Revisions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody will run it by hand. Each transaction has them, and what follows an autocommit block too."""
    start = with_revision(f"{_ADDS_COLUMN}    {OUTSIDE}    op.execute('ANALYZE')\n    op.execute('SELECT 1')\n")
    alembic.config.main([*start, "upgrade", f"{newest_revision()}:head", "--sql"])
    printed = capsys.readouterr().out
    limits = "BEGIN;\n\nSET LOCAL statement_timeout = 0;\n\nSET LOCAL idle_in_transaction_session_timeout = 0;\n\n"
    assert printed.count("BEGIN;") == printed.count(f"{limits}SET LOCAL lock_timeout = '700ms';") == 2

    async def run_while_busy() -> None:
        async with transaction(database_url, _READS):
            connection = await asyncpg.connect(database_url)
            with pytest.raises(asyncpg.LockNotAvailableError):
                await connection.execute(printed.split("COMMIT;")[0])
            await connection.close()

    asyncio.run(run_while_busy())
