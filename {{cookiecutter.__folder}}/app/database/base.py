"""Declarative base and id generator of all models. Models import nothing else from ``app.database``."""

import sys
import zlib
from typing import TYPE_CHECKING, Annotated, ClassVar

from sqlalchemy import CheckConstraint, FetchedValue, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, mapped_column

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

__all__ = ["Base", "Xmin", "one_of", "uuid7"]


class Base(DeclarativeBase):
    """Base class of the models.

    A convention names all constraints, so that migrations can drop them and code can recognize them: see "The
    Importance of Naming Constraints" in Alembic's manual. Tables name no PostgreSQL schema: the engine adds it.
    """

    if TYPE_CHECKING:
        __table__: ClassVar[Table]  # SQLAlchemy declares the more general FromClause

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


Xmin = Annotated[int, mapped_column(system=True, server_default=FetchedValue())]
"""Type of the attribute ``xmin``: the transaction that wrote the row. PostgreSQL has it in every table."""


def one_of(column: str, *values: str) -> CheckConstraint:
    """Return the constraint that a text column has one of some values, made of letters, digits, ``_``, ``-`` and ``.``.

    Its name contains a checksum of the values, since Alembic compares the names of constraints only: after a change of
    the values, ``make migration`` writes their replacement. Existing rows are not checked (NOT VALID), so that adding
    a value does not lock the table while it is read.
    """
    names = ", ".join(f"'{value}'" for value in values)
    checksum = zlib.crc32(" ".join(sorted(values)).encode())
    return CheckConstraint(f"{column} IN ({names})", name=f"{column}_{checksum:08x}", postgresql_not_valid=True)
