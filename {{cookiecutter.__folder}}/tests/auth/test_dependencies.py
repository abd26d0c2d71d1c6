"""Who may call: what a client sees of it, with real tokens, and keys that come over a real socket."""

import io
import json
import sys
from collections.abc import Callable

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.dependencies import Caller, requires
from app.users.models import User
from tests.callers import issuer

Headers = Callable[..., dict[str, str]]
ADA = {"email": "ada@example.com", "name": "Ada"}
NOBODY = {"Authorization": ""}


async def test_without_a_token_there_is_a_401_that_says_no_more(client: httpx2.AsyncClient) -> None:
    for headers in (NOBODY, {"Authorization": "Basic YWRhOmFkYQ=="}, {"Authorization": "Bearer"}):
        response = await client.get("/users", headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_bad_token_is_a_401_that_does_not_say_why(client: httpx2.AsyncClient, caller: Headers) -> None:
    told = set()
    for headers in (caller(exp=0), caller(aud="another"), {"Authorization": "Bearer x"}):
        response = await client.get("/users", headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
        told.add(response.json()["detail"])
    assert told == {"The access token is not valid."}


async def test_a_missing_scope_is_a_403_that_names_the_scope_and_nothing_is_stored(
    client: httpx2.AsyncClient, caller: Headers, session: AsyncSession
) -> None:
    response = await client.post("/users", json=ADA, headers=caller("users:read", "orders:write"))
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="users:write"'
    assert await session.scalar(select(func.count()).select_from(User)) == 0


async def test_reading_takes_one_scope_and_writing_another(client: httpx2.AsyncClient, caller: Headers) -> None:
    reader, writer = caller("users:read"), caller("users:write")
    user = (await client.post("/users", json=ADA, headers=writer)).headers["Location"]
    for method, path in (("GET", user), ("GET", "/users")):
        assert (await client.request(method, path, headers=reader)).status_code == 200
        assert (await client.request(method, path, headers=writer)).status_code == 403
    for method in ("PATCH", "DELETE"):
        assert (await client.request(method, user, json={}, headers=reader)).status_code == 403
        assert (await client.request(method, user, json={}, headers=writer)).status_code in (200, 204)


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "users:read other"},
        {"scope": "", "scp": "users:read"},
        {"scope": "", "scp": ["other", "users:read"]},
        {"scope": "users:read", "aud": ["another", "tests"]},
        {"scope": "users:read", "nbf": 1, "exp": 4102444800.5},
    ],
)
async def test_providers_write_the_same_in_different_ways(
    client: httpx2.AsyncClient, caller: Headers, claims: dict[str, object]
) -> None:
    assert (await client.get("/users", headers=caller(**claims))).status_code == 200


async def test_a_handler_is_told_who_calls(app: FastAPI, client: httpx2.AsyncClient, caller: Headers) -> None:
    router = APIRouter(dependencies=requires("orders:read"))

    @router.get("/me")
    async def me(who: Caller) -> dict[str, object]:
        return {"subject": who.subject, "scopes": sorted(who.scopes), "tenant": who.claims["tenant"]}

    app.include_router(router)
    response = await client.get("/me", headers=caller("orders:read", "x", sub="ada", tenant="north"))
    assert response.json() == {"subject": "ada", "scopes": ["orders:read", "x"], "tenant": "north"}
    assert (await client.get("/me", headers=caller("x", tenant="north"))).status_code == 403
    assert (await client.get("/me", headers=NOBODY)).status_code == 401


async def test_callers_do_not_meet_in_equal_idempotency_keys(client: httpx2.AsyncClient, caller: Headers) -> None:
    key = {"Idempotency-Key": "1"}
    first = await client.post("/users", json=ADA, headers=caller(sub="ada") | key)
    assert (await client.post("/users", json=ADA, headers=caller(sub="ada") | key)).json() == first.json()
    assert (await client.post("/users", json=ADA, headers=caller(sub="bob") | key)).status_code == 409


async def test_probes_and_the_documentation_are_open(client: httpx2.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert (await client.get(path, headers=NOBODY)).status_code == 200


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the service writes. Asked for before the client, which starts it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


async def test_the_lines_of_a_request_have_the_subject_and_never_the_token(
    log: io.StringIO, client: httpx2.AsyncClient, caller: Headers
) -> None:
    good, bad = caller(sub="ada"), caller(exp=0)
    await client.get("/users", headers=good)
    await client.get("/users", headers=bad)
    await client.get("/health/live", headers=NOBODY)
    written = log.getvalue()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line.get("subject") for line in lines if "route" in line] == ["ada", None, None]
    assert [line.get("token_refused") for line in lines if "route" in line] == [None, "ExpiredSignatureError", None]
    for headers in (good, bad):
        assert headers["Authorization"].split()[1] not in written


async def test_the_documentation_says_which_routes_take_which_scope(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["access_token"]["scheme"] == "bearer"
    asked = {
        f"{method} {path}": route["security"]
        for path, routes in document["paths"].items()
        for method, route in routes.items()
        if "security" in route
    }
    read, write = [{"access_token": ["users:read"]}], [{"access_token": ["users:write"]}]
    assert asked == {
        "get /users": read,
        "post /users": write,
        "get /users/{user_id}": read,
        "patch /users/{user_id}": write,
        "delete /users/{user_id}": write,
    }
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            refusals = {"401", "403"} if f"{method} {path}" in asked else set()
            assert {"401", "403"} & route["responses"].keys() == refusals


async def test_the_keys_are_fetched_once_for_all_requests(client: httpx2.AsyncClient, caller: Headers) -> None:
    before = len(issuer().requests)
    for _ in range(5):
        assert (await client.get("/users", headers=caller())).status_code == 200
    assert len(issuer().requests) - before <= 2
