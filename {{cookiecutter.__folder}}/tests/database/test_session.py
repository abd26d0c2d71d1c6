"""One session, one transaction: stored before the client hears of it, or not at all."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from operator import attrgetter, methodcaller
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, PendingRollbackError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool

from app.config import ServiceSettings, Settings
from app.database.engine import create_database_engine
from app.database.internal.transaction import UncommittedWorkError
from app.database.retry import run_transaction
from app.database.session import DatabaseSessionDependency, create_async_session, db_session_dependency
from app.dependencies import DbSession
from app.startup import open_database
from tests.example import Thing


def ada() -> Thing:
    return Thing(email="ada@example.com", name="Ada")


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Thing)) or 0


async def test_a_commit_that_fails_is_an_error_and_stores_nothing(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """A constraint that is checked at COMMIT: the handler has returned by then, the response must not be out."""
    await session.execute(
        text("CREATE TABLE pets (owner uuid REFERENCES things DEFERRABLE INITIALLY DEFERRED, name text)")
    )
    await session.commit()

    @app.post("/pets", status_code=201)
    async def create_pet(session: DbSession) -> str:
        await session.execute(text("INSERT INTO pets VALUES (gen_random_uuid(), 'Rex')"))
        return "created"

    response = await client.post("/pets")
    assert response.status_code == 500
    assert await session.scalar(text("SELECT count(*) FROM pets")) == 0


@pytest.mark.parametrize("error", [HTTPException(400), RuntimeError()])
async def test_an_error_raised_after_a_write_stores_nothing(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, error: Exception
) -> None:
    @app.post("/fail")
    async def write_and_fail(session: DbSession) -> None:
        session.add(ada())
        await session.flush()
        raise error

    assert (await client.post("/fail")).status_code >= 400
    assert await count(session) == 0


async def test_an_error_that_was_swallowed_is_no_success(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """After a failed statement PostgreSQL answers COMMIT with ROLLBACK, and the driver says nothing of it."""

    @app.post("/swallow", status_code=201)
    async def swallow(session: DbSession) -> str:
        await session.execute(text("INSERT INTO things (id, email, name) VALUES (gen_random_uuid(), 'a', 'a')"))
        with suppress(DBAPIError):
            await session.execute(text("SELECT 1/0"))
        return "created"

    assert (await client.post("/swallow")).status_code == 500
    assert await count(session) == 0
    assert (await client.get("/things")).status_code == 200  # the connection came back clean


async def test_an_error_inside_a_savepoint_can_be_swallowed(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @app.post("/savepoint", status_code=201)
    async def savepoint(session: DbSession) -> str:
        session.add(ada())
        try:
            async with session.begin_nested():
                await session.execute(text("SELECT 1/0"))
        except DBAPIError:
            return "created"
        return "not reached"

    assert (await client.post("/savepoint")).status_code == 201
    assert await count(session) == 1


async def test_all_that_ask_in_one_request_get_the_same_session(app: FastAPI, client: httpx2.AsyncClient) -> None:
    async def other(session: DbSession) -> AsyncSession:
        return session

    @app.get("/same")
    async def same(session: DbSession, others: Annotated[AsyncSession, Depends(other)]) -> bool:
        return session is others

    assert (await client.get("/same")).json() is True


async def test_a_session_used_after_its_request_raises(app: FastAPI, client: httpx2.AsyncClient) -> None:
    """By default it would open again silently, and what it wrote would be lost."""
    caught: list[Exception] = []

    async def later(session: AsyncSession) -> None:
        try:
            await session.execute(text("SELECT 1"))
        except InvalidRequestError as error:
            caught.append(error)

    @app.post("/later")
    async def schedule(session: DbSession, tasks: BackgroundTasks) -> None:
        tasks.add_task(later, session)

    await client.post("/later")
    assert "permanently closed" in str(caught[0])


async def test_outside_of_a_request_a_block_is_a_transaction(settings: Settings, session: AsyncSession) -> None:
    async with open_database(settings) as database:
        async with database.session() as own:
            own.add(ada())
        assert await count(session) == 1
        with pytest.raises(RuntimeError, match="stop"):
            async with database.session() as own:
                await own.delete(await own.scalar(select(Thing)))
                await own.flush()
                raise RuntimeError("stop")
        await session.rollback()
        assert await count(session) == 1
    with pytest.raises(RuntimeError, match="pool is not open"):
        async with database.session():
            pass


async def test_a_pool_that_is_opened_beside_the_services_leaves_it_alone(
    client: httpx2.AsyncClient, settings: ServiceSettings
) -> None:
    async with open_database(settings) as database, database.session() as own:
        assert await count(own) == 0
    assert (await client.get("/things")).status_code == 200


@pytest.fixture
async def unmanaged(database_url: str) -> AsyncIterator[DatabaseSessionDependency]:
    """A provider whose sessions their owners commit."""
    provider = DatabaseSessionDependency()
    await provider.initialize(database_url, manage_transactions=False)
    yield provider
    await provider.aclose()


async def test_an_unmanaged_session_that_was_not_used_asks_the_server_nothing() -> None:
    database = DatabaseSessionDependency()
    await database.initialize("postgresql://127.0.0.1:1/orders", manage_transactions=False)
    async with database.session():
        pass
    await database.aclose()


async def test_a_block_that_fails_gives_its_connection_back_at_once(settings: Settings) -> None:
    async with open_database(settings) as database:
        with pytest.raises(ZeroDivisionError):
            async with database.session() as kept:
                await kept.execute(select(1))
                raise ZeroDivisionError
        pool = database.engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedout() == 0


@pytest.mark.parametrize("how", ["pending", "flushed", "sql", "changed", "failed"])
async def test_unmanaged_work_left_uncommitted_is_an_error(
    unmanaged: DatabaseSessionDependency, session: AsyncSession, how: str
) -> None:
    async with unmanaged.session() as own:
        own.add(ada())
        await own.commit()
    with pytest.raises(UncommittedWorkError, match="session.commit"):
        async with unmanaged.session() as own:
            match how:
                case "pending":
                    own.add(Thing(email="b@example.com", name="B"))
                case "flushed":
                    own.add(Thing(email="b@example.com", name="B"))
                    await own.flush()
                case "sql":
                    await own.execute(text("DELETE FROM things"))
                case "changed":
                    (await own.scalars(select(Thing))).one().name = "B"
                case "failed":
                    await own.execute(text("DELETE FROM things"))
                    with pytest.raises(DBAPIError):
                        await own.execute(text("SELECT 1/0"))
    assert (await session.scalars(select(Thing.name))).all() == ["Ada"]


async def test_unmanaged_reads_commits_and_rollbacks_are_fine(
    unmanaged: DatabaseSessionDependency, session: AsyncSession
) -> None:
    async with unmanaged.session() as own:
        own.add(ada())
        await own.commit()
        assert await count(own) == 1
    async with unmanaged.session() as own:
        await own.execute(text("DELETE FROM things"))
        await own.rollback()
    assert await count(session) == 1


async def test_objects_can_be_read_after_the_commit(settings: Settings) -> None:
    async with open_database(settings) as database:
        async with database.session() as own:
            thing = ada()
            own.add(thing)
        assert thing.name == "Ada"


async def test_run_transaction_commits_also_where_sessions_are_unmanaged(
    unmanaged: DatabaseSessionDependency, session: AsyncSession
) -> None:
    async def create(own: AsyncSession) -> None:
        own.add(ada())

    await run_transaction(create, database=unmanaged)
    assert await count(session) == 1


@pytest.mark.parametrize(
    "use", [attrgetter("engine"), attrgetter("reader"), methodcaller("session"), methodcaller("transaction")]
)
def test_what_is_not_initialized_says_what_to_do(use: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError, match="in a script, use `async with open_database"):
        use(DatabaseSessionDependency())


async def test_a_service_whose_pool_is_not_open_is_not_ready() -> None:
    with pytest.raises(RuntimeError, match="pool is not open"):
        await DatabaseSessionDependency().ping()
    await DatabaseSessionDependency().aclose()  # closing what was never open is no error


async def test_initialize_twice_leaks_no_connection(database_url: str, session: AsyncSession) -> None:
    provider = DatabaseSessionDependency()
    for name in ("first", "second"):
        arguments = {"server_settings": {"application_name": name}}
        await provider.initialize(database_url, connect_args=arguments)
        async with provider.session() as own:
            await own.execute(text("SELECT 1"))
        await provider.ping()
    rows = await session.scalars(
        text(
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    assert rows.all() == ["second"]
    await provider.aclose()


async def test_an_isolation_level_is_that_of_each_transaction_and_autocommit_is_refused(database_url: str) -> None:
    provider = DatabaseSessionDependency()
    await provider.initialize(database_url, isolation_level="SERIALIZABLE")
    async with provider.session() as session:
        assert await session.scalar(text("SHOW transaction_isolation")) == "serializable"
    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        await provider.initialize(database_url, isolation_level="AUTOCOMMIT")
    await provider.aclose()


class _Listener:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, line: str) -> None:
        self.lines.append(line)


async def test_create_async_session_probes_with_one_row_of_a_statement(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    session.add_all([ada(), Thing(email="b@example.com", name="B")])
    await session.commit()
    listener = _Listener()
    own = await create_async_session(engine, listener, statement=select(Thing))
    async with own.begin():  # no transaction was left begun by the probe
        assert await count(own) == 2
    await own.close()
    assert listener.lines == []


async def test_create_async_session_asks_five_times_two_seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_wait(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("app.database.probe.asyncio.sleep", no_wait)
    listener = _Listener()
    engine = create_database_engine("postgresql://127.0.0.1:1/nowhere")
    with pytest.raises(Exception, match="cannot reach PostgreSQL at 127.0.0.1:1/nowhere"):
        await create_async_session(engine, listener, statement=select(Thing))
    assert pauses == [2, 2, 2, 2]
    assert len(listener.lines) == 4
    await engine.dispose()


async def test_create_async_session_does_not_wait_for_a_table_that_is_missing(empty_database_url: str) -> None:
    listener = _Listener()
    engine = create_database_engine(empty_database_url)
    with pytest.raises(ProgrammingError, match="things"):
        await create_async_session(engine, listener, statement=select(Thing))
    assert listener.lines == []
    await engine.dispose()


async def test_a_session_that_lost_its_flush_does_not_commit(settings: Settings) -> None:
    with pytest.raises(PendingRollbackError):
        async with open_database(settings) as database, database.session() as own:
            own.add_all([ada(), ada()])
            with pytest.raises(IntegrityError):
                await own.flush()


def test_the_provider_of_the_service_is_one_for_the_process() -> None:
    assert isinstance(db_session_dependency, DatabaseSessionDependency)
