"""What a failure of the database means, read from its SQLSTATE (PostgreSQL's manual, appendix A)."""

import asyncio
from collections.abc import Iterator
from typing import Final

from asyncpg import InvalidCachedStatementError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

__all__ = [
    "CANNOT_CONNECT_NOW",
    "READ_ONLY",
    "DatabaseUnavailable",
    "constraint_name",
    "describe",
    "has_outdated_plan",
    "is_conflict",
    "is_refused",
    "is_unavailable",
    "sqlstate",
]

CANNOT_CONNECT_NOW: Final = "57P03"
"""The server starts up, shuts down or is in recovery."""

READ_ONLY: Final = "25006"
"""A write to a server that is read-only: a primary that a failover has made a replica."""

_TRY_LATER = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available, a lock_timeout
    "57014",  # query_canceled, a statement_timeout
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    CANNOT_CONNECT_NOW,
    "57P05",  # idle_session_timeout
    "25P03",  # idle_in_transaction_session_timeout
    READ_ONLY,
}
_CONFLICTS = {"40001", "40P01"}
_TRY_LATER_CLASSES = {
    "08",  # connection exceptions
    "53",  # insufficient resources: too many connections, out of memory, disk full
}
_LOGIN_CLASSES = {
    "28",  # invalid authorization
    "3D",  # no such database
}
_NEVER = {
    "08P01",  # protocol_violation: a pooler that refuses a start-up parameter says so every time
}


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or did not answer in time.

    Raised by the engine in place of the bare ``OSError`` and ``TimeoutError`` of the driver, which could have come
    from anything.
    """


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: SQLAlchemy's error wraps the dialect's, which wraps the driver's."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = getattr(link, "orig", None) or link.__cause__


def sqlstate(error: BaseException) -> str | None:
    """Return the five characters that PostgreSQL gave for a failure, None where it gave none."""
    return next((code for link in _chain(error) if (code := getattr(link, "sqlstate", None))), None)


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the constraint that a statement violated, None where that was not the failure."""
    return next((name for link in _chain(error) if (name := getattr(link, "constraint_name", None))), None)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether a failure is the database's condition rather than the statement's fault: worth trying later."""
    if isinstance(error, DatabaseUnavailable | PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error) or ""
    if state in _NEVER:
        return False
    known = state in _TRY_LATER or state[:2] in _TRY_LATER_CLASSES or has_outdated_plan(error)
    return known or error.connection_invalidated


def is_refused(error: BaseException) -> bool:
    """Tell whether the server lets nobody in: no such role or database, a wrong password.

    At start-up that is final. Later it is a database that was taken away.
    """
    return (sqlstate(error) or "")[:2] in _LOGIN_CLASSES


def is_conflict(error: BaseException) -> bool:
    """Tell whether the transaction was rolled back for the sake of a concurrent one: running it again may succeed."""
    return sqlstate(error) in _CONFLICTS or has_outdated_plan(error)


def has_outdated_plan(error: BaseException) -> bool:
    """Tell whether a migration has changed a column since the statement was prepared: it is prepared anew next time."""
    return any(isinstance(link, InvalidCachedStatementError) for link in _chain(error))


def describe(error: BaseException) -> str:
    """Return the server's or the driver's own words for a failure, on one line, without SQL or parameters."""
    *_, first = _chain(error)
    if isinstance(first, TimeoutError | asyncio.CancelledError):  # asyncio ends what takes too long by a cancellation
        return "no answer in time"
    words = str(first) or type(first).__name__
    return words.splitlines()[0].strip().rstrip(".")
