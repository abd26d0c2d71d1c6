"""The users' routes, as a client sees them."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import EMAIL_UNIQUE, User


async def create(client: httpx2.AsyncClient, email: str = "ada@example.com", name: str = "Ada") -> dict[str, Any]:
    response = await client.post("/users", json={"email": email, "name": name})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_create_then_get(client: httpx2.AsyncClient) -> None:
    response = await client.post("/users", json={"email": "Ada@Example.COM", "name": " Ada Lovelace "})
    assert response.status_code == 201
    user = response.json()
    assert set(user) == {"id", "email", "name", "created_at", "updated_at"}
    assert UUID(user["id"]).version == 7
    assert (user["email"], user["name"]) == ("Ada@Example.COM", "Ada Lovelace")
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")
    assert response.headers["Location"] == f"/users/{user['id']}"
    assert (await client.get(response.headers["Location"])).json() == user


async def test_an_email_is_taken_in_any_letter_case(client: httpx2.AsyncClient) -> None:
    await create(client, "Ada@example.com")
    response = await client.post("/users", json={"email": "ADA@EXAMPLE.com", "name": "Other"})
    assert response.status_code == 409
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_an_email_is_taken_in_either_spelling_of_an_accent(client: httpx2.AsyncClient) -> None:
    await create(client, "e\N{COMBINING ACUTE ACCENT}@example.com")
    response = await client.post(
        "/users", json={"email": "\N{LATIN SMALL LETTER E WITH ACUTE}@example.com", "name": "B"}
    )
    assert response.status_code == 409


async def test_an_email_is_taken_where_the_index_has_the_number_of_a_shard(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """As in Citus, which names the constraints of its shards like this."""
    await session.execute(text(f"ALTER INDEX {EMAIL_UNIQUE} RENAME TO {EMAIL_UNIQUE}_102011"))
    await session.commit()
    await create(client)
    assert (await client.post("/users", json={"email": "ada@example.com", "name": "B"})).status_code == 409


async def test_the_openapi_document_says_what_an_email_is(client: httpx2.AsyncClient) -> None:
    email = (await client.get("/openapi.json")).json()["components"]["schemas"]["NewUser"]["properties"]["email"]
    assert (email["format"], email["maxLength"]) == ("email", 254)


async def test_of_many_that_want_an_email_at_once_one_gets_it(client: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/users", json={"email": "ada@example.com", "name": str(number)}) for number in range(30))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 29


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "Ada"}, "/body/email"),
        ({"email": "ada", "name": "Ada"}, "/body/email"),
        ({"email": "Ada <ada@example.com>", "name": "Ada"}, "/body/email"),
        ({"email": "ada@secret·label.com", "name": "Ada"}, "/body/email"),
        ({"email": None, "name": "Ada"}, "/body/email"),
        ({"email": "ada@example.com", "name": "  "}, "/body/name"),
        ({"email": "ada@example.com", "name": "x" * 201}, "/body/name"),
        ({"email": "ada@example.com", "name": "A\0"}, "/body/name"),
        ({"email": "ada@example.com", "name": 2**63}, "/body/name"),
        ({"email": "ada@example.com", "name": "Ada", "a/b~": 1}, "/body/a~1b~0"),
        ([], "/body"),
    ],
)
async def test_a_body_that_is_not_valid_is_422_and_not_echoed(
    client: httpx2.AsyncClient, body: Any, pointer: str
) -> None:
    response = await client.post("/users", json=body)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert "input" not in response.json()["errors"][0]
    assert "secret" not in response.text


async def test_pages_have_no_gap_and_no_duplicate(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    """Also where many rows have the same time, and while rows come and go."""
    session.add_all(User(email=f"{number}@example.com", name="x") for number in range(25))
    await session.commit()
    await session.execute(update(User).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))
    await session.commit()
    seen: list[str] = []
    address: str | None = "/users?limit=7"
    while address:
        response = await client.get(address)
        page = response.json()
        seen += [user["id"] for user in page["items"]]
        if len(seen) == 7:
            await client.delete(f"/users/{seen[3]}")
            await create(client, "new@example.com")
        address = response.links["next"]["url"] if "next" in response.links else None
        assert (address is None) == (page["next_cursor"] is None)
    assert len(seen) == len(set(seen)) == 26
    alive = (await session.scalars(select(User.id).order_by(User.created_at, User.id))).all()
    assert seen == [str(id_) for id_ in alive]


async def test_a_last_page_that_is_full_has_no_next(client: httpx2.AsyncClient) -> None:
    await create(client)
    response = await client.get("/users?limit=1&cursor=")
    assert (len(response.json()["items"]), response.json()["next_cursor"]) == (1, None)
    assert "Link" not in response.headers


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "cursor=x", "cursor=====", "cursor=f" + "_" * 31, "cursor=%F0%9F"]
)
async def test_a_bad_limit_or_cursor_is_422(client: httpx2.AsyncClient, query: str) -> None:
    response = await client.get(f"/users?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"/query/{query.split('=', maxsplit=1)[0]}"


async def test_a_change_leaves_absent_fields_as_they_are(client: httpx2.AsyncClient) -> None:
    user = await create(client)
    changed = (await client.patch(f"/users/{user['id']}", json={"name": "Countess"})).json()
    assert (changed["name"], changed["email"], changed["created_at"]) == ("Countess", user["email"], user["created_at"])
    assert changed["updated_at"] > user["updated_at"]
    assert (await client.get(f"/users/{user['id']}")).json() == changed
    assert (await client.patch(f"/users/{user['id']}", json={})).json() == changed


@pytest.mark.parametrize("changes", [{"name": None}, {"email": None}, {"id": str(uuid4())}, {"email": "x"}, []])
async def test_a_change_of_null_or_an_unknown_field_is_422(client: httpx2.AsyncClient, changes: Any) -> None:
    user = await create(client)
    assert (await client.patch(f"/users/{user['id']}", json=changes)).status_code == 422


async def test_a_change_to_a_taken_email_is_409_and_to_ones_own_is_not(client: httpx2.AsyncClient) -> None:
    user = await create(client)
    await create(client, "bob@example.com")
    assert (await client.patch(f"/users/{user['id']}", json={"email": "BOB@example.com"})).status_code == 409
    response = await client.patch(f"/users/{user['id']}", json={"email": "ADA@example.com"})
    assert (response.status_code, response.json()["email"]) == (200, "ADA@example.com")


async def test_a_deleted_user_is_gone_its_email_free_and_its_row_kept(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    user = await create(client)
    address = f"/users/{user['id']}"
    assert (await client.delete(address)).status_code == 204
    for response in (
        await client.get(address),
        await client.patch(address, json={"name": "x"}),
        await client.delete(address),
    ):
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "application/problem+json"
    assert (await client.get("/users")).json()["items"] == []
    await create(client)
    rows = (await session.scalars(select(User).order_by(User.id))).all()
    assert [row.deleted_at is None for row in rows] == [False, True]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_user_is_404_and_an_id_that_is_no_uuid_422(client: httpx2.AsyncClient, method: str) -> None:
    for id_, status in ((uuid4(), 404), ("x", 422), (2**63, 422)):
        response = await client.request(method, f"/users/{id_}", json={"name": "x"})
        assert response.status_code == status


async def test_a_change_that_loses_against_another_is_run_again(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """A trigger fails the first try as PostgreSQL would, and lets the second one pass."""
    user = await create(client)
    await session.execute(text("CREATE SEQUENCE tries"))
    await session.execute(
        text(
            "CREATE FUNCTION lose_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') = 1 THEN "
            "RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END IF; RETURN NEW; END $$"
        )
    )
    await session.execute(
        text("CREATE TRIGGER t BEFORE UPDATE OR INSERT ON users FOR EACH ROW EXECUTE FUNCTION lose_once()")
    )
    await session.commit()
    response = await client.patch(f"/users/{user['id']}", json={"name": "Countess"})
    assert (response.status_code, response.json()["name"]) == (200, "Countess")


async def test_a_conflict_in_a_route_that_does_not_run_again_is_503(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    await session.execute(
        text(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END $$"
        )
    )
    await session.execute(text("CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION lose()"))
    await session.commit()
    response = await client.post("/users", json={"email": "ada@example.com", "name": "Ada"})
    assert response.status_code == 503
    assert response.headers["Retry-After"]
