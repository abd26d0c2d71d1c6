"""A connection that is lost, left or given up costs no other statement: the next one has another connection."""

import asyncio

import pytest
from sqlalchemy import (
    Float,
    Integer,
    bindparam,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import create_database_engine
from app.database.errors import is_conflict, sqlstate
from app.database.reader import Reader
from app.database.session import create_async_session
from app.database.statements import fetch
from tests.example import Thing

NAMES = select(Thing.name)


async def test_after_a_changed_column_one_transaction_fails_and_no_other(database_url: str) -> None:
    """Each connection has prepared the statement, and all are replaced at once."""
    engine = create_database_engine(database_url, pool_size=3)
    sessions = [await create_async_session(engine) for _ in range(3)]
    for _ in range(2):
        for own in sessions:
            await fetch(own, NAMES)
    for own in sessions:
        await own.rollback()
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE things ALTER name TYPE varchar(300)"))
    with pytest.raises(DBAPIError) as raised:
        await fetch(sessions[0], NAMES)
    assert is_conflict(raised.value)
    for own in sessions[1:]:
        assert await fetch(own, NAMES) == []
    for own in sessions:
        await own.close()
    await engine.dispose()


async def test_a_lost_connection_is_dropped_and_the_next_statement_has_another(
    database_url: str, session: AsyncSession
) -> None:
    engine = create_database_engine(database_url, pool_size=1)
    reader = Reader(engine)
    whoami = select(func.pg_backend_pid())
    kill_self = select(func.pg_terminate_backend(bindparam("pid", type_=Integer), 0))
    for _ in range(3):
        pid = await reader.scalar(whoami)
        assert pid is not None
        await reader.all(kill_self, pid=0)  # of nobody
        with pytest.raises(DBAPIError) as raised:
            await reader.all(kill_self, pid=pid)
        assert raised.value.connection_invalidated
        assert await reader.scalar(whoami) not in (None, pid)
    await engine.dispose()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_server_that_has_become_read_only_is_left(database_url: str, reads: bool) -> None:
    """As after a failover: the connection to what was the primary must not be used again."""
    read_only = {"server_settings": {"default_transaction_read_only": "on"}}
    engine = create_database_engine(database_url, pool_size=1, connect_args=read_only)
    own = await create_async_session(engine)
    reader = Reader(engine)
    whoami, write = select(func.pg_backend_pid()), select(func.nextval("numbers"))
    await own.execute(text("SET TRANSACTION READ WRITE"))
    await own.execute(text("CREATE SEQUENCE numbers"))
    await own.commit()
    seen = set()
    for _ in range(3):
        seen.add(await reader.scalar(whoami))
        with pytest.raises(DBAPIError) as raised:
            await (reader.scalar(write) if reads else own.scalar(write))
        assert sqlstate(raised.value) == "25006"
        await own.rollback()
    assert len(seen) == 3
    await own.close()
    await engine.dispose()


async def test_a_thousand_reads_that_are_given_up_leak_no_connection(database_url: str, session: AsyncSession) -> None:
    engine = create_database_engine(database_url, pool_size=5, pool_timeout=60)
    reader = Reader(engine)
    nap = select(func.pg_sleep(bindparam("seconds", type_=Float)))
    for _ in range(2):
        await reader.all(nap, seconds=0)

    async def read_until(ticks: int) -> None:
        task = asyncio.create_task(reader.all(nap, seconds=0.001))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.gather(*(read_until(number % 40) for number in range(1000)))
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of this kind of pool
    assert await reader.scalar(select(literal(1))) == 1
    await engine.dispose()


async def test_a_fetch_that_is_given_up_costs_its_connection_as_a_statement_of_sqlalchemy_does(
    database_url: str, session: AsyncSession
) -> None:
    engine = create_database_engine(database_url, pool_size=1)
    whoami, nap = select(func.pg_backend_pid()), select(func.pg_sleep(bindparam("seconds", type_=Float)))
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
    async with AsyncSession(engine) as own:
        for _ in range(2):
            await fetch(own, nap, seconds=0)
        ((pid,),) = await fetch(own, whoami)
        task = asyncio.create_task(fetch(own, nap, seconds=60))
        while not await session.scalar(asleep, {"pid": pid}):
            await session.rollback()  # statistics are a snapshot for each transaction
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with AsyncSession(engine) as own:
        assert await fetch(own, whoami) != [(pid,)]
    await engine.dispose()
