"""What the API says of itself: each status is documented, each error as a problem."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.dependencies import DbSession


async def test_every_error_in_the_openapi_document_is_a_problem(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (media_type,) = response["content"]
                    assert media_type == "application/problem+json", (method, path, status)
    assert document["components"]["schemas"]["Problem"]["required"] == [
        "title",
        "status",
        "detail",
        "instance",
        "request_id",
    ]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def refusals(operation: dict[str, Any]) -> set[str]:
    """Return the statuses of a route that asks who calls."""
    return {"401", "403"} if "security" in operation else set()


async def test_the_users_routes_document_their_statuses(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    documented = {
        f"{method.upper()} {path}": sorted(map(int, operation["responses"].keys() - refusals(operation)))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if path.startswith(("/users", "/health"))
    }
    assert documented == {
        "GET /health/live": [200],
        "GET /health/ready": [200, 503],
        "POST /users": [201, 400, 409, 413, 422, 500, 503],
        "GET /users": [200, 422, 500, 503],
        "GET /users/{user_id}": [200, 304, 404, 422, 500, 503],
        "PATCH /users/{user_id}": [200, 400, 404, 409, 412, 413, 422, 500, 503],
        "DELETE /users/{user_id}": [204, 404, 412, 422, 500, 503],
    }


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["40001", "40P01", "55P03", "57014", "57P01", "57P02", "25006"], 503),
        (["08000", "08006", "08P01", "53100", "53200", "53300"], 503),
        (["28000", "28P01", "3D000"], 503),
        (["22012", "23505", "42P01", "P0001", "XX000"], 500),
    ],
)
async def test_a_state_of_the_database_is_503_and_an_error_in_the_code_500(
    app: FastAPI, client: httpx2.AsyncClient, states: list[str], status: int
) -> None:
    @app.post("/fail/{state}")
    async def fail(state: str, session: DbSession) -> None:
        await session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))

    for state in states:
        response = await client.post(f"/fail/{state}")
        assert (state, response.status_code) == (state, status)
        assert response.headers.get("Retry-After") == ("1" if status == 503 else None)
