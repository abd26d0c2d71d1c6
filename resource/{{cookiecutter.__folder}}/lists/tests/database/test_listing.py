"""A list with filters, in any of its orders, has no gap and no duplicate."""

import base64
import gc
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain, combinations
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from sqlalchemy import Index, MetaData, Numeric, Text, bindparam, delete, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime

from app.database.listing import Listing, starts_with
from app.database.reader import Reader
from app.database.statements import SchemaMismatchError, columns
from app.dependencies import DbReader
from app.fields import Int32, ShortText
from app.list_query import ListQuery
from app.pagination import cut


class Base(DeclarativeBase):
    """Separate from the service's base class: migrations ignore this table."""

    metadata = MetaData()


class Task(Base):
    """A task: columns of all kinds that a list can be sorted by."""

    __tablename__ = "tasks"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(Text)
    rank: Mapped[int]
    due: Mapped[date | None]
    cost: Mapped[Decimal | None] = mapped_column(Numeric(18, 4))
    weight: Mapped[float]
    done: Mapped[bool]
    seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        Index("ix_tasks_due", "due", "id"),
        Index("ix_tasks_rank", "rank", "id"),
        Index(
            "ix_tasks_name_prefix",
            func.lower(name).label("prefix"),
            "id",
            postgresql_ops={"prefix": "text_pattern_ops"},
        ),
    )


@dataclass(slots=True)
class TaskOut:
    """A task."""

    id: UUID
    name: str
    rank: int
    due: date | None
    cost: Decimal | None
    weight: float
    done: bool
    seen_at: datetime | None


_SORTS = ["name", "rank", "due", "cost", "weight", "done", "seen_at"]


class TaskQuery(ListQuery):
    """Query parameters of the list."""

    items = TaskOut

    sort: Literal["-id", *_SORTS, *(f"-{name}" for name in _SORTS)] | None = None  # type: ignore[valid-type]
    rank: Int32 | None = None
    due_from: date | None = None
    due_before: date | None = None
    name_prefix: ShortText | None = None
    done: bool | None = None


_LIST = Listing(
    select(*columns(Task, TaskOut)),
    TaskOut,
    TaskQuery,
    {
        "rank": Task.rank == bindparam("rank"),
        "due_from": Task.due >= bindparam("due_from"),
        "due_before": Task.due < bindparam("due_before"),
        "name_prefix": starts_with(Task.name, "name_prefix"),
        "done": Task.done == bindparam("done"),
    },
)

_router = APIRouter()
ID = str(UUID(int=7))


@_router.get("/tasks")
async def list_tasks(
    reader: DbReader, request: Request, response: Response, query: Annotated[TaskQuery, Query()]
) -> list[str]:
    """List the names of tasks."""
    found = await _LIST.rows(reader, limit=query.limit + 1, sort=query.sort, after=query.cursor, filters=query.filters)
    return [task.name for task in cut(found, query.limit, request, response, query.cursor_of)[0]]


@pytest.fixture
async def tasks(app: FastAPI, engine: AsyncEngine, session: AsyncSession) -> list[Task]:
    """Tasks with ties and nulls in all columns."""
    app.include_router(_router)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    made = [
        Task(
            id=UUID(int=number * 7919 % 1000),
            name=f"Task {number:02}",
            rank=number % 3 - 1,
            due=date(2026, 1, 1 + number % 2) if number % 4 else None,
            cost=Decimal(number % 5) / 8 if number % 3 else None,
            weight=[0.1, float("inf"), float("nan"), -1e300][number % 4],
            done=number % 2 == 0,
            seen_at=datetime(2026, 1, 1, 0, 0, number % 3, number % 2, tzinfo=UTC) if number % 5 else None,
        )
        for number in range(23)
    ]
    session.add_all(made)
    await session.commit()
    return made


async def walk(client: httpx2.AsyncClient, address: str) -> AsyncIterator[list[str]]:
    """Yield the names on each page."""
    following: str | None = address
    while following:
        response = await client.get(following)
        assert response.status_code == 200, response.text
        yield response.json()
        following = response.links["next"]["url"] if "next" in response.links else None


def _expected(tasks: list[Task], sort: str) -> list[str]:
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    some = [task for task in tasks if getattr(task, name) is not None]
    none = [task for task in tasks if getattr(task, name) is None]

    def key(task: Task) -> Any:
        value = getattr(task, name)
        return (value != value, value if value == value else 0, task.id)  # noqa: PLR0124  # NaN is the greatest

    some.sort(key=key, reverse=descending)
    none.sort(key=lambda task: task.id, reverse=descending)
    return [task.name for task in (*some, *none)]


async def test_pages_in_any_order_have_no_gap_and_no_duplicate(client: httpx2.AsyncClient, tasks: list[Task]) -> None:
    """Ties are broken by id, and nulls come last."""
    for sort in ("id", *_SORTS):
        for order in (sort, f"-{sort}"):
            for limit in (1, 4, 22, 23):
                address = f"/tasks?limit={limit}" + ("" if order == "id" else f"&sort={order}")
                pages = [page async for page in walk(client, address)]
                assert [name for page in pages for name in page] == _expected(tasks, order)
                assert {len(page) for page in pages[:-1]} <= {limit}


@pytest.mark.parametrize("sort", ["due", "-due", "rank", "-cost"])
async def test_rows_that_come_and_go_between_two_pages_move_no_other(
    client: httpx2.AsyncClient, session: AsyncSession, tasks: list[Task], sort: str
) -> None:
    """Even if they are the last of a page."""
    seen: list[str] = []
    async for page in walk(client, f"/tasks?limit=3&sort={sort}"):
        seen += page
        values = {"rank": 0, "due": date(2026, 1, 1), "cost": None, "weight": 0.0, "done": True, "seen_at": None}
        await session.execute(insert(Task).values(id=uuid4(), name="new", **values))
        await session.execute(delete(Task).where(Task.name == page[-1]))
        await session.commit()
        if len(seen) > 200:
            break  # each page adds a row that may come later
    old = [name for name in seen if name != "new"]
    assert old == _expected(tasks, sort)


MATCHES: list[tuple[str, Callable[[Task], bool]]] = [
    ("rank=0", lambda task: task.rank == 0),
    ("due_from=2026-01-02", lambda task: task.due == date(2026, 1, 2)),
    ("due_before=2026-01-02", lambda task: task.due == date(2026, 1, 1)),
    (
        "due_before=2026-01-02&done=true&rank=1",
        lambda task: bool(task.due == date(2026, 1, 1) and task.done and task.rank == 1),
    ),
    ("name_prefix=tAsK%201", lambda task: task.name.startswith("Task 1")),
    ("name_prefix=_ask", lambda _: False),
    ("name_prefix=%25", lambda _: False),
]


async def test_filters_hold_on_each_page_and_in_each_order(client: httpx2.AsyncClient, tasks: list[Task]) -> None:
    for query, matches in MATCHES:
        for sort in ("-id", "due", "-rank"):
            pages = [page async for page in walk(client, f"/tasks?{query}&limit=2&sort={sort}")]
            found = [name for page in pages for name in page]
            assert found == _expected([task for task in tasks if matches(task)], sort)


def _cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


INVALID = [
    ("statuss=open", "/query/statuss"),
    ("sort=secret", "/query/sort"),
    ("sort=", "/query/sort"),
    ("limit=201", "/query/limit"),
    ("rank=99999999999", "/query/rank"),
    ("name_prefix=%00", "/query/name_prefix"),
    ("cursor=x", "/query/cursor"),
    ("cursor=" + base64.urlsafe_b64encode(b"[" * 5000).decode(), "/query/cursor"),
    ("cursor=" + _cursor(), "/query/cursor"),
    ("cursor=" + _cursor(None, None, 5), "/query/cursor"),
    ("cursor=" + _cursor(None, 1, ID), "/query/cursor"),
    ("cursor=" + _cursor("due", None, ID), "/query/cursor"),
    ("sort=rank&cursor=" + _cursor("rank", None, ID), "/query/cursor"),
    ("sort=rank&cursor=" + _cursor("rank", 2**63, ID), "/query/cursor"),
    ("sort=name&cursor=" + _cursor("name", "\0", ID), "/query/cursor"),
    ("sort=name&cursor=" + _cursor("name", "\ud800", ID), "/query/cursor"),
    ("sort=cost&cursor=" + _cursor("cost", "1e1001", ID), "/query/cursor"),
    ("sort=seen_at&cursor=" + _cursor("seen_at", "0001-01-01T00:00:00+14:00", ID), "/query/cursor"),
]


async def test_a_query_that_is_not_valid_is_422(client: httpx2.AsyncClient, tasks: list[Task]) -> None:
    for query, pointer in INVALID:
        response = await client.get(f"/tasks?{query}")
        assert response.status_code == 422, query
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer], query


async def test_a_value_that_no_row_can_have_is_a_position_in_the_order(
    client: httpx2.AsyncClient, tasks: list[Task]
) -> None:
    values = {"rank": 2**31, "-rank": -(2**63), "cost": "1e999", "-cost": "99999999999999999.5", "due": "9999-12-31"}
    for sort, value in values.items():
        response = await client.get(f"/tasks?sort={sort}&cursor={_cursor(sort, value, ID)}")
        assert response.status_code == 200, response.text


async def test_statements_of_a_list_are_bounded(engine: AsyncEngine, tasks: list[Task]) -> None:
    """A client who sends all sets of filters makes neither the process nor the server grow without limit."""
    reader = Reader(engine)
    values = {"rank": 0, "due_from": date.min, "due_before": date.max, "name_prefix": "x", "done": True}
    sets = list(chain.from_iterable(combinations(values, size) for size in range(len(values) + 1)))
    for sort in (None, "rank", "-rank", "due"):
        for names in sets:
            await _LIST.rows(reader, limit=1, sort=sort, after=None, filters={name: values[name] for name in names})
    engine.sync_engine.clear_compiled_cache()  # SQLAlchemy's own, which is bounded too
    gc.collect()
    assert len(sets) * 5 > 64
    assert _LIST._statement.cache_info().currsize == len(reader._statements) == 64


@pytest.mark.parametrize(
    ("sort", "filters", "condition"),
    [
        ("due", set(), r"\(ROW\(due, id\) > ROW\(\$\d, \$\d\)\)"),
        ("-due", set(), r"\(ROW\(due, id\) < ROW\(\$\d, \$\d\)\)"),
        (None, {"rank"}, r"\(rank = \$\d\)"),
        (None, {"name_prefix"}, r"lower\(name\) ~>=~ .*lower\(name\) ~<~"),
    ],
)
async def test_an_index_leads_to_the_page(
    database_url: str, tasks: list[Task], sort: str | None, filters: set[str], condition: str
) -> None:
    """In a plan for any values: PostgreSQL plans a statement that runs often before it knows them."""
    statement = _LIST._build(frozenset(filters), sort, continued=sort is not None, nulls=False)
    compiled = statement.compile(dialect=postgresql.asyncpg.dialect())  # type: ignore[no-untyped-call]
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan"
    )
    await connection.execute(f"PREPARE page AS {compiled.string}")
    nulls = ", ".join("NULL" for _ in compiled.positiontup or ())
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE page({nulls})"))
    await connection.close()
    assert re.search(rf"Index Cond: .*{condition}", plan), plan
    assert sort is None or "Sort" not in plan


def test_filters_of_the_query_and_of_the_list_are_the_same() -> None:
    """Otherwise the service does not start, and the error names both."""
    filters = {"rank": Task.rank == bindparam("other"), "unknown": Task.name == bindparam("unknown")}
    with pytest.raises(SchemaMismatchError) as raised:
        Listing(select(*columns(Task, TaskOut)), TaskOut, TaskQuery, filters)
    lines = str(raised.value).splitlines()
    assert "TaskQuery.due_before: the list has no such filter" in lines
    assert "unknown: TaskQuery has no such filter" in lines
    assert "rank: the condition has no bindparam of this name" in lines
