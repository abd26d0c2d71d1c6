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
from tests import example
from tests.callers import issuer

Headers = Callable[..., dict[str, str]]
THING = {"email": "ada@example.com", "name": "Ada"}
NOBODY = {"Authorization": ""}


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    """The service, with two routes of `tests.example` that ask for scopes."""
    router = APIRouter()
    read, write = requires("things:read"), requires("things:write")
    router.get("/guarded", dependencies=read, operation_id="list_guarded")(example.list_names)
    router.post("/guarded", dependencies=write, operation_id="create_guarded", status_code=201)(example.create_thing)
    app.include_router(router)
    return app


async def test_without_a_token_there_is_a_401_that_says_no_more(client: httpx2.AsyncClient) -> None:
    for headers in (NOBODY, {"Authorization": "Basic YWRhOmFkYQ=="}, {"Authorization": "Bearer"}):
        response = await client.get("/guarded", headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_bad_token_is_a_401_that_does_not_say_why(client: httpx2.AsyncClient, caller: Headers) -> None:
    told = set()
    for headers in (caller("things:read", exp=0), caller("things:read", aud="another"), {"Authorization": "Bearer x"}):
        response = await client.get("/guarded", headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
        told.add(response.json()["detail"])
    assert told == {"The access token is not valid."}


async def test_a_missing_scope_is_a_403_that_names_the_scope_and_nothing_is_stored(
    client: httpx2.AsyncClient, caller: Headers, session: AsyncSession
) -> None:
    response = await client.post("/guarded", json=THING, headers=caller("things:read", "orders:write"))
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="things:write"'
    assert await session.scalar(select(func.count()).select_from(example.Thing)) == 0


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "things:read other"},
        {"scope": "", "scp": "things:read"},
        {"scope": "", "scp": ["other", "things:read"]},
        {"scope": "things:read", "aud": ["another", "tests"]},
        {"scope": "things:read", "nbf": 1, "exp": 4102444800.5},
    ],
)
async def test_providers_write_the_same_in_different_ways(
    client: httpx2.AsyncClient, caller: Headers, claims: dict[str, object]
) -> None:
    assert (await client.get("/guarded", headers=caller(**claims))).status_code == 200


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
    good, bad = caller("things:read", sub="ada"), caller("things:read", exp=0)
    await client.get("/guarded", headers=good)
    await client.get("/guarded", headers=bad)
    await client.get("/health/live", headers=NOBODY)
    written = log.getvalue()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line.get("subject") for line in lines if "route" in line] == ["ada", None, None]
    assert [line.get("token_refused") for line in lines if "route" in line] == [None, "ExpiredSignatureError", None]
    for headers in (good, bad):
        assert headers["Authorization"].split()[1] not in written


async def test_a_route_that_asks_for_scopes_documents_them_and_its_refusals(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["access_token"]["scheme"] == "bearer"
    for path, method, scope in (("/guarded", "get", "things:read"), ("/guarded", "post", "things:write")):
        assert document["paths"][path][method]["security"] == [{"access_token": [scope]}]
    for routes in document["paths"].values():
        for route in routes.values():
            refusals = {"401", "403"} if "security" in route else set()
            assert {"401", "403"} & route["responses"].keys() == refusals


async def test_the_keys_are_fetched_once_for_all_requests(client: httpx2.AsyncClient, caller: Headers) -> None:
    before = len(issuer().requests)
    for _ in range(5):
        assert (await client.get("/guarded", headers=caller("things:read"))).status_code == 200
    assert len(issuer().requests) - before <= 2
