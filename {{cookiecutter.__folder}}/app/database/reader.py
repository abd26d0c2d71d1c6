"""Reads that need no transaction: one round trip each, at the speed of the driver."""

from collections.abc import Sequence
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row, Select
from sqlalchemy.exc import MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import ForUpdateArg, TextualSelect
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.util import greenlet_spawn

from app.database.internal.compiled import Statements

__all__ = ["Reader", "ReaderCannotWriteError"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ReaderCannotWriteError(TypeError):
    """A reader got something other than a plain select."""


class Reader:
    """Runs selects, each on a connection that it holds for that statement only, in PostgreSQL's autocommit mode.

    A session costs more: BEGIN and COMMIT are a round trip each, and its objects track changes. A reader returns plain
    rows. Each statement sees the database as it is at that moment: where two statements must see the same snapshot, or
    rows are locked in order to write them, use a session.

    A statement that is built once, at the top of a module, with `bindparam` for the values that vary, is compiled once
    and then runs on the driver's connection. One that is built at each call runs through SQLAlchemy, which takes about
    twice as long, with the same rows and errors. SQLAlchemy's engine events see only the second kind.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine
        self._autocommit = engine.sync_engine.execution_options(isolation_level="AUTOCOMMIT")
        self._statements = Statements()

    @overload
    async def all(self, statement: Select[*Ts], /, **parameters: Any) -> Sequence[Row[*Ts]]: ...

    @overload
    async def all(self, statement: Select[*Ts], into: type[T], /, **parameters: Any) -> list[T]: ...

    async def all(self, statement: Select[*Ts], into: type | None = None, /, **parameters: Any) -> Sequence[Any]:
        """Return all rows of a select, with the values of its `bindparam` as parameters.

        `into` is a dataclass to return instead of `Row`. Its fields are the columns of the select, in any order.

        Raises
        ------
        ReaderCannotWriteError
            If the statement is not a select, has an INSERT, UPDATE, DELETE or textual statement in it, or locks rows.
            Functions that write, and fragments of SQL inside the select, are not detected.
        DBAPIError, DatabaseUnavailable
            If the statement fails; see `app.database.errors`.
        TypeError
            If the fields of the dataclass are not the columns of the select, or a parameter is not one of the select.
        """
        return await self.rows(statement, into, parameters)

    @overload
    async def one_or_none(self, statement: Select[*Ts], /, **parameters: Any) -> Row[*Ts] | None: ...

    @overload
    async def one_or_none(self, statement: Select[*Ts], into: type[T], /, **parameters: Any) -> T | None: ...

    async def one_or_none(self, statement: Select[*Ts], into: type | None = None, /, **parameters: Any) -> Any:
        """Return the only row, or None if there is none. Several raise MultipleResultsFound. See also `all`."""
        rows = await self.rows(statement, into, parameters, single=True)
        if len(rows) > 1:
            raise MultipleResultsFound("Multiple rows were found when one or none was required")
        return rows[0] if rows else None

    async def scalar(self, statement: Select[T], /, **parameters: Any) -> T | None:
        """Return the first column of the first row, or None if there is none. See `all`."""
        rows = await self.rows(statement, None, parameters, single=True)
        return rows[0][0] if rows else None

    async def rows(
        self, statement: Select[*Ts], into: type | None, parameters: dict[str, Any], *, single: bool = False
    ) -> Sequence[Any]:
        """Return all rows. With `single` at most one is expected, which a server that lags behind may not have."""
        return await greenlet_spawn(self._fetch, statement, into, parameters)

    def _fetch(self, statement: Select[*Ts], into: type | None, parameters: dict[str, Any]) -> Sequence[Any]:
        if known := self._statements.find(statement, into, parameters):
            return known.fetch_alone(self._engine, parameters)
        if statement not in self._statements:
            _refuse_writes(statement)
        with self._autocommit.connect() as connection:
            return self._statements.learn(connection, statement, into, parameters)


def _refuse_writes(statement: Select[*tuple[Any, ...]]) -> None:
    plain = isinstance(statement, Select)
    if not plain or any(isinstance(part, UpdateBase | ForUpdateArg | TextualSelect) for part in iterate(statement)):
        raise ReaderCannotWriteError(
            f"a reader takes plain selects only, not {type(statement).__name__}: to write, or to lock rows, ask "
            "for a session (in a handler, `session: DbSession`)"
        )
