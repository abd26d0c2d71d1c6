"""What the API says of itself: each status is documented, each error as a problem."""

from typing import Any

import httpx2


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
        "GET /users/{user_id}": [200, 404, 422, 500, 503],
        "PATCH /users/{user_id}": [200, 400, 404, 409, 413, 422, 500, 503],
        "DELETE /users/{user_id}": [204, 404, 422, 500, 503],
    }
