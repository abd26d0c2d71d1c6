"""Request bodies and responses of the {{ cookiecutter.plural }} routes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

from app.etag import RowVersion

__all__ = ["New{{ cookiecutter.__class }}", "{{ cookiecutter.__class }}Changes", "{{ cookiecutter.__class }}Out", "{{ cookiecutter.__class }}Page"]


def _check_text(value: str) -> str:
    if "\0" in value:  # valid in JSON, but PostgreSQL stores no such text
        raise ValueError("must not contain a NUL character")
    return value


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_check_text),
]


class New{{ cookiecutter.__class }}(BaseModel):
    """Body of a request to create {{ cookiecutter.__one }}."""

    model_config = ConfigDict(extra="forbid")

    name: Name


class {{ cookiecutter.__class }}Changes(TypedDict, total=False):
    """Fields to change; an absent field stays as it is, and none of them accepts null."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic's way to configure a TypedDict

    name: Name


# Values from the database need no validation: a dataclass costs a third of a pydantic model and is documented the same.


@dataclass(slots=True)
class {{ cookiecutter.__class }}Out:
    """{{ cookiecutter.__one | capitalize }}."""

    id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    xmin: RowVersion


@dataclass(slots=True)
class {{ cookiecutter.__class }}Page:
    """A page of {{ cookiecutter.plural }}, oldest first."""

    items: list[{{ cookiecutter.__class }}Out]
    next_cursor: Annotated[str | None, Field(description="Cursor of the next page; null on the last page.")]
