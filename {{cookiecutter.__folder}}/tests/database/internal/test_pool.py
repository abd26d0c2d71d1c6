"""Whoever waits for a connection gets it in turn and in time, or is told so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool
from structlog.testing import capture_logs

from app.database.engine import create_database_engine
from app.database.internal.pool import Pool
from app.database.session import DatabaseSessionDependency

MakeEngine = Callable[..., AsyncEngine]


@pytest.fixture
async def make_engine(database_url: str) -> AsyncIterator[MakeEngine]:
    """Create an engine with one connection, unless asked for more."""
    engines = []

    def make(**options: Any) -> AsyncEngine:
        engines.append(create_database_engine(database_url, **({"pool_size": 1} | options)))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.dispose()


async def begun(*waiting: Awaitable[object]) -> list[asyncio.Task[object]]:
    """Begin to wait, in this order."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_connections_are_given_in_the_order_of_the_requests_and_nobody_overtakes(make_engine: MakeEngine) -> None:
    engine, order = make_engine(pool_timeout=60), []

    async def use(number: int) -> None:
        async with engine.connect():
            order.append(number)

    async with engine.connect():
        waiting = await begun(*(use(number) for number in range(5)))
    waiting += await begun(use(5))
    await asyncio.gather(*waiting)
    assert order == list(range(6))


async def test_a_request_waits_for_the_timeout_and_twice_as_long_if_the_queue_has_just_begun(
    make_engine: MakeEngine,
) -> None:
    engine, loop = make_engine(pool_timeout=0.2), asyncio.get_running_loop()

    async def wait() -> float:
        start = loop.time()
        with pytest.raises(PoolTimeoutError):
            await engine.connect()
        return loop.time() - start

    async with engine.connect():
        first = asyncio.create_task(wait())
        await asyncio.sleep(0.3)
        later = asyncio.create_task(wait())
        # The clock of the test may be late, never early.
        assert await first >= 0.4
        assert await later >= 0.2
        assert first.done()


@asynccontextmanager
async def overload(engine: AsyncEngine) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Begin more requests than the only connection can serve in time, and keep it for the block."""

    async def use() -> None:
        async with engine.connect():
            pass

    for _ in range(2):  # the queue sees how slowly connections are returned
        async with engine.connect():
            (waiting,) = await begun(use())
            await asyncio.sleep(0.1)
        await waiting
    engine.pool._timeout = 5  # type: ignore[attr-defined]
    async with engine.connect():
        tasks = await begun(*(use() for _ in range(1000)))
        yield tasks
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_request_that_would_wait_in_vain_is_refused_at_once(make_engine: MakeEngine) -> None:
    async with overload(make_engine(pool_timeout=60)) as (first, *later):
        assert not first.done()
        assert {type(task.exception()) for task in later if task.done()} == {PoolTimeoutError}


async def test_a_session_that_would_wait_in_vain_does_not_begin(database_url: str) -> None:
    """A request is refused before anything is spent on it."""
    database = DatabaseSessionDependency()
    await database.initialize(database_url, pool_size=1, max_overflow=0, pool_timeout=60)
    async with overload(database.engine):
        with pytest.raises(PoolTimeoutError, match="too many requests wait"):
            database.session()
    async with database.session() as session:
        await session.execute(select(1))
    await database.aclose()


@pytest.mark.parametrize("given", [False, True])
async def test_a_request_that_is_cancelled_while_it_waits_costs_no_connection(
    make_engine: MakeEngine, given: bool
) -> None:
    engine = make_engine(pool_timeout=60)
    held = await engine.connect()
    first, second = await begun(engine.connect(), engine.connect())
    if given:
        await held.close()
        first.cancel()  # it has got the connection, and does not know it yet
    else:
        first.cancel()
        await held.close()
    with pytest.raises(asyncio.CancelledError):
        await first
    await (await second).close()  # type: ignore[attr-defined]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_connection_above_the_size_goes_to_who_waits_and_is_closed_when_nobody_does(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(pool_timeout=60, max_overflow=1)
    held, above = await engine.connect(), await engine.connect()
    (waiting,) = await begun(engine.connect())
    await above.close()
    got = await waiting
    await held.close()
    await got.close()  # type: ignore[attr-defined]
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]


async def test_without_sqlalchemys_private_names_its_own_queue_is_used_and_a_warning_says_so(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a new SQLAlchemy that renames something ends the service instead of making its pool less fair."""
    monkeypatch.setattr(Pool, "_queue_class", AsyncAdaptedQueuePool._queue_class)
    with capture_logs() as lines:
        engine = make_engine()
    assert ["overtake" in line["event"] for line in lines] == [True]
    async with async_sessionmaker(engine)() as session:
        assert isinstance(engine.pool, Pool)
        engine.pool.refuse_in_vain()
        assert await session.scalar(select(1)) == 1
