"""Runs the revisions on a busy database: each in short attempts, until it gets its locks."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import structlog
from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.errors import describe, sqlstate
from app.database.probe import DatabaseNotReady
from migrations.locks import Locks

__all__ = ["LIMITS", "run_migrations"]

LIMITS: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL lock_timeout = '700ms'",
)
"""Limits of each transaction. While it waits for a lock on a table, later statements on that table wait behind it."""

_FIRST_PAUSE: Final = 0.5
"""Seconds of the first pause between two attempts; each is twice as long as the one before."""

_NO_LOCK: Final = {"55P03", "40P01"}
"""SQLSTATEs of a lock timeout and of a deadlock."""

_QUERY_CANCELED: Final = "57014"

_log = structlog.get_logger("alembic")


class _PostgresqlWithLimits(PostgresqlImpl):
    """Adds the limits to what ``--sql`` prints. Alembic uses the last class of a dialect."""

    __dialect__ = "postgresql"

    def emit_begin(self) -> None:
        super().emit_begin()
        for limit in LIMITS:
            self.static_output(f"{limit};")


class _Revisions:
    """The revisions that are still to run, and whether the current one can be repeated from its beginning."""

    def __init__(self, connection: Connection) -> None:
        migration = context.get_context()
        self._find: Any = migration._migrations_fn  # noqa: SLF001  # Alembic has no public name for it
        migration._migrations_fn = self._yield_remaining  # noqa: SLF001
        self._steps: list[Any] | None = None
        self._has_run_something = False
        self.is_partly_committed = False
        """Whether something of the current revision is committed, or may be: in an autocommit block, or before one."""
        self.runs_concurrently = False
        """Whether the current statement, such as ``CREATE INDEX CONCURRENTLY``, blocks nobody while it waits."""
        self.failed_at: float | None = None
        """When the current revision failed first, on the clock of the event loop."""
        event.listen(connection, "before_cursor_execute", self._before_statement)
        event.listen(connection, "after_cursor_execute", self._after_statement)
        event.listen(connection, "commit", self._before_commit)

    def __str__(self) -> str:
        return str(self._steps[0]).rstrip(".") if self._steps else "the migrations"

    def _yield_remaining(self, heads: Any, migration: Any) -> Iterable[Any]:
        # Searched once: after the first revision, a relative target such as +2 would be another one.
        if self._steps is None:
            self._steps = list(self._find(heads, migration))
        while self._steps:
            self.is_partly_committed = self._has_run_something = False
            yield self._steps[0]  # Alembic runs it, and commits before it takes the next one
            del self._steps[0]
            self.failed_at = None

    def _before_statement(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        self.runs_concurrently = _is_autocommit(connection) and "CONCURRENTLY" in statement.upper()
        self.is_partly_committed |= self.runs_concurrently  # it leaves an invalid index if it fails

    def _after_statement(self, _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        self.runs_concurrently = False
        self._has_run_something |= not statement.startswith("SET LOCAL ")

    def _before_commit(self, _: Connection) -> None:
        self.is_partly_committed |= self._has_run_something
        self._has_run_something = False


async def run_migrations(connection: AsyncConnection, observer: AsyncConnection, *, lock_wait: float) -> None:
    """Run the revisions of Alembic's current command, each in its own transaction.

    Parameters
    ----------
    connection
        Connection that runs them, with which ``context.configure`` was called.
    observer
        Connection of the same role, in autocommit mode, to look at the locks meanwhile.
    lock_wait
        Seconds for which a revision is tried again.

    Raises
    ------
    DatabaseNotReady
        If a revision does not get a lock in time, or cannot be repeated. The message says who holds the lock.
    """
    revisions = await connection.run_sync(_Revisions)
    locks = Locks(observer)
    now = asyncio.get_running_loop().time
    pause = _FIRST_PAUSE
    while True:
        begin = now()
        try:
            async with locks.watched(
                longest_wait=lambda: lock_wait if revisions.runs_concurrently else None, name=lambda: str(revisions)
            ):
                await connection.run_sync(lambda _: context.run_migrations())
        except DBAPIError as error:
            await connection.rollback()
            state = sqlstate(error)
            if state not in _NO_LOCK and not (state == _QUERY_CANCELED and locks.cancelled):
                raise
            failure = f"did not get {locks.description}" if locks.description else describe(error)
        else:
            return
        if revisions.is_partly_committed:
            raise DatabaseNotReady(
                f"{revisions}: {failure}; not repeated, since a part of it is already committed, or has left an "
                "invalid index: see what it has done before you run it again"
            )
        if revisions.failed_at is None:
            revisions.failed_at, pause = begin, _FIRST_PAUSE
        left = revisions.failed_at + lock_wait - now()
        if left <= 0:
            raise DatabaseNotReady(
                f"{revisions}: {failure}; given up after {lock_wait:g} s (DATABASE_MIGRATION_LOCK_WAIT), nothing of it "
                "was changed: end that transaction, or try again later"
            )
        _log.warning(f"{revisions}: {failure}; trying again for {left:.0f} s")
        await locks.pause(min(pause, left))
        pause *= 2


def _is_autocommit(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
