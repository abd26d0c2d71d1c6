"""A statement that runs on the driver answers, fails and commits as it does when SQLAlchemy runs it."""

import enum
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Date,
    DateTime,
    Dialect,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Row,
    Select,
    String,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    event,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import INET, JSONB, TSRANGE, Range
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError, ResourceClosedError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from structlog.testing import capture_logs

from app.config import Settings
from app.database.engine import create_database_engine
from app.database.errors import sqlstate
from app.database.internal import compiled
from app.database.internal.compiled import Statements
from app.database.reader import Reader
from app.database.session import create_async_session
from app.database.statements import fetch
from app.startup import open_database
from tests.example import Thing

NAMES = select(Thing.name)

Run = Callable[..., Awaitable[Any]]

CREATE = (
    insert(Thing.__table__)  # type: ignore[arg-type]  # mypy takes it for any kind of FromClause
    .values({Thing.id: bindparam("new_id"), Thing.email: bindparam("new_email"), Thing.name: "Ada"})
    .returning(Thing.email, Thing.name)
)
RENAME = update(Thing.__table__).values({Thing.name: bindparam("new_name")}).returning(Thing.name)  # type: ignore[arg-type]


class Mood(enum.Enum):
    """An enumeration that PostgreSQL stores by name."""

    FINE = "fine"
    SAD = "sad"


class Reversed(TypeDecorator[str]):
    """A type of one's own, with a conversion in each direction."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: D102  # SQLAlchemy's
        return value and value[::-1]

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: D102  # the same
        return value and f"<{value}>"


TYPES: dict[str, tuple[Any, Any]] = {
    "array": (ARRAY(Integer), [1, 2]),
    "array of enums": (ARRAY(Enum(Mood, name="mood")), [Mood.FINE, Mood.SAD]),
    "array of numbers": (ARRAY(Numeric(10, 2)), [Decimal("1.50")]),
    "boolean": (Boolean, True),
    "bytes": (LargeBinary, b"\x00\xff"),
    "date": (Date, date(2026, 1, 1)),
    "enum": (Enum(Mood, name="mood"), Mood.SAD),
    "enum stored as text": (Enum(Mood, native_enum=False), Mood.SAD),
    "float": (Float, 1.5),
    "inet": (INET, "10.0.0.1"),
    "integer": (Integer, 7),
    "interval": (Interval, timedelta(days=1, seconds=1)),
    "json": (JSON, {"a": [1, None]}),
    "jsonb": (JSONB, {"a": [1, None]}),
    "numeric": (Numeric(10, 2), Decimal("1.50")),
    "numeric as float": (Numeric(10, 2, asdecimal=False), 1.5),
    "range": (TSRANGE, Range(datetime(2026, 1, 1), datetime(2026, 1, 2))),  # noqa: DTZ001  # of times without a zone
    "string": (String(10), "Ada"),
    "time": (Time, time(12, 30)),
    "timestamp": (DateTime(timezone=True), datetime(2026, 1, 1, tzinfo=UTC)),
    "type of one's own": (Reversed, "Ada"),
    "uuid": (Uuid, uuid4()),
    "uuid as text": (Uuid(as_uuid=False), str(uuid4())),
}


@pytest.fixture(params=["reader", "session"])
async def run(request: pytest.FixtureRequest, engine: AsyncEngine, session: AsyncSession) -> Run:
    """Run a statement three times and return the last rows: the first run is SQLAlchemy's."""
    reader = Reader(engine)

    async def run_again(statement: Any, **parameters: Any) -> Any:
        for _ in range(3):
            if request.param == "reader":
                rows = await reader.all(statement, **parameters)
            else:
                rows = await fetch(session, statement, **parameters)
        return rows

    return run_again


@pytest.mark.parametrize("kind", TYPES)
async def test_values_and_rows_are_converted_as_sqlalchemy_does(run: Run, session: AsyncSession, kind: str) -> None:
    type_, value = TYPES[kind]
    await session.execute(text("CREATE TYPE mood AS ENUM ('FINE', 'SAD')"))
    await session.commit()
    given = cast(bindparam("value", type_=type_), type_)
    statement = select(given.label("given"), cast(literal(value, type_), type_).label("fixed"))
    for sent in (value, None):
        expected = (await session.execute(statement, {"value": sent})).all()
        rows = await run(statement, value=sent)
        assert rows == expected
        assert [[type(item) for item in row] for row in rows] == [[type(item) for item in row] for row in expected]


async def test_rows_have_names_and_can_be_unpacked(run: Run) -> None:
    statement = select(literal(1).label("a"), literal("x").label("b"), literal(1).label("a"))
    (row,) = await run(statement)
    assert isinstance(row, Row)
    first, second, _ = row
    assert (first, second, row.b, row[0], row._mapping["b"]) == (1, "x", "x", 1, "x")
    with pytest.raises(InvalidRequestError, match="Ambiguous"):
        _ = row.a


async def test_a_list_after_in_may_have_another_length_each_time(run: Run) -> None:
    numbers = func.generate_series(1, 9).column_valued("n")
    statement = select(numbers).where(numbers.in_(bindparam("wanted", expanding=True)))
    for wanted in ([1], [1, 2, 3], []):
        assert [row.n for row in await run(statement, wanted=wanted)] == wanted


async def test_a_value_that_is_written_into_the_sql_may_be_another_one_each_time(run: Run) -> None:
    statement = select(bindparam("value", type_=Integer, literal_execute=True))
    for value in (1, 2):
        assert await run(statement, value=value) == [(value,)]


async def test_statements_that_differ_in_a_constant_alone_keep_their_own(run: Run) -> None:
    one, two = select(literal(1)), select(literal(2))
    assert [await run(one), await run(two), await run(one)] == [[(1,)], [(2,)], [(1,)]]


async def test_a_default_holds_where_no_value_is_given_and_a_value_that_is_needed_is_asked_for(run: Run) -> None:
    statement: Select[int, int] = select(bindparam("a", 1), bindparam("b", type_=Integer))
    assert await run(statement, b=2) == [(1, 2)]
    assert await run(statement, a=3, b=2) == [(3, 2)]
    assert await run(statement, b=2) == [(1, 2)]
    with pytest.raises(StatementError, match="A value is required for bind parameter 'b'"):
        await run(statement, a=3)


FAILURES = {
    "an error of the server": (select(1 / bindparam("value", type_=Integer)), 0),
    "a value that the driver refuses": (select(cast(bindparam("value", type_=Integer), Integer)), "x"),
    "a value that a type refuses": (select(cast(bindparam("value", type_=Enum(Mood, name="m")), Text)), "x"),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_failure_is_the_one_that_sqlalchemy_raises(run: Run, session: AsyncSession, kind: str) -> None:
    statement, value = FAILURES[kind]
    good = Mood.FINE if "type" in kind else 1
    await session.execute(text("CREATE TYPE m AS ENUM ('FINE')"))
    await session.commit()
    await run(statement, value=good)
    await session.rollback()
    raised = []
    for attempt in (run(statement, value=value), session.execute(statement, {"value": value})):
        with pytest.raises(StatementError) as error:
            await attempt
        await session.rollback()
        raised.append(error.value)
    ours, theirs = raised
    assert type(ours) is type(theirs)
    assert type(ours.orig) is type(theirs.orig)
    assert sqlstate(ours) == sqlstate(theirs)
    assert ours.hide_parameters
    assert await run(select(literal(1))) == [(1,)], "the connection is in order"


async def test_what_is_fetched_is_part_of_the_sessions_transaction(engine: AsyncEngine, session: AsyncSession) -> None:
    """Also where it is the first statement of the transaction, and the driver runs it."""
    for number in range(3):
        own = await create_async_session(engine)
        rows = await fetch(own, CREATE, new_id=uuid4(), new_email=f"{number}@example.com")
        assert rows == [(f"{number}@example.com", "Ada")]
        assert rows[0].name == "Ada"
        await own.rollback()
        assert await session.scalar(select(func.count()).select_from(Thing)) == number
        await fetch(own, CREATE, new_id=uuid4(), new_email=f"{number}@example.org")
        await own.commit()
        await own.close()
    assert await session.scalar(select(func.count()).select_from(Thing)) == 3


async def test_a_statement_sees_what_is_pending_in_its_session(session: AsyncSession) -> None:
    for number in range(3):
        session.add(Thing(email=f"{number}@example.com", name="x"))
        assert len(await fetch(session, RENAME, new_name="y")) == number + 1


async def test_an_error_of_a_fetch_that_was_swallowed_is_no_success(settings: Settings) -> None:
    async def create_twice(email: str, id_: UUID) -> None:
        async with open_database(settings) as database, database.session() as own:
            await fetch(own, CREATE, new_id=uuid4(), new_email=email)
            await fetch(own, CREATE, new_id=id_, new_email=f"x{email}")
            with pytest.raises(DBAPIError):
                await fetch(own, CREATE, new_id=id_, new_email=f"y{email}")

    with pytest.raises(PendingRollbackError):
        await create_twice("a@example.com", uuid4())


async def test_a_value_that_python_makes_is_another_one_each_time(session: AsyncSession) -> None:
    statement = insert(Thing).values(name="x", email=bindparam("new_email")).returning(Thing.id)
    rows = [(await fetch(session, statement, new_email=f"{number}@example.com"))[0] for number in range(3)]
    assert len(set(rows)) == 3


async def test_a_statement_without_rows_says_so(session: AsyncSession) -> None:
    with pytest.raises(ResourceClosedError, match="does not return rows"):
        await fetch(session, update(Thing).values(name="x"))  # type: ignore[call-overload]  # mypy knows it, too


async def test_a_schema_of_one_session_alone_is_heeded(session: AsyncSession) -> None:
    statement = select(Thing.name)
    for _ in range(3):
        assert await fetch(session, statement) == []
    await session.rollback()
    await session.execute(text("CREATE SCHEMA other"))
    await session.execute(text("CREATE TABLE other.things AS SELECT gen_random_uuid() id, 'e' email, 'n' AS name"))
    await session.commit()
    await session.connection(execution_options={"schema_translate_map": {None: "other"}})
    assert await fetch(session, statement) == [("n",)]


async def test_a_schema_of_the_service_holds_for_each_run(engine: AsyncEngine, database_url: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA mine"))
        await connection.execute(
            text("CREATE TABLE mine.things AS SELECT gen_random_uuid() id, 'e' email, 'n' AS name")
        )
    mine = create_database_engine(database_url, schema="mine")
    own = await create_async_session(mine)
    statement = select(Thing.name)
    for _ in range(3):
        assert await Reader(mine).all(statement) == await fetch(own, statement) == [("n",)]
        assert await Reader(engine).all(statement) == []
    await own.close()
    await mine.dispose()


async def test_an_isolation_level_holds_for_a_statement_that_opens_the_transaction(database_url: str) -> None:
    engine = create_database_engine(database_url, isolation_level="REPEATABLE READ")
    statement = select(func.current_setting("transaction_isolation"))
    own = await create_async_session(engine)
    for _ in range(3):
        assert await fetch(own, statement) == [("repeatable read",)]
        await own.rollback()
    await own.close()
    await engine.dispose()


async def test_a_column_that_a_migration_changes_is_read_on(run: Run, session: AsyncSession) -> None:
    statement = select(Thing.name)
    await run(statement)
    await session.rollback()
    await session.execute(text("ALTER TABLE things ALTER name TYPE varchar(300)"))
    await session.commit()
    with suppress(DBAPIError):  # a reader succeeds at once, a transaction fails as if it had met another one
        await run(statement)
    await session.rollback()
    assert await run(statement) == []


async def test_a_statement_that_the_program_has_dropped_is_forgotten(engine: AsyncEngine) -> None:
    statements = Statements()
    statement = select(literal("dropped"), bindparam("n", type_=Integer))
    async with engine.connect() as connection:
        for number in range(3):
            await connection.run_sync(statements.learn, statement, None, {"n": number})
        assert statements.find(statement, None, {"n": 1}) is not None
    assert len(statements) == 1
    engine.sync_engine.clear_compiled_cache()
    del statement
    gc.collect()
    assert len(statements) == 0


async def test_without_a_private_name_of_sqlalchemy_it_runs_all_statements_itself_and_one_warning_says_so(
    engine: AsyncEngine, session: AsyncSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If this fails, a new SQLAlchemy that renames something ends the service instead of slowing it down."""
    monkeypatch.setattr(compiled, "_USED", {"adapter": ("_gone",), "connection": ()})
    seen: list[object] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: seen.append(arguments))
    statement, reader = select(bindparam("n", type_=Integer)), Reader(engine)
    with capture_logs() as lines:
        for number in range(3):
            assert await fetch(session, statement, n=number) == [(number,)]
            assert await reader.all(statement, n=number) == [(number,)]
    assert len(seen) == 6
    assert ["_gone" in line["event"] for line in lines] == [True]


async def test_from_the_second_run_on_a_statement_passes_sqlalchemys_engine_by(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    seen: list[object] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: seen.append(arguments))
    reader = Reader(engine)
    statement = select(bindparam("n", type_=Integer))
    for number in range(3):
        assert await fetch(session, statement, n=number) == [(number,)]
    assert len(seen) == 1
    for number in range(3):
        assert await reader.all(statement, n=number) == [(number,)]
    assert len(seen) == 2
