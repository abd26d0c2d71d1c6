"""A reader reads without a transaction, and never writes."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.config import Settings
from app.database.reader import Reader, ReaderCannotWriteError
from app.dependencies import DbReader, DbSession
from app.startup import open_database
from app.users.models import User

USERS = select(User.email, User.name).order_by(User.email)
WRITES = {
    "insert": insert(User).values(email="eve@example.com", name="Eve"),
    "update": update(User).values(name="Eve").returning(User.id),
    "delete": delete(User).returning(User.id),
    "insert inside a select": select(
        insert(User).values(email="eve@example.com", name="Eve").returning(User.id).cte("made").c.id
    ),
    "delete beside a select": select(User.id).add_cte(delete(User).cte("gone")),
    "text": text("DELETE FROM users"),
    "text that looks like a select": text("DELETE FROM users RETURNING id").columns(User.id),
    "a lock": select(User.id).with_for_update(),
}


@pytest.fixture
async def reader(engine: AsyncEngine, session: AsyncSession) -> Reader:
    """A reader of two users."""
    session.add_all([User(email="ada@example.com", name="Ada"), User(email="bob@example.com", name="Bob")])
    await session.commit()
    return Reader(engine)


async def test_a_reader_returns_rows(reader: Reader) -> None:
    by_name = USERS.where(User.name == bindparam("name"))
    assert await reader.all(USERS) == [("ada@example.com", "Ada"), ("bob@example.com", "Bob")]
    assert await reader.one_or_none(by_name, name="Bob") == ("bob@example.com", "Bob")
    assert await reader.one_or_none(by_name, name="Cy") is None
    assert await reader.scalar(select(func.count()).select_from(User)) == 2
    with pytest.raises(MultipleResultsFound):
        await reader.one_or_none(USERS)


@pytest.mark.parametrize("kind", WRITES)
async def test_a_reader_that_is_asked_to_write_refuses(reader: Reader, kind: str) -> None:
    statement: Any = WRITES[kind]
    for read in (reader.all, reader.one_or_none, reader.scalar):
        with pytest.raises(ReaderCannotWriteError, match="ask for a session"):
            await read(statement)
    assert len(await reader.all(USERS)) == 2


async def test_a_reader_begins_no_transaction(engine: AsyncEngine, reader: Reader) -> None:
    """Nothing goes to the server beside the statement itself, which the driver prepares once and does not log."""
    sent: list[str] = []
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        driver.add_query_logger(lambda record: sent.append(record.query))
        await connection.scalar(USERS)
    assert sent == ["BEGIN;", "ROLLBACK;"]
    sent.clear()
    await reader.all(USERS)
    assert sent == []


async def test_a_connection_that_was_read_on_serves_a_session_as_before(settings: Settings) -> None:
    one = settings.model_copy(
        update={"database_pool_size": 1, "database_max_overflow": 0, "database_isolation_level": "SERIALIZABLE"}
    )
    level = select(func.current_setting("transaction_isolation"))
    async with open_database(one) as database:
        assert await database.reader.scalar(level) == "read committed"  # the server's, for a statement by itself
        with pytest.raises(RuntimeError, match="undone"):
            async with database.session() as session:
                assert await session.scalar(level) == "serializable"
                session.add(User(email="eve@example.com", name="Eve"))
                await session.flush()
                raise RuntimeError("undone")
        assert await database.reader.all(USERS) == []


async def test_a_reader_reads_the_schema_of_the_service(settings: Settings, session: AsyncSession) -> None:
    for statement in ("CREATE SCHEMA mine", "CREATE TABLE mine.users (LIKE users INCLUDING DEFAULTS)"):
        await session.execute(text(statement))
    await session.execute(text("CREATE TABLE mine.alembic_version AS SELECT * FROM alembic_version"))
    await session.execute(text("INSERT INTO mine.users (id, email, name) VALUES (gen_random_uuid(), 'm@x.org', 'M')"))
    await session.commit()
    mine = settings.model_copy(update={"database_schema": "mine"})
    async with open_database(mine) as database:
        assert await database.reader.all(USERS) == [("m@x.org", "M")]


async def test_a_handler_sees_what_the_requests_before_it_stored(app: FastAPI, client: httpx2.AsyncClient) -> None:
    @app.post("/name/{name}")
    async def write(name: str, session: DbSession) -> None:
        session.add(User(email=f"{name}@example.com", name=name))

    @app.get("/names")
    async def read(reader: DbReader) -> list[str]:
        return [name for _, name in await reader.all(USERS)]

    for name in ("Ada", "Bob"):
        await client.post(f"/name/{name}")
    assert (await client.get("/names")).json() == ["Ada", "Bob"]
