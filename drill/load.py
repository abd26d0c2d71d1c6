"""Clients that record the responses they get, and a writer that connects to the database directly."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import uniform
from typing import Any, Final, Literal
from uuid import uuid4

import asyncpg
import httpx2

from drill.programs import DrillError, wait_until
from drill.service import COPY_HEADER

RATES: Final = {"write": 40, "read": 20}
"""Requests that begin each second. A small machine is then half idle: the drill shows faults, not queues."""

CLIENTS: Final = {"write": 120, "read": 60}
"""Maximum number of concurrent clients. A client without a response waits and repeats; others begin meanwhile."""

_AGAIN: Final = 0.5
"""Mean pause in seconds before a client repeats a failed request; each pause is 50 to 150 % of it."""

_DIRECT_PACE: Final = 0.04
"""Seconds between two statements of the direct writer on one connection."""

_TRIES: Final = 100
"""Attempts after which a client gives up a write: one that gets 409, or any write once the drill has ended."""

_PATIENCE: Final = 30.0
"""Seconds that a client waits for an answer."""

_DIRECT_LIMIT: Final = 1.0
"""Seconds that the direct writer waits for an answer."""

Kind = Literal["write", "read", "direct"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to a client, or to the direct writer."""

    at: float
    """When it came, on the monotonic clock."""
    kind: Kind
    status: int
    """HTTP status; 0: no response. The direct writer has 201, or 0 for any error."""
    copy: str
    """Copy that answered; empty: the balancer, or none."""
    seconds: float
    """How long it took."""


@dataclass(slots=True)
class Write:
    """One user that a client tries to store until it is acknowledged."""

    key: str = field(default_factory=lambda: uuid4().hex)
    """Idempotency key; also the local part of the e-mail."""
    begun_at: float = field(default_factory=time.monotonic)
    """When it was first sent, on the monotonic clock."""
    ended_at: float = math.inf
    """When it was acknowledged or given up."""
    id: str | None = None
    """Acknowledged id."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of its requests."""

    @property
    def body(self) -> dict[str, str]:
        """Body of the request."""
        return {"email": f"{self.key}@example.com", "name": "Ada"}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the request."""
        return {"Idempotency-Key": f'"{self.key}"'}

    @property
    def is_doubtful(self) -> bool:
        """Whether a request failed, so that the client does not know whether the user is stored."""
        return any(status != 201 for status in self.statuses)


class Load:
    """Clients that write and read until told to stop, in a thread of their own.

    Parameters
    ----------
    address
        Address of the service.
    nodes
        URLs of the nodes, for the direct writer.
    """

    def __init__(self, address: str, nodes: dict[str, str]) -> None:
        self.answers: list[Answer] = []
        self.writes: list[Write] = []
        self.direct: list[int] = []
        """Numbers whose writes were acknowledged to the direct writer."""
        self._address = address
        self._nodes = nodes
        self._stop = threading.Event()
        self._numbers = count(1)
        self._factor = 1
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> "Load":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop: each client ends after its write is acknowledged."""
        self._stop.set()
        self._thread.join()

    @contextmanager
    def multiplied(self, factor: int) -> Iterator[None]:
        """Begin more requests, by more clients, during a block."""
        self._factor = factor
        try:
            yield
        finally:
            self._factor = 1

    def count(self, kind: Kind, *, copy: str | None = None, since: float = 0) -> int:
        """Return how many requests have succeeded."""
        found = 0
        for answer in reversed(self.answers):
            if answer.at < since:
                break
            found += answer.kind == kind and is_success(answer) and copy in (None, answer.copy)
        return found

    def wait_for_more(self, kind: Kind, number: int, *, copy: str | None = None, seconds: float = 120) -> None:
        """Wait until a number of further requests have succeeded."""
        now = time.monotonic()
        what = f"{number} more successes of {kind}, copy: {copy or 'any'}"

        def are_there() -> bool:
            if not self._thread.is_alive():
                raise DrillError("the load has ended by itself")
            return self.count(kind, copy=copy, since=now) >= number

        wait_until(are_there, what, seconds=seconds)

    async def _run(self) -> None:
        # asyncpg leaves futures of lost connections behind, and asyncio would report each.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(base_url=self._address, timeout=_PATIENCE, limits=limits) as client:
            tasks = [self._begin("write", lambda: self._write(client)), self._begin("read", lambda: self._read(client))]
            # Two connections per node: while one is being replaced, the other continues.
            tasks += [self._write_directly(name, url) for name, url in self._nodes.items() for _ in range(2)]
            await asyncio.gather(*tasks)

    async def _begin(self, kind: Kind, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin requests at an even rate; at the end, wait for the running ones."""
        running: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while True:
            await asyncio.sleep(due - time.monotonic())
            due += 1 / (RATES[kind] * self._factor)
            if self._stop.is_set():
                break
            if len(running) < CLIENTS[kind] * self._factor:
                task = asyncio.create_task(request())
                running.add(task)
                task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _ask(self, kind: Kind, request: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response | None:
        start = time.monotonic()
        try:
            answer = await request()
        except httpx2.TransportError:
            answer = None
        now = time.monotonic()
        status, copy = (answer.status_code, answer.headers.get(COPY_HEADER, "")) if answer is not None else (0, "")
        self.answers.append(Answer(now, kind, status, copy, now - start))
        return answer

    async def _write(self, client: httpx2.AsyncClient) -> None:
        """Create a user with a new key, and repeat the request until it is acknowledged."""
        write = Write()
        self.writes.append(write)
        post = partial(client.post, "/users", json=write.body, headers=write.headers)
        while write.id is None and not self._is_hopeless(write):
            if write.statuses:
                await asyncio.sleep(_AGAIN * uniform(0.5, 1.5))  # noqa: S311  # not a secret
            answer = await self._ask("write", post)
            write.statuses.append(answer.status_code if answer is not None else 0)
            if answer is not None and answer.status_code == 201:
                write.id = answer.json()["id"]
        write.ended_at = time.monotonic()

    def _is_hopeless(self, write: Write) -> bool:
        """Return whether the service has refused a write, or the drill has ended and the write used up its attempts."""
        refusals = [status for status in write.statuses if 400 <= status < 500]
        # 409 may mean that an earlier attempt still runs.
        ended = self._stop.is_set() and len(write.statuses) > _TRIES
        return ended or refusals.count(409) > _TRIES or len(refusals) > refusals.count(409)

    async def _read(self, client: httpx2.AsyncClient) -> None:
        """Read a page of users, which may be stale."""
        await self._ask("read", partial(client.get, "/users", params={"limit": 1}))

    async def _write_directly(self, node: str, url: str) -> None:
        """Write to one node whenever it accepts writes: together, the tasks show when the cluster does."""
        connection = None
        while not self._stop.is_set():
            number = next(self._numbers)
            start = time.monotonic()
            try:
                if connection is None:
                    connection = await asyncpg.connect(url, timeout=_DIRECT_LIMIT)
                await connection.execute(f"INSERT INTO drill VALUES ({number})", timeout=_DIRECT_LIMIT)  # noqa: S608
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                if connection is not None and not isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    connection.terminate()  # after a timeout it must not be used again
                    connection = None
            else:
                self.direct.append(number)
                now = time.monotonic()
                self.answers.append(Answer(now, "direct", 201, node, now - start))
            await asyncio.sleep(_DIRECT_PACE)
        if connection is not None:
            connection.terminate()


def is_success(answer: Answer) -> bool:
    """Return whether an answer is a 2xx."""
    return 200 <= answer.status < 300
