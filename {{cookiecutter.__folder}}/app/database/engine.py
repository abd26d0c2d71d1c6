"""Makes the engine: the one place that knows how this service connects. It knows no settings."""

import ssl
from collections.abc import Mapping
from typing import Any, TypedDict

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.about import NAME
from app.database.failures import (
    CANNOT_CONNECT_NOW,
    READ_ONLY,
    DatabaseUnavailable,
    describe,
    has_outdated_plan,
    sqlstate,
)
from app.database.url import DatabaseUrl, parse_database_url

__all__ = ["EngineOptions", "create_database_engine"]

_DRIVER_GRACE = 1.0
"""Seconds that the driver waits beyond the server's statement_timeout: the server's own error says more."""

_IDLE_IN_TRANSACTION = "60s"
"""After this the server ends a transaction in which nothing happens: its locks would hold up all others."""


class _HonestConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """After a failed statement PostgreSQL answers COMMIT with ROLLBACK, and asyncpg takes that for success.

    Code that swallowed the error would report work as stored.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # as asyncpg has it
        answer: str = await super().execute(query, *args, timeout=timeout)
        if answer == "ROLLBACK" and query.startswith("COMMIT"):
            raise PendingRollbackError(
                "An earlier statement of this transaction failed and its error was swallowed: nothing of the "
                "transaction can be committed. Let the error pass, or run what may fail in session.begin_nested()."
            )
        return answer


class EngineOptions(TypedDict, total=False):
    """Keyword arguments of `create_database_engine`, for functions that hand them on."""

    schema: str | None
    isolation_level: str | None
    connect_args: Mapping[str, Any] | None
    connect_timeout: float
    statement_timeout: float
    pool_size: int
    max_overflow: int
    pool_timeout: float
    pool_recycle: int
    pool_pre_ping: bool


def create_database_engine(
    url: str,
    password: str | SecretStr | None = None,
    *,
    schema: str | None = None,
    isolation_level: str | None = None,
    connect_args: Mapping[str, Any] | None = None,
    connect_timeout: float = 5,
    statement_timeout: float = 30,
    pool_size: int = 15,
    max_overflow: int = 0,
    pool_timeout: float = 30,
    pool_recycle: int = -1,
    pool_pre_ping: bool = False,
) -> AsyncEngine:
    """Create an engine. Nothing connects before its first use; the caller disposes of it.

    Parameters
    ----------
    url, password
        See `app.database.url.parse_database_url`.
    schema
        PostgreSQL schema of all tables that name none. It is written into each statement: that costs no round trip,
        and holds behind a transaction pooler, where a ``search_path`` would leak between clients.
    isolation_level
        Of each transaction; none: the server's default.
    connect_args
        Further arguments of ``asyncpg.connect``. They win over what is set here.
    connect_timeout
        Seconds that one attempt to connect may take; the URL's ``connect_timeout`` wins over it.
    statement_timeout
        Seconds that one statement may take, 0 for no limit. Sent to the server as a start-up parameter, which some
        poolers refuse; and held by the driver a second later, for a peer that has gone silent. Not 0, it also ends
        transactions that idle for a minute.
    pool_size, max_overflow, pool_timeout, pool_recycle, pool_pre_ping
        As in ``sqlalchemy.create_engine``.

    Raises
    ------
    DatabaseUrlError
        Where the URL or the password beside it cannot be used.
    """
    if isinstance(password, SecretStr):
        password = password.get_secret_value()
    target = parse_database_url(url, password)
    arguments: dict[str, Any] = {
        "timeout": target.connect_timeout or connect_timeout,
        "connection_class": _HonestConnection,
    }
    guards = {}
    if statement_timeout:
        guards["statement_timeout"] = str(max(1, round(statement_timeout * 1000)))
        guards["idle_in_transaction_session_timeout"] = _IDLE_IN_TRANSACTION
        arguments["command_timeout"] = statement_timeout + _DRIVER_GRACE
    # The server would let these win over the same ones in `options`, where the user has said otherwise.
    options = target.server_settings.get("options", "").lower().replace("-", "_")  # PostgreSQL takes both
    guards = {name: value for name, value in guards.items() if name not in options}
    arguments |= connect_args or {}
    arguments["server_settings"] = {
        "application_name": NAME,
        **guards,
        **target.server_settings,
        **arguments.get("server_settings", {}),
    }
    if target.password is not None:
        arguments["password"] = target.password

    engine = create_async_engine(
        "postgresql+asyncpg://",  # the address is asyncpg's to read: see app.database.url, and `connect` below
        connect_args=arguments,
        isolation_level=isolation_level,
        execution_options={"schema_translate_map": {None: schema}} if schema else {},
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=pool_timeout,
        pool_recycle=pool_recycle,
        pool_pre_ping=pool_pre_ping,
        # Errors go to logs, and what users sent does not belong there. The price is a log that names the statement
        # and not the value that broke it: set this to False on your own machine while you hunt for one.
        hide_parameters=True,
    )
    _listen(engine, target)
    return engine


def _listen(engine: AsyncEngine, target: DatabaseUrl) -> None:
    """Correct what the driver and the pool do by themselves, each by an event of SQLAlchemy."""
    address = target.address
    # A host at a time, each with the whole connect timeout: asyncpg has one for all, and a first host that is silent
    # would use it up. That is also how libpq counts.
    attempts = [{"dsn": dsn} for dsn in target.dsns]
    if any("target_session_attrs=prefer-standby" in dsn for dsn in target.dsns):
        attempts = [{**attempt, "target_session_attrs": kind} for kind in ("standby", "any") for attempt in attempts]

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, cargs: tuple[Any, ...], cparams: dict[str, Any]
    ) -> DBAPIConnection:
        for attempt in attempts:
            try:
                return dialect.connect(*cargs, **(attempt | cparams))
            except ssl.SSLCertVerificationError:
                raise  # an OSError that no later try would mend
            except (OSError, dialect.loaded_dbapi.Error) as error:
                unwanted = isinstance(error.__cause__, TargetServerAttributeNotMatched)
                absent = isinstance(error, OSError) and "rejected SSL upgrade" not in str(error)
                if not (unwanted or absent or sqlstate(error) == CANNOT_CONNECT_NOW):
                    raise
                failure = error
        raise DatabaseUnavailable(f"cannot reach PostgreSQL at {address}: {describe(failure)}") from failure

    @event.listens_for(engine.sync_engine, "handle_error")
    def name_a_failed_statement(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, OSError):  # command_timeout is a bare TimeoutError
            raise DatabaseUnavailable(f"PostgreSQL at {address} did not answer in time") from context.original_exception
        error = context.original_exception
        if sqlstate(error) == READ_ONLY or has_outdated_plan(error):
            # A failover has made the primary a replica, or a migration has changed a column that prepared statements
            # name: it is so for every connection of the pool, and all are replaced.
            context.is_disconnect = True

    @event.listens_for(engine.sync_engine, "checkout")
    def replace_a_closed_connection(
        connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        # asyncpg knows without a round trip that the server has hung up: after a restart no request need fail.
        if connection.driver_connection.is_closed():
            raise DisconnectionError("the server closed the connection")
