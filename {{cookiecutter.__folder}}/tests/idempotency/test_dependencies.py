"""A request with an Idempotency-Key is carried out once, and its answer is stored with what it writes."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.dependencies import DbReader, DbSession
from app.idempotency import repository
from app.idempotency.dependencies import once
from app.idempotency.models import IdempotencyKey
from tests.example import NewThing, Thing


@dataclass(slots=True)
class ThingOut:
    """A thing that was created."""

    id: UUID
    name: str


async def log_in(request: Request) -> None:
    """Believe whoever says who it is."""
    request.state.subject = request.headers.get("X-Caller", "")


router = APIRouter(prefix="/once", dependencies=[Depends(log_in)])


async def _create(new: NewThing, session: AsyncSession) -> ThingOut:
    thing = Thing(id=uuid4(), email=new.email, name=new.name)
    session.add(thing)
    return ThingOut(thing.id, thing.name)


@router.post("", status_code=201)
@once
async def create(new: NewThing, session: DbSession, request: Request, response: Response) -> ThingOut:
    """Create a thing."""
    created = await _create(new, session)
    response.headers["Location"] = f"{request.scope['path']}/{created.id}"
    return created


@router.post("/elsewhere", status_code=201)
@once
async def create_elsewhere(new: NewThing, session: DbSession, request: Request, response: Response) -> ThingOut:
    """Create a thing, at another address."""
    return await _create(new, session)


@router.post("/slowly", status_code=201)
@once
async def create_slowly(new: NewThing, session: DbSession, request: Request, response: Response) -> ThingOut:
    """Create a thing when told to."""
    request.app.state.begun.set()
    await request.app.state.go.wait()
    return await _create(new, session)


@router.post("/fail/{status}")
@once
async def fail(new: NewThing, status: int, session: DbSession, request: Request, response: Response) -> ThingOut:
    """Fail after the write."""
    created = await _create(new, session)
    await session.flush()
    if request.app.state.fails:
        raise HTTPException(status) if status < 500 else RuntimeError
    return created


@router.post("/silent", status_code=204)
@once
async def create_silently(new: NewThing, session: DbSession, request: Request, response: Response) -> None:
    """Create a thing, and say nothing."""
    await _create(new, session)


@router.post("/own")
@once
async def create_with_own_response(new: NewThing, session: DbSession, request: Request, response: Response) -> Response:
    """Create a thing, and answer with a response of one's own, which is no success but is committed."""
    created = await _create(new, session)
    return Response(f"{created.id}", 418, {"X-Own": "yes"}, "text/plain")


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with the isolation level that a test asks for."""
    level = getattr(request, "param", None)
    return settings.model_copy(update={"database": replace(settings.database, isolation_level=level)})


at_each_level = pytest.mark.parametrize(
    "settings", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"], indirect=True
)


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    """The service, with the routes above."""
    app.include_router(router)
    app.state.begun, app.state.go = asyncio.Event(), asyncio.Event()
    app.state.fails = True
    return app


def thing(name: str = "Ada") -> dict[str, str]:
    return {"email": f"{name}@example.com", "name": name}


async def post(
    client: httpx2.AsyncClient, key: str | bytes | None, body: Any = None, path: str = "/once"
) -> httpx2.Response:
    headers = {} if key is None else {b"Idempotency-Key": key if isinstance(key, bytes) else key.encode()}
    return await client.post(path, json=body or thing(), headers=headers)


async def stored(session: AsyncSession) -> tuple[int, int]:
    """Return how many things and how many keys there are."""
    things = await session.scalar(select(func.count()).select_from(Thing))
    keys = await session.scalar(select(func.count()).select_from(IdempotencyKey))
    await session.rollback()
    return things or 0, keys or 0


def answer(response: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    """Return what a client gets, without the request's own id."""
    return response.status_code, response.content, {**response.headers, "x-request-id": ""}


async def test_a_repeated_request_gets_the_first_answer_and_writes_once(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    first = await post(client, "k")
    assert first.status_code == 201
    assert first.headers["Location"] == f"/once/{first.json()['id']}"
    assert answer(await post(client, "k")) == answer(first)
    await session.execute(text("DELETE FROM things"))
    await session.commit()
    assert answer(await post(client, "k")) == answer(first)
    assert await stored(session) == (0, 1)


async def test_an_answer_has_the_same_form_with_a_key_and_without(client: httpx2.AsyncClient) -> None:
    def form(response: httpx2.Response) -> Any:
        id_ = response.json()["id"]
        return str(answer(response)).replace(id_, "<id>")

    assert form(await post(client, "k", thing("Ada"))) == form(await post(client, None, thing("ada") | {"name": "Ada"}))
    silent = await post(client, "l", thing("Eve"), "/once/silent")
    assert (silent.status_code, silent.content) == (204, b"")
    assert answer(await post(client, "l", thing("Eve"), "/once/silent")) == answer(silent)


async def test_without_a_key_the_table_of_keys_is_not_touched(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    await session.execute(text("DROP TABLE idempotency_keys"))
    await session.commit()
    for name in ("Ada", "Eve"):
        assert (await post(client, None, thing(name))).status_code == 201


async def test_a_key_with_a_different_request_is_422(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    await post(client, "k")
    for path, body in (("/once", thing("Eve")), ("/once/elsewhere", thing()), ("/once?x=1", thing())):
        response = await post(client, "k", body, path)
        assert response.status_code == 422
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "new key" in response.json()["detail"]
    assert await stored(session) == (1, 1)


@at_each_level
async def test_a_key_whose_first_request_still_runs_is_409_at_once(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """The first request ends after the others are answered: none of them can have waited for it."""
    first = asyncio.create_task(post(client, "k", path="/once/slowly"))
    await app.state.begun.wait()
    for body in (thing(), thing("Eve")):
        meanwhile = await post(client, "k", body, "/once/slowly")
        assert meanwhile.status_code == 409
        assert meanwhile.headers["Retry-After"]
        assert "still being handled" in meanwhile.json()["detail"]
    assert (await post(client, "another key", thing("Bob"))).status_code == 201
    app.state.go.set()
    assert (await first).status_code == 201
    assert answer(await post(client, "k", path="/once/slowly")) == answer(await first)
    assert await stored(session) == (2, 2)


@at_each_level
async def test_of_many_at_once_one_is_carried_out_and_the_others_get_its_answer_or_409(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    for round_ in range(5):
        body = thing(f"{round_}")
        answers = await asyncio.gather(*(post(client, f"{round_}", body) for _ in range(20)))
        assert {response.status_code for response in answers} <= {201, 409}
        assert all("Retry-After" in response.headers for response in answers if response.status_code == 409)
        assert len({response.content for response in answers if response.status_code == 201}) == 1
        assert await stored(session) == (round_ + 1, round_ + 1)


async def test_a_snapshot_that_is_older_than_the_first_commit_is_409_and_no_second_write(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """What a race leads to under REPEATABLE READ, if the second request's transaction begins before the first's end."""
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    await session.execute(select(1))  # takes the snapshot
    await post(client, "k")
    with pytest.raises(repository.KeyInUse):
        await repository.claim(session, ("", "k"), fingerprint=b"")


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_request_that_failed_leaves_its_key_free(
    app: FastAPI, client: httpx2.AsyncClient, session: AsyncSession, status: int
) -> None:
    path = f"/once/fail/{status}"
    assert (await post(client, "k", path=path)).status_code == status
    assert await stored(session) == (0, 0)
    app.state.fails = False
    assert (await post(client, "k", path=path)).status_code == 200
    assert await stored(session) == (1, 1)


async def test_a_commit_that_failed_leaves_its_key_free(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    await session.execute(
        text(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$"
        )
    )
    await session.execute(
        text(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    )
    await session.commit()
    assert (await post(client, "k")).status_code == 500
    assert await stored(session) == (0, 0)
    await session.execute(text("DROP TRIGGER refuse ON things"))
    await session.commit()
    assert (await post(client, "k")).status_code == 201


async def test_an_answer_that_was_committed_is_stored_whatever_its_status(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """A handler that returns an error is committed; to run it again would write twice."""
    first = await post(client, "k", path="/once/own")
    assert (first.status_code, first.headers["X-Own"]) == (418, "yes")
    assert answer(await post(client, "k", path="/once/own")) == answer(first)
    assert await stored(session) == (1, 1)


@pytest.mark.parametrize(
    "key",
    [b"", b" ", b'""', b'"', b'"a', b'"a"b"', b'"a\\b"', b'"a";p=1', b"x" * 256, b"a\tb", "ä".encode()],
)
async def test_a_key_that_is_malformed_is_422_and_nothing_is_written(
    client: httpx2.AsyncClient, session: AsyncSession, key: bytes
) -> None:
    response = await post(client, key)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/header/Idempotency-Key"]
    assert await stored(session) == (0, 0)


@pytest.mark.parametrize(
    ("bare", "quoted"),
    [("8e03978e-40d5-43dd-bc93-6894a57f9324",) * 2, ("a b;c=1", "a b;c=1"), ('a"\\b', 'a\\"\\\\b'), ("x" * 253,) * 2],
)
async def test_a_key_is_the_same_bare_and_in_quotes(client: httpx2.AsyncClient, bare: str, quoted: str) -> None:
    first = await post(client, bare)
    assert first.status_code == 201
    assert answer(await post(client, f'"{quoted}"')) == answer(first)


async def test_equal_keys_of_two_callers_never_meet(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    answers = [
        await client.post("/once", json=thing(name), headers={"X-Caller": name, "Idempotency-Key": "k"})
        for name in ("Ada", "Eve", "Ada")
    ]
    assert [response.status_code for response in answers] == [201] * 3
    assert answer(answers[0]) == answer(answers[2])
    assert await repository.claim(session, ("Bob", "k"), fingerprint=b"") is None


async def test_a_503_says_whether_and_how_the_request_can_be_repeated(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    await session.execute(
        text(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END $$"
        )
    )
    await session.execute(text("CREATE TRIGGER t BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION lose()"))
    await session.commit()
    for path, key, advice in (
        ("/once", "k", "repeat the request with the same Idempotency-Key."),
        ("/once", None, "send an Idempotency-Key, so that it is safe to repeat the request."),
        ("/things", "k", "try again shortly."),
    ):
        response = await post(client, key, path=path)
        assert response.status_code == 503
        assert response.json()["detail"].endswith(f"; {advice}")
    assert await stored(session) == (0, 0)


async def test_the_header_is_documented(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    (header,) = paths["/once"]["post"]["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", False)
    assert header["schema"]["maxLength"] == 255
    assert "parameters" not in paths["/things"]["post"]


def test_a_handler_without_a_session_is_refused_at_import() -> None:
    """Its answer could not be stored with what it writes."""

    async def read(reader: DbReader, request: Request, response: Response) -> None: ...

    with pytest.raises(TypeError, match="read: a handler below @once needs `session: DbSession`"):
        once(read)
