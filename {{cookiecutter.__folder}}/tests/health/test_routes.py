"""The probes."""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from app.config import ServiceSettings, Settings
from app.database.session import db_session_dependency
from app.main import create_app
from dev.databases import drop_database, ensure_database
from tests.commands import database_name
from tests.network import Network


async def test_live_and_ready(client: httpx2.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_a_database_that_is_gone_makes_the_service_unready_and_leaves_it_alive(
    client: httpx2.AsyncClient, database_url: str, server_url: str, session: AsyncSession
) -> None:
    assert (await client.get("/health/ready")).status_code == 200
    await asyncio.to_thread(drop_database, server_url, database_url)
    response = await client.get("/health/ready")
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"]
    assert (await client.get("/health/live")).status_code == 200
    response = await client.get("/things")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    # For the fixture that drops it.
    await asyncio.to_thread(ensure_database, server_url, database_name(database_url))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with a pool of one connection, that is waited for only shortly."""
    return settings.model_copy(update={"database": replace(settings.database, pool_size=1, pool_timeout=0.1)})


async def test_a_silent_database_makes_the_service_unready_in_time_and_no_question_is_left_behind(
    settings: ServiceSettings, network: Network
) -> None:
    """Else each probe would leave a task that waits as long as a statement may take."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(network.url)}))
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        network.is_silent = True
        before = asyncio.all_tasks()
        async with asyncio.timeout(5):
            with capture_logs() as lines:
                assert (await client.get("/health/ready")).status_code == 503
            assert {"event": "not ready", "reason": "no answer within 1 s", "log_level": "warning"} in lines
            if left := asyncio.all_tasks() - before:
                await asyncio.wait(left)
        network.is_silent = False
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_pool_that_is_busy_is_a_503_and_no_unready_service(client: httpx2.AsyncClient) -> None:
    async with db_session_dependency.session() as session:
        await session.execute(text("SELECT 1"))
        response = await client.get("/things")
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert (await client.get("/health/ready")).status_code == 200
    assert (await client.get("/things")).status_code == 200
