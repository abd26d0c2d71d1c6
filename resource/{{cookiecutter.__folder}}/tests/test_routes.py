"""The {{ cookiecutter.plural }} routes, as a client sees them."""

from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.{{ cookiecutter.plural }}.models import {{ cookiecutter.__class }}

ADDRESS = "/{{ cookiecutter.plural }}"


async def create(client: httpx2.AsyncClient, name: str = "First") -> dict[str, Any]:
    response = await client.post(ADDRESS, json={"name": name})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_create_then_get(client: httpx2.AsyncClient) -> None:
    response = await client.post(ADDRESS, json={"name": " First "})
    created = response.json()
    assert (response.status_code, created["name"]) == (201, "First")
    assert UUID(created["id"]).version == 7
    assert response.headers["Location"] == f"{ADDRESS}/{created['id']}"
    assert (await client.get(response.headers["Location"])).json() == created


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/body/name"),
        ({"name": "  "}, "/body/name"),
        ({"name": "x" * 201}, "/body/name"),
        ({"name": "x\0"}, "/body/name"),
        ({"name": "x", "unknown": 1}, "/body/unknown"),
        ([], "/body"),
    ],
)
async def test_an_invalid_body_is_422_and_nothing_is_stored(
    client: httpx2.AsyncClient, session: AsyncSession, body: Any, pointer: str
) -> None:
    response = await client.post(ADDRESS, json=body)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert await session.scalar(select(func.count()).select_from({{ cookiecutter.__class }})) == 0


async def test_pages_have_no_gap_and_no_duplicate(client: httpx2.AsyncClient) -> None:
    created = [await create(client, str(number)) for number in range(5)]
    seen: list[Any] = []
    address: str | None = f"{ADDRESS}?limit=2"
    while address:
        response = await client.get(address)
        seen += response.json()["items"]
        address = response.links["next"]["url"] if "next" in response.links else None
    assert seen == created


async def test_a_change_leaves_absent_fields_as_they_are(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    address = f"{ADDRESS}/{created['id']}"
    changed = (await client.patch(address, json={"name": "Second"})).json()
    assert (changed["name"], changed["created_at"]) == ("Second", created["created_at"])
    assert changed["updated_at"] > created["updated_at"]
    assert (await client.patch(address, json={})).json() == changed
    assert (await client.patch(address, json={"name": None})).status_code == 422


async def test_a_change_of_a_version_that_is_not_current_changes_nothing(client: httpx2.AsyncClient) -> None:
    response = await client.post(ADDRESS, json={"name": "First"})
    address, old = response.headers["Location"], response.headers["ETag"]
    changed = await client.patch(address, json={"name": "Second"}, headers={"If-Match": old})
    assert changed.status_code == 200
    for method in ("PATCH", "DELETE"):
        refused = await client.request(method, address, json={"name": "Third"}, headers={"If-Match": old})
        assert refused.status_code == 412
    current = {"If-None-Match": changed.headers["ETag"]}
    assert (await client.get(address, headers=current)).status_code == 304


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_was_deleted_or_never_existed_is_404(client: httpx2.AsyncClient, method: str) -> None:
    deleted = f"{ADDRESS}/{(await create(client))['id']}"
    assert (await client.delete(deleted)).status_code == 204
    for address in (deleted, f"{ADDRESS}/{uuid4()}"):
        assert (await client.request(method, address, json={"name": "x"})).status_code == 404
    assert (await client.request(method, f"{ADDRESS}/x", json={"name": "x"})).status_code == 422
