"""Which scopes the users' routes take."""

from collections.abc import Callable

import httpx2

Headers = Callable[..., dict[str, str]]
ADA = {"email": "ada@example.com", "name": "Ada"}


async def test_reading_takes_one_scope_and_writing_another(client: httpx2.AsyncClient, caller: Headers) -> None:
    reader, writer = caller("users:read"), caller("users:write")
    user = (await client.post("/users", json=ADA, headers=writer)).headers["Location"]
    for method, path in (("GET", user), ("GET", "/users")):
        assert (await client.request(method, path, headers=reader)).status_code == 200
        assert (await client.request(method, path, headers=writer)).status_code == 403
    for method, path in (("POST", "/users"), ("PATCH", user), ("DELETE", user)):
        assert (await client.request(method, path, json=ADA, headers=reader)).status_code == 403
    for method in ("PATCH", "DELETE"):
        assert (await client.request(method, user, json={}, headers=writer)).status_code in (200, 204)


async def test_the_document_says_so(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    asked = {
        f"{method} {path}": security["access_token"]
        for path, routes in paths.items()
        for method, route in routes.items()
        for security in (route["security"] if path.startswith("/users") else ())
    }
    assert asked == {
        "get /users": ["users:read"],
        "post /users": ["users:write"],
        "get /users/{user_id}": ["users:read"],
        "patch /users/{user_id}": ["users:write"],
        "delete /users/{user_id}": ["users:write"],
    }


async def test_callers_do_not_meet_in_equal_idempotency_keys(client: httpx2.AsyncClient, caller: Headers) -> None:
    key = {"Idempotency-Key": "1"}
    first = await client.post("/users", json=ADA, headers=caller(sub="ada") | key)
    assert (await client.post("/users", json=ADA, headers=caller(sub="ada") | key)).json() == first.json()
    assert (await client.post("/users", json=ADA, headers=caller(sub="bob") | key)).status_code == 409
