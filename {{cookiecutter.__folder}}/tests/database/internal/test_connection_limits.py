"""Limits of the server that do not fit the settings are a line at start-up."""

from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.config import Settings
from app.database.engine import create_database_engine
from app.database.internal.connection_limits import warn_of_limits
from app.database.internal.options import EngineOptions
from app.startup import open_database
from tests.commands import database_name

LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout", "client_connection_check_interval")


async def warnings(engine: AsyncEngine, **options: object) -> list[str]:
    """Return what is said of an engine with these options."""
    with capture_logs() as lines:
        await warn_of_limits(engine, EngineOptions(**{"pooler": "none", **options}))  # type: ignore[arg-type]
    return [line["event"] for line in lines]


async def test_a_pool_that_fits_is_not_mentioned(engine: AsyncEngine) -> None:
    assert await warnings(engine, pool_size=1) == []


async def test_a_pool_that_is_larger_than_the_server_is_named_with_both_numbers(engine: AsyncEngine) -> None:
    (line,) = await warnings(engine, pool_size=100_000, max_overflow=5)
    assert line.startswith("DATABASE_POOL_SIZE: this process may open 100006 connections")
    assert "there is room for" in line


async def test_a_server_that_cannot_be_asked_is_no_error() -> None:
    engine = create_database_engine("postgresql://127.0.0.1:1/orders")
    assert await warnings(engine) == []


async def test_a_pool_that_is_too_large_is_named_at_start_up(settings: Settings) -> None:
    large = settings.model_copy(update={"database": replace(settings.database, pool_size=100_000)})
    with capture_logs() as lines:
        async with open_database(large):
            pass
    assert any(line["event"].startswith("DATABASE_POOL_SIZE: ") for line in lines)


async def test_a_pool_that_does_not_fit_beside_those_in_use_is_named(engine: AsyncEngine) -> None:
    async with engine.connect(), engine.connect() as connection:
        room = await connection.scalar(
            text(
                "SELECT current_setting('max_connections')::int - "
                "current_setting('superuser_reserved_connections')::int - "
                "coalesce(current_setting('reserved_connections', true)::int, 0)"
            )
        )
        (line,) = await warnings(engine, pool_size=room - 1)
    assert f"this process may open {room} connections, there is room for {room}, and " in line


async def test_a_limit_of_the_role_counts(database_url: str, server_url: str) -> None:
    name = database_name(database_url)
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw' CONNECTION LIMIT 3")
    engine = create_database_engine(f"postgresql://{name}:pw@{database_url.split('@')[1]}")
    (line,) = await warnings(engine, pool_size=3)
    assert "may open 4 connections, and there is room for 3: " in line
    await engine.dispose()
    await server.execute(f"DROP ROLE {name}")
    await server.close()


@pytest.mark.parametrize("limited", [LIMITS, LIMITS[:1], ()])
async def test_behind_a_pooler_a_role_without_time_limits_is_named_with_the_commands(
    database_url: str, server_url: str, limited: tuple[str, ...]
) -> None:
    """And connections are the pooler's affair."""
    name = database_name(database_url)
    server = await asyncpg.connect(server_url)
    await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    for limit in limited:
        await server.execute(f"ALTER ROLE {name} SET {limit} = '7s'")
    engine = create_database_engine(f"postgresql://{name}:pw@{database_url.split('@')[1]}", pooler="pgbouncer")
    lines = await warnings(engine, pooler="pgbouncer", pool_size=100_000, statement_timeout=12.5)
    commands = {
        "statement_timeout": f"ALTER ROLE {name} SET statement_timeout = '12.5s'",
        "idle_in_transaction_session_timeout": f"ALTER ROLE {name} SET idle_in_transaction_session_timeout = '60s'",
        "client_connection_check_interval": f"ALTER ROLE {name} SET client_connection_check_interval = '1s'",
    }
    missing = [command for limit, command in commands.items() if limit not in limited]
    assert [line.split("run ")[1] for line in lines] == ([f"`{'; '.join(missing)}`"] if missing else [])
    for command in missing:
        await server.execute(command)
    await engine.dispose()
    assert await warnings(engine, pooler="pgbouncer") == []
    await engine.dispose()
    await server.execute(f"DROP ROLE {name}")
    await server.close()


async def test_no_time_limit_is_missed_where_none_is_wanted(database_url: str) -> None:
    engine = create_database_engine(database_url, pooler="pgbouncer")
    assert await warnings(engine, pooler="pgbouncer", statement_timeout=0) == []
    await engine.dispose()
