"""Clients that arrive at an even rate, whatever the server does, and give up after a while: an open loop.

A program of its own, so that it can have another core than the server. It prints its account as JSON, one list for each
request: when it was due (seconds), after how many seconds it ended, its status (0: the client gave up or was cut off).
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import uvloop

_PATIENCE = 5.0
"""Seconds after which a client gives up and closes its connection."""

_CONNECTIONS = 256
"""Connections that are open at the start: uvloop accepts one in each round, and an overloaded server has few rounds."""

Account = list[tuple[float, float, int]]


class _Connection(asyncio.Protocol):
    """A connection that is kept open, as a proxy does. It has one request at a time."""

    def __init__(self) -> None:
        self.ended: Callable[[int], None] | None = None
        self.transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(body) >= length:
            self._received = b""
            self.end(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.end(0)

    def end(self, status: int) -> None:
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(status)


class Clients:
    """Sends requests at an even rate and keeps account of them.

    Parameters
    ----------
    port
        Port of the server on this machine.
    method, path
        Request to send. A POST creates a user with an e-mail of its own.
    retries
        How often a client repeats a request that was refused or given up.
    pause
        Seconds before a repetition.

    """

    def __init__(self, port: int, method: str, path: str, *, retries: int, pause: float) -> None:
        self.account: Account = []
        self._port, self._method, self._path = port, method, path
        self._retries, self._pause = retries, pause
        self._idle: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, _Connection, Callable[[int], None]]] = deque()
        self._sent = 0
        self._loop = asyncio.get_running_loop()

    async def run(self, rate: float, seconds: float) -> None:
        """Begin requests for a while, then wait for the last of them, on open connections, as a proxy has."""
        for _ in range(_CONNECTIONS):
            _, connection = await self._loop.create_connection(_Connection, "127.0.0.1", self._port)
            self._idle.append(connection)
        start, begun = time.perf_counter(), 0
        while begun < rate * seconds:
            now = time.perf_counter() - start
            while begun <= now * rate and begun < rate * seconds:
                self._begin(start, begun / rate, self._retries)
                begun += 1
            self._give_up()
            await asyncio.sleep(0.001)
        while self._waiting or self._tasks:
            self._give_up()
            await asyncio.sleep(0.01)

    def _begin(self, start: float, due: float, retries: int) -> None:
        def ended(status: int) -> None:
            now = time.perf_counter() - start
            self.account.append((round(due, 4), round(now - due, 4), status))
            if retries and not 200 <= status < 500:
                self._loop.call_later(self._pause, self._begin, start, now + self._pause, retries - 1)

        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                self._send(connection, ended)
                return
        task = self._loop.create_task(self._connect(ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, ended: Callable[[int], None]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                _, connection = await self._loop.create_connection(_Connection, "127.0.0.1", self._port)
        except OSError:
            ended(0)
        else:
            self._send(connection, ended)

    def _send(self, connection: _Connection, ended: Callable[[int], None]) -> None:
        def answered(status: int) -> None:
            if status:
                self._idle.append(connection)
            ended(status)

        self._sent += 1
        body = b""
        if self._method == "POST":
            body = b'{"email": "%x.%d@example.com", "name": "Ada"}' % (os.getpid(), self._sent)
        connection.ended = answered
        connection.transport.write(
            f"{self._method} {self._path} HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self._waiting.append((time.perf_counter() + _PATIENCE, connection, answered))

    def _give_up(self) -> None:
        now = time.perf_counter()
        while self._waiting and (self._waiting[0][0] < now or self._waiting[0][1].ended is not self._waiting[0][2]):
            _, connection, answered = self._waiting.popleft()
            if connection.ended is answered:
                connection.transport.abort()
                connection.end(0)


async def main() -> None:
    """Run the clients of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--method", default="POST")
    parser.add_argument("--path", default="/users")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.5)
    given = parser.parse_args()
    clients = Clients(given.port, given.method, given.path, retries=given.retries, pause=given.pause)
    await clients.run(given.rate, given.seconds)
    json.dump(clients.account, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
