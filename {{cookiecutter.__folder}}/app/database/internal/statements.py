"""Runs statements on the driver's connection, with the SQL that SQLAlchemy compiled on their first run.

For a short statement SQLAlchemy takes longer than the driver and PostgreSQL together. If the statement is built once,
at the top of a module, most of that work is the same each time: compiling it, looking up the conversions for the types
of its values and columns, and naming the columns of its rows. This module keeps the result of the first run.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVarTuple
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

    Rows, errors and transaction are those of ``session.execute``. Pending changes of the session are flushed first, so
    that the statement sees them. Objects that the session has loaded do not see what the statement changes.

    Parameters
    ----------
    session
        Session to run it in.
    statement
        Select, or an INSERT, UPDATE or DELETE with RETURNING. From the second call on it runs on the driver, if it is
        the same object each time and Python computes none of its values (a column's ``default=``): pass such a value
        as a parameter.
    parameters
        Values of its `bindparam`.
    """
    return await session.run_sync(_fetch, statement, parameters)


_of_engine: WeakKeyDictionary[Engine, "Statements"] = WeakKeyDictionary()


def _fetch(session: Session, statement: TypedReturnsRows[*Ts], parameters: dict[str, Any]) -> Sequence[Row[*Ts]]:
    session.flush()
    connection = session.connection()
    engine = connection.engine
    if _schemas(connection) != _schemas(engine):  # the compiled SQL contains the engine's schema
        return connection.execute(statement, parameters).all()
    statements = _of_engine.get(engine)
    if statements is None:
        statements = _of_engine[engine] = Statements()
    known = statements.find(statement, parameters)
    return known.fetch(connection, parameters) if known else statements.learn(connection, statement, parameters)


def _schemas(source: Connection | Engine) -> Any:
    return source.get_execution_options().get("schema_translate_map")


class Statements:
    """Statements that have run before, by weak reference: a statement that the program drops is forgotten."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, KnownStatement | None] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, statement: object) -> bool:
        return statement in self._known

    def find(self, statement: object, parameters: Mapping[str, Any]) -> "KnownStatement | None":
        """Return the compiled form of a statement; None if SQLAlchemy has to run it."""
        known = self._known.get(statement)
        return known if known is not None and known.parameters == parameters.keys() else None

    def learn(
        self, connection: Connection, statement: TypedReturnsRows[*Ts], parameters: dict[str, Any]
    ) -> Sequence[Row[*Ts]]:
        """Run a statement with SQLAlchemy, keep its compiled form, and return the rows."""
        result = connection.execute(statement, parameters)
        self._known[statement] = _known(result, parameters)
        return result.all()


@dataclass(frozen=True)
class KnownStatement:
    """Compiled form of a statement."""

    sql: str
    arguments: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """Name of each value and the function that converts it for the driver, in the driver's order."""
    constants: Mapping[str, Any]
    """Values that are part of the statement."""
    parameters: Set[str]
    """Names of the values that are passed at each call."""
    row: Callable[[Sequence[Any]], Row[*tuple[Any, ...]]]
    """Function that creates a row from a record of the driver."""

    def fetch(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row[*tuple[Any, ...]]]:
        """Run the statement in the transaction of a connection."""
        pooled: Any = connection.connection
        adapter = pooled.dbapi_connection
        try:
            if adapter._transaction is None:
                await_(adapter._start_transaction())  # like SQLAlchemy, which sends BEGIN before the first statement
            records = self._send(adapter, parameters)
        except BaseException as failure:  # noqa: BLE001  # cancellation drops the connection, too
            _raise(failure, connection, adapter, self.sql)
        return [self.row(record) for record in records]

    def fetch_alone(self, engine: Engine, parameters: Mapping[str, Any]) -> list[Row[*tuple[Any, ...]]]:
        """Run the statement without a transaction, on a connection that is held for this statement only."""
        try:
            pooled: Any = engine.raw_connection()  # a Connection would make a read request 2 % slower
        except engine.dialect.loaded_dbapi.Error as error:
            Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
        adapter = pooled.dbapi_connection
        try:
            records = self._send(adapter, parameters)
        except BaseException as failure:  # noqa: BLE001
            _raise(failure, Connection(engine, pooled), adapter, self.sql)
        finally:
            pooled.close()
        return [self.row(record) for record in records]

    def _send(self, adapter: Any, parameters: Mapping[str, Any]) -> Sequence[Any]:
        values = {**self.constants, **parameters}
        arguments = [convert(values[name]) if convert else values[name] for name, convert in self.arguments]
        records: Sequence[Any] = await_(adapter.driver_connection.fetch(self.sql, *arguments))
        return records


def _raise(failure: BaseException, connection: Connection, adapter: Any, sql: str) -> NoReturn:
    """Raise the error as SQLAlchemy does: translate it, call the engine's listeners, drop a lost connection.

    Parameters
    ----------
    failure
        Error of the driver, or a cancellation.
    connection
        Connection on which the statement ran.
    adapter
        SQLAlchemy's wrapper around the driver's connection.
    sql
        Statement that failed.
    """
    try:
        adapter._handle_exception(failure)
    except BaseException as error:  # noqa: BLE001
        connection._handle_dbapi_exception(error, sql, None, None, None)
    raise failure  # not reached: both calls raise


def _known(result: CursorResult[*Ts], parameters: Mapping[str, Any]) -> KnownStatement | None:
    """Return the compiled form of a statement; None if its SQL or its values depend on the call."""
    context: Any = result.context
    compiled = context.compiled
    # SQLAlchemy writes a list after IN into the SQL at each run, and calls Python defaults at each run.
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
