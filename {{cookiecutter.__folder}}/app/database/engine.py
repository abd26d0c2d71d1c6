"""Creates the engine: the only module that knows how the service connects. It does not read settings."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, InvalidRequestError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_

from app.database.errors import (
    READ_ONLY,
    DatabaseUnavailable,
    TlsFailed,
    cannot_connect_now,
    describe,
    has_outdated_plan,
    sqlstate,
)
from app.database.internal.options import CONNECTION_CHECK, IDLE_IN_TRANSACTION, EngineOptions
from app.database.internal.pool import Pool
from app.database.internal.url import DatabaseUrl, parse_database_url
from app.database.password import Password, PasswordSource, current_password
from app.metadata import NAME

__all__ = ["create_database_engine"]

_DRIVER_GRACE: Final = 1.0
"""Extra seconds before the driver times out: the server's own error says more."""

_CLOSE: Final = 0.5
"""Seconds for which a new connection waits for those that are being closed; usually a few milliseconds."""

_SILENT: Final = 10.0
"""Seconds for which a host that did not answer in time is tried after the others."""

_STARTS_WITH = r"(?is)(\s|;|--[^\n]*|/\*.*?\*/)*"
_ENDS_TRANSACTION = re.compile(_STARTS_WITH + r"(COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!.*\bTO\b))\b")
_CHANGES_SETTING = re.compile(_STARTS_WITH + r"SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)")


class _HonestConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Lets only a transaction's owner end it, and raises an error if COMMIT did not commit.

    After a failed statement, PostgreSQL answers COMMIT with ROLLBACK. asyncpg treats that as success: code that ignored
    the statement's error would report work as stored.
    """

    settings_changed = False
    closing: dict[asyncpg.Connection, asyncio.Task[Any]]  # the engine's, and the tasks that close them

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # as asyncpg has it
        """End the running statement on the server, and then the connection."""
        task = asyncio.current_task()
        assert task is not None
        self.closing[self] = task
        try:
            await super().close(timeout=timeout)
        finally:
            self.closing.pop(self, None)

    def terminate(self) -> None:
        """Close the socket, unless `close`, which has its own time limit, is at work."""
        # If a task is cancelled again while it closes its connection, SQLAlchemy calls this: the statement would run
        # on, on a connection that the pool no longer counts.
        if self not in self.closing:
            super().terminate()

    async def prepare(self, query: str, **options: Any) -> Any:
        # SQLAlchemy calls this once for each text and connection, not for BEGIN and COMMIT.
        self._read(query)
        return await super().prepare(query, **options)

    async def executemany(self, command: str, *args: Any, **options: Any) -> Any:
        self._read(command)
        return await super().executemany(command, *args, **options)

    def _read(self, query: str) -> None:
        if _ENDS_TRANSACTION.match(query):
            raise InvalidRequestError(
                "A statement must not end the transaction: the session does that at the end of its block. To undo a "
                "part of the work, use session.begin_nested(); in a migration, use op.get_context().autocommit_block()."
            )
        if _CHANGES_SETTING.match(query):
            self.settings_changed = True

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # as asyncpg has it
        if query == "COMMIT;" and not self.is_in_transaction():
            raise InvalidRequestError(
                "Other code has ended the transaction on the driver's connection; end it only through its session."
            )
        answer: str = await super().execute(query, *args, timeout=timeout)
        if answer == "ROLLBACK" and query.startswith("COMMIT"):
            raise PendingRollbackError(
                "An earlier statement failed and its error was swallowed: the transaction cannot be committed. "
                "Let the error propagate, or run the statement inside session.begin_nested()."
            )
        return answer


def create_database_engine(
    url: str, password: Password | None = None, *, connect_args: Mapping[str, Any] | None = None, **options: Any
) -> AsyncEngine:
    """Create an engine. It connects on first use; the caller disposes of it.

    Raises DatabaseUrlError if the URL or the password is invalid, TypeError if there is no such option.

    Parameters
    ----------
    url
        ``postgresql://user:password@host:port/database?parameters``, or another form that libpq accepts.
    password
        Password, if it is not in the URL; or a function, plain or async, that returns the one for each new connection.
    connect_args
        Additional arguments of ``asyncpg.connect``. They take precedence over the ones set here.
    options
        Fields of `app.database.internal.options.EngineOptions`, such as ``pool_size=5``.
    """
    chosen = EngineOptions(**options)
    if isinstance(password, SecretStr):
        password = password.get_secret_value()
    source = password if callable(password) else None
    target = parse_database_url(url, "" if callable(password) else password)
    arguments: dict[str, Any] = {
        "timeout": chosen.connect_timeout if target.connect_timeout is None else target.connect_timeout or None,
        "password": target.password,  # or that of the source: see `connect`
        "ssl": target.ssl,
        "connection_class": type("Connection", (_HonestConnection,), {"closing": {}}),
    }
    guards = {"client_connection_check_interval": CONNECTION_CHECK}
    if chosen.statement_timeout:
        guards["statement_timeout"] = str(max(1, round(chosen.statement_timeout * 1000)))
        guards["idle_in_transaction_session_timeout"] = IDLE_IN_TRANSACTION
        arguments["command_timeout"] = chosen.statement_timeout + _DRIVER_GRACE
    if chosen.pooler != "none":
        guards = {}  # PgBouncer refuses these start-up parameters
    if chosen.pooler == "pgbouncer":
        # It may use a server connection without the prepared statement.
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    # The server would prefer these to the same parameters in the `options` of the URL, so leave those out.
    own = target.server_settings.get("options", "").lower().replace("-", "_")  # PostgreSQL accepts both
    guards = {name: value for name, value in guards.items() if name not in own}
    arguments |= connect_args or {}
    given = target.server_settings | arguments.get("server_settings", {})
    arguments["server_settings"] = {"application_name": NAME, **guards, **given}

    engine = create_async_engine(
        "postgresql+asyncpg://",  # asyncpg reads the address: see app.database.internal.url, and `connect` below
        connect_args=arguments,
        isolation_level=chosen.isolation_level,
        execution_options={"schema_translate_map": {None: chosen.schema}} if chosen.schema else {},
        poolclass=Pool,
        pool_size=chosen.pool_size,
        max_overflow=chosen.max_overflow,
        pool_timeout=chosen.pool_timeout,
        pool_recycle=chosen.pool_recycle,
        pool_pre_ping=chosen.pool_pre_ping,
        # Errors are logged, and users' data does not belong in logs. The cost: the log shows the statement without
        # the value that broke it. Set this to False on your own machine while you debug.
        hide_parameters=True,
    )
    _listen(engine, target, source)
    return engine


def _listen(engine: AsyncEngine, target: DatabaseUrl, source: PasswordSource | None) -> None:
    """Register event listeners that change defaults of the driver and the pool."""
    # Each host has the whole connect timeout, as in libpq. asyncpg has one for all hosts, and a silent first host would
    # use it up.
    attempts = [{"dsn": dsn} for dsn in target.dsns]
    wants_standby = any("target_session_attrs=prefer-standby" in dsn for dsn in target.dsns)
    if wants_standby:
        attempts = [{**attempt, "target_session_attrs": kind} for kind in ("standby", "any") for attempt in attempts]
    requires_tls = target.ssl is not None or "sslmode=require" in target.dsns[0] or "sslmode=verify" in target.dsns[0]
    silent_until = dict.fromkeys(target.dsns, 0.0)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, cargs: tuple[Any, ...], cparams: dict[str, Any]
    ) -> DBAPIConnection:
        if source is not None:
            cparams = {**cparams, "password": await_(current_password(source, timeout=cparams["timeout"]))}
        if closing := cparams["connection_class"].closing:
            # They may still be connected, and PostgreSQL may have no room for more than the size of the pool.
            await_(asyncio.wait(closing.values(), timeout=_CLOSE))
        for attempt in sorted(attempts, key=lambda each: time.monotonic() < silent_until[each["dsn"]]):
            try:
                return dialect.connect(*cargs, **(attempt | cparams))
            except (OSError, dialect.loaded_dbapi.Error) as error:
                # Without sslmode that is a server that was killed as it answered: its last words came with the answer.
                no_tls = requires_tls and "rejected SSL upgrade" in str(error)
                if no_tls or isinstance(error, ssl.SSLCertVerificationError):
                    raise TlsFailed(f"no TLS with PostgreSQL at {target.address}: {describe(error)}") from error
                unwanted = isinstance(error.__cause__, TargetServerAttributeNotMatched)
                if not (unwanted or isinstance(error, OSError) or cannot_connect_now(error)):
                    raise
                if isinstance(error, TimeoutError):
                    silent_until[attempt["dsn"]] = time.monotonic() + _SILENT
                failure = error
        raise DatabaseUnavailable(f"cannot reach PostgreSQL at {target.address}: {describe(failure)}") from failure

    @event.listens_for(engine.sync_engine, "connect")
    def set_socket_options(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        for option in target.socket_options:
            own = connection.driver_connection._transport.get_extra_info("socket")  # noqa: SLF001  # it is not public
            if own.family != socket.AF_UNIX:
                own.setsockopt(*option)

    @event.listens_for(engine.sync_engine, "handle_error")
    def name_a_failed_statement(context: ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, OSError):  # command_timeout is a bare TimeoutError
            raise DatabaseUnavailable(f"PostgreSQL at {target.address} did not answer in time") from error
        if sqlstate(error) == READ_ONLY or has_outdated_plan(error):
            # The primary has become a replica, or a migration has changed a column that prepared statements use. This
            # applies to every connection in the pool, so all are replaced.
            context.is_disconnect = True

    @event.listens_for(engine.sync_engine, "checkout")
    def replace_a_closed_connection(
        connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        # asyncpg knows without a round trip that the server has closed a connection: no request fails after a restart.
        if connection.driver_connection.is_closed():
            raise DisconnectionError("the server closed the connection")
        if connection.driver_connection.settings_changed:
            raise DisconnectionError("a SET has changed the connection's settings")
        if wants_standby:
            # A promoted standby keeps its connections, and reports the change with its next answer. Reads meant for a
            # standby must not load the primary, nor hang with it.
            settings = connection.driver_connection.get_settings()
            is_standby = getattr(settings, "in_hot_standby", None) == "on"  # a pooler does not pass it on
            if record.info.setdefault("was_standby", is_standby) and not is_standby:
                raise DisconnectionError("the standby has become the primary")
