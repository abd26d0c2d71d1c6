"""Transactions that lose against others: which are run again, and which are not."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from app.database.errors import sqlstate
from app.database.retry import run_transaction
from app.database.session import DatabaseSessionDependency
from tests.example import Thing


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[DatabaseSessionDependency]:
    """A pool whose transactions are serializable."""
    database = DatabaseSessionDependency()
    await database.initialize(database_url, isolation_level="SERIALIZABLE", pool_size=20)
    yield database
    await database.aclose()


async def test_what_is_returned_has_been_committed(database: DatabaseSessionDependency, session: AsyncSession) -> None:
    async def create(own: AsyncSession) -> str:
        own.add(Thing(email="ada@example.com", name="Ada"))
        return "created"

    with pytest.raises(ValueError, match="tries must be 1 or more"):
        await run_transaction(create, database=database, tries=0)
    assert await run_transaction(create, database=database) == "created"
    assert (await session.scalars(select(Thing.name))).all() == ["Ada"]


async def test_concurrent_changes_of_a_row_end_as_if_one_came_after_the_other(
    database: DatabaseSessionDependency, session: AsyncSession
) -> None:
    session.add(Thing(email="ada@example.com", name="0"))
    await session.commit()

    async def count_up(own: AsyncSession) -> None:
        name = (await own.scalars(select(Thing.name))).one()
        await own.execute(update(Thing).values(name=str(int(name) + 1)))

    await asyncio.gather(*(run_transaction(count_up, database=database, tries=50) for _ in range(8)))
    assert (await session.scalars(select(Thing.name))).all() == ["8"]


@pytest.mark.parametrize(
    ("code", "tries"), [("40001", 3), ("40P01", 3), ("23505", 1), ("57014", 1), ("55P03", 1), ("08006", 1)]
)
async def test_only_serialization_failures_and_deadlocks_are_run_again_and_with_an_end(
    database: DatabaseSessionDependency, code: str, tries: int
) -> None:
    seen: list[AsyncSession] = []

    async def fail(own: AsyncSession) -> None:
        seen.append(own)
        await own.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"))

    with pytest.raises(DBAPIError) as raised, capture_logs() as lines:
        await run_transaction(fail, database=database, tries=3)
    assert sqlstate(raised.value) == code
    assert len(seen) == len(set(map(id, seen))) == tries
    assert [(line["event"], line["sqlstate"]) for line in lines] == [("transaction is retried", code)] * (tries - 1)


async def test_a_column_that_a_migration_changes_under_a_running_service_is_no_fault_of_a_request(
    client: httpx2.AsyncClient, database: DatabaseSessionDependency, session: AsyncSession
) -> None:
    """PostgreSQL refuses a statement that was prepared before: it is prepared anew the next time."""

    async def read(own: AsyncSession) -> int:
        return len((await own.execute(select(Thing.name))).all())

    await run_transaction(read, database=database)
    assert (await client.get("/things")).status_code == 200
    await session.execute(text("ALTER TABLE things ALTER name TYPE varchar(300)"))
    await session.commit()
    assert await run_transaction(read, database=database) == 0
    refused = await client.get("/things")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert (await client.get("/things")).status_code == 200
