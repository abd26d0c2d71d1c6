"""The edges of the promise: a 2xx is a committed transaction, and an error leaves nothing behind."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import func, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.database.session import db_session_dependency
from app.dependencies import DbSession
from app.startup import open_database
from tests.example import Thing


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


def causes(log: io.StringIO) -> str:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return "".join(line["exception"] for line in lines if line["event"] == "unhandled error")


@pytest.mark.parametrize("first", [True, False])
async def test_a_dependency_whose_exit_fails_rolls_the_session_back(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, first: bool
) -> None:
    """In whatever order the handler asks for them, the commit is the last step before the response."""

    async def failing() -> AsyncIterator[None]:
        yield
        raise RuntimeError

    fails = Annotated[None, Depends(failing, scope="function")]

    @app.post("/before")
    async def before(_: fails, session: DbSession) -> None:
        await write(session)

    @app.post("/after")
    async def after(session: DbSession, _: fails) -> None:
        await write(session)

    assert (await client.post("/before" if first else "/after")).status_code == 500
    assert not await stored(session)


@pytest.mark.parametrize("first", [True, False])
async def test_a_dependency_that_swallows_an_error_does_not_commit_the_session(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, first: bool
) -> None:
    async def swallowing() -> AsyncIterator[None]:
        with suppress(HTTPException):
            yield

    swallows = Annotated[None, Depends(swallowing, scope="function")]

    @app.post("/before")
    async def before(_: swallows, session: DbSession) -> None:
        await write(session)
        raise HTTPException(409)

    @app.post("/after")
    async def after(session: DbSession, _: swallows) -> None:
        await write(session)
        raise HTTPException(409)

    assert (await client.post("/before" if first else "/after")).status_code == 409
    assert not await stored(session)


async def test_a_dependency_that_translates_an_error_is_heard(app: FastAPI, client: httpx2.AsyncClient) -> None:
    async def translating() -> AsyncIterator[None]:
        try:
            yield
        except LookupError as error:
            raise HTTPException(410) from error

    @app.post("/translate")
    async def translate(_: Annotated[None, Depends(translating, scope="function")], session: DbSession) -> None:
        raise LookupError

    assert (await client.post("/translate")).status_code == 410


async def test_an_error_outside_of_the_request_is_not_taken_for_one_of_it(client: httpx2.AsyncClient) -> None:
    """As where an error handler calls the service in its own process."""
    try:
        raise LookupError
    except LookupError:
        response = await client.post("/things", json={"email": "ada@example.com", "name": "Ada"})
    assert response.status_code == 201


async def test_a_dependency_that_is_entered_before_the_session_is_closed_also_if_the_pool_is_not_open(
    app: FastAPI,
) -> None:
    closed: list[bool] = []

    async def closing() -> AsyncIterator[None]:
        try:
            yield
        finally:
            closed.append(True)

    @app.post("/closing")
    async def handler(_: Annotated[None, Depends(closing, scope="function")], session: DbSession) -> None: ...

    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.post("/closing")).status_code == 500
    assert closed == [True]


async def test_a_session_cannot_be_made_autocommit(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @app.post("/autocommit")
    async def autocommit(session: DbSession) -> None:
        with suppress(ValueError):
            await session.connection(execution_options={"isolation_level": "autocommit"})
        await write(session)
        raise HTTPException(400)

    assert (await client.post("/autocommit")).status_code == 400
    assert not await stored(session)


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "end",
        "ROLLBACK",
        "Abort WORK",
        "COMMIT AND CHAIN",
        "/* of mine */ commit",
        "-- of mine\n;COMMIT",
        "PREPARE TRANSACTION 'mine'",
    ],
)
@pytest.mark.parametrize("status", [201, 400])
async def test_a_statement_that_would_end_the_transaction_is_refused(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, statement: str, status: int
) -> None:
    """So the write before it is stored by a 2xx, and by nothing else."""

    @app.post("/end", status_code=201)
    async def end(session: DbSession) -> None:
        await write(session)
        with pytest.raises(InvalidRequestError, match=r"begin_nested"):
            await session.execute(text(statement))
        with pytest.raises(InvalidRequestError, match=r"begin_nested"):
            await session.execute(text(statement), [{}, {}])
        if status >= 400:
            raise HTTPException(status)

    assert (await client.post("/end")).status_code == status
    assert await stored(session) is (status < 400)


async def test_a_savepoint_can_be_rolled_back_by_a_statement(settings: Settings) -> None:
    async with open_database(settings) as database, database.session() as own:
        for statement in ("SAVEPOINT mine", "ROLLBACK WORK TO mine", "RELEASE mine"):
            await own.execute(text(statement))


async def test_a_transaction_that_was_ended_on_the_drivers_connection_is_no_success(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    @app.post("/end", status_code=201)
    async def end(session: DbSession) -> None:
        await write(session)
        driver = (await (await session.connection()).get_raw_connection()).driver_connection
        assert driver is not None
        await driver.execute("ROLLBACK")

    assert (await client.post("/end")).status_code == 500


async def test_a_session_that_would_commit_after_the_response_is_an_error_and_stores_nothing(
    log: io.StringIO, app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """A dependency around the session, in FastAPI's default scope: start-up cannot see it, the first request does."""

    async def around() -> AsyncIterator[AsyncSession]:
        async with db_session_dependency.session() as own:
            yield own

    @app.post("/late", status_code=201)
    async def handler(session: Annotated[AsyncSession, Depends(around)]) -> None:
        await write(session)

    assert (await client.post("/late")).status_code == 500
    assert "session: DbSession" in causes(log)
    assert not await stored(session)


async def test_the_provider_itself_can_be_asked_for_in_function_scope(app: FastAPI, session: AsyncSession) -> None:
    @app.post("/provider", status_code=201)
    async def handler(
        session: Annotated[AsyncSession, Depends(db_session_dependency, scope="function")],
    ) -> None:
        await write(session)

    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        assert (await client.post("/provider")).status_code == 201
    assert await stored(session)


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_job_that_a_handler_starts_may_commit_after_the_response(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, says_so: bool
) -> None:
    """Its session stays open when the request has ended, even if it says that it commits after the response."""
    jobs: list[asyncio.Task[None]] = []
    begun, answered = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        async with db_session_dependency.session(after_response=says_so) as own:
            await write(own)
            begun.set()
            await answered.wait()

    @app.post("/job")
    async def start(session: DbSession) -> None:
        jobs.append(asyncio.create_task(job()))
        await begun.wait()

    assert (await client.post("/job")).status_code == 200
    answered.set()
    await jobs[0]
    assert await stored(session)


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_a_success_that_is_raised_is_an_error(
    log: io.StringIO, app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, status: int
) -> None:
    """What is raised rolls the session back, so it cannot report work as stored."""

    @app.post("/raise")
    async def fail(session: DbSession) -> None:
        await write(session)
        raise HTTPException(status)

    assert (await client.post("/raise")).status_code == 500
    assert f"HTTPException({status})" in causes(log)
    assert not await stored(session)


@pytest.mark.parametrize("statement", ["SET statement_timeout = 1", "/* mine */ set session statement_timeout TO 1"])
async def test_a_setting_does_not_stay_for_the_next_request(settings: Settings, statement: str) -> None:
    small = settings.model_copy(update={"database": type(settings.database)(pool_size=1)})
    async with open_database(small) as database:
        async with database.session() as own:
            await own.execute(text(statement))
        async with database.session() as own:
            assert await own.scalar(text("SHOW statement_timeout")) == "30s"


async def test_a_local_setting_costs_no_connection(settings: Settings) -> None:
    small = settings.model_copy(update={"database": type(settings.database)(pool_size=1)})
    pids = []
    async with open_database(small) as database:
        for statement in (
            "SET LOCAL statement_timeout = 1000",
            "SET TRANSACTION READ ONLY",
            "SET CONSTRAINTS ALL DEFERRED",
        ):
            async with database.session() as own:
                await own.execute(text(statement))
                pids.append(await own.scalar(text("SELECT pg_backend_pid()")))
    assert len(set(pids)) == 1
