"""Sessions and readers, for requests and all other code: one provider, one rule for commit and rollback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast

from sqlalchemy import Select, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from app.database.engine import create_database_engine
from app.database.internal.pool import Pool
from app.database.internal.transaction import SessionBlock, commit_and_close, refuse_autocommit, refuse_uncommitted_work
from app.database.password import Password
from app.database.probe import probe
from app.database.reader import Reader
from app.database.replicas import Readers, create_readers
from app.database.replicas import WatchedServer as Server

__all__ = ["DatabaseSessionDependency", "create_async_session", "db_session_dependency"]

_PING: Final = 1.0
"""Time limit of the statement of a ping, in seconds."""

_REPLICA_CONNECT: Final = 1.0
"""Time limit of one connection attempt to a replica, in seconds. It is short, since the primary can answer instead."""


class DatabaseSessionDependency:
    """Provides sessions of one pool, as a FastAPI dependency or by ``async with``, and readers for read-only code.

    In a route, through the alias ``DbSession`` of `app.dependencies`. Anywhere else, after `initialize`::

        async with db_session_dependency.session() as session:
            ...

    By default a session is managed, which means that it is one transaction: committed when the handler has returned or
    the block has ended, rolled back on any exception. FastAPI must close it before it sends the response; otherwise a
    client may receive a 201 for a row that was never stored. The alias does that, and so does
    ``Depends(db_session_dependency, scope="function")``. The service refuses to start if a route commits later.
    """

    _sessions: async_sessionmaker[AsyncSession]
    _readers: Readers
    _manage_transactions = True

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}

    async def initialize(
        self,
        url: str,
        password: Password | None = None,
        *,
        replica_url: str | None = None,
        replica_password: Password | None = None,
        manage_transactions: bool = True,
        **options: Any,
    ) -> None:
        """Create the pool; an existing one is closed first. Nothing connects yet.

        Raises DatabaseUrlError if the URL or the password is invalid, ValueError if the isolation level is AUTOCOMMIT.

        Parameters
        ----------
        url, password, options
            See `app.database.engine.create_database_engine`.
        replica_url, replica_password
            The same for the replicas, which have their own pool with the same options; None: there are no replicas.
        manage_transactions
            Whether sessions commit by themselves. Otherwise uncommitted work at the end is an error.
        """
        refuse_autocommit(options)
        primary = _server("DATABASE_URL", url, password, options)
        event.listen(
            primary.engine.sync_engine, "set_connection_execution_options", lambda _, chosen: refuse_autocommit(chosen)
        )
        servers = {"primary": primary}
        if replica_url is not None:
            limit = {"connect_timeout": min(_REPLICA_CONNECT, options.get("connect_timeout", _REPLICA_CONNECT))}
            servers["replica"] = _server("DATABASE_REPLICA_URL", replica_url, replica_password, options | limit)
        await self.aclose()
        self._servers = servers
        self._readers = create_readers(primary, servers.get("replica"))
        self._manage_transactions = manage_transactions
        self._sessions = async_sessionmaker(
            primary.engine,
            # By default, reading an attribute after a commit runs a query, which asyncio does not allow there.
            expire_on_commit=False,
            # A session used after its end, such as in a background task, raises an error. By default it would open
            # again silently, and its writes would be lost.
            close_resets_only=False,
        )

    async def aclose(self) -> None:
        """Close the pool, if one is open. If the server is silent, leave the connections to the operating system."""
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(server.aclose() for server in servers.values()))

    def _opened(self) -> Server:
        try:
            return self._servers["primary"]
        except KeyError:
            raise RuntimeError(
                "The database pool is not open. The service opens it at start-up; in a script, use "
                "`async with open_database(settings) as database, database.session() as session`."
            ) from None

    @property
    def engine(self) -> AsyncEngine:
        """Engine of the primary's pool."""
        return self._opened().engine

    @property
    def engines(self) -> dict[str, AsyncEngine]:
        """Engines of all pools, by the name of the pool."""
        self._opened()
        return {name: server.engine for name, server in self._servers.items()}

    @property
    def reader(self) -> Reader:
        """Reader of the primary, which runs selects without a transaction: committed data."""
        return self._opened().reader

    @property
    def replica(self) -> Server | None:
        """The replicas; None: there are none."""
        return self._servers.get("replica")

    @property
    def readers(self) -> Readers:
        """All readers, by guarantee."""
        self._opened()
        return self._readers

    async def __call__(self) -> AsyncIterator[AsyncSession]:
        """Yield a session, and end its transaction afterwards."""
        async with self.session() as session:
            yield session

    def session(self, *, after_response: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session. Leaving the block ends its transaction, in requests and elsewhere.

        Entering the block after the response has begun, in the body of a stream or in a background task, raises
        LateCommitError unless `after_response` is true. The client has its 2xx by then, whether the commit succeeds or
        not. Outside requests `after_response` has no effect.
        """
        end = commit_and_close if self._manage_transactions else refuse_uncommitted_work
        return self._block(end, after_response)

    def transaction(self, *, after_response: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session that is one transaction, even if sessions are unmanaged. See `session`."""
        return self._block(commit_and_close, after_response)

    def _block(self, end: Callable[[Session], None], after_response: bool) -> SessionBlock:
        cast("Pool", self.engine.pool).refuse_in_vain()
        return SessionBlock(self._sessions(), end, after_response=after_response)

    async def ping(self) -> None:
        """Query the servers, outside their pools, until one answers. Raises DBAPIError or DatabaseUnavailable."""
        self._opened()
        pings = {asyncio.create_task(server.ping()) for server in self._servers.values()}
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
    """Create a session of an engine of `app.database.engine.create_database_engine`. The caller commits and closes it.

    ``statement`` is a select to try first, limited to one row: at most five times, two seconds apart. See `probe` for
    ``logger``, and for what is raised. Waiting cannot fix a wrong password or a missing table.
    """
    if statement is not None:
        limited = statement.limit(1)

        async def ask() -> None:
            # On another connection, so that the session is returned without a transaction.
            async with engine.connect() as connection:
                await connection.execute(limited)

        await probe(ask, logger=logger)
    return AsyncSession(engine, expire_on_commit=False, close_resets_only=False)


def _server(setting: str, url: str, password: Password | None, options: dict[str, Any]) -> Server:
    # Readiness has its own connection, so that a busy pool does not make the service unready.
    ping_options = {"pool_size": 1, "max_overflow": 0, "isolation_level": "AUTOCOMMIT", "statement_timeout": _PING}
    return Server(
        setting,
        create_database_engine(url, password, **options),
        create_database_engine(url, password, **(options | ping_options)),
    )
