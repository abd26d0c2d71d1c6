"""Statements whose columns are the fields of schema classes: `columns` compares both, `fetch` runs a statement.

A new field is declared in the model and in the schema classes that carry it. Statements do not name it.
"""

from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, TypeVarTuple, Union, get_args, get_origin, get_type_hints, overload
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Column, ColumnElement, Engine, Label, Row, Table, Text, any_, bindparam, cast, or_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.selectable import TypedReturnsRows

from app.database.internal.compiled import Statements

__all__ = ["SchemaMismatchError", "columns", "fetch", "is_version"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_COMPARED = (bool, bytes, date, datetime, Decimal, dict, float, int, list, str, time, timedelta, UUID)
"""Types of values that are compared. Others, such as pydantic's own, say nothing about the column."""


class SchemaMismatchError(TypeError):
    """A schema class has a field that does not fit the table. One line for each, with the names of both."""


def columns(model: type[DeclarativeBase], response: type, /, *bodies: type) -> tuple[Column[Any] | Label[Any], ...]:
    """Return the columns that the fields of a response class name, and compare the classes with the table.

    The response is a dataclass for the rows of `fetch` and `app.database.reader.Reader`. The bodies are classes of
    request bodies, whose fields are written to the table. Call this at the top of a module: a field that does not fit
    raises SchemaMismatchError before the first request. A field fits if the table has a column with its name and type,
    and both or neither allow null. A body may refuse null where the column allows it.
    """
    table = model.__table__
    assert isinstance(table, Table)
    lines = [
        f"{kind.__name__}.{name}: {problem}"
        for kind in (response, *bodies)
        for name, hint in _fields(kind).items()
        if (problem := _mismatch(table, name, hint, is_body=kind in bodies))
    ]
    if lines:
        raise SchemaMismatchError("\n".join(lines))
    found = (table.columns[name] for name in _fields(response))
    # While a column is renamed, its name in the database is not the field's: see `key` of `mapped_column`.
    return tuple(column if column.name == column.key else column.label(column.key) for column in found)


def is_version(xmin: ColumnElement[int] | Any) -> ColumnElement[bool]:
    """Return the condition that a row has one of the versions in the parameter ``if_match``, or that this is None.

    In an UPDATE or DELETE it also holds against concurrent changes: PostgreSQL checks it again after it has waited for
    the row (READ COMMITTED), or fails with 40001 (from REPEATABLE READ on).
    """
    versions = bindparam("if_match", type_=ARRAY(Text))
    return or_(versions.is_(None), cast(xmin, Text) == any_(versions))


def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if not name.startswith("_") and get_origin(hint) is not ClassVar}


def _mismatch(table: Table, name: str, hint: Any, *, is_body: bool) -> str | None:
    column = table.columns.get(name)
    if column is None:
        return f"the table {table.name} has no such column; its columns are {', '.join(table.columns.keys())}"
    where, allowed = f"the column {table.name}.{name}", _types(hint)
    if Any in allowed:
        return None
    if NoneType in allowed and not column.nullable:
        return f"{where} is NOT NULL, and the field allows null"
    if column.nullable and NoneType not in allowed and not is_body:
        return f"{where} is nullable, and the field does not allow null"
    with suppress(NotImplementedError):  # a type of one's own has no python_type
        stored = column.type.python_type
        other = [kind for kind in allowed if kind in _COMPARED and kind is not stored]
        if other and stored in _COMPARED and stored is not dict:  # JSON has dict, and may be any value
            return f"{where} has values of type {stored.__name__}, and the field {other[0].__name__}"
    return None


def _types(hint: Any) -> set[Any]:
    """Return the classes of the values that a type hint allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return {kind for argument in arguments for kind in _types(argument)}
    if origin is Literal:
        return {type(value) for value in arguments}
    return {origin or hint}


@overload
async def fetch(session: AsyncSession, statement: TypedReturnsRows[*Ts], /, **parameters: Any) -> list[Row[*Ts]]: ...


@overload
async def fetch(
    session: AsyncSession, statement: TypedReturnsRows[*Ts], into: type[T], /, **parameters: Any
) -> list[T]: ...


async def fetch(
    session: AsyncSession, statement: TypedReturnsRows[*Ts], into: type | None = None, /, **parameters: Any
) -> list[Any]:
    """Run a statement in the transaction of a session and return its rows, faster than ``session.execute``.

    Errors and transaction are those of ``session.execute``. Pending changes of the session are flushed first, so that
    the statement sees them. Objects that the session has loaded do not see what the statement changes.

    Parameters
    ----------
    statement
        Select, or an INSERT, UPDATE or DELETE with RETURNING. From the second call on it runs on the driver, if it is
        the same object each time and Python computes none of its values (a column's ``default=``): pass such a value
        as a parameter.
    into
        Dataclass to return instead of `Row`. If its fields are not the columns of the statement, in any order, this
        raises TypeError.
    parameters
        Values of its `bindparam`, and of the columns that an INSERT or UPDATE without ``values()`` writes. A parameter
        that is neither raises TypeError.
    """
    return await session.run_sync(_fetch, statement, into, parameters)


_of_engine: WeakKeyDictionary[Engine, Statements] = WeakKeyDictionary()


def _fetch(session: Session, statement: Any, into: type | None, parameters: dict[str, Any]) -> list[Any]:
    session.flush()
    connection = session.connection()
    engine = connection.engine
    schema = "schema_translate_map"  # the compiled SQL contains the engine's
    if connection.get_execution_options().get(schema) != engine.get_execution_options().get(schema):
        return Statements().learn(connection, statement, into, parameters)
    statements = _of_engine.get(engine)
    if statements is None:
        statements = _of_engine[engine] = Statements()
    if known := statements.find(statement, into, parameters):
        return known.fetch(connection, parameters)
    return statements.learn(connection, statement, into, parameters)
