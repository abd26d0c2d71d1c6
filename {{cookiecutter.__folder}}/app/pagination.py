"""Pages of a list, and the cursor from one page to the next."""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request, Response
from pydantic import Field, PlainValidator, WithJsonSchema

__all__ = ["Cursor", "Limit", "cut", "make_cursor"]


class _HasId(Protocol):
    id: UUID


Item = TypeVar("Item", bound=_HasId)


def cut(
    found: Sequence[Item],
    limit: int,
    request: Request,
    response: Response,
    cursor_of: Callable[[Item], str] = lambda row: make_cursor(row.id),
) -> tuple[list[Item], str | None]:
    """Return the items of a page, and the cursor of the next one; add the ``Link`` to the next page to the response.

    ``found`` has one row more than ``limit`` if there is a next page; ``cursor_of`` makes the cursor of the page after
    a row.
    """
    items = list(found[:limit])
    if len(found) <= limit:
        return items, None
    cursor = cursor_of(items[-1])
    query = urlencode({**request.query_params, "limit": limit, "cursor": cursor})
    response.headers["Link"] = f'<{request.scope["path"]}?{query}>; rel="next"'
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
        raise ValueError("is not a cursor of this list; send a next_cursor as it was received") from None


Limit = Annotated[int, Field(ge=1, le=200, description="Maximum number of items on the page.")]
Cursor = Annotated[
    UUID | None,
    PlainValidator(_read_cursor),
    WithJsonSchema({"type": "string", "pattern": "^([A-Za-z0-9_-]{22})?$"}),
    Field(description="The next_cursor of the previous page; empty for the first page."),
]
"""A query parameter. In the handler it is the id of the last row of the previous page, None for the first page."""
