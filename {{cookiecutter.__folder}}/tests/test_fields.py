"""What a field of a request accepts, its column stores, and the response says the same."""

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, FiniteFloat
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from app.dependencies import DbSession
from app.fields import FixedDecimal, Int32, Int64, Json, LongText, ShortText, StoredText, Timestamp


class Body(BaseModel):
    """One of the fields."""

    short: ShortText | None = None
    long: LongText | None = None
    stored: StoredText | None = None
    int32: Int32 | None = None
    int64: Int64 | None = None
    double: FiniteFloat | None = None
    decimal: FixedDecimal | None = None
    flag: bool | None = None
    day: date | None = None
    time: Timestamp | None = None
    uuid: UUID | None = None
    json_: Json | None = None


class Stored(BaseModel):
    """What the row has then."""

    value: Any


_TABLE = Table(
    "values",
    MetaData(),
    Column("short", Text),
    Column("long", Text),
    Column("stored", Text),
    Column("int32", Integer),
    Column("int64", BigInteger),
    Column("double", Double),
    Column("decimal", Numeric(18, 4)),
    Column("flag", Boolean),
    Column("day", Date),
    Column("time", DateTime(timezone=True)),
    Column("uuid", Uuid),
    Column("json_", JSONB(none_as_null=True)),
)
_router = APIRouter()


@_router.post("/values")
async def store(body: Body, session: DbSession) -> Stored:
    """Store a value, and return it as it is stored."""
    (name,) = body.model_fields_set
    column = _TABLE.c[name]
    statement = _TABLE.insert().values({name: getattr(body, name)}).returning(column)
    return Stored(value=await session.scalar(statement))


@pytest.fixture
async def send(app: FastAPI, engine: AsyncEngine, client: httpx2.AsyncClient) -> Callable[..., Any]:
    """Send a value as JSON text, and return status and stored value."""
    app.include_router(_router)
    async with engine.begin() as connection:
        await connection.run_sync(_TABLE.create)

    async def send(name: str, text: str) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/values", content="{" + f'"{name}": {text}' + "}", headers=headers)
        body = response.json()
        return response.status_code, body.get("value", body.get("errors"))

    return send


ACCEPTED = [
    ("short", '" x "', "x"),
    ("short", f'"{"🚀" * 200}"', "🚀" * 200),
    ("long", '""', ""),
    ("long", f'"{"x" * 10_000}"', "x" * 10_000),
    ("stored", '" \\n"', " \n"),
    ("int32", "2147483647", 2**31 - 1),
    ("int32", "-2147483648", -(2**31)),
    ("int64", "9223372036854775807", 2**63 - 1),
    ("int64", "-9223372036854775808", -(2**63)),
    ("double", "1.7976931348623157e308", 1.7976931348623157e308),
    ("double", "5e-324", 5e-324),
    ("decimal", '"99999999999999.9999"', "99999999999999.9999"),
    ("decimal", "-0.0001", "-0.0001"),
    ("decimal", "1e13", "10000000000000.0000"),
    ("decimal", '"0e-999999999"', "0.0000"),
    ("flag", "false", False),
    ("day", '"0001-01-01"', "0001-01-01"),
    ("day", '"9999-12-31"', "9999-12-31"),
    ("time", '"0001-01-01T00:00:00.000001Z"', "0001-01-01T00:00:00.000001Z"),
    ("time", '"9999-12-31T23:59:59Z"', "9999-12-31T23:59:59Z"),
    ("time", '"2026-01-01T01:00:00+02:00"', "2025-12-31T23:00:00Z"),
    ("uuid", '"00000000-0000-0000-0000-000000000000"', "00000000-0000-0000-0000-000000000000"),
    ("json_", '{"a": [1, 1.5, "\\\\u0000", true, null]}', {"a": [1, 1.5, "\\u0000", True, None]}),
    ("json_", '"x"', "x"),
    ("json_", "[" * 200 + "]" * 200, None),
    ("json_", "null", None),
]


REFUSED = [
    ("short", '"  "'),
    ("short", f'"{"x" * 201}"'),
    *[(name, text) for name in ("short", "long", "stored") for text in ('"\\u0000"', '"\\ud800"', "5")],
    ("long", f'"{"x" * 10_001}"'),
    ("int32", "2147483648"),
    ("int32", "-2147483649"),
    ("int32", "1.5"),
    ("int64", "9223372036854775808"),
    ("int64", "-9223372036854775809"),
    ("int64", "1" * 4000),
    *[("double", text) for text in ("NaN", "Infinity", "1e309", '"-inf"')],
    *[("decimal", text) for text in ("NaN", '"Infinity"', "1e14", '"0.00001"', '"1e999999999"', '"-1e-999999999"')],
    ("flag", '"maybe"'),
    *[("day", text) for text in ('"10000-01-01"', '"2026-02-29"', '"0000-01-01"', "1e300")],
    ("time", '"2026-01-01T00:00:00"'),
    ("time", '"0001-01-01T00:00:00+14:00"'),
    ("time", '"9999-12-31T23:59:59-14:00"'),
    ("time", '"9999-12-31T23:59:59.999999Z"'),
    ("time", '"0001-01-01T00:00:00Z"'),
    ("uuid", '"x"'),
    *[("json_", text) for text in ('"\\u0000"', '{"\\u0000": 1}', '["\\ud800"]', '{"\\udfff": 1}', "[NaN]", "[1e999]")],
    ("json_", "[" * 300 + "]" * 300),
    ("json_", f'"{"é" * 32_768}"'),
]


async def test_what_is_accepted_is_stored(send: Callable[..., Any]) -> None:
    for name, sent, stored in ACCEPTED:
        status, value = await send(name, sent)
        assert (status, stored is None or value) == (200, stored is None or stored), (name, sent)


async def test_what_cannot_be_stored_is_refused(send: Callable[..., Any]) -> None:
    for name, sent in REFUSED:
        status, errors = await send(name, sent)
        assert status == 422, (name, sent)
        assert errors[0]["pointer"].startswith(f"/body/{name}")


async def test_json_that_is_not_nullable_refuses_null() -> None:
    class Needed(BaseModel):
        json_: Json

    with pytest.raises(ValueError, match="must not be null"):
        Needed(json_=None)
    assert Needed(json_={}).json_ == {}
