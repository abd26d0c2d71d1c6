"""Waits for a database that is not there yet, and tells that from one that never will be."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.failures import DatabaseUnavailable, describe, is_unavailable, sqlstate

__all__ = ["PAUSE", "TRIES", "DatabaseNotReady", "probe", "wait_for_database"]

TRIES = 5
"""How often a probe asks."""

PAUSE = 2.0
"""Seconds between two tries."""

_ANSWER = 5.0
"""Seconds that the server has for its first answer."""

_MEND = {
    "28": "check the user and the password: DATABASE_URL, DATABASE_PASSWORD",
    "3D": "create the database, or name another in DATABASE_URL",
    "42": "check the rights of the user, and the parameters of DATABASE_URL",
    "08": "check the parameters of DATABASE_URL (a pooler may refuse some)",
}


class DatabaseNotReady(Exception):
    """The service cannot work with this database: one line that says why, and how to mend it."""

    exit_code = 1


async def probe(
    ask: Callable[[], Awaitable[Any]], *, tries: int = TRIES, pause: float = PAUSE, logger: Any = None
) -> None:
    """Ask until the database answers.

    Parameters
    ----------
    ask
        Does one try: returns where the database answered, raises where not.
    tries, pause
        How often, and the seconds in between.
    logger
        Is told of each failed try that another one follows.

    Raises
    ------
    Exception
        What the last try raised, or the first that no waiting can mend.
    """
    logger = logger or structlog.get_logger(__name__)
    for left in range(tries - 1, -1, -1):
        try:
            await ask()
        except Exception as error:
            if left == 0 or not is_unavailable(error):
                raise
            logger.warning(f"waiting for the database, tries left: {left}, the next in {pause:g} s: {describe(error)}")
            await asyncio.sleep(pause)
        else:
            return


async def wait_for_database(
    engine: AsyncEngine, *, tries: int = TRIES, pause: float = PAUSE, logger: Any = None
) -> None:
    """Wait until the server takes a connection and answers on it.

    Parameters
    ----------
    engine
        Whose database is asked.
    tries, pause, logger
        See `probe`.

    Raises
    ------
    DatabaseNotReady
        Where it does not.
    """

    async def ask() -> None:
        try:
            # How long connecting may take is the engine's to say.
            async with engine.connect() as connection, asyncio.timeout(_ANSWER):
                await connection.execute(select(1))
        except TimeoutError:
            raise DatabaseUnavailable(f"PostgreSQL took a connection and did not answer within {_ANSWER:g} s") from None

    try:
        await probe(ask, tries=tries, pause=pause, logger=logger)
    except DatabaseUnavailable as error:
        raise DatabaseNotReady(
            f"DATABASE_URL: {error} (tries: {tries}); is the server up? (on your own machine, `make db` starts one)"
        ) from error
    except (DBAPIError, OSError) as error:
        mend = _MEND.get((sqlstate(error) or "")[:2], "check DATABASE_URL")
        raise DatabaseNotReady(f"DATABASE_URL: PostgreSQL says: {describe(error)}; {mend}") from error
