"""Reads that continue while a server is away: the primary and the replicas replace each other."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakSet

import structlog
from sqlalchemy import Select, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from app.database.errors import DatabaseUnavailable, another_may_answer, describe
from app.database.reader import Reader
from app.database.server import Server

__all__ = ["FallbackReader", "Readers", "WatchedServer", "create_readers"]

_PATIENCE: Final = 0.3
"""Seconds without an answer after which a read pings its server."""

_ANSWER: Final = 0.4
"""Time limit in seconds for the answer to the ping. A server that answers is only slow, and the read waits."""

_PAUSE: Final = 1.0
"""Seconds between two attempts to reach a server that is away."""

_log = structlog.get_logger(__name__)


class WatchedServer(Server):
    """A server that may be away.

    After it has failed a read or become silent, no read uses it until it has answered a ping. No request waits for that
    ping. See `Server` for the fields.
    """

    _reported = False
    _ping: asyncio.Task[None] | None = None
    _watch: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """Whether reads must use another server."""
        return self._watch is not None

    def observe(self) -> None:
        """Observe the connections of the pool. Call this once, if there is a second server."""
        self._entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        event.listen(self.engine.sync_engine, "connect", lambda _, entry: self._entries.add(entry))
        event.listen(self.engine.sync_engine, "checkin", self._was_used)

    async def rows(
        self, statement: Select[*tuple[Any, ...]], into: type | None, parameters: dict[str, Any]
    ) -> Sequence[Any]:
        """Return all rows, or raise DatabaseUnavailable as soon as the server is known to be away."""
        if self.is_away:
            raise DatabaseUnavailable(f"{self.setting}: the server is away")
        read = asyncio.create_task(self.reader.rows(statement, into, parameters))
        try:
            while not (await asyncio.wait({read}, timeout=_PATIENCE))[0]:
                ping = self._current_ping()
                if not (await asyncio.wait({ping}, timeout=_ANSWER))[0]:
                    raise DatabaseUnavailable(f"{self.setting}: the server does not answer")
                ping.result()
            return read.result()
        except Exception as error:
            if another_may_answer(error):
                self._begin_watch()
            raise
        finally:
            # Not asyncio.timeout: it would also wait until a silent connection is closed.
            read.cancel()

    def _current_ping(self) -> asyncio.Task[None]:
        """Return the ping that runs, which all waiting reads share, or a new one."""
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self.ping())
        return self._ping

    def _begin_watch(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._wait_until_back())

    def _was_used(self, connection: DBAPIConnection | None, _: ConnectionPoolEntry) -> None:
        # A session got an answer before the ping did, so the server is back: a client that has written must read there.
        if connection is not None:
            self._end_watch()

    async def _wait_until_back(self) -> None:
        while self.is_away:
            try:
                await asyncio.shield(self._current_ping())  # a read may be waiting for it, too
            except Exception as error:  # noqa: BLE001  # whatever it is, the server does not answer
                if not self._reported:
                    self._reported = True
                    self._drop_idle_connections()
                    _log.warning(f"{self.setting}: no answer; reads use the other server", reason=describe(error))
                await asyncio.sleep(_PAUSE)
            else:
                self._end_watch()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
            if self._reported:
                self._reported = False
                _log.info(f"{self.setting}: answers again")

    def _drop_idle_connections(self) -> None:
        # Their machine may be gone without closing them, and each would cost a request its whole time limit.
        for entry in self._entries:
            if entry.driver_connection is not None and not entry.in_use:
                entry.driver_connection.terminate()  # the pool replaces what is closed

    async def aclose(self) -> None:
        """Close the pools, and end what runs."""
        for task in filter(None, (self._watch, self._ping)):
            task.cancel()
        await super().aclose()


class FallbackReader(Reader):
    """Reader that uses a second server while the first one is away. One of the two is the replica.

    A single row that a replica does not have may be newer than the replica, so the primary is asked. If that is away,
    the read fails as it does without replicas.
    """

    def __init__(self, first: WatchedServer, second: WatchedServer, *, replica: WatchedServer) -> None:
        self._servers = (first, second)
        self._replica = replica

    async def rows(
        self,
        statement: Select[*tuple[Any, ...]],
        into: type | None,
        parameters: dict[str, Any],
        *,
        single: bool = False,
    ) -> Sequence[Any]:
        """Return all rows, from the first server that answers. See `Reader.rows`."""
        for server in self._servers:
            try:
                rows = await server.rows(statement, into, parameters)
            except Exception as error:
                if not another_may_answer(error):
                    raise
                failure = error
            else:
                if rows or not single or server is not self._replica:
                    return rows
        raise failure  # a successful answer of the primary would have been returned


class Readers(NamedTuple):
    """Readers of one service, by guarantee. Without a replica all are the same."""

    primary: Reader
    """Committed data."""

    fallback: Reader
    """Committed data; while the primary is away, the data of a replica."""

    replica: Reader
    """The data of a replica; while the replicas are away, committed data."""


def create_readers(primary: WatchedServer, replica: WatchedServer | None) -> Readers:
    """Create the readers of a service."""
    if replica is None:
        return Readers(primary.reader, primary.reader, primary.reader)
    primary.observe()
    replica.observe()
    return Readers(
        primary.reader,
        FallbackReader(primary, replica, replica=replica),
        FallbackReader(replica, primary, replica=replica),
    )
