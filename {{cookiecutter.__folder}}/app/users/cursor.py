"""A place in the list of users, as the opaque text that clients hand back to get the next page."""

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

__all__ = ["Cursor"]

_FORM = struct.Struct(">q16s")  # microseconds since 1970, and the id
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cursor:
    """The last row of a page. The next page is the rows after it, however many were added or deleted meanwhile.

    A plain class: FastAPI takes a tuple or a dataclass for something that is no single query parameter.
    """

    def __init__(self, created_at: datetime, row_id: UUID) -> None:
        self.created_at = created_at
        self.row_id = row_id

    def encode(self) -> str:
        """Return it as text that is safe in a URL."""
        microseconds = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(_FORM.pack(microseconds, self.row_id.bytes)).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` made.

        Raises
        ------
        ValueError
            Where the text is anything else.
        """
        try:
            microseconds, id_bytes = _FORM.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
            return cls(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_bytes))
        except (ValueError, OverflowError, struct.error):
            raise ValueError("not a cursor of this list; take it from next_cursor as it is") from None
