"""Tells whether the schema in the database is the one that this code needs."""

from enum import Enum
from typing import Any

import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, MetaData, String, Table, false, select
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.about import PROJECT_FILE
from app.database.base import Base
from app.database.failures import DatabaseUnavailable, describe, sqlstate
from app.database.probe import DatabaseNotReady

__all__ = ["Schema", "check_revision", "compare_schema"]

_version = Table("alembic_version", MetaData(), Column("version_num", String))
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_COLUMN = "42703"


class Schema(Enum):
    """How the schema in the database stands to the newest revision that this code knows."""

    CURRENT = "is at the newest revision"
    BEHIND = "is behind"
    AHEAD = "is ahead of this code"
    DIVERGED = "has diverged"


async def check_revision(engine: AsyncEngine, logger: Any = None) -> None:
    """Refuse a schema that this code cannot work with.

    One that is ahead is served, with a warning: it is what an old copy of the service meets in a rolling deploy.

    Raises
    ------
    DatabaseNotReady
        Where the schema is behind the code, or on another branch of history.
    """
    schema, revisions = await compare_schema(engine)
    match schema:
        case Schema.AHEAD:
            logger = logger or structlog.get_logger(__name__)
            logger.warning(f"the schema {schema.value} {revisions}")
        case Schema.BEHIND:
            raise DatabaseNotReady(f"DATABASE_URL: the schema {schema.value} {revisions}: run `alembic upgrade head`")
        case Schema.DIVERGED:
            raise DatabaseNotReady(
                f"DATABASE_URL: the schema {schema.value} {revisions}: other code has migrated it; check that this is "
                "the right database, bring back revisions that were deleted, and join histories with `alembic merge`"
            )


async def compare_schema(engine: AsyncEngine) -> tuple[Schema, str]:
    """Compare the revisions in the database with those in ``migrations/versions``.

    Returns
    -------
    tuple of Schema and str
        How they stand, and both in words. A revision that this code does not know was made by newer code, if all
        that the models name is there: ahead. If not, the revision may have been deleted: diverged.

    Raises
    ------
    DatabaseNotReady
        Where they cannot be read.
    """
    script = ScriptDirectory.from_config(Config(toml_file=PROJECT_FILE))
    needed = set(script.get_heads())
    known = {step.revision for step in script.walk_revisions()}
    missing = None
    try:
        async with engine.connect() as connection:
            # An error in one look spoils no other.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            found = await _found(connection)
            if unknown := bool(found) and not found & known:
                missing = await _missing(connection)
    except (DBAPIError, DatabaseUnavailable) as error:
        raise DatabaseNotReady(f"DATABASE_URL: cannot read the schema's revision: {describe(error)}") from error

    revisions = f"(has {', '.join(sorted(found)) or 'nothing'}, needs {', '.join(sorted(needed))})"
    if found == needed:
        return Schema.CURRENT, revisions
    if missing:
        return Schema.DIVERGED, f"{revisions}, {missing}"
    if unknown:
        return Schema.AHEAD, revisions
    if found <= known:
        return Schema.BEHIND, revisions
    return Schema.DIVERGED, revisions


async def _found(connection: AsyncConnection) -> set[str]:
    try:
        return set(await connection.scalars(select(_version.c.version_num)))
    except ProgrammingError as error:
        if sqlstate(error) == _UNDEFINED_TABLE:  # no migration has run
            return set()
        raise


async def _missing(connection: AsyncConnection) -> str | None:
    """Return PostgreSQL's word for the first table or column of the models that is not there."""
    for table in Base.metadata.sorted_tables:
        try:
            await connection.execute(select(table).where(false()))
        except ProgrammingError as error:
            if sqlstate(error) in (_UNDEFINED_TABLE, _UNDEFINED_COLUMN):
                return describe(error)
            # It is there, and may only not be read by this role.
    return None
