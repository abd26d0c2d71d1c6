"""Reads with a second server. The replica is another database here, which lacks rows as a replica that lags does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from app.config import Settings
from app.database.engine import create_database_engine
from app.database.errors import DatabaseUnavailable, sqlstate
from app.database.session import DatabaseSessionDependency
from app.dependencies import DbFallbackReader, DbReader, DbReplicaReader
from app.startup import open_database
from dev.databases import drop_database, ensure_database
from tests.commands import database_name
from tests.example import Thing

GONE = "postgresql://127.0.0.1:1/orders"
NAMES = select(Thing.name).order_by(Thing.name)
ONE = NAMES.where(Thing.name == bindparam("name"))


@pytest.fixture
def settings(settings: Settings, replica_url: str) -> Settings:
    """Settings with a replica."""
    return settings.model_copy(update={"database_replica_url": SecretStr(replica_url)})


async def store(url: str, *names: str) -> None:
    """Store things in one of the two databases."""
    engine = create_database_engine(url)
    async with AsyncSession(engine) as session:
        session.add_all(Thing(email=f"{name}@example.com", name=name) for name in names)
        await session.commit()
    await engine.dispose()


@pytest.fixture
async def database(database_url: str, replica_url: str) -> AsyncIterator[DatabaseSessionDependency]:
    """Two servers: both have Ada, the primary alone has Bob, the replica alone what the primary has deleted."""
    await store(database_url, "Ada", "Bob")
    await store(replica_url, "Ada", "Deleted")
    async with opened(database_url, replica_url) as database:
        yield database


@asynccontextmanager
async def opened(url: str, replica_url: str, **options: Any) -> AsyncIterator[DatabaseSessionDependency]:
    """Open two pools. Nothing is asked at the start."""
    database = DatabaseSessionDependency()
    await database.initialize(url, replica_url=replica_url, **options)
    yield database
    await database.aclose()


@pytest.fixture
async def primary_is_away(
    database: DatabaseSessionDependency, database_url: str, server_url: str
) -> AsyncIterator[None]:
    """Drop the primary's database for the time of the test."""
    await asyncio.to_thread(drop_database, server_url, database_url)
    yield
    await asyncio.to_thread(ensure_database, server_url, database_name(database_url))


async def test_without_a_replica_all_readers_are_the_same(database_url: str) -> None:
    database = DatabaseSessionDependency()
    await database.initialize(database_url)
    assert database.readers == (database.reader,) * 3
    assert type(database.readers.replica) is type(database.reader)
    await database.aclose()


async def test_each_reader_asks_the_server_that_its_name_says(database: DatabaseSessionDependency) -> None:
    primary, fallback, replica = [await reader.all(NAMES) for reader in database.readers]
    assert primary == fallback == [("Ada",), ("Bob",)]
    assert replica == [("Ada",), ("Deleted",)]
    assert await database.readers.replica.all(ONE, name="Bob") == []  # a list may lack what is new


async def test_a_single_row_that_a_replica_lacks_is_asked_of_the_primary(database: DatabaseSessionDependency) -> None:
    """Only the primary knows whether it exists."""
    for reader in database.readers:
        assert await reader.one_or_none(ONE, name="Bob") == ("Bob",)
        assert await reader.scalar(ONE, name="Bob") == "Bob"
        assert await reader.one_or_none(ONE, name="Cy") is None
        assert await reader.scalar(ONE, name="Cy") is None


async def test_what_the_primary_says_is_the_answer(database: DatabaseSessionDependency) -> None:
    assert await database.readers.fallback.one_or_none(ONE, name="Deleted") is None


async def test_a_ping_that_reads_wait_for_goes_on_when_a_session_finds_the_server_back(
    database: DatabaseSessionDependency,
) -> None:
    server = database._servers["primary"]
    async with server.ping_engine.connect():  # the ping waits for this connection
        ping = server._current_ping()
        server._begin_watch()
        await asyncio.sleep(0)
        async with database.session() as session:
            await session.execute(select(1))
        assert not server.is_away
    await ping
    assert not [task for task in asyncio.all_tasks() if "_wait_until_back" in repr(task.get_coro())]


@pytest.mark.usefixtures("primary_is_away")
async def test_while_the_primary_is_away_a_replica_answers_what_it_has(database: DatabaseSessionDependency) -> None:
    """What it lacks may exist: that is an error, and no answer."""
    for reader in database.readers[1:]:
        assert await reader.all(NAMES) == [("Ada",), ("Deleted",)]
        assert await reader.one_or_none(ONE, name="Ada") == ("Ada",)
        for read in (reader.one_or_none, reader.scalar):
            with pytest.raises((DBAPIError, DatabaseUnavailable)):
                await read(ONE, name="Bob")
    with pytest.raises(DBAPIError):
        await database.reader.all(NAMES)


async def test_while_the_replica_is_away_the_primary_answers(database_url: str) -> None:
    await store(database_url, "Ada")
    async with opened(database_url, GONE) as database:
        for _ in range(2):
            assert await database.readers.replica.all(NAMES) == [("Ada",)]
        assert database.replica is not None
        assert database.replica.is_away


async def test_a_silent_server_is_waited_for_once(silent_server: str, replica_url: str) -> None:
    """The requests after the first one do not ask it, and its statement timeout is never waited for."""
    await store(replica_url, "Ada")
    async with opened(silent_server, replica_url) as database, asyncio.timeout(4):
        for _ in range(100):
            assert await database.readers.fallback.all(NAMES) == [("Ada",)]


async def test_a_slow_statement_is_no_server_that_is_away(database: DatabaseSessionDependency) -> None:
    assert len(await database.readers.replica.all(select(func.pg_sleep(0.5)))) == 1
    assert database.replica is not None
    assert not database.replica.is_away


async def test_a_statement_that_takes_too_long_is_not_run_again_elsewhere(database_url: str, replica_url: str) -> None:
    """The primary has no row to sleep for, and would return none at once."""
    await store(replica_url, "Ada")
    async with opened(database_url, replica_url, statement_timeout=0.1) as database:
        with pytest.raises(DBAPIError) as raised:
            await database.readers.replica.all(select(func.pg_sleep(60)).select_from(Thing))
        assert sqlstate(raised.value) == "57014"
        assert database.replica is not None
        assert not database.replica.is_away


@pytest.mark.parametrize("change", ["DROP TABLE things", "ALTER TABLE things DROP name"])
async def test_a_replica_that_lags_behind_a_migration_is_no_error(
    database: DatabaseSessionDependency, replica_url: str, change: str
) -> None:
    engine = create_database_engine(replica_url)
    async with engine.begin() as connection:
        await connection.execute(text(change))
    await engine.dispose()
    assert await database.readers.replica.all(NAMES) == [("Ada",), ("Bob",)]


async def test_who_has_written_reads_from_the_primary_again(
    database: DatabaseSessionDependency, database_url: str, server_url: str
) -> None:
    """The session has found the primary before the next ping does."""
    name = database_name(database_url)
    server = await asyncpg.connect(server_url)
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1"
    await server.fetch(kill, name)
    await server.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
    assert await database.readers.fallback.all(NAMES) == [("Ada",), ("Deleted",)]
    await server.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
    await server.close()
    async with database.session() as session:
        session.add(Thing(email="cy@example.com", name="Cy"))
    assert await database.readers.fallback.one_or_none(ONE, name="Cy") == ("Cy",)


async def test_a_handler_gets_the_reader_that_it_asks_for(
    app: FastAPI, client: httpx2.AsyncClient, database_url: str, replica_url: str
) -> None:
    await store(database_url, "Primary")
    await store(replica_url, "Replica")

    @app.get("/names")
    async def names(one: DbReader, two: DbFallbackReader, three: DbReplicaReader) -> list[str]:
        return [name for reader in (one, two, three) for (name,) in await reader.all(NAMES)]

    assert (await client.get("/names")).json() == ["Primary", "Primary", "Replica"]


@pytest.mark.parametrize("own", ["", ":pw"])
async def test_the_password_that_stands_apart_is_for_the_replica_too_unless_it_has_its_own(
    settings: Settings, server_url: str, own: str
) -> None:
    name = f"ada_{database_name(settings.database_url.get_secret_value())}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    hosts = settings.database_url.get_secret_value().split("@")[1]
    replica = {"database_replica_url": SecretStr(f"postgresql://{name}{own}@{hosts}")}
    primary = {"database_url": SecretStr(f"postgresql://{name}@{hosts}"), "database_password": SecretStr("pw")}
    await server.execute(f"GRANT pg_read_all_data TO {name}")
    async with open_database(settings.model_copy(update=primary | replica)) as database:
        assert database.replica is not None
        await database.replica.ping()
    await server.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await server.close()


async def test_a_service_that_can_read_is_ready(client: httpx2.AsyncClient, database_url: str, server_url: str) -> None:
    await asyncio.to_thread(drop_database, server_url, database_url)
    assert (await client.get("/health/ready")).status_code == 200
    assert (await client.post("/things", json={"email": "a@x.org", "name": "A"})).status_code == 503
    await asyncio.to_thread(ensure_database, server_url, database_name(database_url))


async def test_a_replica_that_is_away_at_the_start_is_a_warning(settings: Settings) -> None:
    away = settings.model_copy(update={"database_replica_url": SecretStr(GONE)})
    with capture_logs() as lines:
        async with open_database(away) as database:
            assert await database.readers.replica.all(NAMES) == []
    warnings = [line["event"] for line in lines if "DATABASE_REPLICA_URL: cannot reach PostgreSQL" in line["event"]]
    assert len(warnings) == 1
