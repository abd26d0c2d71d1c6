"""A reader reads without a transaction, and never writes."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.config import Settings
from app.database.errors import is_refused
from app.database.reader import Reader, ReaderCannotWriteError
from app.dependencies import DbReader, DbSession
from app.startup import open_database
from dev.databases import drop_database, ensure_database
from tests.commands import database_name
from tests.example import Thing

THINGS = select(Thing.email, Thing.name).order_by(Thing.email)
WRITES = {
    "insert": insert(Thing).values(email="eve@example.com", name="Eve"),
    "update": update(Thing).values(name="Eve").returning(Thing.id),
    "delete": delete(Thing).returning(Thing.id),
    "insert inside a select": select(
        insert(Thing).values(email="eve@example.com", name="Eve").returning(Thing.id).cte("made").c.id
    ),
    "delete beside a select": select(Thing.id).add_cte(delete(Thing).cte("gone")),
    "text inside a select": select(text("DELETE FROM things RETURNING id").columns(Thing.id).cte("gone").c.id),
    "text": text("DELETE FROM things"),
    "text that looks like a select": text("DELETE FROM things RETURNING id").columns(Thing.id),
    "a lock": select(Thing.id).with_for_update(),
}


@pytest.fixture
async def reader(engine: AsyncEngine, session: AsyncSession) -> Reader:
    """A reader of two things."""
    session.add_all([Thing(email="ada@example.com", name="Ada"), Thing(email="bob@example.com", name="Bob")])
    await session.commit()
    return Reader(engine)


async def test_a_reader_returns_rows(reader: Reader) -> None:
    by_name = THINGS.where(Thing.name == bindparam("name"))
    assert await reader.all(THINGS) == [("ada@example.com", "Ada"), ("bob@example.com", "Bob")]
    assert await reader.one_or_none(by_name, name="Bob") == ("bob@example.com", "Bob")
    assert await reader.one_or_none(by_name, name="Cy") is None
    assert await reader.scalar(select(func.count()).select_from(Thing)) == 2
    with pytest.raises(MultipleResultsFound):
        await reader.one_or_none(THINGS)


@pytest.mark.parametrize("kind", WRITES)
async def test_a_reader_that_is_asked_to_write_refuses(reader: Reader, kind: str) -> None:
    statement: Any = WRITES[kind]
    for read in (reader.all, reader.one_or_none, reader.scalar):
        with pytest.raises(ReaderCannotWriteError, match="ask for a session"):
            await read(statement)
    assert len(await reader.all(THINGS)) == 2


async def test_a_reader_begins_no_transaction(engine: AsyncEngine, reader: Reader) -> None:
    """Nothing goes to the server beside the statement itself, which the driver prepares once and does not log."""
    sent: list[str] = []
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        driver.add_query_logger(lambda record: sent.append(record.query))
        await connection.scalar(THINGS)
    assert sent == ["BEGIN;", "ROLLBACK;"]
    sent.clear()
    await reader.all(THINGS)
    assert sent == []


async def test_a_read_that_is_given_up_gives_its_connection_back(settings: Settings, engine: AsyncEngine) -> None:
    one = settings.model_copy(update={"database": replace(settings.database, pool_size=1, pool_timeout=1)})
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'pg_sleep'")
    async with open_database(one) as database, engine.connect() as other:
        given_up = asyncio.create_task(database.reader.all(select(func.pg_sleep(60))))
        while not await other.scalar(asleep) > 1:  # this question is one of them
            await other.rollback()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await database.reader.scalar(select(1)) == 1


async def test_a_database_that_is_gone_is_an_error_of_sqlalchemy_also_for_a_statement_that_is_known(
    engine: AsyncEngine, reader: Reader, database_url: str, server_url: str
) -> None:
    await reader.all(THINGS)
    await engine.dispose()
    await asyncio.to_thread(drop_database, server_url, database_url)
    with pytest.raises(DBAPIError) as raised:
        await reader.all(THINGS)
    assert is_refused(raised.value)
    await asyncio.to_thread(ensure_database, server_url, database_name(database_url))


async def test_a_connection_that_was_read_on_serves_a_session_as_before(settings: Settings) -> None:
    options = replace(settings.database, pool_size=1, isolation_level="SERIALIZABLE")
    level = select(func.current_setting("transaction_isolation"))
    async with open_database(settings.model_copy(update={"database": options})) as database:
        assert await database.reader.scalar(level) == "read committed"  # the server's, for a statement by itself
        with pytest.raises(RuntimeError, match="undone"):
            async with database.session() as session:
                assert await session.scalar(level) == "serializable"
                session.add(Thing(email="eve@example.com", name="Eve"))
                await session.flush()
                raise RuntimeError("undone")
        assert await database.reader.all(THINGS) == []


async def test_a_reader_reads_the_schema_of_the_service(settings: Settings, session: AsyncSession) -> None:
    for statement in ("CREATE SCHEMA mine", "CREATE TABLE mine.things (LIKE things INCLUDING DEFAULTS)"):
        await session.execute(text(statement))
    await session.execute(text("CREATE TABLE mine.alembic_version AS SELECT * FROM alembic_version"))
    await session.execute(text("INSERT INTO mine.things (id, email, name) VALUES (gen_random_uuid(), 'm@x.org', 'M')"))
    await session.commit()
    mine = settings.model_copy(update={"database": replace(settings.database, schema="mine")})
    async with open_database(mine) as database:
        assert await database.reader.all(THINGS) == [("m@x.org", "M")]


async def test_a_handler_sees_what_the_requests_before_it_stored(app: FastAPI, client: httpx2.AsyncClient) -> None:
    @app.post("/name/{name}")
    async def write(name: str, session: DbSession) -> None:
        session.add(Thing(email=f"{name}@example.com", name=name))

    @app.get("/names")
    async def read(reader: DbReader) -> list[str]:
        return [name for _, name in await reader.all(THINGS)]

    for name in ("Ada", "Bob"):
        await client.post(f"/name/{name}")
    assert (await client.get("/names")).json() == ["Ada", "Bob"]
