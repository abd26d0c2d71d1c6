"""Sessions and readers, for requests and everything else: one provider, one rule of commit and rollback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, Select, event, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from app.database.engine import create_database_engine
from app.database.fallback import Readers, Server, create_readers
from app.database.probe import probe
from app.database.reader import Reader

__all__ = [
    "DatabaseSessionDependency",
    "LateCommitError",
    "UncommittedWorkError",
    "create_async_session",
    "db_session_dependency",
    "watch_sessions",
]

_PING: Final = 1.0
"""Time limit of the statement of a ping, in seconds."""

_REPLICA_CONNECT: Final = 1.0
"""Time limit of one connection attempt to a replica, in seconds: the primary is there to be asked instead."""


class LateCommitError(Exception):
    """A session would be committed after the response."""


class UncommittedWorkError(RuntimeError):
    """An unmanaged session was closed with uncommitted work, which is rolled back."""


class DatabaseSessionDependency:
    """Provides sessions of one pool, to FastAPI and to ``async with``, and a reader for code that only reads.

    In a route, through the alias ``DbSession`` of `app.dependencies`::

        async def create_user(body: NewUser, session: DbSession) -> UserOut: ...

    Anywhere else, after `initialize`::

        async with db_session_dependency.session() as session:
            ...

    By default a session is managed, which means that it is one transaction: committed when the handler has returned or
    the block has ended, rolled back on any exception. FastAPI must close it before it sends the response; otherwise a
    client may receive a 201 for a row that was never stored. The alias does that, and so does
    ``Depends(db_session_dependency, scope="function")``. The service does not start with a route that commits later.
    """

    def __init__(self) -> None:
        self._primary: Server | None = None
        self._replica: Server | None = None
        self._readers: Readers | None = None
        self._sessions: async_sessionmaker[AsyncSession] | None = None
        self._manage_transactions = True

    async def initialize(
        self,
        url: str,
        password: str | SecretStr | None = None,
        *,
        replica_url: str | None = None,
        replica_password: str | SecretStr | None = None,
        manage_transactions: bool = True,
        **options: Any,
    ) -> None:
        """Create the pool; an existing one is closed first. Nothing connects yet.

        Parameters
        ----------
        url, password, options
            See `app.database.engine.create_database_engine`.
        replica_url, replica_password
            The same for the replicas, which have a pool of their own with the same options; None: there are none.
        manage_transactions
            Whether sessions commit by themselves. If not, uncommitted work at the end is an error.

        Raises
        ------
        DatabaseUrlError
            If the URL, or the password beside it, cannot be used.
        ValueError
            If the isolation level is AUTOCOMMIT.
        """
        _refuse_autocommit(options)
        primary = _server("DATABASE_URL", url, password, options)
        event.listen(primary.engine.sync_engine, "set_connection_execution_options", _refuse_autocommit_later)
        replica = None
        if replica_url is not None:
            connect_timeout = min(_REPLICA_CONNECT, options.get("connect_timeout", _REPLICA_CONNECT))
            replica_options = options | {"connect_timeout": connect_timeout}
            replica = _server("DATABASE_REPLICA_URL", replica_url, replica_password, replica_options)
        await self.aclose()
        self._primary = primary
        self._replica = replica
        self._readers = create_readers(primary, replica)
        self._manage_transactions = manage_transactions
        self._sessions = async_sessionmaker(
            primary.engine,
            # By default, each attribute read after a commit is a query, which asyncio cannot run there.
            expire_on_commit=False,
            # A session used after its end, such as in a background task, raises an error. By default it would open
            # again silently, and its writes would be lost.
            close_resets_only=False,
        )

    async def aclose(self) -> None:
        """Close the pool, if one is open. If the server is silent, leave the connections to the operating system."""
        servers = self._servers()
        self._primary = self._replica = self._readers = self._sessions = None
        await asyncio.gather(*(server.aclose() for server in servers))

    def _servers(self) -> list[Server]:
        return [server for server in (self._primary, self._replica) if server is not None]

    @property
    def engine(self) -> AsyncEngine:
        """Engine of the primary's pool."""
        if self._primary is None:
            raise _not_initialized()
        return self._primary.engine

    @property
    def replica(self) -> Server | None:
        """The replicas, None if there are none."""
        return self._replica

    @property
    def readers(self) -> Readers:
        """Readers, which run selects without a transaction."""
        if self._readers is None:
            raise _not_initialized()
        return self._readers

    @property
    def reader(self) -> Reader:
        """Reader of the primary: what is committed."""
        return self.readers.primary

    async def __call__(self) -> AsyncIterator[AsyncSession]:
        """Yield a session, and end its transaction afterwards."""
        async with self.session() as session:
            yield session

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session. Leaving the block ends its transaction, in requests and elsewhere."""
        if self._sessions is None:
            raise _not_initialized()
        return self.transaction() if self._manage_transactions else _Block(self._sessions(), _refuse_uncommitted_work)

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session that is one transaction, also if sessions are unmanaged."""
        if self._sessions is None:
            raise _not_initialized()
        return _Block(self._sessions(), _commit_and_close)

    async def ping(self) -> None:
        """Query the servers, outside their pools, until one answers. Raises DBAPIError or DatabaseUnavailable."""
        servers = self._servers()
        if not servers:
            raise _not_initialized()
        pings = {asyncio.create_task(server.ping()) for server in servers}
        try:
            while pings:
                done, pings = await asyncio.wait(pings, return_when=asyncio.FIRST_COMPLETED)
                errors = [ping.exception() for ping in done]
                if None in errors:
                    return
            raise errors[0] or AssertionError
        finally:
            for ping in pings:
                ping.cancel()


db_session_dependency = DatabaseSessionDependency()
"""The pool of this process. `app.startup.open_database` opens and closes it."""


async def create_async_session(
    engine: AsyncEngine, logger: Any = None, *, statement: Select[Any] | None = None
) -> AsyncSession:
    """Create a session of a given engine. The caller commits and closes it.

    Parameters
    ----------
    engine
        Engine to take connections from; see `app.database.engine.create_database_engine`.
    logger
        Receives a warning after each failed attempt that will be retried.
    statement
        Select to run first, limited to one row, up to five times two seconds apart, until the database answers.

    Raises
    ------
    Exception
        The error of the last attempt, or the first error that waiting cannot fix: a wrong password, a missing table.
    """
    session = AsyncSession(engine, expire_on_commit=False, close_resets_only=False)
    if statement is not None:
        limited = statement.limit(1)

        async def ask() -> None:
            # On another connection, so that the session is returned without a transaction.
            async with engine.connect() as connection:
                await connection.execute(limited)

        try:
            await probe(ask, logger=logger)
        except BaseException:
            await session.close()
            raise
    return session


_OUTSIDE: list[asyncio.Task[Any] | None] = []
"""Tasks with an open session outside of requests."""

_with_sessions = ContextVar("_with_sessions", default=_OUTSIDE)
"""Tasks with an open session, of the current request."""


def watch_sessions() -> Callable[[], None]:
    """Watch the sessions of a request. Returns a function to call before its response is sent.

    Raises
    ------
    LateCommitError
        From that function, if the current task has a session open, which it would commit after the response.
    """
    tasks: list[asyncio.Task[Any] | None] = []
    _with_sessions.set(tasks)

    def refuse_open_session() -> None:
        if tasks and asyncio.current_task() in tasks:  # another task, such as a job that the handler started, may
            raise LateCommitError(
                "a session is still open when the response is sent, and would be committed after it: in a handler, "
                "and in a dependency, write `session: DbSession` (from app.dependencies); a background task and the "
                "body of a stream open a session of their own, with `async with db_session_dependency.session()`"
            )

    return refuse_open_session


class _Block(AbstractAsyncContextManager[AsyncSession]):
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


def _refuse_autocommit(options: Mapping[str, Any]) -> None:
    if (options.get("isolation_level") or "").upper() == "AUTOCOMMIT":
        raise ValueError(
            "isolation_level AUTOCOMMIT is refused: a transaction would not be one; a statement that PostgreSQL runs "
            "outside of transactions only goes on `engine.execution_options(isolation_level='AUTOCOMMIT').connect()`"
        )


def _refuse_autocommit_later(_: Connection, options: Mapping[str, Any]) -> None:
    _refuse_autocommit(options)


def _server(setting: str, url: str, password: str | SecretStr | None, options: dict[str, Any]) -> Server:
    # Readiness has a connection of its own: a service with a busy pool is not unready.
    ping_options = {"pool_size": 1, "max_overflow": 0, "isolation_level": "AUTOCOMMIT", "statement_timeout": _PING}
    return Server(
        setting,
        create_database_engine(url, password, **options),
        create_database_engine(url, password, **(options | ping_options)),
    )


def _commit_and_close(session: Session) -> None:
    # In one function, since each call of an AsyncSession costs two greenlet switches.
    session.commit()
    session.close()


def _not_initialized() -> RuntimeError:
    return RuntimeError(
        "The database pool is not open. The service opens it at start-up; in a script, use "
        "`async with open_database(settings) as database, database.session() as session`."
    )


def _refuse_uncommitted_work(session: Session) -> None:
    pending = bool(session.new or session.deleted or any(session.is_modified(row) for row in session.dirty))
    if not pending and session.in_transaction():
        try:
            # The server assigns a transaction id at the first write or row lock, including those of raw SQL.
            pending = bool(session.scalar(select(func.pg_current_xact_id_if_assigned().is_not(None))))
        except DBAPIError:
            pending = True  # a statement has failed and its error was swallowed: the transaction is lost
    if pending:
        raise UncommittedWorkError(
            "The session was closed with uncommitted work, which is rolled back: end the handler with "
            "`await session.commit()`, or with `await session.rollback()` to discard the work."
        )
    session.close()
