"""The promise where the client hears of a success before the work ends: streams, background tasks, web sockets."""

import asyncio
import gc
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from fastapi.testclient import TestClient
from sqlalchemy import event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import QueuePool

from app.config import ServiceSettings
from app.database.internal.transaction import LateCommitError
from app.database.retry import run_transaction
from app.database.session import db_session_dependency
from app.dependencies import DbReader, DbSession
from app.main import create_app
from tests.example import Thing

KINDS: list[dict[str, Any]] = [{}, {"response_class": EventSourceResponse}, {"response_class": StreamingResponse}]
"""Arguments of a route whose handler yields: JSON lines, server-sent events, and bytes of its own."""


@pytest.fixture
def settings(settings: ServiceSettings) -> ServiceSettings:
    """Settings with a pool of five, in which requests wait for long."""
    database = replace(settings.database, pool_size=5, pool_timeout=30)
    return settings.model_copy(update={"database": database})


async def write(session: AsyncSession) -> None:
    session.add(Thing(email="ada@example.com", name="Ada"))
    await session.flush()


async def stored(session: AsyncSession) -> bool:
    return bool(await session.scalar(select(func.count()).select_from(Thing)))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the service writes. Asked for before the client, which starts it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


async def _writes(session: DbSession) -> None:
    await write(session)


class Things:
    """A class that keeps the session, as many services are written."""

    def __init__(self, session: DbSession) -> None:
        self.session = session


async def refusal(app: FastAPI) -> str:
    with pytest.raises(LateCommitError) as raised:
        async with app.router.lifespan_context(app):
            pass
    return str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["session", "provider", "service", "sync"])
async def test_a_handler_that_yields_and_takes_a_session_is_refused_at_start_up(
    settings: ServiceSettings, kind: dict[str, Any], how: str
) -> None:
    """FastAPI closes the session before the body of the handler runs."""
    app = create_app(settings)
    if how == "session":

        @app.get("/rows", **kind)
        async def by_session(session: DbSession) -> AsyncIterator[str]:
            yield ""

    elif how == "provider":

        @app.get("/rows", **kind)
        async def by_provider(
            session: Annotated[AsyncSession, Depends(db_session_dependency, scope="function")],
        ) -> AsyncIterator[str]:
            yield ""

    elif how == "service":

        @app.get("/rows", **kind)
        async def by_service(things: Annotated[Things, Depends()]) -> AsyncIterator[str]:
            yield ""

    else:

        @app.get("/rows", **kind)
        def sync(session: DbSession) -> Iterator[str]:
            yield ""

    reason = await refusal(app)
    assert reason.startswith("GET /rows: a handler that yields")
    assert "DbReader" in reason


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dependency_that_hands_nothing_to_a_handler_that_yields_may_write(
    app: FastAPI, session: AsyncSession, kind: dict[str, Any]
) -> None:
    """It is committed before the first byte."""

    @app.get("/rows", dependencies=[Depends(_writes)], **kind)
    async def rows(reader: DbReader) -> AsyncIterator[bytes | str]:
        text = str(await reader.scalar(select(func.count()).select_from(Thing)))
        yield text.encode() if kind else text

    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        response = await client.get("/rows")
    assert (response.status_code, "1" in response.text) == (200, True)
    assert await stored(session)


@pytest.mark.parametrize("how", ["parameter", "dependencies"])
async def test_a_web_socket_that_takes_a_session_is_refused_at_start_up(settings: ServiceSettings, how: str) -> None:
    """Its session would be committed when the connection ends, after all messages."""
    app = create_app(settings)
    if how == "parameter":

        @app.websocket("/socket")
        async def by_parameter(websocket: WebSocket, session: DbSession) -> None: ...

    else:

        @app.websocket("/socket", dependencies=[Depends(Things)])
        async def by_dependencies(websocket: WebSocket) -> None: ...

    assert (await refusal(app)).startswith("/socket: a web socket that takes a session")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_dependency_writes_is_committed_before_the_first_byte_of_a_stream(
    app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, kind: dict[str, Any]
) -> None:
    async def allowed(session: DbSession) -> None:
        await write(session)

    @app.get("/rows", dependencies=[Depends(allowed)], **kind)
    async def rows(reader: DbReader) -> AsyncIterator[str]:
        yield str(await reader.scalar(select(Thing.name)))

    response = await remote.get("/rows")
    assert (response.status_code, "Ada" in response.text) == (200, True)


async def _own() -> AsyncIterator[AsyncSession]:
    async with db_session_dependency.session() as session:
        yield session


def add_stream(app: FastAPI, kind: dict[str, Any], how: str) -> None:
    if how in ("closed", "open"):
        scope: Any = "function" if how == "closed" else "request"

        @app.get("/rows", **kind)
        async def dependent(session: Annotated[AsyncSession, Depends(_own, scope=scope)]) -> AsyncIterator[str]:
            await write(session)
            yield "Ada"

    else:

        @app.get("/rows", **kind)
        async def rows() -> AsyncIterator[str]:
            if how == "transaction":
                await run_transaction(write)
            else:
                async with db_session_dependency.session() as session:
                    await write(session)
            yield "Ada"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["closed", "open", "session", "transaction"])
async def test_a_stream_whose_write_would_be_committed_late_is_a_500_before_its_first_byte(
    app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, kind: dict[str, Any], how: str
) -> None:
    """What start-up cannot see: a session that a dependency has opened, or the body itself."""
    add_stream(app, kind, how)
    response = await remote.get("/rows")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert not await stored(session)


async def test_a_session_around_a_response_that_is_streamed_is_a_500(
    log: io.StringIO, app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """Starlette sends a stream in a task of its own."""

    @app.get("/rows")
    async def rows(own: Annotated[AsyncSession, Depends(_own)]) -> StreamingResponse:
        await write(own)

        async def body() -> AsyncIterator[str]:
            yield "Ada"

        return StreamingResponse(body())

    assert (await remote.get("/rows")).status_code == 500
    assert "session: DbSession" in log.getvalue()
    assert not await stored(session)


@pytest.mark.parametrize("opens", [False, True])
async def test_a_write_in_a_body_that_has_begun_cuts_the_connection_and_stores_nothing(
    app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, opens: bool
) -> None:
    """The client has a 200 by then, but no end of the body: it cannot take it for a success."""
    sent = asyncio.Event()

    async def body() -> AsyncIterator[str]:
        yield "first"
        await sent.wait()
        if opens:
            async with db_session_dependency.session() as own:
                await write(own)
        raise ZeroDivisionError

    @app.get("/rows")
    async def rows() -> StreamingResponse:
        return StreamingResponse(body())

    async with remote.stream("GET", "/rows") as response:
        parts = response.aiter_text()
        assert (response.status_code, await anext(parts)) == (200, "first")
        sent.set()
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(parts)
    assert not await stored(session)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_that_says_so_commits_after_the_response_has_begun(
    app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, kind: dict[str, Any]
) -> None:
    @app.get("/rows", **kind)
    async def rows() -> AsyncIterator[str]:
        yield "first"
        async with db_session_dependency.session(after_response=True) as own:
            await write(own)
        await run_transaction(_rename, after_response=True)
        yield "second"

    response = await remote.get("/rows")
    assert (response.status_code, "second" in response.text) == (200, True)
    assert (await session.scalars(select(Thing.name))).all() == ["Eve"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_goes_away_at_a_yield_leaves_no_connection_behind(
    app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, kind: dict[str, Any]
) -> None:
    """Whenever Python collects the generator: here not before the connection is back."""

    @app.get("/rows", **kind)
    async def rows() -> AsyncIterator[str]:
        async with db_session_dependency.session(after_response=True) as own:
            await write(own)
            while True:
                yield "row"

    returned = asyncio.Event()
    gc.disable()
    try:
        async with remote.stream("GET", "/rows") as response:
            await anext(response.aiter_raw())
            event.listen(db_session_dependency.engine.sync_engine, "checkin", lambda *_: returned.set())
        async with asyncio.timeout(30):
            await returned.wait()
    finally:
        gc.enable()
    gc.collect()
    assert not await stored(session)


async def _rename(session: AsyncSession) -> None:
    await session.execute(text("UPDATE things SET name = 'Eve'"))


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_background_task_that_writes_says_so(
    log: io.StringIO, app: FastAPI, remote: httpx2.AsyncClient, session: AsyncSession, says_so: bool
) -> None:
    """Otherwise it stores nothing, and the log says what to write."""
    ended = asyncio.Event()

    async def later() -> None:
        try:
            async with db_session_dependency.session(after_response=says_so) as own:
                await write(own)
        finally:
            ended.set()

    @app.post("/task")
    async def task(tasks: BackgroundTasks, session: DbSession) -> None:
        tasks.add_task(later)

    assert (await remote.post("/task")).status_code == 200
    await ended.wait()
    assert await stored(session) is says_so
    assert ("session(after_response=True)" in log.getvalue()) is not says_so


@pytest.mark.parametrize("inside", [True, False])
def test_a_message_of_a_web_socket_is_sent_after_the_commit_or_not_at_all(app: FastAPI, inside: bool) -> None:
    """A session around the work of one message; the answer after its block."""

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, reader: DbReader) -> None:
        await websocket.accept()
        async for name in websocket.iter_text():
            async with db_session_dependency.session() as own:
                own.add(Thing(email=name, name=name))
                if inside:
                    await websocket.send_text("stored")
            await websocket.send_text(str(await reader.scalar(select(func.count()).select_from(Thing))))

    with TestClient(app) as client:
        connection = client.websocket_connect("/socket")
        if inside:
            with pytest.raises(LateCommitError), connection:
                connection.send_text("ada")
                connection.receive_text()
        else:
            with connection:
                for number in ("1", "2"):
                    connection.send_text(f"ada {number}")
                    assert connection.receive_text() == number


async def test_two_hundred_streams_leave_a_pool_of_five_to_the_others(app: FastAPI, remote: httpx2.AsyncClient) -> None:
    """A stream holds a connection while a statement runs, and none while it waits for something to send."""
    changed = asyncio.Event()

    @app.get("/names")
    async def names(reader: DbReader) -> AsyncIterator[str | None]:
        yield await reader.scalar(select(Thing.name))
        await changed.wait()
        yield await reader.scalar(select(Thing.name))

    async with AsyncExitStack() as open_streams:
        opening = (open_streams.enter_async_context(remote.stream("GET", "/names")) for _ in range(200))
        streams = [(await response).aiter_lines() for response in opening]
        assert [await anext(lines) for lines in streams] == ["null"] * 200
        pool = db_session_dependency.engine.pool
        assert isinstance(pool, QueuePool)
        assert (pool.size(), pool.checkedout()) == (5, 0)
        assert (await remote.post("/things", json={"email": "ada@example.com", "name": "Ada"})).status_code == 201
        changed.set()
        assert [await anext(lines) for lines in streams] == ['"Ada"'] * 200
