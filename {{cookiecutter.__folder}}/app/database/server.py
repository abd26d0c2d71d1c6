"""A server: its pool, its reader, and a connection of its own for pings."""

import asyncio
from contextlib import suppress
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.reader import Reader

__all__ = ["Server"]

_CLOSE: Final = 2.0
"""Time limit in seconds to close a pool. It usually takes a few milliseconds."""


class Server:
    """A server, which pings can reach while its pool is busy: that does not mean that the server is away.

    Parameters
    ----------
    setting
        Name of the setting that holds its URL, for the log.
    engine, ping_engine
        Engines of the pool, and of the connection for pings.
    """

    def __init__(self, setting: str, engine: AsyncEngine, ping_engine: AsyncEngine) -> None:
        self.setting = setting
        self.engine = engine
        self.reader = Reader(engine)
        self.ping_engine = ping_engine

    async def ping(self) -> None:
        """Query the server, on a connection outside the pool. Raises DBAPIError or DatabaseUnavailable on failure."""
        async with self.ping_engine.connect() as connection:
            await connection.execute(select(1))

    async def aclose(self) -> None:
        """Close the pools. If the server is silent, leave the connections to the operating system."""
        for engine in (self.engine, self.ping_engine):
            # Connections are closed one by one, and each may take as long as a statement.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE):
                    await engine.dispose()
