"""Reads and writes {{ cookiecutter.plural }}.

Nothing here commits, so that several calls can share one transaction. Functions that only read take a reader,
functions that write take a session. Statements are built once, at import: building one takes longer than running it.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from app.database.base import Base, uuid7
from app.database.reader import Reader
from app.database.internal.statements import fetch
from app.errors import NotFound
from app.{{ cookiecutter.plural }}.models import {{ cookiecutter.__class }}
from app.{{ cookiecutter.plural }}.schemas import {{ cookiecutter.__class }}Changes

__all__ = [
    "{{ cookiecutter.__class }}NotFound",
    "{{ cookiecutter.__class }}Row",
    "change_{{ cookiecutter.singular }}",
    "create_{{ cookiecutter.singular }}",
    "delete_{{ cookiecutter.singular }}",
    "get_{{ cookiecutter.singular }}",
    "list_{{ cookiecutter.plural }}",
]

{{ cookiecutter.__class }}Row = Row[UUID, str, datetime, datetime]
"""Columns of a row: id, name, created_at, updated_at."""

# Statements name the table, not the class: tracking objects would cost as much as the rest of a write.
_table = Base.metadata.tables[{{ cookiecutter.__class }}.__tablename__]
# The fields of {{ cookiecutter.__class }}Out, in the same order.
_columns = ({{ cookiecutter.__class }}.id, {{ cookiecutter.__class }}.name, {{ cookiecutter.__class }}.created_at, {{ cookiecutter.__class }}.updated_at)
_this = {{ cookiecutter.__class }}.id == bindparam("{{ cookiecutter.singular }}_id")

_ONE = select(*_columns).where(_this)
_FIRST_PAGE = select(*_columns).order_by({{ cookiecutter.__class }}.id).limit(bindparam("limit"))
_NEXT_PAGE = _FIRST_PAGE.where({{ cookiecutter.__class }}.id > bindparam("last_id"))
_CREATE = (
    insert(_table)
    .values({ {{- cookiecutter.__class }}.id: bindparam("new_id"), {{ cookiecutter.__class }}.name: bindparam("new_name")})
    .returning(*_columns)
)
_DELETE = delete(_table).where(_this).returning({{ cookiecutter.__class }}.id)


@cache
def _change(*fields: str) -> ReturningUpdate[UUID, str, datetime, datetime]:
    new: dict[Any, Any] = {getattr({{ cookiecutter.__class }}, field): bindparam(f"new_{field}") for field in fields}
    return update(_table).where(_this).values(new).returning(*_columns)


class {{ cookiecutter.__class }}NotFound(NotFound):
    """There is no {{ cookiecutter.__words }} with this id."""

    def __init__(self, {{ cookiecutter.singular }}_id: UUID) -> None:
        super().__init__(f"There is no {{ cookiecutter.__words }} { {{- cookiecutter.singular }}_id}.")


async def create_{{ cookiecutter.singular }}(session: AsyncSession, *, name: str) -> {{ cookiecutter.__class }}Row:
    """Add {{ cookiecutter.__one }}."""
    (row,) = await fetch(session, _CREATE, new_id=uuid7(), new_name=name)
    return row


async def get_{{ cookiecutter.singular }}(reader: Reader, {{ cookiecutter.singular }}_id: UUID) -> {{ cookiecutter.__class }}Row:
    """Return {{ cookiecutter.__one }}.

    Raises
    ------
    {{ cookiecutter.__class }}NotFound
        If there is none with this id.
    """
    row = await reader.one_or_none(_ONE, {{ cookiecutter.singular }}_id={{ cookiecutter.singular }}_id)
    if row is None:
        raise {{ cookiecutter.__class }}NotFound({{ cookiecutter.singular }}_id)
    return row


async def list_{{ cookiecutter.plural }}(reader: Reader, *, limit: int, after: UUID | None = None) -> Sequence[{{ cookiecutter.__class }}Row]:
    """Return up to ``limit`` rows, oldest first, starting after the one with a given id."""
    if after is None:
        return await reader.all(_FIRST_PAGE, limit=limit)
    return await reader.all(_NEXT_PAGE, limit=limit, last_id=after)


async def change_{{ cookiecutter.singular }}(session: AsyncSession, {{ cookiecutter.singular }}_id: UUID, changes: {{ cookiecutter.__class }}Changes) -> {{ cookiecutter.__class }}Row:
    """Change some fields of {{ cookiecutter.__one }}.

    Raises
    ------
    {{ cookiecutter.__class }}NotFound
        If there is none with this id.
    """
    new = {f"new_{field}": value for field, value in changes.items()}
    rows = await fetch(session, _change(*changes) if changes else _ONE, {{ cookiecutter.singular }}_id={{ cookiecutter.singular }}_id, **new)
    if not rows:
        raise {{ cookiecutter.__class }}NotFound({{ cookiecutter.singular }}_id)
    return rows[0]


async def delete_{{ cookiecutter.singular }}(session: AsyncSession, {{ cookiecutter.singular }}_id: UUID) -> None:
    """Delete {{ cookiecutter.__one }}.

    Raises
    ------
    {{ cookiecutter.__class }}NotFound
        If there is none with this id.
    """
    if not await fetch(session, _DELETE, {{ cookiecutter.singular }}_id={{ cookiecutter.singular }}_id):
        raise {{ cookiecutter.__class }}NotFound({{ cookiecutter.singular }}_id)
