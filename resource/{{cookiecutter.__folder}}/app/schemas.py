{%- set it = cookiecutter | resource -%}
"""Request bodies and responses of the {{ cookiecutter.plural }} routes."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from app.etag import RowVersion
from app.fields import FixedDecimal, Int32, Int64, Json, LongText, ShortText, Timestamp
from app.list_query import ListQuery

__all__ = ["New{{ cookiecutter.__class }}", "{{ cookiecutter.__class }}Changes", "{{ cookiecutter.__class }}Out", "{{ cookiecutter.__class }}Page"{% if it.has_query %}, "{{ cookiecutter.__class }}Query"{% endif %}]
{% for field in it.sets %}
{{ field.alias }} = Literal[{% for value in field.values %}"{{ value }}"{{ ", " if not loop.last }}{% endfor %}]
{%- endfor %}


class New{{ cookiecutter.__class }}(BaseModel):
    """Body of a request to create {{ cookiecutter.__one }}."""

    model_config = ConfigDict(extra="forbid")
{% for field in it.fields %}
    {{ field.name }}: {{ field.new }}
{%- endfor %}


class {{ cookiecutter.__class }}Changes(TypedDict, total=False):
    """Fields to change; an absent field stays as it is{% if it.required | length == it.fields | length %}, and none of them accepts null{% endif %}."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic's way to configure a TypedDict
{% for field in it.fields %}
    {{ field.name }}: {{ field.change }}
{%- endfor %}


# Values from the database need no validation: a dataclass costs a third of a pydantic model and is documented the same.


@dataclass(slots=True)
class {{ cookiecutter.__class }}Out:
    """{{ cookiecutter.__one | capitalize }}."""

    id: UUID
{%- for field in it.fields %}
    {{ field.name }}: {{ field.out }}
{%- endfor %}
    created_at: datetime
    updated_at: datetime
    xmin: RowVersion


@dataclass(slots=True)
class {{ cookiecutter.__class }}Page:
    """A page of {{ cookiecutter.plural }}{% if not it.has_query %}, oldest first{% endif %}."""

    items: list[{{ cookiecutter.__class }}Out]
    next_cursor: Annotated[str | None, Field(description="Cursor of the next page; null on the last page.")]
{%- if it.has_query %}


class {{ cookiecutter.__class }}Query(ListQuery):
    """Query parameters of the list: the order, and filters, which all have to hold."""

    items = {{ cookiecutter.__class }}Out

    sort: Literal["-id"{% for field in it.sorts %}, "{{ field.name }}", "-{{ field.name }}"{% endfor %}] | None = None
{%- for filter in it.filters %}
    {{ filter.name }}: {{ filter.body }} | None = None
{%- endfor %}
{%- endif %}
