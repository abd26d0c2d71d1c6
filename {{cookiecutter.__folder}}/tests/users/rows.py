"""Rows for the tests of this feature, and of those that refer to it."""

from typing import Any
from uuid import uuid4

import httpx2

__all__ = ["create"]


async def create(client: httpx2.AsyncClient, email: str | None = None, name: str = "Ada") -> dict[str, Any]:
    """Create a user; without an e-mail, with one of its own."""
    response = await client.post("/users", json={"email": email or f"{uuid4()}@example.com", "name": name})
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created
