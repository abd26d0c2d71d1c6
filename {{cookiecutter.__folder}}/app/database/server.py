"""A server: its pool, its reader, and a connection of its own for pings."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.reader import Reader

__all__ = ["Server"]

_CLOSE: Final = 2.0
"""Time limit in seconds to close a pool. It usually takes a few milliseconds."""


@dataclass(eq=False)
class Server:
    """A server. Pings have an engine of their own, since a busy pool does not mean that the server is away."""

    setting: str
    """Name of the setting that holds its URL, for the log."""

    engine: AsyncEngine
    ping_engine: AsyncEngine

    def __post_init__(self) -> None:
        self.reader = Reader(self.engine)

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
