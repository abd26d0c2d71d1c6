"""The table ``users``."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base, Xmin, uuid7

__all__ = ["EMAIL_UNIQUE", "User"]

EMAIL_UNIQUE = "uq_users_email"
"""Name of the unique index on e-mails: the repository uses it to recognize a violation."""


class User(Base):
    """A user. A deleted one keeps its row, with ``deleted_at``, until the cleanup script purges it."""

    __tablename__ = "users"

    # A UUIDv7 begins with the time in milliseconds: the list has the order of this index, and new rows go to its end.
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    email: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    xmin: Mapped[Xmin]

    __table_args__ = (
        # Only the database can keep e-mails unique: a check before the insert is a race. Deleted users are exempt.
        Index(EMAIL_UNIQUE, func.lower(email), unique=True, postgresql_where=deleted_at.is_(None)),
        # For the cleanup script.
        Index("ix_users_deleted_at", deleted_at, postgresql_where=deleted_at.is_not(None)),
    )
