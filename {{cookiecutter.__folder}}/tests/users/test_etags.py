"""No update of a user is lost: ETag, If-None-Match and If-Match (RFC 9110), as a client sees them."""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import ServiceSettings
from app.database.internal.options import IsolationLevel
from app.etag import IF_MATCH_REQUIRED

ADA = {"email": "ada@example.com", "name": "Ada"}


@pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def level(request: pytest.FixtureRequest) -> IsolationLevel:
    """An isolation level."""
    level: IsolationLevel = request.param
    return level


@pytest.fixture
def settings(settings: ServiceSettings, request: pytest.FixtureRequest) -> ServiceSettings:
    """Settings with the level of the test, if it has one; then no request is refused on a busy machine."""
    if "level" not in request.fixturenames:
        return settings
    database = replace(settings.database, isolation_level=request.getfixturevalue("level"), pool_timeout=30)
    return settings.model_copy(update={"database": database})


@pytest.fixture
async def ada(client: httpx2.AsyncClient) -> httpx2.Response:
    """The answer to the request that has created a user."""
    response = await client.post("/users", json=ADA)
    assert response.status_code == 201
    return response


def address(created: httpx2.Response) -> str:
    return str(created.headers["Location"])


async def test_a_version_has_the_same_etag_wherever_it_is_sent_and_another_one_another(
    client: httpx2.AsyncClient, ada: httpx2.Response
) -> None:
    first = ada.headers["ETag"]
    assert (await client.get(address(ada))).headers["ETag"] == first
    unchanged = await client.patch(address(ada), json={})
    assert unchanged.headers["ETag"] == first
    changed = await client.patch(address(ada), json={"name": "Countess"})
    assert changed.headers["ETag"] != first
    assert (await client.get(address(ada))).headers["ETag"] == changed.headers["ETag"]
    assert "xmin" not in changed.json()


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"other", {}', 304),
        ("*", 304),
        ('"other"', 200),
        ("nonsense", 200),
        ("", 200),
    ],
)
async def test_a_client_that_has_the_version_gets_no_body(
    client: httpx2.AsyncClient, ada: httpx2.Response, tags: str, status: int
) -> None:
    response = await client.get(address(ada), headers={"If-None-Match": tags.format(ada.headers["ETag"])})
    assert (response.status_code, response.headers["ETag"]) == (status, ada.headers["ETag"])
    assert bool(response.content) is (status == 200)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("tags", "matches"),
    [
        ("{}", True),
        ('"other", {}', True),
        ("*", True),
        ("W/{}", False),
        ('"other"', False),
        ("nonsense", False),
        ("", False),
    ],
)
async def test_a_change_of_a_version_that_is_not_current_is_412_and_changes_nothing(
    client: httpx2.AsyncClient, ada: httpx2.Response, method: str, tags: str, matches: bool
) -> None:
    headers = {"If-Match": tags.format(ada.headers["ETag"])}
    response = await client.request(method, address(ada), json={"name": "Countess"}, headers=headers)
    assert response.is_success is matches
    if not matches:
        assert response.status_code == 412
        assert response.headers["Content-Type"] == "application/problem+json"
        assert (await client.get(address(ada))).json() == ada.json()


async def test_two_lines_of_the_header_are_one_list(client: httpx2.AsyncClient, ada: httpx2.Response) -> None:
    lines = [("If-Match", '"other"'), ("If-Match", ada.headers["ETag"])]
    assert (await client.patch(address(ada), json={"name": "Countess"}, headers=lines)).status_code == 200


async def test_a_change_of_nothing_also_needs_the_current_version(
    client: httpx2.AsyncClient, ada: httpx2.Response
) -> None:
    headers = {"If-Match": ada.headers["ETag"]}
    assert (await client.patch(address(ada), json={}, headers=headers)).status_code == 200
    await client.patch(address(ada), json={"name": "Countess"})
    assert (await client.patch(address(ada), json={}, headers=headers)).status_code == 412


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("tags", ['"1-00000000"', "*"])
async def test_what_does_not_exist_is_404_whatever_version_is_asked_for(
    client: httpx2.AsyncClient, ada: httpx2.Response, method: str, tags: str
) -> None:
    await client.delete(address(ada))
    response = await client.request(method, address(ada), json={"name": "x"}, headers={"If-Match": tags})
    assert response.status_code == 404


async def test_a_change_by_sql_is_seen(client: httpx2.AsyncClient, ada: httpx2.Response, session: AsyncSession) -> None:
    """PostgreSQL keeps the version, whoever writes the row."""
    await session.execute(text("UPDATE users SET name = 'Countess'"))
    await session.commit()
    headers = {"If-Match": ada.headers["ETag"]}
    assert (await client.patch(address(ada), json={"name": "Ada L."}, headers=headers)).status_code == 412


async def test_of_sixty_that_change_one_version_at_once_one_succeeds(
    level: IsolationLevel, client: httpx2.AsyncClient, ada: httpx2.Response
) -> None:
    """At each isolation level; the others are told so, and none is asked to try again."""
    headers = {"If-Match": ada.headers["ETag"]}
    answers = await asyncio.gather(
        *(client.patch(address(ada), json={"name": str(number)}, headers=headers) for number in range(60))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 59
    (winner,) = [answer for answer in answers if answer.status_code == 200]
    assert (await client.get(address(ada))).json() == winner.json()


async def test_of_changes_and_deletions_of_one_version_one_succeeds(
    level: IsolationLevel, client: httpx2.AsyncClient, ada: httpx2.Response
) -> None:
    headers = {"If-Match": ada.headers["ETag"]}
    methods = ["PATCH", "DELETE"] * 10
    answers = await asyncio.gather(
        *(client.request(method, address(ada), json={"name": "x"}, headers=headers) for method in methods)
    )
    assert sum(answer.is_success for answer in answers) == 1
    assert {answer.status_code for answer in answers} <= {200, 204, 404, 412}


async def test_a_route_can_require_if_match(app: FastAPI, client: httpx2.AsyncClient, ada: httpx2.Response) -> None:
    @app.put("/guarded", dependencies=[IF_MATCH_REQUIRED])
    async def guarded() -> None: ...

    refused = await client.put("/guarded")
    assert (refused.status_code, refused.headers["Content-Type"]) == (428, "application/problem+json")
    assert (await client.put("/guarded", headers={"If-Match": ada.headers["ETag"]})).status_code == 200


async def test_etags_are_documented(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    one = paths["/users/{user_id}"]
    sent = {name: {p["name"] for p in one[name]["parameters"]} for name in ("get", "patch", "delete")}
    assert "If-None-Match" in sent["get"]
    assert "If-Match" in sent["patch"] & sent["delete"]
    for operation, status in ((one["get"], "200"), (one["get"], "304"), (one["patch"], "200")):
        assert "ETag" in operation["responses"][status]["headers"]
    assert "ETag" in paths["/users"]["post"]["responses"]["201"]["headers"]
    assert "412" in one["patch"]["responses"].keys() & one["delete"]["responses"].keys()
    assert "content" not in one["get"]["responses"]["304"]
