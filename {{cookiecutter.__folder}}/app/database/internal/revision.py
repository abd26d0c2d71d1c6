"""Checks whether the database schema is the one that this code needs."""

from enum import Enum

import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, MetaData, String, Table, false, select
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.base import Base
from app.database.errors import DatabaseUnavailable, describe, sqlstate
from app.database.probe import DatabaseNotReady
from app.instruments import SCHEMA
from app.metadata import PROJECT_FILE

__all__ = ["Schema", "check_revision", "compare_schema"]

_log = structlog.get_logger(__name__)
_version = Table("alembic_version", MetaData(), Column("version_num", String))
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_COLUMN = "42703"


class Schema(Enum):
    """State of the database schema, compared with the newest revision that this code knows."""

    CURRENT = "matches this code"
    BEHIND = "is behind this code"
    AHEAD = "is ahead of this code"
    DIVERGED = "has diverged from this code's migrations"


async def check_revision(engine: AsyncEngine) -> None:
    """Raise DatabaseNotReady if the database schema is behind the code, or on another branch of the migrations.

    A schema ahead of the code only causes a warning: in a rolling deploy, old copies see one.
    """
    schema, revisions = await compare_schema(engine)
    state = f"the database schema {schema.value} {revisions}"
    match schema:
        case Schema.AHEAD:
            _log.warning(state)
        case Schema.BEHIND:
            raise DatabaseNotReady(f"DATABASE_URL: {state}: run `alembic upgrade head`")
        case Schema.DIVERGED:
            raise DatabaseNotReady(
                f"DATABASE_URL: {state}: check that this is the right database, restore revisions that were deleted, "
                "and merge branches with `alembic merge`"
            )


async def compare_schema(engine: AsyncEngine) -> tuple[Schema, str]:
    """Compare the revisions in the database with those in ``migrations/versions``; return the state, and both as text.

    If this code does not know the revision in the database, the schema is ahead if it has all tables and columns of the
    models; otherwise it has diverged (a deployed revision may have been deleted). Raises DatabaseNotReady if the
    revision cannot be read.
    """
    script = ScriptDirectory.from_config(Config(toml_file=PROJECT_FILE))
    needed = set(script.get_heads())
    known = {step.revision for step in script.walk_revisions()}
    try:
        # In autocommit mode, a failed query does not affect the next one.
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            found = await _found(connection)
            unknown = bool(found) and not found & known
            missing = await _missing(connection) if unknown else None
    except (DBAPIError, DatabaseUnavailable) as error:
        raise DatabaseNotReady(f"DATABASE_URL: cannot read the schema's revision: {describe(error)}") from error

    revision, code = ", ".join(sorted(found)), ", ".join(sorted(needed))
    SCHEMA.set(1, {"revision": revision, "needed": code})
    revisions = f"(database: {revision or 'no revision'}, code: {code})"
    if found == needed:
        return Schema.CURRENT, revisions
    if found <= known:
        return Schema.BEHIND, revisions
    if unknown and not missing:
        return Schema.AHEAD, revisions
    return Schema.DIVERGED, f"{revisions}, {missing}" if missing else revisions


async def _found(connection: AsyncConnection) -> set[str]:
    try:
        return set(await connection.scalars(select(_version.c.version_num)))
    except ProgrammingError as error:
        if sqlstate(error) == _UNDEFINED_TABLE:  # no migration has run
            return set()
        raise


async def _missing(connection: AsyncConnection) -> str | None:
    """Return PostgreSQL's message about the first table or column of the models that does not exist."""
    for table in Base.metadata.sorted_tables:
        try:
            await connection.execute(select(table).where(false()))
        except ProgrammingError as error:
            if sqlstate(error) in (_UNDEFINED_TABLE, _UNDEFINED_COLUMN):
                return describe(error)
            # Otherwise it exists, and this role lacks the privilege to read it.
    return None
