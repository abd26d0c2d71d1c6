"""Over capacity a request gets a 503 at once, and nothing else is held up. Below capacity nothing is refused."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import ServiceSettings
from app.dependencies import DbSession
from app.overload import ProcessorQueue
from tests.example import Thing

pytestmark = pytest.mark.slow

WAITING = 20


@pytest.fixture
def settings(settings: ServiceSettings) -> ServiceSettings:
    """Settings with which the waiting requests are more than the processor may have before it."""
    return settings.model_copy(update={"processor_timeout": 0.001})


@pytest.fixture
def release(app: FastAPI) -> asyncio.Event:
    """Lets the requests to ``/wait`` and ``/stream`` end."""
    event = asyncio.Event()

    app.state.waiting = 0

    @app.get("/wait")
    async def wait() -> None:
        app.state.waiting += 1
        await event.wait()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            await event.wait()

        return StreamingResponse(body())

    return event


@asynccontextmanager
async def a_busy_processor() -> AsyncIterator[None]:
    """Leave the event loop no idle round."""

    async def work() -> None:
        while True:
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    yield
    task.cancel()


async def until_status(client: httpx2.AsyncClient, status: int) -> httpx2.Response:
    """Repeat a request until it has a status."""
    async with asyncio.timeout(30):
        while (response := await client.get("/things")).status_code != status:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.01)
    return response


async def observed(client: httpx2.AsyncClient) -> set[int]:
    """Return the statuses of requests of half a second, in which the loop is observed many times."""
    end, statuses = time.perf_counter() + 0.5, set()
    while time.perf_counter() < end:
        statuses.add((await client.get("/things")).status_code)
        await asyncio.sleep(0.005)
    return statuses


async def test_while_the_processor_cannot_keep_up_new_requests_are_refused_and_health_is_not(
    client: httpx2.AsyncClient, release: asyncio.Event, session: AsyncSession
) -> None:
    waiting = [asyncio.create_task(client.get("/wait")) for _ in range(WAITING)]
    async with a_busy_processor():
        refused = await until_status(client, 503)
        assert refused.headers["Retry-After"] == "1"
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json() == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": "The service is over capacity and has not begun this request; try again shortly.",
            "instance": "/things",
            "request_id": refused.headers["X-Request-ID"],
        }
        body = {"email": "ada@example.com", "name": "Ada"}
        named = await client.post("/things", json=body, headers={"X-Request-ID": "r1"})
        assert (named.status_code, named.headers.get_list("X-Request-ID")) == (503, ["r1"])
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
    await until_status(client, 200)
    release.set()
    assert {response.status_code for response in await asyncio.gather(*waiting)} == {200}
    assert await session.scalar(select(func.count()).select_from(Thing)) == 0


async def test_requests_that_wait_for_something_else_are_no_overload(
    app: FastAPI, client: httpx2.AsyncClient, release: asyncio.Event
) -> None:
    """After their arrival, which is one."""
    waiting = [asyncio.create_task(client.get("/wait")) for _ in range(500)]
    while app.state.waiting < 500 and not any(task.done() for task in waiting):  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.01)
    await until_status(client, 200)
    assert await observed(client) == {200}
    release.set()
    assert {response.status_code for response in await asyncio.gather(*waiting)} == {200}


async def test_open_streams_are_no_overload(client: httpx2.AsyncClient, release: asyncio.Event) -> None:
    """Even while the processor is busy: they have their answer."""
    streams = [asyncio.create_task(client.get("/stream")) for _ in range(WAITING)]
    async with a_busy_processor():
        assert await observed(client) == {200}
    release.set()
    await asyncio.gather(*streams)


async def test_what_the_pool_refuses_is_no_work_that_was_done() -> None:
    """Otherwise the processor would seem to answer many requests, and be given more of them."""
    queue, scope = ProcessorQueue(), {"path": "/users", "root_path": ""}
    queue.timeout = 0.2
    for _ in range(WAITING):
        queue.admit(scope)
    end = time.perf_counter() + 10
    async with a_busy_processor():
        while queue.admit(scope):
            assert time.perf_counter() < end
            queue.leave(503)
            await asyncio.sleep(0)


async def test_few_requests_before_many_are_no_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate at which a quiet service answers is not the one that it can keep up. The clock is the test's own."""
    clock, loop = SimpleNamespace(now=0.0), asyncio.get_running_loop()
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("app.overload.time", clock)
    queue, scope = ProcessorQueue(), {"path": "/users", "root_path": ""}
    queue.timeout = 1.1 * WAITING * 0.0003  # there is room for a tenth more than those that wait
    for _ in range(2):
        for _ in range(WAITING):
            queue.admit(scope)
        end = loop.time() + 0.3
        while loop.time() < end:
            clock.now += 0.0003
            queue.leave(200)
            assert queue.admit(scope)
            await asyncio.sleep(0)
        for _ in range(WAITING):
            queue.leave(200)
        await asyncio.sleep(0.05)
        clock.now += 100  # quiet


async def test_one_idle_round_does_not_let_all_of_a_crowd_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would fill the queue for the processor, and that of the pool, within one look at the event loop."""
    clock, loop = SimpleNamespace(now=0.0), asyncio.get_running_loop()
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("app.overload.time", clock)
    queue, scope = ProcessorQueue(), {"path": "/users", "root_path": ""}
    queue.timeout = 0.001
    for _ in range(1000):
        queue.admit(scope)
    end = loop.time() + 10
    while queue.admit(scope):
        queue.leave(200)
        assert loop.time() < end
        clock.now += 0.001
        await asyncio.sleep(0)
    while queue._busy:  # noqa: ASYNC110  # until a round is found idle, as the clock stands still
        await asyncio.sleep(0)
    assert not queue.admit(scope)
    while not queue.admit(scope):
        assert loop.time() < end
        await asyncio.sleep(0)


class TestWithoutALimit:
    """``PROCESSOR_TIMEOUT=0``."""

    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        """Settings without a limit."""
        return settings.model_copy(update={"processor_timeout": 0})

    async def test_nothing_is_refused(self, client: httpx2.AsyncClient, release: asyncio.Event) -> None:
        """However long requests will wait."""
        waiting = [asyncio.create_task(client.get("/wait")) for _ in range(WAITING)]
        async with a_busy_processor():
            assert await observed(client) == {200}
        release.set()
        await asyncio.gather(*waiting)


class TestASlowDatabase:
    """A pool with one connection, which is in use."""

    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        """Settings with one connection."""
        options = {"pool_size": 1, "pool_timeout": 0.1}
        return ServiceSettings(database_url=settings.database_url, database=options, auth=settings.auth)

    async def test_it_refuses_what_needs_it_and_nothing_else(
        self, app: FastAPI, client: httpx2.AsyncClient, release: asyncio.Event
    ) -> None:
        """Handlers without a session, and health, are served."""
        held = asyncio.Event()

        @app.get("/hold")
        async def hold(session: DbSession) -> None:
            await session.execute(text("SELECT 1"))
            held.set()
            await release.wait()

        @app.get("/plain")
        async def plain() -> None: ...

        holder = asyncio.create_task(client.get("/hold"))
        await held.wait()
        answers = await asyncio.gather(*(client.get("/things") for _ in range(WAITING)))
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        for path in ("/plain", "/health/ready"):
            assert (await client.get(path)).status_code == 200
        release.set()
        assert (await holder).status_code == 200
        assert (await client.get("/things")).status_code == 200
