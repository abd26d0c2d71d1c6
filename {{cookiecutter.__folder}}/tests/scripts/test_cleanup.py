"""The cleanup script."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from app.config import Settings
from app.database.internal.options import IsolationLevel
from app.scripts.cleanup import cleanup, main
from app.users.models import User
from tests.commands import environment, run


async def add(session: AsyncSession, days_ago: int | None, number: int) -> None:
    deleted_at = None if days_ago is None else func.now() - timedelta(days=days_ago)
    session.add_all(
        User(email=f"{days_ago}-{index}@example.com", name="x", deleted_at=deleted_at) for index in range(number)
    )
    await session.commit()


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(User)) or 0


async def purge(settings: Settings, *, days: int = 30, batch_size: int = 1000, dry_run: bool = False) -> int | None:
    return await cleanup(settings, deleted_for=timedelta(days=days), batch_size=batch_size, dry_run=dry_run)


async def test_only_users_deleted_long_ago_are_purged(settings: Settings, session: AsyncSession) -> None:
    await add(session, None, 2)
    await add(session, 29, 3)
    await add(session, 31, 5)
    assert await purge(settings) is None
    assert await count(session) == 5
    await purge(settings, days=10)
    assert await count(session) == 2


async def test_each_batch_is_a_transaction_of_its_own(settings: Settings, session: AsyncSession) -> None:
    await add(session, 31, 5)
    await session.execute(text("CREATE TABLE purged (transaction xid8)"))
    await session.execute(
        text(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO purged VALUES (pg_current_xact_id()); RETURN OLD; END $$"
        )
    )
    await session.execute(text("CREATE TRIGGER note BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION note()"))
    await session.commit()
    await purge(settings, batch_size=2)
    sizes = await session.scalars(text("SELECT count(*) FROM purged GROUP BY transaction ORDER BY transaction"))
    assert sizes.all() == [2, 2, 1]


async def test_a_dry_run_counts_and_changes_nothing(settings: Settings, session: AsyncSession) -> None:
    await add(session, 31, 3)
    with capture_logs() as lines:
        await purge(settings, dry_run=True)
    assert [line["count"] for line in lines if line["event"] == "users to purge"] == [3]
    assert await count(session) == 3


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_two_at_once_share_the_work_at_any_isolation_level(
    settings: Settings, session: AsyncSession, level: IsolationLevel
) -> None:
    await add(session, 31, 300)
    settings = settings.model_copy(update={"database": replace(settings.database, isolation_level=level)})
    with capture_logs() as lines:
        await asyncio.gather(purge(settings, batch_size=5), purge(settings, batch_size=5))
    assert sum(line["count"] for line in lines if line["event"] == "purged users") == 300
    assert "transaction is retried" not in [line["event"] for line in lines]  # they pass over each other's rows
    assert await count(session) == 0


async def test_rows_that_another_run_has_in_hand_are_passed_over(settings: Settings, session: AsyncSession) -> None:
    await add(session, 31, 3)
    await session.scalars(select(User.id).limit(1).with_for_update())
    await purge(settings)
    assert await count(session) == 1


@pytest.mark.slow
async def test_as_a_command_it_writes_a_line_a_batch(database_url: str, session: AsyncSession) -> None:
    await add(session, 31, 3)
    command = (sys.executable, "-m", "app.scripts.cleanup", "--batch-size", "2")
    ended = await asyncio.to_thread(run, *command, database_url=database_url)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["event"], line["count"]) for line in lines] == [
        ("purged idempotency keys", 0),
        ("purged a batch", 2),
        ("purged a batch", 1),
        ("purged users", 3),
    ]


@pytest.mark.slow
async def test_on_a_terminal_it_draws_a_bar_instead(database_url: str, session: AsyncSession) -> None:
    await add(session, 31, 4)
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "app.scripts.cleanup", "--batch-size", "2"]
    with subprocess.Popen(command, cwd="/", env=environment(database_url), stderr=its_end) as process:
        os.close(its_end)
        drawn = b""
        with suppress(OSError):  # once nobody writes any more
            while more := await asyncio.to_thread(os.read, terminal, 2**16):
                drawn += more
    os.close(terminal)
    assert process.returncode == 0
    assert {b" 50%", b"100%"} <= set(re.findall(rb"purging users.*?( 50%|100%)", drawn))
    assert b"purged a batch" not in drawn


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_signal_ends_it_after_the_batch_in_hand(
    database_url: str, session: AsyncSession, number: signal.Signals, code: int
) -> None:
    """The first batch is held up by a lock of ours until the signal is sent: no guess at the time."""
    await add(session, 31, 3)
    await session.execute(
        text(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN OLD; END $$"
        )
    )
    await session.execute(text("CREATE TRIGGER wait BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION wait()"))
    await session.commit()
    await session.execute(text("SELECT pg_advisory_xact_lock(1)"))
    command = [sys.executable, "-m", "app.scripts.cleanup", "--batch-size", "1"]
    with subprocess.Popen(
        command, cwd="/", env=environment(database_url), stderr=subprocess.PIPE, text=True
    ) as process:
        waiting = text(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
        )
        while not await session.scalar(waiting):
            assert process.poll() is None
        process.send_signal(number)
        await session.rollback()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert await count(session) == 2


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str, **env: str) -> Result:
    """Run the command in this process."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("arguments", [["--older-than-days", "-1"], ["--batch-size", "0"], ["--nope"], ["word"]])
def test_wrong_arguments_are_exit_code_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert invoke(monkeypatch, *arguments).exit_code == 2


def test_wrong_settings_are_exit_code_78_and_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = invoke(monkeypatch, LOG_FORMAT="xml")
    assert ended.exit_code == 78
    assert [line.split(":")[0] for line in ended.stderr.splitlines()] == ["DATABASE_URL", "LOG_FORMAT"]


def test_a_database_that_is_away_is_exit_code_1_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = invoke(monkeypatch, DATABASE_URL="postgresql://127.0.0.1:1/orders", DATABASE_PROBE_TRIES="1")
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (1, 1)
    assert ended.stderr.startswith("DATABASE_URL: cannot reach PostgreSQL at 127.0.0.1:1/orders")


def test_a_schema_that_is_behind_is_exit_code_1_and_a_line(
    monkeypatch: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    ended = invoke(monkeypatch, DATABASE_URL=empty_database_url)
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (1, 1)
    assert "alembic upgrade head" in ended.stderr
