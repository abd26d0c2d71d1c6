"""The transaction of a session: who ends it, when, and what is refused because it would break the promise.

The promise is that a response with status 2xx means a committed transaction.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

__all__ = [
    "LateCommitError",
    "SessionBlock",
    "UncommittedWorkError",
    "commit_and_close",
    "refuse_autocommit",
    "refuse_uncommitted_work",
    "watch_sessions",
]


class LateCommitError(Exception):
    """A session would be committed after the response."""


class UncommittedWorkError(RuntimeError):
    """An unmanaged session was closed with uncommitted work, which is rolled back."""


class SessionBlock(AbstractAsyncContextManager[AsyncSession]):
    """Ends a session's transaction at the end of its block, and rolls it back if the block fails.

    Parameters
    ----------
    session
        Session for the block.
    end
        Function that ends the transaction of a successful block, and closes the session.
    """

    # A class, since a generator would make a whole request 8 % slower.

    def __init__(self, session: AsyncSession, end: Callable[[Session], None]) -> None:
        self._session = session
        self._end = end

    async def __aenter__(self) -> AsyncSession:
        self._task = asyncio.current_task()
        self._tasks = _with_sessions.get()
        self._tasks.append(self._task)
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        closed = False
        try:
            if error is None:
                await self._session.run_sync(self._end)
                closed = True
        finally:
            self._tasks.remove(self._task)
            if not closed:
                # Rolls back and closes, even while the task is being cancelled.
                await self._session.__aexit__(kind, error, traceback)


def commit_and_close(session: Session) -> None:
    """Commit and close a session."""
    # One function, since each call of an AsyncSession costs two greenlet switches.
    session.commit()
    session.close()


def refuse_uncommitted_work(session: Session) -> None:
    """Close an unmanaged session.

    Raises
    ------
    UncommittedWorkError
        If there is work that was not committed.
    """
    pending = False
    if session.in_transaction():
        try:
            # The session writes its changes before this statement. The server assigns a transaction id at the first
            # write or row lock, including those of raw SQL.
            pending = bool(session.scalar(select(func.pg_current_xact_id_if_assigned().is_not(None))))
        except SQLAlchemyError:
            pending = True  # the changes are invalid, or a statement has failed and its error was swallowed
    if pending:
        raise UncommittedWorkError(
            "The session was closed with uncommitted work, which is rolled back: end the handler with "
            "`await session.commit()`, or with `await session.rollback()` to discard the work."
        )
    session.close()


_OUTSIDE: list[asyncio.Task[Any] | None] = []
"""Tasks with an open session, outside requests."""

_with_sessions = ContextVar("_with_sessions", default=_OUTSIDE)
"""Tasks with an open session in the current request."""


def watch_sessions() -> Callable[[], None]:
    """Watch the sessions of a request. Return a function to call before its response is sent.

    Raises
    ------
    LateCommitError
        By that function, if the current task has an open session, which would be committed after the response.
    """
    tasks: list[asyncio.Task[Any] | None] = []
    _with_sessions.set(tasks)

    def refuse_open_session() -> None:
        if tasks and asyncio.current_task() in tasks:  # other tasks, such as a job of the handler, may
            raise LateCommitError(
                "a session is still open when the response is sent, and would be committed after it: in a handler "
                "or a dependency, write `session: DbSession` (from app.dependencies); in a background task or the "
                "body of a stream, open a new session with `async with db_session_dependency.session()`"
            )

    return refuse_open_session


def refuse_autocommit(options: Mapping[str, Any]) -> None:
    """Raise ValueError if the options of an engine or a connection set the isolation level AUTOCOMMIT."""
    if (options.get("isolation_level") or "").upper() == "AUTOCOMMIT":
        raise ValueError(
            "isolation_level AUTOCOMMIT is refused: nothing could be rolled back; run a statement that PostgreSQL "
            "allows only outside transactions on `engine.execution_options(isolation_level='AUTOCOMMIT').connect()`"
        )
