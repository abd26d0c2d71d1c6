"""Runs statements on the driver's connection, with the SQL that SQLAlchemy compiled on their first run.

For a short statement SQLAlchemy takes longer than the driver and PostgreSQL together. If the statement is built once,
at the top of a module, most of that work is the same each time: compiling it, looking up the conversions for the types
of its values and columns, and naming the columns of its rows. This module keeps the result of the first run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any, Final, NoReturn
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, CursorResult, Engine, Executable, Row
from sqlalchemy.util import await_

__all__ = ["Statements"]

_KEPT: Final = 100
"""Maximum number of forms of one statement. An UPDATE has one for each set of columns, which clients choose."""

_USED: Final = {
    "adapter": ("_transaction", "_start_transaction", "_handle_exception"),
    "connection": ("_handle_dbapi_exception", "_handle_dbapi_exception_noconnection"),
}
"""Private names of SQLAlchemy that running a statement needs. If one is gone, SQLAlchemy runs all statements itself."""

_log = structlog.get_logger(__name__)


class Statements:
    """Statements that have run before, by weak reference: a statement that the program drops is forgotten."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, dict[tuple[Any, ...], KnownStatement | None]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return sum(len(forms) for forms in self._known.values())

    def __contains__(self, statement: object) -> bool:
        return statement in self._known

    def find(self, statement: object, into: type | None, parameters: Mapping[str, Any]) -> "KnownStatement | None":
        """Return the compiled form of a statement; None if SQLAlchemy has to run it.

        In an INSERT or UPDATE without values of its own, the names of the parameters are the columns to write.
        """
        forms = self._known.get(statement)
        return forms.get((into, *parameters)) if forms else None

    def learn(
        self, connection: Connection, statement: Executable, into: type | None, parameters: dict[str, Any]
    ) -> list[Any]:
        """Run a statement with SQLAlchemy, keep its compiled form, and return the rows."""
        result = connection.execute(statement, parameters)
        forms, form = self._known.setdefault(statement, {}), (into, *parameters)
        if len(forms) == _KEPT and form not in forms:
            del forms[next(iter(forms))]
        try:
            forms[form] = _known(connection, result, into, parameters)
        except AttributeError as error:
            forms[form] = None
            _warn_once(str(error))
        rows = result.all()
        return [_maker(into, result.keys())(row) for row in rows] if into else list(rows)


@dataclass(frozen=True)
class KnownStatement:
    """Compiled form of a statement."""

    sql: str
    arguments: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """Name of each value and the function that converts it for the driver, in the driver's order."""
    constants: Mapping[str, Any]
    """Values that are part of the statement."""
    row: Callable[[Sequence[Any]], Any]
    """Function that creates a row from a record of the driver."""

    def fetch(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """Run the statement in the transaction of a connection."""
        adapter: Any = connection.connection.dbapi_connection
        try:
            if adapter._transaction is None:
                await_(adapter._start_transaction())  # like SQLAlchemy, which sends BEGIN before the first statement
            records = self._send(adapter, parameters)
        except BaseException as failure:  # noqa: BLE001  # cancellation drops the connection, too
            _raise(failure, connection, adapter, self.sql)
        return [self.row(record) for record in records]

    def fetch_alone(self, engine: Engine, parameters: Mapping[str, Any]) -> list[Any]:
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
    """Raise the error as SQLAlchemy does: translate it, call the engine's listeners, drop a lost connection."""
    try:
        adapter._handle_exception(failure)
    except BaseException as error:  # noqa: BLE001
        connection._handle_dbapi_exception(error, sql, None, None, None)
    raise failure  # not reached: both calls raise


@cache
def _warn_once(reason: str) -> None:
    _log.warning(f"this version of SQLAlchemy is not supported ({reason}): statements take twice as long")


def _known(
    connection: Connection, result: CursorResult[Any], into: type | None, parameters: Mapping[str, Any]
) -> KnownStatement | None:
    """Return the compiled form of a statement; None if its SQL or its values depend on the call."""
    for owner, names in zip((connection.connection.dbapi_connection, connection), _USED.values(), strict=True):
        for name in names:
            getattr(owner, name)
    context: Any = result.context
    compiled = context.compiled
    if unknown := parameters.keys() - compiled.binds.keys():  # SQLAlchemy would leave these values out
        raise TypeError(f"the statement has no parameter or column {', '.join(sorted(unknown))}")
    # SQLAlchemy writes a list after IN into the SQL at each run, and calls Python defaults at each run.
    if compiled.post_compile_params or compiled.literal_execute_params or compiled.prefetch:
        return None
    (values,) = context.compiled_parameters
    rows: Any = result._metadata
    return KnownStatement(
        sql=context.statement,
        arguments=[(name, compiled._bind_processors.get(name)) for name in compiled.positiontup],
        constants={name: value for name, value in values.items() if name not in parameters},
        row=_maker(into, result.keys(), rows._effective_processors)
        if into
        else partial(Row, rows, rows._effective_processors, rows._key_to_index),
    )


def _maker(into: type[Any], columns: Iterable[str], convert: Sequence[Any] | None = None) -> Callable[[Any], Any]:
    """Return a function that creates an instance of a dataclass from a row, by the names of its columns."""
    names, order = [field.name for field in fields(into)], list(columns)
    if sorted(names) != sorted(order):
        raise TypeError(f"{into.__qualname__} has the fields {', '.join(names)}, and the statement {', '.join(order)}")
    if any(convert or ()):
        converters = list(zip(order, convert or (), strict=True))
        return lambda row: into(
            **{name: to(value) if to else value for (name, to), value in zip(converters, row, strict=True)}
        )
    if names == order:
        return lambda row: into(*row)
    return lambda row: into(**dict(zip(order, row, strict=True)))
