"""Retries transactions that conflict with concurrent ones."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.errors import is_conflict, sqlstate
from app.database.session import DatabaseSessionDependency, db_session_dependency
from app.instruments import RETRIES, span

__all__ = ["run_transaction"]

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.01
"""Maximum pause before the second attempt, in seconds. It doubles each time, to separate conflicting transactions."""

_log = structlog.get_logger(__name__)


async def run_transaction(
    fn: Callable[[AsyncSession], Awaitable[T]],
    *,
    tries: int = 6,
    after_response: bool = False,
    database: DatabaseSessionDependency = db_session_dependency,
) -> T:
    """Run a function in a transaction of its own, commit it, and return the result; retry it after a conflict.

    Conflicts are serialization failures (40001) and deadlocks (40P01), after which PostgreSQL has rolled the
    transaction back: see "Serialization Failure Handling" in its manual. Other errors are not retried: the transaction
    may have been committed, or would fail again. The DBAPIError of the last attempt is raised; in a request it becomes
    a 503 with ``Retry-After``.

    Parameters
    ----------
    fn
        Function to run. Each attempt has a new session. Other effects, such as sending an e-mail, happen at each
        attempt: do these afterwards.
    tries
        Maximum number of attempts. Less than 1 raises ValueError.
    after_response
        Whether the commit may come after the response has begun; see `DatabaseSessionDependency.session`.
    database
        Provider of the sessions; by default the service's.
    """
    for left in range(tries - 1, -1, -1):
        try:
            with span("transaction"):
                async with database.transaction(after_response=after_response) as session:
                    return await fn(session)
        except DBAPIError as error:
            if left == 0 or not is_conflict(error):
                raise
            _log.info("transaction is retried", sqlstate=sqlstate(error), tries_left=left)
            RETRIES.add(1)
        # A random pause up to the limit: "full jitter" in the AWS Architecture Blog's "Exponential Backoff And Jitter".
        await asyncio.sleep(random.uniform(0, _FIRST_PAUSE * 2 ** (tries - 1 - left)))  # noqa: S311  # not a secret
    raise ValueError("tries must be 1 or more")
