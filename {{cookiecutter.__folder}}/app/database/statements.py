"""Runs statements on the driver's connection, in the form that SQLAlchemy gave them when they ran for the first time.

SQLAlchemy takes longer over a short statement than the driver and PostgreSQL together. For a statement that is built
once, at the top of a module, what it does is the same each time: compile it, find the conversions that the types of
its values and columns need, and name the columns of its rows. Here that is done once.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVarTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, CursorResult, Engine, Row
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TypedReturnsRows
from sqlalchemy.util import await_

__all__ = ["Statements", "fetch"]

Ts = TypeVarTuple("Ts")


async def fetch(session: AsyncSession, statement: TypedReturnsRows[*Ts], /, **parameters: Any) -> Sequence[Row[*Ts]]:
    """Run a statement in the transaction of a session and return its rows, faster than ``session.execute``.

    Rows, errors and transaction are those of ``session.execute``. What is pending in the session is flushed first, so
    the statement sees it; objects that the session has loaded are not told of what the statement changes.

    Parameters
    ----------
    session
        Session to run it in.
    statement
        A select, or an INSERT, UPDATE or DELETE with RETURNING. It runs on the driver from its second call on, if it
        is the same object at each call and no value of it is made by Python (a column's ``default=``): give such a
        value as a parameter.
    parameters
        Values of its `bindparam`.
    """
    return await session.run_sync(_fetch, statement, parameters)


_of_engine: WeakKeyDictionary[Engine, "Statements"] = WeakKeyDictionary()


def _fetch(session: Session, statement: TypedReturnsRows[*Ts], parameters: dict[str, Any]) -> Sequence[Row[*Ts]]:
    session.flush()
    connection = session.connection()
    engine = connection.engine
    if _schemas(connection) != _schemas(engine):  # the SQL that is kept names the engine's
        return connection.execute(statement, parameters).all()
    statements = _of_engine.get(engine)
    if statements is None:
        statements = _of_engine[engine] = Statements()
    known = statements.find(statement, parameters)
    return known.fetch(connection, parameters) if known else statements.learn(connection, statement, parameters)


def _schemas(source: Connection | Engine) -> Any:
    return source.get_execution_options().get("schema_translate_map")


class Statements:
    """Statements that have run before. None is kept alive here, so there are never more than the program holds."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, KnownStatement | None] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, statement: object) -> bool:
        return statement in self._known

    def find(self, statement: object, parameters: Mapping[str, Any]) -> "KnownStatement | None":
        """Return what is known of a statement; None if SQLAlchemy has to run it, the first time or each time."""
        known = self._known.get(statement)
        return known if known is not None and known.parameters == parameters.keys() else None

    def learn(
        self, connection: Connection, statement: TypedReturnsRows[*Ts], parameters: dict[str, Any]
    ) -> Sequence[Row[*Ts]]:
        """Have SQLAlchemy run a statement, keep what can be kept for the next time, and return the rows."""
        result = connection.execute(statement, parameters)
        if statement not in self._known:
            self._known[statement] = _known(result, parameters)
        return result.all()


@dataclass(frozen=True)
class KnownStatement:
    """What SQLAlchemy made of a statement."""

    sql: str
    arguments: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """In the driver's order, the name of each value and the function that converts it for the driver."""
    constants: Mapping[str, Any]
    """Values that are part of the statement."""
    parameters: Set[str]
    """Names of the values that are given at each call."""
    row: Callable[[Sequence[Any]], Row[*tuple[Any, ...]]]
    """Makes a row from a record of the driver."""

    def fetch(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row[*tuple[Any, ...]]]:
        """Run it on the driver's connection: in the connection's transaction, or by itself if there is none."""
        values = {**self.constants, **parameters}
        pooled: Any = connection.connection
        adapter = pooled.dbapi_connection  # what SQLAlchemy wraps around the driver's connection
        try:
            arguments = [convert(values[name]) if convert else values[name] for name, convert in self.arguments]
            if connection.in_transaction() and adapter._transaction is None:
                await_(adapter._start_transaction())  # SQLAlchemy sends BEGIN with its first statement, too
            records = await_(adapter.driver_connection.fetch(self.sql, *arguments))
        except BaseException as failure:  # noqa: BLE001  # cancellation drops the connection, too
            # SQLAlchemy's own way to name the error, to call the engine's listeners, and to drop a lost connection:
            # both of these raise.
            try:
                adapter._handle_exception(failure)
            except BaseException as error:  # noqa: BLE001
                connection._handle_dbapi_exception(error, self.sql, None, None, None)
        return [self.row(record) for record in records]


def _known(result: CursorResult[*Ts], parameters: Mapping[str, Any]) -> KnownStatement | None:
    """Read what SQLAlchemy made of a statement; None for one that it has to look at each time."""
    context: Any = result.context
    compiled = context.compiled
    # A list after IN is written into the SQL at each run, and a value that Python makes is another one each time.
    if compiled.post_compile_params or compiled.literal_execute_params or compiled.prefetch:
        return None
    (values,) = context.compiled_parameters
    rows = result._metadata
    return KnownStatement(
        sql=context.statement,
        arguments=[(name, compiled._bind_processors.get(name)) for name in compiled.positiontup],
        constants={name: value for name, value in values.items() if name not in parameters},
        parameters=frozenset(parameters),
        row=partial(Row, rows, rows._effective_processors, rows._key_to_index),
    )
