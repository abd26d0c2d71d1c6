"""Request bodies and responses of the users routes."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.etag import RowVersion
from app.fields import ShortText

__all__ = ["NewUser", "UserChanges", "UserOut", "UserPage"]


def _check_email(value: str) -> str:
    # Not pydantic's EmailStr: it accepts "Ada <ada@example.com>", and returns the domain in lower case.
    try:
        validate_email(value, check_deliverability=False)
    except EmailNotValidError:
        # The library's own message quotes what was sent.
        raise ValueError("must be an e-mail address, such as ada@example.com") from None
    return unicodedata.normalize("NFC", value)  # one spelling of "é", so that the unique index sees it


Email = Annotated[
    str,
    AfterValidator(_check_email),
    Field(max_length=254, json_schema_extra={"format": "email"}, examples=["ada@example.com"]),
]
Name = Annotated[ShortText, Field(examples=["Ada Lovelace"])]


class NewUser(BaseModel):
    """Body of a request to create a user."""

    model_config = ConfigDict(extra="forbid")

    email: Email
    name: Name


class UserChanges(TypedDict, total=False):
    """Fields to change; an absent field stays as it is, and none of them accepts null."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic's way to configure a TypedDict

    email: Email
    name: Name


# Values from the database need no validation: a dataclass costs a third of a pydantic model and is documented the same.


@dataclass(slots=True)
class UserOut:
    """A user."""

    id: UUID
    email: str
    name: str
    created_at: datetime
    updated_at: datetime
    xmin: RowVersion


@dataclass(slots=True)
class UserPage:
    """A page of users, oldest first."""

    items: list[UserOut]
    next_cursor: Annotated[str | None, Field(description="Cursor of the next page; null on the last page.")]
