"""Runs a transaction again that lost against a concurrent one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.failures import is_conflict, sqlstate
from app.database.session import DatabaseSessionDependency, db_session_dependency

__all__ = ["run_transaction"]

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.01
"""Seconds, at the most, before the second try. It doubles with each: those that collide spread out."""

_log = structlog.get_logger(__name__)


async def run_transaction(
    fn: Callable[[AsyncSession], Awaitable[T]],
    *,
    tries: int = 6,
    database: DatabaseSessionDependency = db_session_dependency,
) -> T:
    """Run a function in a transaction of its own and commit it; again, from the start, where it met another one.

    Only what PostgreSQL itself rolled back for the sake of another transaction is run again: a serialization failure
    (40001) or a deadlock (40P01), see "Serialization Failure Handling" in its manual. Any other failure may have been
    committed, or would only come again.

    Parameters
    ----------
    fn
        Is given a fresh session at each try. Whatever else it does, sending an e-mail say, it does once a try: leave
        that for after the return.
    tries
        How often it is run at the most.
    database
        Whose sessions; the service's own unless a test has another.

    Returns
    -------
    T
        What the function returned, once its transaction is committed.

    Raises
    ------
    DBAPIError
        The failure of the last try. In a request it becomes a 503 with ``Retry-After``.
    """
    for left in range(tries - 1, -1, -1):
        try:
            async with database.transaction() as session:
                result = await fn(session)
        except DBAPIError as error:
            if left == 0 or not is_conflict(error):
                raise
            _log.info("transaction runs again", sqlstate=sqlstate(error), tries_left=left)
        else:
            return result
        # The full range of the pause is random: "full jitter", from the AWS Architecture Blog's "Exponential Backoff".
        await asyncio.sleep(random.uniform(0, _FIRST_PAUSE * 2 ** (tries - 1 - left)))  # noqa: S311  # not a secret
    raise AssertionError("tries must be 1 or more")
