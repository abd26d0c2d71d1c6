"""The transaction of a session: who ends it, when, and what is refused because it would break the promise.

The promise is that a response with status 2xx means a committed transaction.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from inspect import isasyncgenfunction, isgeneratorfunction, unwrap
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

__all__ = [
    "LateCommitError",
    "SessionBlock",
    "SessionsOfRequest",
    "UncommittedWorkError",
    "commit_and_close",
    "refuse_autocommit",
    "refuse_uncommitted_work",
    "yields",
]


class LateCommitError(Exception):
    """A session would be committed after the response."""


class UncommittedWorkError(RuntimeError):
    """An unmanaged session was closed with uncommitted work, which is rolled back."""


class SessionBlock(AbstractAsyncContextManager[AsyncSession]):
    """Calls `end` after its block, or rolls back if that fails. A generator would make a whole request 8 % slower."""

    def __init__(self, session: AsyncSession, end: Callable[[Session], None], *, after_response: bool = False) -> None:
        self._session = session
        self._end = end
        self._after_response = after_response
        self._request = _request.get()

    async def __aenter__(self) -> AsyncSession:
        if self._request is not None:
            if self._after_response:
                self._request.after_response[self._session] = asyncio.current_task()
            else:
                self._task = self._request.add_session()
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
            if self._request is not None:
                if self._after_response:
                    del self._request.after_response[self._session]
                else:
                    self._request.with_session.remove(self._task)
            if not closed:
                # Rolls back and closes, even while the task is being cancelled.
                await self._session.__aexit__(kind, error, traceback)


def commit_and_close(session: Session) -> None:
    """Commit and close a session, in one call: each call of an AsyncSession costs two greenlet switches."""
    session.commit()
    session.close()


def refuse_uncommitted_work(session: Session) -> None:
    """Close an unmanaged session, or raise UncommittedWorkError if there is work that was not committed."""
    # Before this select, the session writes its changes. The server assigns the id at the first write or row lock,
    # including those of raw SQL.
    try:
        pending = session.in_transaction() and session.scalar(
            select(func.pg_current_xact_id_if_assigned().is_not(None))
        )
    except SQLAlchemyError:
        pending = True  # the changes are invalid, or a statement has failed and its error was swallowed
    if pending:
        raise UncommittedWorkError(
            "The session was closed with uncommitted work, which is rolled back: end the handler with "
            "`await session.commit()`, or with `await session.rollback()` to discard the work."
        )
    session.close()


def yields(handler: Callable[..., Any] | None) -> bool:
    """Return whether a handler is a generator, which runs while its response is sent, with its session closed."""
    function = unwrap(handler) if handler else None
    return isasyncgenfunction(function) or isgeneratorfunction(function)


class SessionsOfRequest:
    """Watches the sessions of a request, in the block around it: they must be committed before its response."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        self._answering = [asyncio.current_task()]
        """Tasks that run the handler and send its response: Starlette sends a stream from a task of its own."""
        self._has_begun = False
        self.with_session: list[asyncio.Task[Any] | None] = []
        self.after_response: dict[AsyncSession, asyncio.Task[Any] | None] = {}

    def __enter__(self) -> Self:
        self._token = _request.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        # A client in the same process, as in tests, calls the service in its own context.
        _request.reset(self._token)

    def add_session(self) -> asyncio.Task[Any] | None:
        """Note that the current task opens a session. Raise LateCommitError if it would commit after the response."""
        task = asyncio.current_task()
        # FastAPI produces server-sent events in yet another task. Any other task was started by the handler, which may
        # let it commit whenever it likes.
        if self._has_begun if task in self._answering else yields(self._scope.get("endpoint")):
            raise LateCommitError(
                "the response has begun, so a commit that fails from here on cannot change its status: write before "
                "it, in a handler that returns (`session: DbSession`); read with `reader: DbReader`; or, if the client "
                "is not to rely on this write, `async with db_session_dependency.session(after_response=True)`"
            )
        self.with_session.append(task)
        return task

    def refuse_open(self) -> None:
        """Let the response begin, or a web socket send. Raise LateCommitError if a session is still open."""
        task = asyncio.current_task()
        if task not in self._answering:
            self._answering.append(task)
        if self.with_session and any(task in self._answering for task in self.with_session):
            raise LateCommitError(
                "a session is still open when the client is answered, and would be committed after that: in a handler "
                "or a dependency, write `session: DbSession` (from app.dependencies); in a web socket, send the "
                "message after the block of `async with db_session_dependency.session()`"
            )
        self._has_begun = self._scope["type"] == "http"  # each message of a web socket is an answer of its own

    async def close_abandoned(self) -> None:
        """Roll back and close the sessions that a stream has left open, when the request has ended.

        A generator that is cancelled at its `yield`, since its client has gone, ends only when Python collects it.
        """
        for session, task in list(self.after_response.items()):
            if task is None or task.done() or task is asyncio.current_task():  # not one that outlives the request
                await session.__aexit__(None, None, None)


_request: ContextVar[SessionsOfRequest | None] = ContextVar("_request", default=None)


def refuse_autocommit(options: Mapping[str, Any]) -> None:
    """Raise ValueError if the options of an engine or a connection set the isolation level AUTOCOMMIT."""
    if (options.get("isolation_level") or "").upper() == "AUTOCOMMIT":
        raise ValueError(
            "isolation_level AUTOCOMMIT is refused: nothing could be rolled back; run a statement that PostgreSQL "
            "allows only outside transactions on `engine.execution_options(isolation_level='AUTOCOMMIT').connect()`"
        )
