"""Waiting for a database: what is waited for, and what is not."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Column, Integer, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from structlog.testing import capture_logs

from app.database.base import Base
from app.database.engine import create_database_engine
from app.database.internal.revision import Schema, check_revision, compare_schema
from app.database.probe import DatabaseNotReady, probe, wait_for_database
from tests.commands import PROJECT, database_name, newest_revision
from tests.network import Network, negotiating_tls

GONE = "postgresql://127.0.0.1:1/orders"


async def refusal(url: str, *, tries: int = 3, **options: Any) -> tuple[str, int]:
    """Return what the probe says of a database, and how often it asked again."""
    engine = create_database_engine(url, **options)
    with pytest.raises(DatabaseNotReady) as raised, capture_logs() as lines:
        await wait_for_database(engine, tries=tries, pause=0)
    await engine.dispose()
    assert "\n" not in str(raised.value)
    return str(raised.value), len(lines)


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    says, waits = await refusal(GONE)
    assert says.startswith("DATABASE_URL: cannot reach PostgreSQL at 127.0.0.1:1/orders: ")
    assert waits == 2


async def test_a_login_that_is_refused_is_not_waited_for_and_the_password_not_shown(server_url: str) -> None:
    """By a user that does not exist: a server that trusts whoever comes from its own machine refuses that one too."""
    says, waits = await refusal(f"postgresql://nobody_of_that_name:hunter2@{server_url.split('@')[1]}")
    assert says.startswith("DATABASE_URL: PostgreSQL says: ")
    assert "DATABASE_PASSWORD" in says
    assert "hunter2" not in says
    assert waits == 0


async def test_a_database_that_does_not_exist_is_not_waited_for(server_url: str) -> None:
    says, waits = await refusal(server_url.rsplit("/", 1)[0] + "/nowhere")
    assert 'database "nowhere" does not exist' in says
    assert "create the database" in says
    assert waits == 0


async def test_a_server_with_no_room_is_waited_for(database_url: str, server_url: str) -> None:
    """53300, made by a limit of the database: the superuser is not held to it, so a role of the test's own is."""
    name = database_name(database_url)
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw' CONNECTION LIMIT 0")
    try:
        says, waits = await refusal(f"postgresql://{name}:pw@{database_url.split('@')[1]}")
    finally:
        await connection.execute(f"DROP ROLE {name}")
        await connection.close()
    assert "too many connections" in says
    assert waits == 2


async def test_a_server_that_accepts_the_login_and_is_silent_then_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    """As PgBouncer does without PostgreSQL. Migrations have no other time limit."""
    monkeypatch.setattr("app.database.probe._ATTEMPT", 0.3)
    network.is_silent_after_login = True
    async with asyncio.timeout(20):
        says, waits = await refusal(network.url, tries=2, statement_timeout=0)
    assert says.startswith("DATABASE_URL: PostgreSQL did not answer within 0.3 s (attempts: 2); is it running?")
    assert waits == 1


async def test_a_server_that_was_reached_before_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    monkeypatch.setattr("app.database.probe._ATTEMPT", 0.3)
    engine = create_database_engine(network.url)
    await wait_for_database(engine)
    network.is_silent = True
    with pytest.raises(DatabaseNotReady, match="did not answer"):
        await wait_for_database(engine, tries=1)
    await engine.dispose()


async def test_what_answers_at_once_is_asked_once() -> None:
    asked: list[int] = []

    async def answer() -> None:
        asked.append(1)

    await probe(answer)
    assert asked == [1]


async def test_an_error_without_an_sqlstate_is_a_line() -> None:
    """Here of a server without TLS."""
    async with negotiating_tls(b"N") as host:
        says, waits = await refusal(f"postgresql://{host}/orders?sslmode=require")
    assert "rejected SSL upgrade; check DATABASE_URL" in says
    assert waits == 0


async def test_an_option_that_the_socket_refuses_is_a_line(database_url: str) -> None:
    says, waits = await refusal(f"{database_url}?keepalives_idle=100000")
    assert "Invalid argument; check DATABASE_URL" in says
    assert waits == 0


async def test_a_role_that_may_not_read_is_no_schema_that_is_behind_or_has_diverged(
    session: AsyncSession, database_url: str, server_url: str
) -> None:
    name = database_name(database_url)
    await session.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'"))
    await session.execute(text(f"GRANT SELECT ON alembic_version TO {name}"))
    await session.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    await session.commit()
    engine = create_database_engine(f"postgresql://{name}:pw@{database_url.split('@')[1]}")
    assert (await compare_schema(engine))[0] is Schema.AHEAD
    await session.execute(text(f"REVOKE ALL ON alembic_version FROM {name}"))
    await session.commit()
    with pytest.raises(DatabaseNotReady, match="cannot read the schema's revision: permission denied"):
        await compare_schema(engine)
    await engine.dispose()
    await session.execute(text(f"DROP ROLE {name}"))
    await session.commit()


async def test_a_server_that_goes_away_before_its_schema_is_read_is_a_line() -> None:
    engine = create_database_engine(GONE)
    with pytest.raises(DatabaseNotReady, match="^DATABASE_URL: cannot read the schema's revision: .+$"):
        await check_revision(engine)


async def test_a_schema_at_the_newest_revision_is_fine(engine: AsyncEngine) -> None:
    await check_revision(engine)


@pytest.mark.parametrize("how", ["never migrated", "empty"])
async def test_a_schema_that_is_behind_names_the_command(session: AsyncSession, engine: AsyncEngine, how: str) -> None:
    await session.execute(
        text("DROP TABLE alembic_version" if how == "never migrated" else "DELETE FROM alembic_version")
    )
    await session.commit()
    behind = r"behind this code \(database: no revision, code: \w+\): run `alembic upgrade head`$"
    with pytest.raises(DatabaseNotReady, match=f"^DATABASE_URL: the database schema is {behind}"):
        await check_revision(engine)


async def test_a_schema_that_is_ahead_is_served_with_a_warning(session: AsyncSession, engine: AsyncEngine) -> None:
    """An old copy of the service runs on while a rolling deploy has migrated already."""
    await session.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    await session.commit()
    with capture_logs() as lines:
        await check_revision(engine)
    revisions = f"database: from_the_future, code: {newest_revision()}"
    assert [line["event"] for line in lines] == [f"the database schema is ahead of this code ({revisions})"]


async def test_a_schema_that_has_diverged_is_refused(session: AsyncSession, engine: AsyncEngine) -> None:
    await session.execute(text("INSERT INTO alembic_version VALUES ('of_another_branch')"))
    await session.commit()
    with pytest.raises(DatabaseNotReady, match="diverged"):
        await check_revision(engine)


@pytest.fixture
def model() -> Iterator[Table]:
    """A table that the models name."""
    table = Table("gadgets", Base.metadata, Column("size", Integer))
    yield table
    Base.metadata.remove(table)


@pytest.mark.parametrize("change", ["SELECT 1", "CREATE TABLE gadgets (other int)"])
async def test_an_unknown_revision_without_what_the_models_name_is_not_ahead_but_diverged(
    session: AsyncSession, engine: AsyncEngine, model: Table, change: str
) -> None:
    """So it is when a revision was deployed, taken back with its file, and another one added."""
    await session.execute(text("UPDATE alembic_version SET version_num = 'deleted'"))
    await session.execute(text(change))
    await session.commit()
    with pytest.raises(DatabaseNotReady, match=r"diverged .*gadgets.* does not exist: .*restore revisions"):
        await check_revision(engine)


async def test_two_branches_that_a_merge_will_join_are_behind_and_not_diverged(
    monkeypatch: pytest.MonkeyPatch, session: AsyncSession, engine: AsyncEngine, tmp_path: Path
) -> None:
    """After `alembic merge`, `alembic upgrade head` is the way on."""
    versions = tmp_path / "migrations" / "versions"
    shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    newest = newest_revision()
    for revision, down in (("aaaa", newest), ("bbbb", newest), ("cccc", ("aaaa", "bbbb"))):
        (versions / f"{revision}.py").write_text(f"revision = {revision!r}\ndown_revision = {down!r}\n")
    monkeypatch.setattr("app.database.internal.revision.PROJECT_FILE", tmp_path / "pyproject.toml")
    await session.execute(text("DELETE FROM alembic_version"))
    await session.execute(text("INSERT INTO alembic_version VALUES ('aaaa'), ('bbbb')"))
    await session.commit()
    assert (await compare_schema(engine))[0] is Schema.BEHIND
