"""Fixtures of all tests. Each test that needs a database has one to itself, migrated, on a real PostgreSQL.

The server is an embedded one, started for the run, or that of TEST_DATABASE_URL. DATABASE_URL and .env are ignored: no
test can change the data of a running service.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import httpx2
import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.config import ServiceSettings, Settings
from app.database.engine import create_database_engine
from app.database.internal.options import EngineOptions
from app.database.session import create_async_session
from app.main import create_app
from dev.databases import environment_without_settings, scratch_database, scratch_server
from tests import callers, example
from tests.commands import run
from tests.databases import Databases
from tests.network import Network

_SERVER, _TEMPLATE = "TESTS_SERVER", "TESTS_TEMPLATE"
_resources = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Start the server and migrate a template database, once in each run, before the workers start."""
    if hasattr(config, "workerinput"):
        return
    server = _resources.enter_context(scratch_server())
    template = _resources.enter_context(scratch_database(server))
    run("alembic", "upgrade", "head", database_url=template).check_returncode()
    asyncio.run(example.create_tables(template))
    os.environ |= {_SERVER: server, _TEMPLATE: template}  # the workers inherit them


def pytest_xdist_auto_num_workers() -> int:
    """Run more workers than there are processors: tests wait for the database as long as they compute."""
    processors = os.cpu_count() or 1
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or max(processors, min(2 * processors, 8)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server."""
    _resources.close()


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as uvicorn does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - environment_without_settings().keys():
        monkeypatch.delenv(name)
    for kind in (Settings, ServiceSettings):
        monkeypatch.setitem(kind.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def server_url() -> str:
    """URL of the server's maintenance database, for tests that create or drop databases."""
    return os.environ[_SERVER]


@pytest.fixture(scope="session")
def _databases() -> Iterator[Databases]:
    databases = Databases(os.environ[_SERVER], os.environ[_TEMPLATE])
    yield databases
    databases.drop()


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """URL of an empty database of this test."""
    with scratch_database(server_url) as url:
        yield url


@pytest.fixture
def database_url(_databases: Databases) -> Iterator[str]:
    """URL of a migrated database of this test."""
    with _databases.lend() as url:
        yield url


@pytest.fixture
def replica_url(_databases: Databases) -> Iterator[str]:
    """URL of a second migrated database, which stands in for a replica: it lacks what only the first one has."""
    with _databases.lend() as url:
        yield url


@pytest.fixture
async def silent_server() -> AsyncIterator[str]:
    """URL of a peer that accepts connections and says nothing."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"postgresql://ada@{host}:{port}/orders"


@pytest.fixture
async def network(database_url: str) -> AsyncIterator[Network]:
    """A way to the test's database that can become silent."""
    async with Network.to(database_url) as network:
        yield network


@pytest.fixture
def settings(database_url: str) -> ServiceSettings:
    """Settings for the test's database. No request is refused because the machine is busy."""
    return ServiceSettings(
        database_url=SecretStr(database_url),
        database=EngineOptions(pool_timeout=30),
        database_probe_pause=0,
        processor_timeout=0,
        auth=callers.options(),
    )


@pytest.fixture
def caller() -> Callable[..., dict[str, str]]:
    """Headers of a caller: ``caller("users:read", sub="ada")``; without scopes, of one who may do everything."""
    return callers.headers


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the test's database, separate from the service's."""
    engine = create_database_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session to prepare and inspect data, separate from the service's. The test commits it."""
    session = await create_async_session(engine)
    yield session
    await session.close()


@pytest.fixture
def app(settings: ServiceSettings) -> FastAPI:
    """The service, on the test's database, with the routes of `tests.example`. A test may add more."""
    app = create_app(settings)
    app.include_router(example.router)
    return app


@pytest.fixture
async def client(app: FastAPI, caller: Callable[..., dict[str, str]]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the running service, who may do everything."""
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service", headers=caller()) as client,
    ):
        yield client


@pytest.fixture
async def remote(app: FastAPI, caller: Callable[..., dict[str, str]]) -> AsyncIterator[httpx2.AsyncClient]:
    """The same, over real connections: for streams, and for clients that go away."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve([listener]))
        url = "http://{}:{}".format(*listener.getsockname())
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=url, headers=caller(), limits=limits, timeout=30) as client:
            await client.get("/health/live")  # waits until it serves
            yield client
        server.should_exit = True
        await serving
