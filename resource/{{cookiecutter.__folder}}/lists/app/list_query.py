"""Query parameters of a list with filters and a chosen order, and its cursor."""

import base64
import json
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, ClassVar, Final, get_args, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, WithJsonSchema, field_validator

from app.fields import Int64, StoredText, Timestamp
from app.pagination import Limit

__all__ = ["ListQuery"]


class ListQuery(BaseModel):
    """Query parameters of a list with filters. A subclass adds the filters, all optional, and the choices of ``sort``.

    ``sort`` is the name of a column, with a ``-`` in front for the greatest first; None is the order of ids.
    """

    model_config = ConfigDict(extra="forbid")  # a misspelt filter would return everything

    items: ClassVar[type]
    """Response class of a row, which has the columns to sort by."""

    sort: str | None = None
    limit: Limit = 50
    cursor: Annotated[
        Any,  # FastAPI would pass a list to a tuple; see `_read`
        WithJsonSchema({"type": "string"}),
        Field(description="The next_cursor of the previous page, with the same sort; empty for the first page."),
    ] = None

    @field_validator("cursor", mode="plain")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> tuple[Any, UUID] | None:
        if not value or "sort" not in info.data:
            return None
        try:
            text = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
            sort, last_value, last_id = json.loads(text)
            if sort == info.data["sort"]:
                return _values(cls.items, sort).validate_python(last_value), UUID(last_id)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ValueError("is not a cursor of this list; send a next_cursor as it was received") from None
        raise ValueError("is a cursor of another order; send the same sort, or begin without a cursor")

    @property
    def filters(self) -> dict[str, Any]:
        """Values of the filters that are set."""
        names = [name for name in type(self).model_fields if name not in ListQuery.model_fields]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def cursor_of(self, row: Any) -> str:
        """Return the cursor of the page after a row."""
        value = None if self.sort is None else getattr(row, self.sort.removeprefix("-"))
        text = json.dumps([self.sort, value, row.id], default=str, ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@cache
def _values(items: type, sort: str | None) -> TypeAdapter[Any]:
    """Return what reads the values of a column from a cursor, which a client may have changed."""
    if sort is None:
        return TypeAdapter(None)
    hint = get_type_hints(items)[sort.removeprefix("-")]
    kinds = [_STORED.get(kind, kind) for kind in get_args(hint) or [hint]]
    return TypeAdapter(kinds[0] | kinds[1] if kinds[1:] else kinds[0])


_STORED: Final[dict[Any, Any]] = {
    datetime: Timestamp,
    Decimal: Annotated[Decimal, Field(max_digits=1000)],
    int: Int64,
    str: StoredText,
}
"""What a column of a type can be compared with."""
