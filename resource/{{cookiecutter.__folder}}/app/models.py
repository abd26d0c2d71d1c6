"""The table ``{{ cookiecutter.plural }}``."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base, Xmin, uuid7

__all__ = ["{{ cookiecutter.__class }}"]


class {{ cookiecutter.__class }}(Base):
    """{{ cookiecutter.__one | capitalize }}."""

    __tablename__ = "{{ cookiecutter.plural }}"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    xmin: Mapped[Xmin]
