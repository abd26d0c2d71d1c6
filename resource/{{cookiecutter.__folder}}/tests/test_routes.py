{%- set it = cookiecutter | resource -%}
"""The {{ cookiecutter.plural }} routes, as a client sees them."""

from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.{{ cookiecutter.plural }}.models import {{ cookiecutter.__class }}
{% for field in it.parents -%}
from tests.{{ field.target }}.rows import create as create_{{ field.asked }}
{% endfor -%}
from tests.{{ cookiecutter.plural }}.rows import create, values

ADDRESS = "/{{ cookiecutter.plural }}"
{%- if it.values %}
ACCEPTED: dict[str, list[Any]] = {
{%- for field in it.values %}
    "{{ field.name }}": [{{ field.accepted }}],
{%- endfor %}
}
{%- endif %}
REFUSED: dict[str, list[Any]] = {
{%- for field in it.fields %}
    "{{ field.name }}": [{{ field.refused }}],
{%- endfor %}
}
{%- if it.required %}
REQUIRED = {{ "{" }}{% for field in it.required %}"{{ field.name }}"{{ ", " if not loop.last }}{% endfor %}{{ "}" }}
{%- endif %}


async def test_create_then_get(client: httpx2.AsyncClient) -> None:
    sent = values()
    created = await create(client, **sent)
    assert UUID(created["id"]).version == 7
    assert {name: created[name] for name in sent} == sent
    response = await client.post(ADDRESS, json={name: created[name] for name in REFUSED} | values())
    assert response.headers["Location"] == f"{ADDRESS}/{response.json()['id']}"
    assert (await client.get(response.headers["Location"])).json() == response.json()


{%- if it.values %}


async def test_what_a_field_accepts_is_stored(client: httpx2.AsyncClient) -> None:
    for field, accepted in ACCEPTED.items():
        for value in accepted:
            created = await create(client, **{field: value})
            assert created[field] == value
            assert (await client.delete(f"{ADDRESS}/{created['id']}")).status_code == 204
            address = f"{ADDRESS}/{(await create(client))['id']}"
            assert (await client.patch(address, json={field: value})).json()[field] == value
            assert (await client.get(address)).json()[field] == value
            assert (await client.delete(address)).status_code == 204
{%- endif %}


async def test_an_invalid_body_is_422_and_nothing_is_stored(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    """The error points to the field."""
    created = await create(client)
    valid = {name: created[name] for name in REFUSED}
    bodies: list[tuple[Any, str]] = [([], ""), (valid | {"unknown": 1}, "/unknown")]
    bodies += [(valid | {field: value}, f"/{field}") for field, refused in REFUSED.items() for value in refused]
{%- if it.required %}
    bodies += [({name: valid[name] for name in valid if name != field}, f"/{field}") for field in REQUIRED]
{%- endif %}
    for body, pointer in bodies:
        response = await client.post(ADDRESS, json=body)
        assert response.status_code == 422, body
        assert response.json()["errors"][0]["pointer"].startswith(f"/body{pointer}")
    assert await session.scalar(select(func.count()).select_from({{ cookiecutter.__class }})) == 1


async def test_pages_have_no_gap_and_no_duplicate(client: httpx2.AsyncClient) -> None:
    created = [await create(client) for _ in range(5)]
    assert await walk(client, f"{ADDRESS}?limit=2") == created


async def walk(client: httpx2.AsyncClient, address: str) -> list[Any]:
    """Return the items of all pages."""
    seen: list[Any] = []
    following: str | None = address
    while following:
        response = await client.get(following)
        assert response.status_code == 200, response.text
        seen += response.json()["items"]
        following = response.links["next"]["url"] if "next" in response.links else None
    return seen


{%- if it.sorts %}


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
{%- for field in it.sorts %}
        ("{{ field.name }}", {{ field.low }}, {{ field.high }}),
{%- endfor %}
    ],
)
async def test_each_order_has_no_gap_and_no_duplicate(
    client: httpx2.AsyncClient, field: str, low: Any, high: Any
) -> None:
    """Ties are broken by id, and nulls come last."""
    ties = [high, low, high, low, *([None] if None in ACCEPTED[field] else [])]
    created = [await create(client, **{field: value}) for value in ties]
    first, second, third, fourth, *none = created
    assert await walk(client, f"{ADDRESS}?limit=1&sort={field}") == [second, fourth, first, third, *none]
    assert await walk(client, f"{ADDRESS}?limit=1&sort=-{field}") == [third, first, fourth, second, *none]
    assert await walk(client, f"{ADDRESS}?limit=2&sort=-id") == created[::-1]
{%- endif %}


{%- if it.filters %}


async def test_each_filter_finds_what_it_says(client: httpx2.AsyncClient) -> None:
    low = await create(client{% for field in it.values %}, {{ field.name }}={{ field.low }}{% endfor %})
    rows = {"low": low, "high": await create(client{% for field in it.values %}, {{ field.name }}={{ field.high }}{% endfor %})}
    filters: list[tuple[str, Any, str]] = [
{%- for field in it.values + it.parents %}
{%- for filter in field.filters %}
        ("{{ filter.name }}", {% if field.kind == "reference" %}low["{{ field.name }}"]{% else %}{{ filter.value }}{% endif %}, "{{ filter.finds }}"),
{%- endfor %}
{%- endfor %}
    ]
    for name, value, expected in filters:
        response = await client.get(ADDRESS, params={name: value})
        assert response.json()["items"] == [rows[expected]], name
    assert (await client.get(ADDRESS, params={"unknown": "x"})).status_code == 422
{%- endif %}


async def test_a_change_leaves_absent_fields_as_they_are(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    address = f"{ADDRESS}/{created['id']}"
    assert (await client.patch(address, json={})).json() == created
    for field in REFUSED:
        changed = (await client.patch(address, json={field: created[field]})).json()
        assert changed == created | {"updated_at": changed["updated_at"]}
        assert changed["updated_at"] > created["updated_at"]
{%- for field in it.required[:1] %}
    assert (await client.patch(address, json={"{{ field.name }}": None})).status_code == 422
{%- endfor %}


async def test_a_change_of_a_version_that_is_not_current_changes_nothing(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    address, body = f"{ADDRESS}/{created['id']}", {name: created[name] for name in REFUSED}
    old = {"If-Match": (await client.get(address)).headers["ETag"]}
    changed = await client.patch(address, json=body, headers=old)
    assert changed.status_code == 200
    for method in ("PATCH", "DELETE"):
        refused = await client.request(method, address, json=body, headers=old)
        assert refused.status_code == 412
    current = {"If-None-Match": changed.headers["ETag"]}
    assert (await client.get(address, headers=current)).status_code == 304


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_was_deleted_or_never_existed_is_404(client: httpx2.AsyncClient, method: str) -> None:
    created = await create(client)
    body = {name: created[name] for name in REFUSED}
    deleted = f"{ADDRESS}/{created['id']}"
    assert (await client.delete(deleted)).status_code == 204
    for address in (deleted, f"{ADDRESS}/{uuid4()}"):
        assert (await client.request(method, address, json=body)).status_code == 404
    assert (await client.request(method, f"{ADDRESS}/x", json=body)).status_code == 422
{%- if it.references %}


async def test_a_reference_to_nothing_is_422_and_names_the_field(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    for field in ({% for field in it.references %}"{{ field.name }}", {% endfor %}):
        body = {name: created[name] for name in REFUSED} | {field: str(uuid4())}
        posted = await client.post(ADDRESS, json=body)
        patched = await client.patch(f"{ADDRESS}/{created['id']}", json={field: str(uuid4())})
        for response in (posted, patched):
            assert response.status_code == 422
            assert [error["pointer"] for error in response.json()["errors"]] == [f"/body/{field}"]
{%- endif %}
{%- for field in it.parents %}


async def test_the_deletion_of_the_{{ field.asked }}_is_no_error(client: httpx2.AsyncClient) -> None:
    {{ field.asked }} = await create_{{ field.asked }}(client)
    created = await create(client, {{ field.name }}={{ field.asked }}["id"])
    address = f"/{{ field.target }}/{ {{- field.asked }}['id']}"
{%- if field.on_delete == "RESTRICT" %}
    assert (await client.delete(address)).status_code == 409
    assert (await client.delete(f"{ADDRESS}/{created['id']}")).status_code == 204
    assert (await client.delete(address)).status_code == 204
{%- else %}
    assert (await client.delete(address)).status_code == 204
    left = (await client.get(f"{ADDRESS}/{created['id']}")).json()
    assert left["{{ field.name }}"] in (None, {{ field.asked }}["id"])
{%- endif %}
{%- endfor %}
