"""A network that can become silent: connections stay open, and nothing arrives any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Network", "negotiating_tls"]

_READY = b"Z"
"""First byte of PostgreSQL's message ReadyForQuery, which ends the login."""


@asynccontextmanager
async def negotiating_tls(answer: bytes) -> AsyncIterator[str]:
    """Yield host and port of a server that answers the request for TLS, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Network:
    """Passes bytes on between clients and a server.

    Parameters
    ----------
    url
        URL of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        """The way to the server through this network."""
        self.is_silent = False
        """Whether no bytes arrive."""
        self.is_silent_after_login = False
        """Whether it becomes silent as soon as a client has logged in."""
        self.is_refused = False
        """Whether new connections are refused."""
        self.opened = 0
        """How many connections there were, with those that were refused."""
        self._server = urlsplit(url)
        self._connections: set[asyncio.Task[None]] = set()
        self._silent_up_to = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Lead to the server of a URL."""
        network = cls(url)
        listener = await asyncio.start_server(network._connected, "127.0.0.1", 0)
        host, port = listener.sockets[0].getsockname()
        network.url = url.replace(f"@{network._server.hostname}:{network._server.port}", f"@{host}:{port}")
        try:
            yield network
        finally:
            listener.close()
            for connection in network._connections:
                connection.cancel()
            await asyncio.gather(*network._connections, return_exceptions=True)

    def silence_connections(self) -> None:
        """Let no bytes arrive on the connections that are open now, as after a host is gone without a word."""
        self._silent_up_to = self.opened

    def cut(self) -> None:
        """Close all connections, on both sides."""
        for connection in self._connections:
            connection.cancel()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.create_task(self._connect(reader, writer)))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            self.opened += 1
            if self.is_refused:
                return
            server_reader, server_writer = await asyncio.open_connection(self._server.hostname, self._server.port)
            writers.append(server_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(self.opened, reader, server_writer))
                both.create_task(self._pass_on(self.opened, server_reader, writer))
        finally:
            for each in writers:
                each.close()

    async def _pass_on(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while sent := await reader.read(2**16):
            if not (self.is_silent or number <= self._silent_up_to):
                writer.write(sent)
            if self.is_silent_after_login and sent[-6:-5] == _READY:
                self.is_silent = True
        raise ConnectionResetError  # this end has closed the connection, so the other one is closed, too
