"""Reads and writes users. Nothing here commits: that is for the session's owner, so that operations compose."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.failures import constraint_name
from app.errors import Conflict, NotFound
from app.users.cursor import Cursor
from app.users.models import EMAIL_UNIQUE, User
from app.users.schemas import UserChanges

__all__ = [
    "EmailTaken",
    "UserNotFound",
    "change_user",
    "count_purgeable",
    "create_user",
    "delete_user",
    "get_user",
    "list_users",
    "purge_users",
]

_active = User.deleted_at.is_(None)


class EmailTaken(Conflict):
    """Another user has this e-mail, in whatever letter case."""

    def __init__(self) -> None:
        super().__init__("Another user has this e-mail.")


class UserNotFound(NotFound):
    """There is no such user, or no longer."""

    def __init__(self, user_id: UUID) -> None:
        super().__init__(f"There is no user {user_id}.")


def _translated(error: IntegrityError) -> Exception:
    return EmailTaken() if constraint_name(error) == EMAIL_UNIQUE else error


async def create_user(session: AsyncSession, *, email: str, name: str) -> User:
    """Add a user.

    Raises
    ------
    EmailTaken
        Where another user has the e-mail.
    """
    user = User(email=email, name=name)
    session.add(user)
    try:
        await session.flush()
    except IntegrityError as error:
        raise _translated(error) from error
    return user


async def get_user(session: AsyncSession, user_id: UUID) -> User:
    """Return a user.

    Raises
    ------
    UserNotFound
        Where there is none.
    """
    user = await session.scalar(select(User).where(User.id == user_id, _active))
    if user is None:
        raise UserNotFound(user_id)
    return user


async def list_users(session: AsyncSession, *, limit: int, after: Cursor | None = None) -> Sequence[User]:
    """Return up to ``limit`` users, oldest first, beginning after a place in the list."""
    statement = select(User).where(_active).order_by(User.created_at, User.id).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(User.created_at, User.id) > (after.created_at, after.row_id))
    return (await session.scalars(statement)).all()


async def change_user(session: AsyncSession, user_id: UUID, changes: UserChanges) -> User:
    """Change some fields of a user.

    Raises
    ------
    UserNotFound
        Where there is none.
    EmailTaken
        Where another user has the e-mail.
    """
    if not changes:
        return await get_user(session, user_id)
    statement = update(User).where(User.id == user_id, _active).values(**changes).returning(User)
    try:
        user = await session.scalar(statement)
    except IntegrityError as error:
        raise _translated(error) from error
    if user is None:
        raise UserNotFound(user_id)
    return user


async def delete_user(session: AsyncSession, user_id: UUID) -> None:
    """Mark a user as deleted: it is found no more, and its e-mail is free.

    Raises
    ------
    UserNotFound
        Where there is none.
    """
    statement = update(User).where(User.id == user_id, _active).values(deleted_at=func.now()).returning(User.id)
    if await session.scalar(statement) is None:
        raise UserNotFound(user_id)


async def count_purgeable(session: AsyncSession, *, deleted_for: timedelta) -> int:
    """Count the users that were deleted longer ago than a span of time."""
    statement = select(func.count()).select_from(User).where(User.deleted_at < func.now() - deleted_for)
    return await session.scalar(statement) or 0


async def purge_users(session: AsyncSession, *, deleted_for: timedelta, limit: int) -> int:
    """Remove up to ``limit`` of the users that were deleted longer ago than a span of time; return how many.

    Rows that another purge has in hand are passed over, so two at once share the work and neither waits.
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
