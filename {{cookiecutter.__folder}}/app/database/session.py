"""Sessions and reads, for requests and for everything else: one provider, one rule of commit and rollback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from app.database.engine import create_database_engine
from app.database.probe import probe
from app.database.reader import Reader

__all__ = ["DatabaseSessionDependency", "UncommittedWorkError", "create_async_session", "db_session_dependency"]

_CLOSE = 2.0
"""Seconds in which a pool must be closed: a server that answers takes a thousandth of that."""


class UncommittedWorkError(RuntimeError):
    """A session whose owner commits was left with work that nobody committed, and that is now undone."""


class DatabaseSessionDependency:
    """Hands out sessions of one pool, to FastAPI and to ``async with`` alike, and a reader for what only reads.

    In a route, through the alias ``DbSession`` of `app.dependencies`::

        async def create_user(body: NewUser, session: DbSession) -> UserOut: ...

    Anywhere else, after `initialize`::

        async with db_session_dependency.session() as session:
            ...

    Managed, which is the default, a session is one transaction: committed when the handler has returned or the block
    has ended, rolled back on any exception. FastAPI must close it before it sends the response, or a client may hold
    a 201 for a row that was never stored: ``Depends(db_session_dependency, scope="function")``, which is what the
    alias says. Start-up refuses a route that says it otherwise.
    """

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        self._ping_engine: AsyncEngine | None = None
        self._reader: Reader | None = None
        self._sessions: async_sessionmaker[AsyncSession] | None = None
        self._manage_transactions = True

    async def initialize(
        self,
        url: str,
        password: str | SecretStr | None = None,
        *,
        manage_transactions: bool = True,
        **options: Any,
    ) -> None:
        """Make the pool; one that is there is closed first. Nothing connects yet.

        Parameters
        ----------
        url, password, options
            See `app.database.engine.create_database_engine`.
        manage_transactions
            False where handlers commit by themselves. Work that is left uncommitted is then an error.

        Raises
        ------
        DatabaseUrlError
            Where the URL or the password beside it cannot be used.
        ValueError
            For the isolation level AUTOCOMMIT.
        """
        if (options.get("isolation_level") or "").upper() == "AUTOCOMMIT":
            raise ValueError("isolation_level AUTOCOMMIT is refused: a transaction would not be one")
        engine = create_database_engine(url, password, **options)
        # Readiness asks on a connection of its own: a pool that is busy is not a service that is unready.
        ping_options = {"pool_size": 1, "max_overflow": 0, "isolation_level": "AUTOCOMMIT"}
        ping_engine = create_database_engine(url, password, **(options | ping_options))
        await self.aclose()
        self._engine = engine
        self._ping_engine = ping_engine
        self._reader = Reader(engine)
        self._manage_transactions = manage_transactions
        self._sessions = async_sessionmaker(
            engine,
            # The default would make each attribute read after a commit a query, which asyncio cannot run there.
            expire_on_commit=False,
            # A session used after its end (in a background task, say) raises; by default it would open again
            # silently, and what it wrote would be lost.
            close_resets_only=False,
        )

    async def aclose(self) -> None:
        """Close the pool, or leave it to the system where the server is silent. Does nothing where none is open."""
        engines = [self._engine, self._ping_engine]
        self._engine = self._ping_engine = self._reader = self._sessions = None
        for engine in engines:
            if engine is not None:
                # One connection after the other is waited for, each as long as a statement may take.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE):
                        await engine.dispose()

    @property
    def engine(self) -> AsyncEngine:
        """The engine of the pool."""
        if self._engine is None:
            raise _not_initialized()
        return self._engine

    @property
    def reader(self) -> Reader:
        """What answers selects without a transaction."""
        if self._reader is None:
            raise _not_initialized()
        return self._reader

    async def __call__(self) -> AsyncIterator[AsyncSession]:
        """Yield a session; what follows the yield is the end of its transaction."""
        async with self.session() as session:
            yield session

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session; leaving the block ends its transaction, by the same rule in requests and outside them."""
        if self._sessions is None:
            raise _not_initialized()
        return self.transaction() if self._manage_transactions else _Block(self._sessions(), _refuse_uncommitted_work)

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session that is one transaction, also where handlers commit by themselves."""
        if self._sessions is None:
            raise _not_initialized()
        return _Block(self._sessions(), _commit_and_close)

    async def ping(self) -> None:
        """Ask the server for an answer, apart from the pool. Raises what `is_unavailable` knows, or a DBAPIError."""
        if self._ping_engine is None:
            raise _not_initialized()
        async with self._ping_engine.connect() as connection:
            await connection.execute(select(1))


db_session_dependency = DatabaseSessionDependency()
"""The pool of this process. `app.startup.open_database` opens and closes it."""


async def create_async_session(
    engine: AsyncEngine, logger: Any = None, *, statement: Select[Any] | None = None
) -> AsyncSession:
    """Create a session of a given engine. The caller commits, and closes it.

    Parameters
    ----------
    engine
        See `app.database.engine.create_database_engine`.
    logger
        Is told of each failed try that another one follows.
    statement
        Asked first, limited to one row, up to five times two seconds apart, until the database answers.

    Raises
    ------
    Exception
        What the last try raised, or the first that no waiting can mend: a wrong password, a missing table.
    """
    session = AsyncSession(engine, expire_on_commit=False, close_resets_only=False)
    if statement is not None:
        limited = statement.limit(1)

        async def ask() -> None:
            # On a connection of its own, so that the session comes back with no transaction begun.
            async with engine.connect() as connection:
                await connection.execute(limited)

        try:
            await probe(ask, logger=logger)
        except BaseException:
            await session.close()
            raise
    return session


class _Block(AbstractAsyncContextManager[AsyncSession]):
    """Ends a session's transaction when its block has ended, and rolls it back when the block has failed.

    Parameters
    ----------
    session
        Session to give to the block.
    end
        Ends the transaction of a block that has succeeded, and closes the session.
    """

    # A class: as a generator it would cost a whole request 8 % more.

    def __init__(self, session: AsyncSession, end: Callable[[Session], None]) -> None:
        self._session = session
        self._end = end

    async def __aenter__(self) -> AsyncSession:
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
            if not closed:
                # Rolls back and closes, even while the task is being cancelled.
                await self._session.__aexit__(kind, error, traceback)


def _commit_and_close(session: Session) -> None:
    # Together, since each call of an AsyncSession costs a switch to a greenlet and back.
    session.commit()
    session.close()


def _not_initialized() -> RuntimeError:
    return RuntimeError(
        "The database pool is not open: in the service the lifespan opens it, so requests come after it; in a script "
        "use `async with open_database(settings) as database, database.session() as session`."
    )


def _refuse_uncommitted_work(session: Session) -> None:
    pending = bool(session.new or session.deleted or any(session.is_modified(row) for row in session.dirty))
    if not pending and session.in_transaction():
        try:
            # The server knows best: a transaction gets a number when it first writes (or locks a row), by whatever SQL.
            pending = bool(session.scalar(select(func.pg_current_xact_id_if_assigned().is_not(None))))
        except DBAPIError:
            pending = True  # a failed statement, its error swallowed: the transaction is lost in any case
    if pending:
        raise UncommittedWorkError(
            "The session was left with uncommitted work, which is now rolled back: end the handler with "
            "`await session.commit()`, or with `await session.rollback()` where nothing is to be kept."
        )
    session.close()
