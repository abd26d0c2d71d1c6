"""Reads that need no transaction: a statement is one round trip, and nothing is left to commit."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import CursorResult, Row, Select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import ForUpdateArg, TextualSelect
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.util import greenlet_spawn

__all__ = ["Reader", "ReaderCannotWriteError"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ReaderCannotWriteError(TypeError):
    """A reader was given something else than a plain select."""


class Reader:
    """Answers selects, each on a connection that it has only for the statement, in PostgreSQL's own autocommit.

    A session pays for more: BEGIN and COMMIT, each a round trip, and objects that know what was changed. A reader gives
    plain rows. Each statement sees the database as it is at that moment: where two must see the same, or rows are
    locked to be written, ask for a session.

    A statement that is made once, at the top of a module, with `bindparam` for what varies, costs half of one that is
    made anew at each call.

    Parameters
    ----------
    engine
        Whose pool is used. This is the place for a read replica: give the reader an engine of its own.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine.execution_options(isolation_level="AUTOCOMMIT")

    async def all(self, statement: Select[*Ts], **parameters: Any) -> Sequence[Row[*Ts]]:
        """Return all rows.

        Parameters
        ----------
        statement
            A select.
        parameters
            Values of its `bindparam`.

        Raises
        ------
        ReaderCannotWriteError
            Where it is no select, has an INSERT, UPDATE or DELETE or a statement in SQL inside of it, or locks rows.
            What a function of the database does is not seen, nor what a part of the select does that is written in SQL.
        """
        return await self._ask(statement, parameters, CursorResult.all)

    async def one_or_none(self, statement: Select[*Ts], **parameters: Any) -> Row[*Ts] | None:
        """Return the only row, None where there is none. Else as `all`."""
        return await self._ask(statement, parameters, CursorResult.one_or_none)

    async def scalar(self, statement: Select[T], **parameters: Any) -> T | None:
        """Return the first column of the first row, None where there is none. Else as `all`."""
        return await self._ask(statement, parameters, CursorResult.scalar)

    async def _ask(
        self, statement: Select[*Ts], parameters: dict[str, Any], fetch: Callable[[CursorResult[*Ts]], T]
    ) -> T:
        _refuse_writes(statement)

        def ask() -> T:
            with self._engine.connect() as connection:
                return fetch(connection.execute(statement, parameters))

        # What SQLAlchemy's own AsyncConnection is made of, entered once in place of three times: a quarter less a read.
        return await greenlet_spawn(ask)


@lru_cache  # to walk through a statement takes longer than to find it again
def _refuse_writes(statement: Select[*tuple[Any, ...]]) -> None:
    plain = isinstance(statement, Select)
    if not plain or any(isinstance(part, UpdateBase | ForUpdateArg | TextualSelect) for part in iterate(statement)):
        raise ReaderCannotWriteError(
            f"a reader takes plain selects only, not {type(statement).__name__}: ask for a session (in a handler, "
            "`session: DbSession`) to write, or to lock rows"
        )
