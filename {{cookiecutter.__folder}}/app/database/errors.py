"""Classifies database errors by their SQLSTATE (appendix A of PostgreSQL's manual)."""

import asyncio
import re
from collections.abc import Iterator
from typing import Final

from asyncpg import InvalidCachedStatementError
from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

__all__ = [
    "READ_ONLY",
    "DatabaseUnavailable",
    "PasswordUnavailable",
    "TlsFailed",
    "another_may_answer",
    "cannot_connect_now",
    "constraint_name",
    "describe",
    "has_outdated_plan",
    "is_conflict",
    "is_refused",
    "is_unavailable",
    "sqlstate",
    "violated_reference",
    "violates",
]

READ_ONLY: Final = "25006"
"""A write to a read-only server, such as a primary that has become a replica in a failover."""

_QUERY_CANCELED: Final = "57014"
"""A statement_timeout: the statement would take as long on another server."""

_CONFLICTS = ("40001", "40P01")  # serialization_failure, deadlock_detected
# Errors that end a connection, such as 25P03 (idle_in_transaction_session_timeout), arrive as a lost connection.
_TRY_LATER = (
    *_CONFLICTS,
    "08",  # the class of connection exceptions
    "53",  # the class of insufficient resources: too many connections, out of memory, disk full
    "55P03",  # lock_not_available, a lock_timeout
    _QUERY_CANCELED,
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    READ_ONLY,
)
_PROTOCOL_VIOLATION = "08P01"
"""PgBouncer's own errors: a start-up parameter or a user that it rejects, too many clients."""

_REFUSED = ("28", "3D", _PROTOCOL_VIOLATION)  # the classes of invalid authorization and of no such database
_NOT_REPLICATED_YET = ("3F000", "42P01", "42703")  # invalid_schema_name, undefined_table, undefined_column


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or did not answer in time.

    The engine raises it instead of the driver's ``OSError`` and ``TimeoutError``, which could come from any code.
    """


class PasswordUnavailable(DatabaseUnavailable):
    """The function that returns the password for a new connection has failed."""


class TlsFailed(DatabaseUnavailable):
    """The URL asks for TLS, and the server has none or no valid certificate. At start-up that is permanent."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: SQLAlchemy's error wraps the dialect's, which wraps the driver's."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = getattr(link, "orig", None) or link.__cause__


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error, or None if it has none."""
    return next((code for link in _chain(error) if (code := getattr(link, "sqlstate", None))), None)


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the violated constraint, or None for other errors."""
    return next((name for link in _chain(error) if (name := getattr(link, "constraint_name", None))), None)


def violates(error: BaseException, constraint: str) -> bool:
    """Return whether an error is the violation of a constraint, or of a unique index, with this name."""
    # Citus appends the number of the shard to the names in it. Numbers begin at 102008.
    return re.fullmatch(re.escape(constraint) + r"(_\d{6,})?", constraint_name(error) or "") is not None


def violated_reference(error: BaseException, table: Table) -> str | None:
    """Return the column of the table whose foreign key was violated, or None for other errors."""
    keys = table.foreign_key_constraints
    return next((key.column_keys[0] for key in keys if violates(error, str(key.name))), None)


def is_unavailable(error: BaseException) -> bool:
    """Return whether the state of the database is the cause, not the statement: the same request may succeed later."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, DatabaseUnavailable | PoolTimeoutError)
    state = sqlstate(error) or ""
    if state == _PROTOCOL_VIOLATION:
        return False
    # A plan is outdated for long only behind PgBouncer, which keeps it: until a RECONNECT there.
    return state.startswith(_TRY_LATER) or has_outdated_plan(error) or error.connection_invalidated


def is_refused(error: BaseException) -> bool:
    """Return whether the server or a pooler rejected the login: no such role or database, or a wrong password.

    At start-up that is permanent. Later it means that the database was dropped, the password changed, or a pooler has
    too many clients.
    """
    return (sqlstate(error) or "").startswith(_REFUSED)


def cannot_connect_now(error: BaseException) -> bool:
    """Return whether the server that rejected a connection cannot accept any at present."""
    # 57P03: it is starting, shutting down or in recovery. XX000: with a full disk it cannot write its init file.
    return sqlstate(error) in ("57P03", "XX000")


def another_may_answer(error: BaseException) -> bool:
    """Return whether a read that failed on one server may succeed on another one.

    It may if the server is away, or is a replica that lags behind a migration or has cancelled the read in favour of
    replication (40001). After a busy pool or a slow statement, another server would only take over the load.
    """
    state = sqlstate(error)
    if isinstance(error, PoolTimeoutError) or state == _QUERY_CANCELED:
        return False
    return is_unavailable(error) or is_refused(error) or state in _NOT_REPLICATED_YET


def is_conflict(error: BaseException) -> bool:
    """Return whether a conflict with a concurrent transaction caused the rollback: a retry may succeed."""
    return sqlstate(error) in _CONFLICTS or has_outdated_plan(error)


def has_outdated_plan(error: BaseException) -> bool:
    """Return whether a migration has changed a column after a statement was prepared. The next run prepares it anew."""
    return any(isinstance(link, InvalidCachedStatementError) for link in _chain(error))


def describe(error: BaseException) -> str:
    """Return the message of the server or the driver, on one line, without SQL or parameters."""
    *_, first = _chain(error)
    if isinstance(first, TimeoutError | asyncio.CancelledError):  # asyncio cancels on a timeout
        return "no answer in time"
    words = str(first) or type(first).__name__
    return words.splitlines()[0].strip().rstrip(".")
