"""Reads with a second server, while the network to the first one is silent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import Select, case, func, literal_column, select
from structlog.testing import capture_logs
from structlog.typing import EventDict

from app.database.errors import DatabaseUnavailable
from app.database.reader import Reader
from app.database.replicas import WatchedServer
from app.database.session import DatabaseSessionDependency
from tests.network import Network

pytestmark = pytest.mark.slow

WHERE: Select[str] = select(literal_column("current_database()"))
SLEEP: Select[None] = select(literal_column("pg_sleep(0.1)"))


@dataclass
class Watched:
    """A server behind the network, and what uses it."""

    database: DatabaseSessionDependency
    server: WatchedServer
    reader: Reader
    """Asks this server first."""


@pytest.fixture(params=["DATABASE_URL"])
async def watched(
    request: pytest.FixtureRequest, network: Network, replica_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    """Two servers. The one of the setting has answered through the network, and is pinged often."""
    monkeypatch.setattr("app.database.session._PING", 0.1)
    monkeypatch.setattr("app.database.replicas._PAUSE", 0.05)
    monkeypatch.setattr("app.database.server._CLOSE", 0.2)
    database = DatabaseSessionDependency()
    urls = [network.url, replica_url] if request.param == "DATABASE_URL" else [replica_url, network.url]
    await database.initialize(urls[0], replica_url=urls[1], connect_timeout=0.5)
    primary, replica = database._servers.values()
    readers = database.readers
    server, reader = (primary, readers.fallback) if request.param == "DATABASE_URL" else (replica, readers.replica)
    await reader.all(WHERE)
    yield Watched(database, server, reader)
    network.is_silent = network.is_refused = False
    await database.aclose()


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """What is logged."""
    with capture_logs() as lines:
        yield lines


def watches() -> int:
    return len([task for task in asyncio.all_tasks() if "_wait_until_back" in repr(task.get_coro())])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nobody could set an event
            await asyncio.sleep(0.01)


def has_opened(network: Network, more: int) -> Callable[[], bool]:
    number = network.opened + more
    return lambda: network.opened >= number


async def test_a_server_that_is_silent_is_away_until_it_answers_and_each_is_said_once(
    watched: Watched, network: Network, lines: list[EventDict]
) -> None:
    home, elsewhere = await watched.reader.scalar(WHERE), await watched.database.readers.replica.scalar(WHERE)
    assert home != elsewhere
    await watched.server.ping()
    for silences in (1, 2):
        network.is_silent = True
        async with asyncio.timeout(4):  # the first reads wait together, the others do not
            for _ in range(20):
                assert await asyncio.gather(*(watched.reader.scalar(WHERE) for _ in range(5))) == [elsewhere] * 5
        assert watches() == 1
        await until(has_opened(network, 2))
        network.is_silent = False
        await until(lambda: not watched.server.is_away)
        assert await watched.reader.scalar(WHERE) == home
        assert [line["event"] for line in lines] == silences * [
            "DATABASE_URL: no answer; reads use the other server",
            "DATABASE_URL: answers again",
        ]


async def test_a_read_that_fails_on_a_server_that_answers_goes_to_the_other_and_nothing_is_said(
    watched: Watched, lines: list[EventDict]
) -> None:
    elsewhere = await watched.database.readers.replica.scalar(WHERE)
    end = select(WHERE.scalar_subquery()).where(
        case((WHERE.scalar_subquery() == elsewhere, True), else_=func.pg_terminate_backend(func.pg_backend_pid()))
    )
    assert await watched.reader.scalar(end) == elsewhere
    await until(lambda: not watched.server.is_away)
    assert lines == []


async def test_a_server_that_is_away_is_pinged_with_pauses(
    watched: Watched, network: Network, lines: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.replicas._PAUSE", 60)
    network.silence_connections()
    network.is_refused = True
    await watched.reader.scalar(WHERE)
    await until(lambda: len(lines) == 1)
    pings = network.opened
    for _ in range(20):
        await watched.reader.scalar(WHERE)
    assert network.opened == pings


async def test_a_read_that_hangs_does_not_wait_for_a_server_that_refuses_the_ping(
    watched: Watched, network: Network
) -> None:
    network.silence_connections()
    network.is_refused = True
    async with asyncio.timeout(4):
        await watched.reader.scalar(WHERE)
    assert watched.server.is_away


@pytest.mark.parametrize("watched", ["DATABASE_URL", "DATABASE_REPLICA_URL"], indirect=True)
async def test_after_a_silence_no_read_meets_a_connection_from_before(
    watched: Watched, network: Network, lines: list[EventDict]
) -> None:
    """Its host may be gone, and each would cost a read the time limit of a statement."""
    await asyncio.gather(*(watched.reader.scalar(SLEEP) for _ in range(10)))
    network.silence_connections()
    network.is_refused = True
    await watched.reader.scalar(WHERE)
    await until(lambda: len(lines) == 1)
    network.is_refused = False
    await until(lambda: len(lines) == 2)
    async with asyncio.timeout(4):
        await asyncio.gather(*(watched.reader.scalar(WHERE) for _ in range(10)))


async def test_a_session_that_hangs_does_not_say_that_its_server_is_back(watched: Watched, network: Network) -> None:
    await asyncio.gather(*(watched.reader.scalar(SLEEP) for _ in range(3)))
    network.is_silent = True
    await watched.reader.scalar(WHERE)
    with suppress(TimeoutError, DatabaseUnavailable):
        async with asyncio.timeout(0.1), watched.database.session() as session:
            await session.scalar(WHERE)
    assert watched.server.is_away


@pytest.mark.parametrize("reads", [0, 1])
async def test_closing_takes_no_longer_than_its_limit_and_leaves_nothing_that_runs(
    watched: Watched, network: Network, reads: int
) -> None:
    network.is_silent = True
    for _ in range(reads):
        await watched.reader.scalar(WHERE)
    async with asyncio.timeout(4):
        await watched.database.aclose()
    await asyncio.sleep(0)
    assert watches() == 0
