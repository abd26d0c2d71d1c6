{%- set it = cookiecutter | resource -%}
"""The table ``{{ cookiecutter.plural }}``."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Date, DateTime, Double, ForeignKey, Index, Integer, Numeric, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base, Xmin, one_of, uuid7

__all__ = ["{{ cookiecutter.__class }}"]


class {{ cookiecutter.__class }}(Base):
    """{{ cookiecutter.__one | capitalize }}."""

    __tablename__ = "{{ cookiecutter.plural }}"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
{%- for field in it.fields %}
    {{ field.name }}: {{ field.mapped }}
{%- endfor %}
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    xmin: Mapped[Xmin]
{%- if it.indexes %}

    __table_args__ = (
{%- for line in it.indexes %}
        {{ line }},
{%- endfor %}
    )
{%- endif %}
