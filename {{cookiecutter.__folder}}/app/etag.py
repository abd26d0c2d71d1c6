"""Entity tags (RFC 9110): a client asks whether a resource has changed, and changes it only if it has not."""

import re
from dataclasses import fields
from functools import cache
from typing import Annotated, Final, Protocol, TypeVar
from zlib import crc32

from fastapi import Depends, Header, HTTPException, Request, Response
from pydantic import AfterValidator, Field, WithJsonSchema

__all__ = ["ETAG", "IF_MATCH_REQUIRED", "IF_NONE_MATCH", "IfMatch", "RowVersion", "tagged"]

ETAG: Final = "Version of what was sent, for If-Match and If-None-Match."
"""Documentation of the header."""

_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_OURS: Final = re.compile(r'"(\d{1,10})-[0-9a-f]{8}"')

RowVersion = Annotated[int, Field(exclude=True)]
"""Type of the field ``xmin`` of a response class: the version of the row, which is in the ETag and not in the body."""


class _HasVersion(Protocol):
    xmin: RowVersion


T = TypeVar("T", bound=_HasVersion)


def _versions(values: list[str] | None) -> list[str] | None:
    # Strong comparison: a weak tag never matches. What follows the version is not compared: it says how a row is
    # written as JSON, and a deployment that adds a field undoes no change of a client.
    if values is None or "*" in values:
        return None
    strong = [tag for value in values for weak, tag in _TAG.findall(value) if not weak]
    return [match[1] for tag in strong if (match := _OURS.fullmatch(tag))]


# Not a header parameter of the handler: FastAPI would take 3 % of a read for it, even if it is not sent.
IF_NONE_MATCH: Final = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "ETags that the client has: if one of them is current, 304.",
            "schema": {"type": "array", "items": {"type": "string"}},
        }
    ]
}
"""Documentation of the header, for the ``openapi_extra=`` of a GET route."""

IfMatch = Annotated[
    list[str] | None,
    AfterValidator(_versions),
    WithJsonSchema({"type": "string"}),  # of any form: what is no ETag of ours is a 412
    Header(alias="If-Match", description="ETags, one of which must be current; otherwise 412, and nothing is changed."),
]
"""A header parameter. In the handler it has the versions of the row that may be changed; None: any."""


def tagged(found: T, response: Response, request: Request | None = None) -> T:
    """Add the ETag of a row to the response, and return the row.

    Parameters
    ----------
    found
        Row to send.
    response
        Response to it.
    request
        Request, if it is a GET: its If-None-Match is compared.

    Raises
    ------
    HTTPException
        With status 304, if the client has this version.
    """
    etag = f'"{found.xmin}-{_shape(type(found))}"'
    known = request.headers.getlist("If-None-Match") if request is not None else []
    # Weak comparison: W/ does not matter.
    if known and ("*" in known or any(etag == tag for line in known for _, tag in _TAG.findall(line))):
        raise HTTPException(304, headers={"ETag": etag})
    response.headers["ETag"] = etag
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
