"""Tells whether the schema in the database is the one that this code needs."""

from typing import Any

import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.about import PROJECT_FILE
from app.database.failures import describe, sqlstate
from app.database.probe import DatabaseNotReady

__all__ = ["check_revision"]

_UPGRADE = "run `alembic upgrade head`"
_version = Table("alembic_version", MetaData(), Column("version_num", String))


async def check_revision(engine: AsyncEngine, logger: Any = None) -> None:
    """Compare the schema's revision with the newest one in ``migrations/versions``.

    A revision that this code does not know was made by newer code: an old copy of the service runs on during a
    rolling deploy, and says so in the log.

    Raises
    ------
    DatabaseNotReady
        Where the schema is behind the code, or on another branch of history.
    """
    script = ScriptDirectory.from_config(Config(toml_file=PROJECT_FILE))
    needed = set(script.get_heads())
    found = await _current(engine)
    if found == needed:
        return
    unknown = {revision for revision in found if not _knows(script, revision)}
    if unknown and unknown == found:
        logger = logger or structlog.get_logger(__name__)
        logger.warning("schema is ahead of this code", found=sorted(found), known=sorted(needed))
        return
    behind = {step.revision for step in script.iterate_revisions(tuple(needed), "base")} if not unknown else set()
    have, want = ", ".join(sorted(found)) or "nothing", ", ".join(sorted(needed))
    if len(found) < 2 and found <= behind:
        raise DatabaseNotReady(f"DATABASE_URL: the schema is behind (has {have}, needs {want}): {_UPGRADE}")
    raise DatabaseNotReady(
        f"DATABASE_URL: the schema has diverged (has {have}, needs {want}): it was migrated by other code; check that "
        "this is the right database, and merge the branches with `alembic merge`"
    )


async def _current(engine: AsyncEngine) -> set[str]:
    try:
        async with engine.connect() as connection:
            return set(await connection.scalars(select(_version.c.version_num)))
    except DBAPIError as error:
        if sqlstate(error) == "42P01":  # undefined_table: no migration has run
            return set()
        raise DatabaseNotReady(f"DATABASE_URL: cannot read the schema's revision: {describe(error)}") from error


def _knows(script: ScriptDirectory, revision: str) -> bool:
    try:
        return script.get_revision(revision) is not None
    except CommandError:
        return False
