"""Reads and writes users.

Nothing here commits, so that several calls can share one transaction. Functions that only read take a reader,
functions that write take a session. Statements are built once, at import: building one takes longer than running it.
Their columns are the fields of the schema classes.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.base import uuid7
from app.database.errors import violates
from app.database.reader import Reader
from app.database.statements import columns, fetch, is_version
from app.errors import Conflict, NotFound, PreconditionFailed
from app.users.models import EMAIL_UNIQUE, User
from app.users.schemas import NewUser, UserChanges, UserOut

__all__ = [
    "EmailTaken",
    "UserModified",
    "UserNotFound",
    "change_user",
    "count_purgeable",
    "create_user",
    "delete_user",
    "get_user",
    "list_users",
    "purge_users",
]

_ACTIVE = User.deleted_at.is_(None)
_THIS = and_(User.id == bindparam("this_id"), _ACTIVE)
_UNCHANGED = is_version(User.xmin)
_COLUMNS = columns(User, UserOut, NewUser, UserChanges)

_ONE = select(*_COLUMNS).where(_THIS)
_ONE_UNCHANGED = _ONE.where(_UNCHANGED)
_FIRST_PAGE = select(*_COLUMNS).where(_ACTIVE).order_by(User.id).limit(bindparam("limit"))
_NEXT_PAGE = _FIRST_PAGE.where(User.id > bindparam("last_id"))
# What INSERT and UPDATE write is named by the parameters that they are run with.
_CREATE = insert(User.__table__).returning(*_COLUMNS)
_CHANGE = update(User.__table__).where(_THIS, _UNCHANGED).returning(*_COLUMNS)
_DELETE = update(User.__table__).where(_THIS, _UNCHANGED).values(deleted_at=func.now()).returning(User.id)


class EmailTaken(Conflict):
    """Another user has this e-mail, in any letter case."""


class UserModified(PreconditionFailed):
    """The user has changed since the caller read it."""


class UserNotFound(NotFound):
    """There is no user with this id, or it was deleted."""

    def __init__(self, user_id: UUID) -> None:
        super().__init__(f"There is no user {user_id}.")


def _translated(error: IntegrityError) -> Exception:
    return EmailTaken("Another user has this e-mail.") if violates(error, EMAIL_UNIQUE) else error


async def create_user(session: AsyncSession, new: NewUser) -> UserOut:
    """Add a user; raise EmailTaken if another has the e-mail."""
    try:
        (created,) = await fetch(session, _CREATE, UserOut, id=uuid7(), **vars(new))
    except IntegrityError as error:
        raise _translated(error) from error
    return created


async def get_user(reader: Reader, user_id: UUID) -> UserOut:
    """Return a user, or raise UserNotFound."""
    user = await reader.one_or_none(_ONE, UserOut, this_id=user_id)
    if user is None:
        raise UserNotFound(user_id)
    return user


async def list_users(reader: Reader, *, limit: int, after: UUID | None = None) -> list[UserOut]:
    """Return up to ``limit`` users, oldest first, from the one after an id."""
    if after is None:
        return await reader.all(_FIRST_PAGE, UserOut, limit=limit)
    return await reader.all(_NEXT_PAGE, UserOut, limit=limit, last_id=after)


async def _refusal(session: AsyncSession, user_id: UUID, if_match: list[str] | None) -> Exception:
    if if_match is not None and await fetch(session, _ONE, UserOut, this_id=user_id):
        return UserModified("The user has changed since you read it: get it again, and decide anew.")
    return UserNotFound(user_id)


async def change_user(
    session: AsyncSession, user_id: UUID, changes: UserChanges, if_match: list[str] | None = None
) -> UserOut:
    """Change some fields of a user.

    Raise UserNotFound, UserModified if it has none of the versions in ``if_match``, or EmailTaken.
    """
    try:
        found = await fetch(
            session, _CHANGE if changes else _ONE_UNCHANGED, UserOut, this_id=user_id, if_match=if_match, **changes
        )
    except IntegrityError as error:
        raise _translated(error) from error
    if not found:
        raise await _refusal(session, user_id, if_match)
    return found[0]


async def delete_user(session: AsyncSession, user_id: UUID, if_match: list[str] | None = None) -> None:
    """Mark a user as deleted: it is no longer found, and its e-mail can be used again.

    Raise UserNotFound, or UserModified if it has none of the versions in ``if_match``.
    """
    if not await fetch(session, _DELETE, this_id=user_id, if_match=if_match):
        raise await _refusal(session, user_id, if_match)


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
