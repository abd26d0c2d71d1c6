"""Runs the migrations with the service's settings: ``alembic upgrade head``."""

import asyncio
import gc
import signal
import threading
import zlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from alembic import command, context
from alembic.util import CommandError
from sqlalchemy import Connection, Executable, TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema

import app
from app.config import Settings, load_settings
from app.database.base import Base
from app.database.engine import create_database_engine
from app.database.internal.options import EngineOptions
from app.database.internal.revision import Schema, compare_schema
from app.database.probe import DatabaseNotReady, wait_for_database
from app.instruments import span
from app.logging import configure_logging
from app.metadata import NAME
from app.startup import database_password, errors_as_one_line
from app.telemetry import telemetry
from migrations.attempts import LIMITS, run_migrations

_POLL = 0.25
"""Seconds between two attempts to take the lock."""

_log = structlog.get_logger("alembic")


def migrate_offline(settings: Settings) -> None:
    """Print the SQL instead of running it. This needs neither a database nor its URL."""
    schema = settings.database.schema
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the driver's own would double each % in the output
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    if schema:
        context.execute(CreateSchema(schema, if_not_exists=True))
        context.execute(f"SET search_path TO {_quoted(schema)}".replace(":", "\\:"))  # no bind parameter
    context.run_migrations()


async def migrate_online(settings: Settings) -> None:
    """Wait for the server and for other migrations, then migrate. SIGTERM ends it, and the revision is rolled back."""
    options = replace(
        settings.database,
        statement_timeout=0,
        pool_size=3,  # one connection migrates, one holds the lock, one looks at the locks of others
        # At a stricter level the lock's transaction keeps a snapshot, and CREATE INDEX CONCURRENTLY would wait for it.
        isolation_level="READ COMMITTED",
    )
    engine = create_database_engine(
        settings.database_url.get_secret_value(),
        database_password(settings, settings.database_url),
        connect_args={"server_settings": {"application_name": f"{NAME} migrations", **_no_time_limit(options)}},
        **vars(options),
    )
    schema = options.schema
    # Without a handler, the first process of a container ignores the signal. A program that migrates may have its own.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as end:
        end.push_async_callback(engine.dispose)
        end.enter_context(telemetry(migrations=engine))
        end.enter_context(span("migrations"))
        await wait_for_database(
            engine,
            tries=settings.database_probe_tries,
            pause=settings.database_probe_pause,
        )
        lock_connection = await end.enter_async_context(engine.connect())
        await _wait_for_turn(lock_connection, schema)
        if _runs(command.upgrade) and await _is_ahead(engine):
            return
        if schema:
            await _ensure_schema(engine, schema, create=_runs(command.upgrade, command.stamp))
        observing = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection, observing.connect() as observer:
            await connection.run_sync(_configure, schema)
            await run_migrations(connection, observer, lock_wait=settings.database_migration_lock_wait)


def _no_time_limit(options: EngineOptions) -> dict[str, str]:
    # The role may have some, for the service. A pooler refuses the parameters: then each transaction sets them, and
    # only what runs in an autocommit block has the role's limits.
    return {"statement_timeout": "0", "lock_timeout": "0"} if options.pooler == "none" else {}


async def _wait_for_turn(connection: AsyncConnection, schema: str | None) -> None:
    """Take the lock that lets one migration run at a time; the end of the connection's transaction releases it.

    A separate connection holds it, so that it outlasts each transaction of the migrations. A transaction holds it, so
    that it works behind a transaction pooler. It is polled, since ``CREATE INDEX CONCURRENTLY`` would wait for the
    snapshot of a waiting statement.
    """
    number = zlib.crc32(f"alembic {schema or ''}".encode())
    logged = False
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}):
        await connection.rollback()
        if not logged:
            _log.info("waiting for another migration to end")
            logged = True
        await asyncio.sleep(_POLL)
    # It is idle while the migrations run, and the server must not end it.
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _runs(*commands: Callable[..., None]) -> bool:
    options = context.config.cmd_opts
    return options is not None and options.cmd[0] in commands


async def _is_ahead(engine: AsyncEngine) -> bool:
    """Return whether newer code has already migrated, as in a rolling deploy or after a return to an old version.

    Then there is nothing to upgrade, and no reason to fail: Alembic alone would end with a traceback.
    """
    state, revisions = await compare_schema(engine)
    if state is Schema.DIVERGED:
        raise DatabaseNotReady(
            f"DATABASE_URL: the schema {state.value} {revisions}: nothing was changed; is a revision missing here?"
        )
    if state is Schema.AHEAD:
        _log.warning(f"the schema {state.value} {revisions}: nothing to upgrade")
    return state is Schema.AHEAD


async def _ensure_schema(engine: AsyncEngine, schema: str, *, create: bool) -> None:
    async with engine.begin() as connection:
        # Checked first: IF NOT EXISTS needs the privilege to create schemas even if the schema exists.
        if await connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": _quoted(schema)}):
            return
        if not create:
            raise DatabaseNotReady(f"DATABASE_SCHEMA: there is no schema {schema}; `alembic upgrade head` creates it")
        await connection.execute(CreateSchema(schema))


def _configure(connection: Connection, schema: str | None) -> None:
    # LOCAL, since other settings would stay with the server's connection, which a pooler gives to others.
    @event.listens_for(connection, "begin")
    def begin(connection: Connection) -> None:
        # In an autocommit block these have no effect.
        for limit in LIMITS:
            connection.exec_driver_sql(limit)
        if schema:
            # The engine adds the schema's name to the statements that Alembic builds. This is for SQL written by hand,
            # and for Alembic's reflection of existing tables.
            connection.exec_driver_sql(f"SET LOCAL search_path TO {_quoted(schema)}")

    @event.listens_for(connection, "before_execute")
    def refuse_another_schema(connection: Connection, statement: Executable, *_: Any) -> None:
        in_autocommit_block = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        if not (schema and isinstance(statement, TextClause) and in_autocommit_block):
            return
        if schema not in statement.text:
            raise CommandError(f"in an autocommit block SQL must name its schema, {schema}: {statement.text}")

    # One transaction for each, so that none keeps its locks while the next one runs.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _import_models() -> None:
    """Import ``models.py`` of each feature: autogeneration compares the database with the imported tables."""
    for path in sorted(Path(app.__path__[0]).glob("*/models.py")):
        import_module(f"app.{path.parent.name}.models")


with errors_as_one_line():
    _import_models()
    gc.freeze()  # or Python examines at its end what was imported: a tenth of an upgrade with nothing to do
    if context.is_offline_mode():
        migrate_offline(load_settings(database_url="postgresql://nobody@nowhere/", database_password_file=None))
    else:
        loaded = load_settings()
        configure_logging(loaded)
        try:
            asyncio.run(migrate_online(loaded))
        except asyncio.CancelledError:
            raise SystemExit(128 + signal.SIGTERM) from None
