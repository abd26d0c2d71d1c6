"""Lists with filters and a chosen order, in pages that have no gap and no duplicate.

A page starts after the last row of the previous page (keyset pagination): it costs the same at any depth, and rows that
are inserted or deleted meanwhile move no other row. Ties are broken by id. Nulls come last, in both directions.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Numeric,
    Select,
    Text,
    and_,
    bindparam,
    func,
    tuple_,
)
from sqlalchemy.sql.visitors import iterate

from app.database.reader import Reader
from app.database.statements import SchemaMismatchError

__all__ = ["Listing", "starts_with"]

T = TypeVar("T")

_MAX_STATEMENTS: Final = 64
"""Of a list. With n filters there are 2**n sets of them, and clients choose: rare ones are built again each time."""


def starts_with(text: Any, name: str) -> ColumnElement[bool]:
    """Return the condition that a text begins with the parameter ``name``, in any letter case.

    Its index has the expression ``func.lower(text).label("prefix")`` and ``postgresql_ops={"prefix":
    "text_pattern_ops"}``. LIKE could not use it: PostgreSQL plans a prepared statement before it knows the prefix.
    """
    lower, prefix = func.lower(text), bindparam(name, type_=Text())
    end = func.lower(prefix.concat("\U0010ffff"))  # greater than any text that begins with the prefix
    return and_(lower.bool_op("~>=~")(func.lower(prefix)), lower.bool_op("~<~")(end))


class Listing(Generic[T]):
    """A list whose filters and order a client chooses.

    Parameters
    ----------
    statement
        Select of the columns, ``id`` among them, with the conditions that always hold.
    into
        Dataclass of the rows.
    query
        Class of the query parameters; see `app.list_query.ListQuery`.
    filters
        Condition of each filter, with a `bindparam` of the filter's name.

    Raises
    ------
    SchemaMismatchError
        If the class of the query parameters has other filters.
    """

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]],
        into: type[T],
        query: type[BaseModel],
        filters: Mapping[str, ColumnElement[bool]],
    ) -> None:
        named = {
            name: {part.key for part in iterate(it) if isinstance(part, BindParameter)} for name, it in filters.items()
        }
        lines = [
            *(f"{query.__name__}.{name}: the list has no such filter" for name in _filters_of(query) - filters.keys()),
            *(f"{name}: {query.__name__} has no such filter" for name in filters.keys() - _filters_of(query)),
            *(f"{name}: the condition has no bindparam of this name" for name in named if name not in named[name]),
        ]
        if lines:
            raise SchemaMismatchError("\n".join(lines))
        self._base = statement
        self._columns = {it.key: it for it in statement.selected_columns if isinstance(it, Column)}
        self._into = into
        self._filters = filters
        self._statement = lru_cache(maxsize=_MAX_STATEMENTS)(self._build)

    async def rows(
        self,
        reader: Reader,
        *,
        limit: int,
        sort: str | None,
        after: tuple[Any, UUID] | None,
        filters: Mapping[str, Any],
    ) -> list[T]:
        """Return up to ``limit`` rows.

        Parameters
        ----------
        reader
            Reader to run the select with.
        limit
            Maximum number of rows.
        sort
            Column to sort by, with a ``-`` in front for the greatest first; None: the id.
        after
            Value in that column and id of the last row of the previous page; None: the first page.
        filters
            Value of each filter that applies.
        """
        names, rows = frozenset(filters), list[T]()
        column = self._order(sort)[0]
        value, last_id = after or (None, None)
        in_nulls = column is not None and after is not None and value is None
        if not in_nulls:
            position = {} if after is None else {"last_id": last_id}
            if position and column is not None:
                position["last_value"] = value
            statement = self._statement(names, sort, continued=bool(position), nulls=False)
            rows = await reader.all(statement, self._into, page_size=limit, **position, **filters)
        if column is not None and column.nullable and len(rows) < limit:
            position = {"last_id": last_id} if in_nulls else {}
            statement = self._statement(names, sort, continued=in_nulls, nulls=True)
            rows += await reader.all(statement, self._into, page_size=limit - len(rows), **position, **filters)
        return rows

    def _order(self, sort: str | None) -> tuple[Column[Any] | None, bool]:
        """Return the column to sort by, None for the id alone, and whether the greatest comes first."""
        name = (sort or "id").removeprefix("-")
        return None if name == "id" else self._columns[name], (sort or "").startswith("-")

    def _build(
        self, names: frozenset[str], sort: str | None, *, continued: bool, nulls: bool
    ) -> Select[*tuple[Any, ...]]:
        column, descending = self._order(sort)
        statement = self._base.where(*(self._filters[name] for name in sorted(names)))
        keys: list[Column[Any]] = [self._columns["id"]]
        last = [bindparam("last_id", type_=keys[0].type)]
        if column is not None and nulls:
            statement = statement.where(column.is_(None))
        elif column is not None:
            keys.insert(0, column)
            last.insert(0, bindparam("last_value", type_=_widest(column)))
            if column.nullable:
                statement = statement.where(column.is_not(None))
        if continued:
            here, there = tuple_(*keys), tuple_(*last)
            statement = statement.where(here < there if descending else here > there)
        return statement.order_by(*(key.desc() if descending else key for key in keys)).limit(bindparam("page_size"))


def _filters_of(query: type[BaseModel]) -> set[str]:
    return query.model_fields.keys() - {"sort", "limit", "cursor"}


def _widest(column: Column[Any]) -> Any:
    # A client can change the value in a cursor: what the column cannot store must still be comparable with it.
    return {int: BigInteger(), Decimal: Numeric()}.get(column.type.python_type, column.type)
