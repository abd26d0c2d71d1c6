"""A network that can become silent: connections stay open, and nothing arrives any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Network"]

_READY = b"Z"
"""First byte of PostgreSQL's message ReadyForQuery, which ends the login."""


class Network:
    """Passes bytes on between clients and a server.

    Parameters
    ----------
    host, port
        Address of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self.url = ""
        self.is_silent = False
        self.is_silent_after_login = False

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Lead to the server of a URL. The attribute ``url`` is the way through this network."""
        parts = urlsplit(url)
        network = cls(parts.hostname or "", parts.port or 5432)
        listener = await asyncio.start_server(network._connected, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        network.url = url.replace(f"@{parts.hostname}:{parts.port}", f"@127.0.0.1:{port}")
        async with listener:
            yield network

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, server_writer))
                both.create_task(self._pass_on(server_reader, writer))
        finally:
            writer.close()
            server_writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while sent := await reader.read(2**16):
            if not self.is_silent:
                writer.write(sent)
            if self.is_silent_after_login and sent[-6:-5] == _READY:
                self.is_silent = True
        writer.close()
