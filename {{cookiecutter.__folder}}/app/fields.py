"""Types of the fields of requests: each accepts what its PostgreSQL column can store, and nothing else.

If a field accepted more, a client's mistake would be an error of the database, and so a 500. To limit a field further,
annotate the type again: ``Annotated[Int32, Field(ge=0)]``.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue, StringConstraints

__all__ = ["FixedDecimal", "Int32", "Int64", "Json", "LongText", "ShortText", "StoredText", "Timestamp"]

_MAX_JSON: Final = 64 * 1024
"""In bytes. PostgreSQL reads and writes such a value as a whole."""

_STEP: Final = Decimal("0.0001")

_INFINITE: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
"""What asyncpg stores as -infinity and infinity, and returns without a time zone."""


def _check_text(value: str) -> str:
    if "\0" in value:  # valid in JSON, but PostgreSQL stores no such text
        raise ValueError("must not contain a NUL character")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain half of a surrogate pair")
    return value


def _check_decimal(value: Decimal) -> Decimal:
    # pydantic accepts an exponent that no driver can send: -1e-999999999 up to its version 2.13, 0e-999999999 still.
    rounded = value.quantize(_STEP)
    if rounded != value:
        raise ValueError("must have at most 4 decimal places")
    return rounded


def _check_timestamp(value: datetime) -> datetime:
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        utc = _INFINITE[0]
    if utc in _INFINITE:
        raise ValueError("must be between the years 1 and 9999 in UTC")
    return utc


def _check_json(value: JsonValue) -> JsonValue:
    if value is None:  # SQL has a null of its own
        raise ValueError("must not be null")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except ValueError:
        raise ValueError("must not contain NaN, an infinite number or half of a surrogate pair") from None
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("must not contain a NUL character")
    if size > _MAX_JSON:
        raise ValueError(f"must be at most {_MAX_JSON} bytes long")
    return value


StoredText = Annotated[str, AfterValidator(_check_text)]
"""A text of any length, with any character that PostgreSQL can store."""

ShortText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_check_text)
]
"""A line of text. It can be indexed: an entry of an index has at most 2,700 bytes."""

LongText = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_check_text)]
"""A text of several lines, possibly empty."""

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""JavaScript reads numbers above 2**53 inexactly."""

FixedDecimal = Annotated[Decimal, Field(max_digits=18, decimal_places=4), AfterValidator(_check_decimal)]
"""For ``numeric(18, 4)``: 14 digits before the point, 4 after it. Responses contain it as a string, which is exact."""

Timestamp = Annotated[AwareDatetime, AfterValidator(_check_timestamp)]
"""A date and time with its UTC offset; converted to UTC."""

Json = Annotated[JsonValue, AfterValidator(_check_json)]
"""Any JSON but null, for ``jsonb``."""
