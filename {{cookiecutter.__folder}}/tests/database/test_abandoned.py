"""A statement whose client has gone ends on the server, too, and the service has no more connections than it may."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from sqlalchemy import text

from app.database.engine import create_database_engine
from tests.network import Network

SLEEP = "SELECT pg_sleep(600)"
ACTIVE = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = '{SLEEP}'"  # noqa: S608
Count = Callable[[], asyncio.Future[int]]


@pytest.fixture
async def count(database_url: str) -> AsyncIterator[Count]:
    """Count the connections to the test's database that have run the statement, ended or not."""
    connection = await asyncpg.connect(database_url)
    yield lambda: connection.fetchval(ACTIVE)
    await connection.close()


async def until(count: Count, number: int) -> None:
    async with asyncio.timeout(30):
        while await count() != number:  # noqa: ASYNC110  # only the server knows
            await asyncio.sleep(0.02)


async def sleep_forever(url: str) -> None:
    engine = create_database_engine(url, pool_size=1, statement_timeout=0)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(SLEEP))
    finally:
        await engine.dispose()


async def test_a_cut_connection_ends_its_statement(database_url: str, network: Network, count: Count) -> None:
    sleeping = asyncio.create_task(sleep_forever(network.url))
    await until(count, 1)
    network.cut()
    await until(count, 0)
    with pytest.raises(Exception, match="connection"):
        await sleeping


async def test_a_killed_process_ends_its_statement(database_url: str, count: Count) -> None:
    code = f"import asyncio; from {__name__} import sleep_forever; asyncio.run(sleep_forever({database_url!r}))"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        await until(count, 1)
        process.kill()
    await until(count, 0)


async def test_cancelled_statements_end_at_once_and_their_connections_are_never_too_many(
    database_url: str, count: Count
) -> None:
    """However often a task is cancelled while it closes its connection: anyio, and so Starlette, does that."""
    engine = create_database_engine(database_url, pool_size=3)

    async def sleep() -> None:
        async with engine.connect() as connection:
            await connection.execute(text(SLEEP))

    for _ in range(5):
        sleeping = [asyncio.create_task(sleep()) for _ in range(3)]
        await until(count, 3)
        while not all(task.done() for task in sleeping):
            for task in sleeping:
                task.cancel()
            await asyncio.sleep(0)
        assert await count() <= 3
    await until(count, 0)
    await engine.dispose()
