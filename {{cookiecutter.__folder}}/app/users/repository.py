"""Reads and writes users.

Nothing here commits, so that several calls can share one transaction. Functions that only read take a reader,
functions that write take a session. Statements are built once, at import: building one takes longer than running it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from app.database.base import Base, uuid7
from app.database.errors import violates
from app.database.internal.statements import fetch
from app.database.reader import Reader
from app.errors import Conflict, NotFound
from app.users.models import EMAIL_UNIQUE, User
from app.users.schemas import UserChanges

__all__ = [
    "EmailTaken",
    "UserNotFound",
    "UserRow",
    "change_user",
    "count_purgeable",
    "create_user",
    "delete_user",
    "get_user",
    "list_users",
    "purge_users",
]

UserRow = Row[UUID, str, str, datetime, datetime]
"""Columns of a row: id, email, name, created_at, updated_at."""

# Statements name the table, not the class: tracking objects would cost as much as the rest of a write.
_table = Base.metadata.tables[User.__tablename__]
# The fields of UserOut, in the same order.
_columns = (User.id, User.email, User.name, User.created_at, User.updated_at)
_active = User.deleted_at.is_(None)
_this = (User.id == bindparam("user_id"), _active)

_ONE = select(*_columns).where(*_this)
_FIRST_PAGE = select(*_columns).where(_active).order_by(User.id).limit(bindparam("limit"))
_NEXT_PAGE = _FIRST_PAGE.where(User.id > bindparam("last_id"))
_CREATE = (
    insert(_table)
    .values({User.id: bindparam("new_id"), User.email: bindparam("new_email"), User.name: bindparam("new_name")})
    .returning(*_columns)
)
_DELETE = update(_table).where(*_this).values({User.deleted_at: func.now()}).returning(User.id)


@cache
def _change(*fields: str) -> ReturningUpdate[UUID, str, str, datetime, datetime]:
    new: dict[Any, Any] = {getattr(User, field): bindparam(f"new_{field}") for field in fields}
    return update(_table).where(*_this).values(new).returning(*_columns)


class EmailTaken(Conflict):
    """Another user has this e-mail, in any letter case."""

    def __init__(self) -> None:
        super().__init__("Another user has this e-mail.")


class UserNotFound(NotFound):
    """There is no user with this id, or it was deleted."""

    def __init__(self, user_id: UUID) -> None:
        super().__init__(f"There is no user {user_id}.")


def _translated(error: IntegrityError) -> Exception:
    return EmailTaken() if violates(error, EMAIL_UNIQUE) else error


async def create_user(session: AsyncSession, *, email: str, name: str) -> UserRow:
    """Add a user.

    Raises
    ------
    EmailTaken
        If another user has the e-mail.
    """
    try:
        (row,) = await fetch(session, _CREATE, new_id=uuid7(), new_email=email, new_name=name)
    except IntegrityError as error:
        raise _translated(error) from error
    return row


async def get_user(reader: Reader, user_id: UUID) -> UserRow:
    """Return a user.

    Raises
    ------
    UserNotFound
        If there is none with this id.
    """
    row = await reader.one_or_none(_ONE, user_id=user_id)
    if row is None:
        raise UserNotFound(user_id)
    return row


async def list_users(reader: Reader, *, limit: int, after: UUID | None = None) -> Sequence[UserRow]:
    """Return up to ``limit`` rows, oldest first, starting after the one with a given id."""
    if after is None:
        return await reader.all(_FIRST_PAGE, limit=limit)
    return await reader.all(_NEXT_PAGE, limit=limit, last_id=after)


async def change_user(session: AsyncSession, user_id: UUID, changes: UserChanges) -> UserRow:
    """Change some fields of a user.

    Raises
    ------
    UserNotFound
        If there is none with this id.
    EmailTaken
        If another user has the e-mail.
    """
    new = {f"new_{field}": value for field, value in changes.items()}
    try:
        rows = await fetch(session, _change(*changes) if changes else _ONE, user_id=user_id, **new)
    except IntegrityError as error:
        raise _translated(error) from error
    if not rows:
        raise UserNotFound(user_id)
    return rows[0]


async def delete_user(session: AsyncSession, user_id: UUID) -> None:
    """Mark a user as deleted: it is no longer found, and its e-mail can be used again.

    Raises
    ------
    UserNotFound
        If there is none with this id.
    """
    if not await fetch(session, _DELETE, user_id=user_id):
        raise UserNotFound(user_id)


async def count_purgeable(reader: Reader, *, deleted_for: timedelta) -> int:
    """Count the users that were deleted more than ``deleted_for`` ago."""
    statement = select(func.count()).select_from(User).where(User.deleted_at < func.now() - deleted_for)
    return await reader.scalar(statement) or 0


async def purge_users(session: AsyncSession, *, deleted_for: timedelta, limit: int) -> int:
    """Purge up to ``limit`` users that were deleted more than ``deleted_for`` ago; return how many.

    Rows that another purge has locked are skipped, so that two concurrent purges share the work and neither waits.
    """
    batch = (
        select(User.id)
        .where(User.deleted_at < func.now() - deleted_for)
        .order_by(User.deleted_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    purged = await session.scalars(delete(User).where(User.id.in_(batch)).returning(User.id))
    return len(purged.all())
