{%- set it = cookiecutter | resource -%}
"""Rows for the tests of this feature, and of those that refer to it."""

from typing import Any, Final

import httpx2

{% for field in it.parents -%}
from tests.{{ field.target }}.rows import create as create_{{ field.asked }}
{% endfor %}
__all__ = ["VALUES", "create"]

VALUES: Final[dict[str, Any]] = {
{%- for field in it.values %}
    "{{ field.name }}": {{ field.low }},
{%- endfor %}
}
"""A value of each field that is no reference."""


async def create(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create {{ cookiecutter.__one }}{% if it.parents %}, and the rows that it refers to{% endif %}."""
    body = VALUES | fields
{%- for field in it.parents %}
    if "{{ field.name }}" not in body:
        body["{{ field.name }}"] = (await create_{{ field.asked }}(client))["id"]
{%- endfor %}
    response = await client.post("/{{ cookiecutter.plural }}", json=body)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created
