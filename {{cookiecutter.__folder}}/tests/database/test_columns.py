"""A field of a schema class and its column agree before the first request, and rows reach the fields by name."""

import uuid
from dataclasses import dataclass, make_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field
from sqlalchemy import JSON, DateTime, Numeric, Text, bindparam, insert, select, update
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from app.database.internal.compiled import Statements
from app.database.reader import Reader
from app.database.statements import SchemaMismatchError, columns, fetch
from tests.example import Thing


class Base(DeclarativeBase):
    """A base class of this file's own: nothing here is in a database."""


class Parcel(Base):
    """A table with columns of several types."""

    __tablename__ = "parcels"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    weight: Mapped[Decimal] = mapped_column(Numeric)
    sent_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    tags: Mapped[Any] = mapped_column(JSON)
    address: Mapped[str] = mapped_column(INET)


class NewParcel(BaseModel):
    """A body: it may refuse null where the column allows it."""

    model_config = ConfigDict(extra="forbid")

    code: Annotated[str, Field(min_length=1), AfterValidator(str.strip)]
    note: str
    tags: list[str]


class ParcelChanges(TypedDict, total=False):
    """Changes: each field may be absent."""

    code: NotRequired[Literal["a", "b"]]
    note: Annotated[str | None, Field(max_length=9)]


@dataclass
class ParcelOut:
    """A response, in an order of its own."""

    sent_at: datetime
    weight: Decimal
    note: str | None
    id: UUID
    tags: Any
    address: str


def test_the_columns_are_the_fields_of_the_response() -> None:
    found = columns(Parcel, ParcelOut, NewParcel, ParcelChanges)
    assert [column.name for column in found] == ["sent_at", "weight", "note", "id", "tags", "address"]


@pytest.mark.parametrize(
    ("name", "hint", "says"),
    [
        ("wieght", Decimal, "Out.wieght: the table parcels has no such column; its columns are id, code, note,"),
        ("weight", float, "Out.weight: the column parcels.weight has values of type Decimal, and the field float"),
        ("sent_at", date, "Out.sent_at: the column parcels.sent_at has values of type datetime, and the field date"),
        ("code", Literal[1, 2], "Out.code: the column parcels.code has values of type str, and the field int"),
        ("id", Annotated[str, Field()], "Out.id: the column parcels.id has values of type UUID, and the field str"),
        ("code", str | None, "Out.code: the column parcels.code is NOT NULL, and the field allows null"),
        ("note", str, "Out.note: the column parcels.note is nullable, and the field does not allow null"),
    ],
)
def test_a_field_that_does_not_fit_is_an_error_that_names_both(name: str, hint: Any, says: str) -> None:
    with pytest.raises(SchemaMismatchError) as caught:
        columns(Parcel, make_dataclass("Out", [(name, hint)]))
    assert str(caught.value).startswith(says)


def test_a_body_is_compared_too_and_each_mismatch_is_a_line() -> None:
    class Body(BaseModel):
        code: str | None
        weight: Annotated[int, Field(ge=0)]
        colour: str

    with pytest.raises(SchemaMismatchError) as caught:
        columns(Parcel, ParcelOut, Body)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "Body.code",
        "Body.weight",
        "Body.colour",
    ]


def test_types_that_say_nothing_about_the_column_are_accepted() -> None:
    class Body(BaseModel):
        code: EmailStr
        tags: dict[str, int]
        weight: Any

    assert columns(Parcel, ParcelOut, Body)


@dataclass(slots=True)
class NameThenEmail:
    """Two texts that could be confused."""

    name: str
    email: str


@dataclass(slots=True)
class EmailThenName:
    """The same texts, in the other order."""

    email: str
    name: str


CREATE = insert(Thing.__table__).returning(*columns(Thing, EmailThenName))  # type: ignore[arg-type]  # any FromClause


async def test_rows_reach_the_fields_by_name_whatever_the_order(engine: AsyncEngine, session: AsyncSession) -> None:
    reader, both = Reader(engine), select(Thing.email, Thing.name)
    for number in range(3):  # the first run is SQLAlchemy's
        made = await fetch(session, CREATE, NameThenEmail, name="Ada", id=uuid.uuid4(), email=f"{number}@example.com")
        assert made == [NameThenEmail(name="Ada", email=f"{number}@example.com")]
    await session.commit()
    expected = [EmailThenName(name="Ada", email=f"{number}@example.com") for number in range(3)]
    for _ in range(3):
        assert await reader.all(both, EmailThenName) == expected
        assert [row.email for row in await reader.all(both, NameThenEmail)] == [row.email for row in expected]
        assert await reader.all(both) == [(row.email, row.name) for row in expected]


async def test_values_are_converted_for_a_dataclass_as_for_a_row(engine: AsyncEngine) -> None:
    reader = Reader(engine)
    out = make_dataclass("Out", [("given", Any), ("text", str)])
    statement = select(bindparam("data", type_=JSON).label("given"), bindparam("text", type_=Text).label("text"))
    for number in range(3):
        assert await reader.all(statement, out, data=[number], text="x") == [out([number], "x")]


async def test_a_class_without_a_column_of_the_statement_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(TypeError, match="EmailThenName has the fields email, name, and the statement name"):
        await Reader(engine).all(select(Thing.name), EmailThenName)


async def test_a_parameter_that_is_no_column_is_refused(session: AsyncSession) -> None:
    with pytest.raises(TypeError, match="no parameter or column colour"):
        await fetch(session, CREATE, id=uuid.uuid4(), email="a@example.com", name="Ada", colour="red")


@pytest.mark.slow
async def test_the_sets_of_columns_that_clients_send_are_kept_up_to_a_limit(engine: AsyncEngine) -> None:
    """A PATCH with 12 optional fields has 4,096 of them."""

    class Wide(Base):
        __tablename__ = "wide"
        id: Mapped[int] = mapped_column(primary_key=True)

    names = [f"c{number}" for number in range(12)]
    table = Wide.__table__
    for name in names:
        table.append_column(mapped_column(name, Text).column)  # type: ignore[attr-defined]  # any FromClause
    change = update(table).where(table.c.id == bindparam("this_id")).returning(table.c.id)  # type: ignore[arg-type]
    statements = Statements()
    async with engine.connect() as connection:
        await connection.run_sync(Base.metadata.tables["wide"].create)
        for chosen in range(1, 4096):
            values = {name: "x" for bit, name in enumerate(names) if chosen >> bit & 1}
            parameters: dict[str, Any] = {"this_id": 1, **values}
            if statements.find(change, None, parameters) is None:
                await connection.run_sync(statements.learn, change, None, parameters)
        assert len(statements) == 100
        assert statements.find(change, None, parameters) is not None
        prepared = await connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements")
        assert prepared.scalar_one() <= 200  # those of the driver and those of SQLAlchemy's adapter
