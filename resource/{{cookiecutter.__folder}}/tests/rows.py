{%- set it = cookiecutter | resource -%}
"""Rows for the tests of this feature, and of those that refer to it."""

from typing import Any
from uuid import uuid4

import httpx2

{% for field in it.parents -%}
from tests.{{ field.target }}.rows import create as create_{{ field.asked }}
{% endfor %}
__all__ = ["create", "values"]


def values() -> dict[str, Any]:
    """Return a value of each field that is no reference. Short texts differ each time, since they may be unique."""
    return {
{%- for field in it.values %}
        "{{ field.name }}": {% if field.kind == "str" %}f"First {uuid4()}"{% else %}{{ field.low }}{% endif %},
{%- endfor %}
    }


async def create(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create {{ cookiecutter.__one }}{% if it.parents %}, and the rows that it refers to{% endif %}."""
    body = values() | fields
{%- for field in it.parents %}
    if "{{ field.name }}" not in body:
        body["{{ field.name }}"] = (await create_{{ field.asked }}(client))["id"]
{%- endfor %}
    response = await client.post("/{{ cookiecutter.plural }}", json=body)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created
