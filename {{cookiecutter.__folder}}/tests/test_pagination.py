"""The cursor of a page."""

from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from app.pagination import Cursor, make_cursor

_cursor = TypeAdapter[UUID | None](Cursor)


@pytest.mark.parametrize("number", [0, 2**128 - 1, 0xFB << 120])  # as base64: A, _ and -
def test_a_cursor_is_read_as_it_was_made(number: int) -> None:
    assert _cursor.validate_python(make_cursor(UUID(int=number))) == UUID(int=number)


def test_a_cursor_with_something_more_in_it_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a cursor of this list"):
        _cursor.validate_python(make_cursor(UUID(int=1)) + "!")
