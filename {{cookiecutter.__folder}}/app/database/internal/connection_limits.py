"""Warns at start-up if the settings do not fit the server's limits."""

from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.errors import DatabaseUnavailable
from app.database.internal.options import CONNECTION_CHECK, IDLE_IN_TRANSACTION, EngineOptions

__all__ = ["warn_of_limits"]

_log = structlog.get_logger(__name__)

# Roles and databases can have connection limits of their own.
_CONNECTIONS: Final = text("""
    SELECT server.room, least(server.room, nullif(rolconnlimit, -1), nullif(datconnlimit, -1)), (
        SELECT count(*) FROM pg_stat_activity
        WHERE coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid())
    FROM pg_roles, pg_database, (
        SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)) AS server(room)
    WHERE rolname = current_user AND datname = current_database()
""")
_TIME_LIMITS: Final = text("""
    SELECT quote_ident(current_user), current_setting('statement_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('client_connection_check_interval')
""")


async def warn_of_limits(engine: AsyncEngine, options: EngineOptions) -> None:
    """Warn if the pool exceeds the server's connections, or, behind a pooler, if the role has no time limits."""
    behind_pooler = options.pooler != "none"
    with suppress(DBAPIError, DatabaseUnavailable):  # the check must not stop the start
        async with engine.connect() as connection:
            found = (await connection.execute(_TIME_LIMITS if behind_pooler else _CONNECTIONS)).one_or_none()
        if found is not None and (warning := (_time_limits if behind_pooler else _connections)(options, *found)):
            _log.warning(warning)


def _connections(options: EngineOptions, room: int, own_room: int, in_use: int) -> str | None:
    wanted = options.pool_size + options.max_overflow + 1  # one for readiness
    if wanted > own_room:
        limit = f"and there is room for {own_room}"
    elif wanted + in_use > room:
        limit = f"there is room for {room}, and {in_use} are in use"
    else:
        return None
    return (
        f"DATABASE_POOL_SIZE: this process may open {wanted} connections, {limit}: lower DATABASE_POOL_SIZE or "
        "DATABASE_MAX_OVERFLOW, or raise the server's limit"
    )


def _time_limits(options: EngineOptions, role: str, statement: str, idle: str, check: str) -> str | None:
    wanted = (
        ("statement_timeout", statement, f"{options.statement_timeout:.10g}s"),
        ("idle_in_transaction_session_timeout", idle, IDLE_IN_TRANSACTION),
        ("client_connection_check_interval", check, CONNECTION_CHECK),
    )
    missing = [f"ALTER ROLE {role} SET {name} = '{limit}'" for name, current, limit in wanted if current == "0"]
    if not missing or not options.statement_timeout:
        return None
    why = "PgBouncer accepts no time limits from the service, and the role has none"
    return f"DATABASE_POOLER: {why}: run `{'; '.join(missing)}`"
