"""Pages of a list, and the cursor from one page to the next."""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeVar, get_args, get_type_hints
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request, Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from app.fields import Int64, StoredText, Timestamp

__all__ = ["Cursor", "Limit", "ListQuery", "cut", "make_cursor"]

_NO_CURSOR: Final = "is not a cursor of this list; send a next_cursor as it was received"


class _HasId(Protocol):
    id: UUID


Item = TypeVar("Item", bound=_HasId)


def cut(found: Sequence[Item], limit: int, request: Request, response: Response) -> tuple[list[Item], str | None]:
    """Return the items of a page, and the cursor of the next one; add the ``Link`` to the next page to the response.

    Parameters
    ----------
    found
        Rows from the start of the page; one more than ``limit`` if there is a next page.
    limit
        Maximum number of items on the page.
    request, response
        Request for the page, and its response.
    """
    items = list(found[:limit])
    if len(found) <= limit:
        return items, None
    cursor = make_cursor(items[-1].id)
    response.headers["Link"] = f'<{request.scope["path"]}?limit={limit}&cursor={cursor}>; rel="next"'
    return items, cursor


def make_cursor(last: UUID) -> str:
    """Return the cursor of the page after a row: the row's id, as text that is safe in a URL and opaque to clients."""
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _read_cursor(value: Any) -> UUID | None:
    if not value:
        return None
    try:
        return UUID(bytes=base64.b64decode(f"{value}==", altchars=b"-_", validate=True))
    except ValueError:
        raise ValueError(_NO_CURSOR) from None


Limit = Annotated[int, Field(ge=1, le=200, description="Maximum number of items on the page.")]
Cursor = Annotated[
    UUID | None,
    PlainValidator(_read_cursor),
    WithJsonSchema({"type": "string", "pattern": "^([A-Za-z0-9_-]{22})?$"}),
    Field(description="The next_cursor of the previous page; empty for the first page."),
]
"""A query parameter. In the handler it is the id of the last row of the previous page, None for the first page."""


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
            raise ValueError(_NO_CURSOR) from None
        raise ValueError("is a cursor of another order; send the same sort, or begin without a cursor")

    @property
    def filters(self) -> dict[str, Any]:
        """Values of the filters that are set."""
        names = [name for name in type(self).model_fields if name not in ListQuery.model_fields]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def cut(self, found: Sequence[Item], request: Request, response: Response) -> tuple[list[Item], str | None]:
        """Do what `cut` does."""
        items = list(found[: self.limit])
        if len(found) <= self.limit:
            return items, None
        value = None if self.sort is None else getattr(items[-1], self.sort.removeprefix("-"))
        text = json.dumps([self.sort, value, items[-1].id], default=str, ensure_ascii=False, separators=(",", ":"))
        cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        link = urlencode({**request.query_params, "cursor": cursor})
        response.headers["Link"] = f'<{request.scope["path"]}?{link}>; rel="next"'
        return items, cursor


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
