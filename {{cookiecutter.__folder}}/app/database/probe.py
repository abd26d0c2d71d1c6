"""Waits for a database that is not reachable yet, and fails at once on errors that waiting cannot fix."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.errors import (
    DatabaseUnavailable,
    PasswordUnavailable,
    TlsFailed,
    describe,
    is_unavailable,
    sqlstate,
)

__all__ = ["DatabaseNotReady", "probe", "wait_for_database"]

_TRIES = 5
_PAUSE = 2.0
_ATTEMPT = 30.0
"""Time limit in seconds for one attempt. PgBouncer accepts a connection even if PostgreSQL does not answer."""

_FIXES = {
    "28": "check the user and the password: DATABASE_URL, DATABASE_PASSWORD",
    "3D": "create the database, or name another in DATABASE_URL",
    "42": "check the privileges of the user, and the parameters of DATABASE_URL",
    "08": "behind PgBouncer set DATABASE_POOLER=pgbouncer, and check DATABASE_URL and DATABASE_PASSWORD",
}


class DatabaseNotReady(Exception):
    """The service cannot work with this database. The message is one line: why, and how to fix it."""

    exit_code = 1


async def probe(
    ask: Callable[[], Awaitable[Any]], *, tries: int = _TRIES, pause: float = _PAUSE, logger: Any = None
) -> None:
    """Call a function until it succeeds. Raises the error of the last attempt, or the first that waiting cannot fix.

    Parameters
    ----------
    ask
        Function that queries the database, and raises an error if it does not answer.
    tries, pause
        Maximum number of attempts, and the seconds between two of them.
    logger
        Receives a warning after each failed attempt that will be retried.
    """
    logger = logger or structlog.get_logger(__name__)
    for left in range(tries - 1, -1, -1):
        try:
            await ask()
        except Exception as error:
            if left == 0 or isinstance(error, TlsFailed) or not is_unavailable(error):
                raise
            logger.warning(f"waiting for the database, attempts left: {left}, next in {pause:g} s: {describe(error)}")
            await asyncio.sleep(pause)
        else:
            return


async def wait_for_database(engine: AsyncEngine, *, tries: int = _TRIES, pause: float = _PAUSE) -> None:
    """Wait until the server accepts a connection and answers a query. See `probe` for the parameters.

    Raises DatabaseNotReady if it does not, or an error occurs that waiting cannot fix.
    """

    async def ask() -> None:
        try:
            async with asyncio.timeout(_ATTEMPT), engine.connect() as connection:
                await connection.execute(select(1))
        except TimeoutError:
            raise DatabaseUnavailable(f"PostgreSQL did not answer within {_ATTEMPT:g} s") from None

    try:
        await probe(ask, tries=tries, pause=pause)
    except (DBAPIError, OSError, TlsFailed) as error:  # OSError: of the options of the socket
        fix = _FIXES.get((sqlstate(error) or "")[:2], "check DATABASE_URL")
        raise DatabaseNotReady(f"DATABASE_URL: PostgreSQL says: {describe(error)}; {fix}") from error
    except DatabaseUnavailable as error:
        fix = "is it running? (`make db` starts one on your own machine)"
        if isinstance(error, PasswordUnavailable):
            fix = "it comes from `database_password` in app/startup.py"
        raise DatabaseNotReady(f"DATABASE_URL: {error} (attempts: {tries}); {fix}") from error
