"""Entity tags (RFC 9110): a client asks whether a resource has changed, and changes it only if it has not."""

import re
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Final, Protocol, TypeVar
from zlib import crc32

from fastapi import Depends, HTTPException, Request, Response
from pydantic import Field

__all__ = ["ETAG", "IF_MATCH", "IF_MATCH_REQUIRED", "IF_NONE_MATCH", "RowVersion", "if_match", "tagged"]

ETAG: Final = "Version of what was sent, for If-Match and If-None-Match."
"""Documentation of the header."""

_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_OURS: Final = re.compile(r'"(\d{1,10})-[0-9a-f]{8}"')

RowVersion = Annotated[int, Field(exclude=True)]
"""Type of the field ``xmin`` of a response class: the version of the row, which is in the ETag and not in the body."""


class _HasVersion(Protocol):
    xmin: RowVersion


T = TypeVar("T", bound=_HasVersion)


def _documented(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    # As parameters of the handler they would take 3 to 6 % of a request, even if they are not sent.
    return {"parameters": [{"name": name, "in": "header", "description": description, "schema": schema}]}


IF_NONE_MATCH: Final = _documented(
    "If-None-Match",
    "ETags that the client has: if one of them is current, 304.",
    {"type": "array", "items": {"type": "string"}},
)
"""Documentation of the header, for the ``openapi_extra=`` of a GET route."""

IF_MATCH: Final = _documented(
    "If-Match",
    "ETags, one of which must be current; otherwise 412, and nothing is changed.",
    {"type": "string"},  # of any form: what is no ETag of ours is a 412
)
"""The same for a PATCH or DELETE route, which calls `if_match`."""


def _sent(request: Request, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def if_match(request: Request) -> list[str] | None:
    """Return the versions of the row that the client allows to be changed, by its If-Match; None: any."""
    # Strong comparison: a weak tag never matches. What follows the version is not compared: it says how a row is
    # written as JSON, and a deployment that adds a field undoes no change of a client.
    values = _sent(request, b"if-match")
    if not values or "*" in values:
        return None
    strong = [tag for value in values for weak, tag in _TAG.findall(value) if not weak]
    return [match[1] for tag in strong if (match := _OURS.fullmatch(tag))]


def tagged(found: T, response: Response, request: Request | None = None) -> T:
    """Add the ETag of a row to the response, and return the row.

    With the ``request`` of a GET, raise an HTTPException with status 304 if the client has this version.
    """
    etag = f'"{found.xmin}-{_shape(type(found))}"'
    known = _sent(request, b"if-none-match") if request is not None else []
    # Weak comparison: W/ does not matter.
    if known and ("*" in known or any(etag == tag for line in known for _, tag in _TAG.findall(line))):
        raise HTTPException(304, headers={"ETag": etag})
    response.raw_headers.append((b"etag", etag.encode()))
    return found


@cache
def _shape(kind: type) -> str:
    # A new field changes the body of rows that have not changed.
    return f"{crc32(repr([(field.name, field.type) for field in fields(kind)]).encode()):08x}"


def _require_if_match(request: Request) -> None:
    if "If-Match" not in request.headers:
        raise HTTPException(428, "Send the ETag of what you have read as If-Match.")


IF_MATCH_REQUIRED: Final = Depends(_require_if_match)
"""For a route's ``dependencies=``: a request without If-Match is a 428."""
