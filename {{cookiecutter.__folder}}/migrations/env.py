"""Runs the migrations, on the service's own settings: ``alembic upgrade head``."""

import asyncio
import zlib
from collections.abc import Callable
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
from app.about import NAME
from app.config import Settings, load_settings
from app.database.base import Base
from app.database.engine import create_database_engine
from app.database.options import EngineOptions
from app.database.probe import DatabaseNotReady, wait_for_database
from app.database.revision import Schema, compare_schema
from app.logging import configure_logging
from app.startup import errors_as_one_line

_POLL = 0.25
"""Seconds between two looks at whether another migration has ended."""

_LOCK_TIMEOUT = "3s"
"""After this a migration gives up on a lock: while it waits for one, all that come after it wait too."""

_log = structlog.get_logger("alembic")


def migrate_offline(settings: Settings) -> None:
    """Print the SQL instead of running it. Needs no database, nor its URL."""
    schema = settings.database.schema
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the driver's own would double each % in what is printed
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        if schema:
            context.execute(CreateSchema(schema, if_not_exists=True))
            context.execute(f"SET search_path TO {_quoted(schema)}".replace(":", "\\:"))  # or it would be a parameter
        context.run_migrations()


async def migrate_online(settings: Settings) -> None:
    """Wait for the server, then for our turn, then migrate."""
    options = replace(
        settings.database,
        statement_timeout=0,
        # One connection migrates, one holds the lock.
        pool_size=2,
        max_overflow=0,
        # At a stricter level the lock keeps a snapshot, for whose end CREATE INDEX CONCURRENTLY would wait.
        isolation_level="READ COMMITTED",
    )
    engine = create_database_engine(
        settings.database_url.get_secret_value(),
        settings.database_password,
        connect_args={"server_settings": {"application_name": f"{NAME} migrations", **_no_time_limit(options)}},
        **vars(options),
    )
    schema = options.schema
    try:
        await wait_for_database(
            engine,
            tries=settings.database_probe_tries,
            pause=settings.database_probe_pause,
        )
        async with engine.connect() as lock_connection:
            await _wait_for_turn(lock_connection, schema)
            if _runs(command.upgrade) and await _is_ahead(engine):
                return
            if schema:
                await _ensure_schema(engine, schema, create=_runs(command.upgrade, command.stamp))
            async with engine.connect() as connection:
                await connection.run_sync(_migrate, schema)
    finally:
        await engine.dispose()


def _no_time_limit(options: EngineOptions) -> dict[str, str]:
    # The role may have one, for the service. A pooler refuses the parameter: then each transaction sets it, and only
    # what runs in an autocommit block has the role's limit.
    return {"statement_timeout": "0"} if options.pooler == "none" else {}


async def _wait_for_turn(connection: AsyncConnection, schema: str | None) -> None:
    """Take the lock that lets one migration run at a time; the end of the connection's transaction frees it.

    It is held on a connection of its own, so that it outlasts each transaction of the migrations, and by a
    transaction, so that it works behind a transaction pooler. And it is polled: one that waits inside a statement
    would hold up ``CREATE INDEX CONCURRENTLY``, which waits for the snapshots of all other statements.
    """
    number = zlib.crc32(f"alembic {schema or ''}".encode())
    said = False
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}):
        await connection.rollback()
        if not said:
            _log.info("waiting for another migration to end")
            said = True
        await asyncio.sleep(_POLL)
    # It idles while the migrations work, and must not be ended for that.
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _runs(*commands: Callable[..., None]) -> bool:
    options = context.config.cmd_opts
    return options is not None and options.cmd[0] in commands


async def _is_ahead(engine: AsyncEngine) -> bool:
    """Tell whether newer code has migrated already, as in a rolling deploy, or when an old copy is brought back.

    There is nothing to upgrade then, and no reason to fail: Alembic alone would end with a traceback.
    """
    standing, revisions = await compare_schema(engine)
    if standing is Schema.DIVERGED:
        raise DatabaseNotReady(
            f"DATABASE_URL: the schema {standing.value} {revisions}: nothing was changed; is a revision missing here?"
        )
    if standing is Schema.AHEAD:
        _log.warning(f"the schema {standing.value} {revisions}: nothing to upgrade")
    return standing is Schema.AHEAD


async def _ensure_schema(engine: AsyncEngine, schema: str, *, create: bool) -> None:
    async with engine.begin() as connection:
        # Asked first: IF NOT EXISTS needs the right to create schemas even where there is nothing to create.
        if await connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": _quoted(schema)}):
            return
        if not create:
            raise DatabaseNotReady(f"DATABASE_SCHEMA: there is no schema {schema}; `alembic upgrade head` makes it")
        await connection.execute(CreateSchema(schema, if_not_exists=True))


def _migrate(connection: Connection, schema: str | None) -> None:
    # LOCAL, or it would stay with the server's connection, which a pooler lends to others.
    @event.listens_for(connection, "begin")
    def begin(connection: Connection) -> None:
        if _in_autocommit_block(connection):
            return
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        if schema:
            # The engine writes the schema's name into what Alembic builds. This is for SQL written by hand, and for
            # what Alembic reads of the tables that are there.
            connection.exec_driver_sql(f"SET LOCAL search_path TO {_quoted(schema)}")

    @event.listens_for(connection, "before_execute")
    def refuse_another_schema(connection: Connection, statement: Executable, *_: Any) -> None:
        if schema and isinstance(statement, TextClause) and _in_autocommit_block(connection):
            written = statement.text
            if schema not in written:
                raise CommandError(f"in an autocommit block SQL must name its schema, {schema}: {written}")

    # A transaction each, so that none keeps its locks while the next one works.
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def _in_autocommit_block(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _import_models() -> None:
    """Import ``models.py`` of each feature: autogeneration compares the database with the tables that are imported."""
    for path in sorted(Path(app.__path__[0]).glob("*/models.py")):
        import_module(f"app.{path.parent.name}.models")


with errors_as_one_line():
    _import_models()
    if context.is_offline_mode():
        migrate_offline(load_settings(database_url="postgresql://nobody@nowhere/", database_password=None))
    else:
        loaded = load_settings()
        configure_logging(loaded)
        asyncio.run(migrate_online(loaded))
