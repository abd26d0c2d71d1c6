"""What holds for every request: its id, its access line, the limit of its body, and a 500 that tells nothing."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
import structlog
from fastapi import Body, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import literal, select, text
from starlette.exceptions import HTTPException as HTTPExceptionOfStarlette
from starlette.testclient import WebSocketDenialResponse

from app.dependencies import DbReader, DbSession, max_body_bytes


@pytest.mark.parametrize("path", ["/things", "/nowhere", "/things?limit=0", "/fail"])
async def test_every_response_carries_the_clients_request_id(
    app: FastAPI, client: httpx2.AsyncClient, path: str
) -> None:
    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("secret of the house")

    response = await client.get(path, headers={"X-Request-ID": "Client-1.a_b"})
    assert response.headers.get_list("X-Request-ID") == ["Client-1.a_b"]
    if response.status_code >= 400:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["request_id"] == "Client-1.a_b"
        assert response.json()["status"] == response.status_code
        assert response.json()["instance"] == path.split("?", maxsplit=1)[0]
        assert ("errors" in response.json()) is (response.status_code == 422)


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a;b", "é"])
async def test_a_request_id_that_is_not_sane_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    response = await client.get("/things", headers=[(b"X-Request-ID", given.encode())])
    assert response.headers["X-Request-ID"] not in ("", given)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the service writes. Asked for before the client, which starts it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


async def test_an_unhandled_error_tells_the_client_nothing_and_the_log_all(
    log: io.StringIO, app: FastAPI, client: httpx2.AsyncClient
) -> None:
    @app.get("/fail/{number}")
    async def fail(number: int) -> None:
        raise RuntimeError("secret of the house")

    response = await client.get("/fail/1", headers={"X-Request-ID": "r1"})
    assert response.status_code == 500
    assert "secret" not in response.text
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (cause,) = [line for line in lines if line["event"] == "unhandled error"]
    assert "secret of the house" in cause["exception"]
    (access,) = [line for line in lines if line["event"] == "request"]
    assert {key: access[key] for key in ("method", "route", "status", "request_id", "client")} == {
        "client": "127.0.0.1",
        "method": "GET",
        "route": "/fail/{number}",
        "status": 500,
        "request_id": "r1",
    }
    assert cause["request_id"] == "r1"


async def test_an_error_in_the_middle_of_a_response_cuts_it(app: FastAPI, client: httpx2.AsyncClient) -> None:
    """A client must not take half an answer for a whole one."""

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError

        return StreamingResponse(body())

    with pytest.raises(RuntimeError):
        await client.get("/half")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(client: httpx2.AsyncClient, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1_000_000

    content = chunks() if chunked else b" " * 11_000_000
    response = await client.post("/things", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("megabytes", "read"), [(11, 11), (1_000_000, 17)])
async def test_a_body_over_the_limit_is_read_to_its_end_but_not_for_ever(
    client: httpx2.AsyncClient, megabytes: int, read: int
) -> None:
    """Most clients send the whole body before they read the answer."""
    sent: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for number in range(megabytes):
            sent.append(number)
            yield b" " * 1_000_000

    response = await client.post("/things", content=body(), headers={"Content-Type": "application/json"})
    assert (response.status_code, len(sent)) == (413, read)


@pytest.mark.parametrize("sent", [[], [b'{"email": "ada@example.com",']])
async def test_a_body_that_does_not_arrive_is_408_and_the_connection_is_closed(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, sent: list[bytes]
) -> None:
    monkeypatch.setattr("app.middleware._BODY_SECONDS", 0.05)

    async def body() -> AsyncIterator[bytes]:
        for part in sent:
            yield part
        await asyncio.Event().wait()

    response = await client.post("/things", content=body(), headers={"Content-Type": "application/json"})
    assert response.status_code == 408
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Connection"] == "close"


async def test_a_handler_may_go_on_after_a_body_that_did_not_arrive(
    app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task does not stay cancelled."""
    monkeypatch.setattr("app.middleware._BODY_SECONDS", 0.05)

    @app.post("/patient")
    async def patient(request: Request) -> str:
        with pytest.raises(HTTPExceptionOfStarlette):
            await request.body()
        task = asyncio.current_task()
        assert task is not None
        return "cancelled" if task.cancelling() else "went on"

    async def body() -> AsyncIterator[bytes]:
        yield b" "
        await asyncio.Event().wait()

    assert (await client.post("/patient", content=body())).json() == "went on"


async def test_a_large_body_may_take_longer(client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.middleware._BODY_SECONDS", 0.05)
    monkeypatch.setattr("app.middleware._BODY_RATE", 1)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"email": "ada@example.com",'
        await asyncio.sleep(0.1)
        yield b'"name": "Ada"}'

    response = await client.post("/things", content=body(), headers={"Content-Type": "application/json"})
    assert response.status_code == 201


async def test_after_its_body_a_request_may_take_as_long_as_it_wants(
    app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is received then is a disconnect."""
    monkeypatch.setattr("app.middleware._BODY_SECONDS", 0.05)

    @app.post("/listen")
    async def listen(request: Request, body: dict[str, str]) -> bool:
        receiving = asyncio.ensure_future(request.receive())
        await asyncio.wait({receiving}, timeout=0.2)
        return receiving.cancel()

    assert (await client.post("/listen", json={})).json() is True


@pytest.mark.parametrize(("path", "limit"), [("/large", 3_000_000), ("/small", 10)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_handler_may_have_a_limit_of_its_own(
    app: FastAPI, client: httpx2.AsyncClient, path: str, limit: int, chunked: bool
) -> None:
    @app.post("/large")
    @max_body_bytes(3_000_000)
    async def large(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.post("/small")
    @max_body_bytes(10)
    async def small(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> int:
        return len(body)

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, 1_000_000):
            yield b" " * min(1_000_000, size - start)

    async def send(size: int) -> httpx2.Response:
        headers = {"Content-Type": "application/octet-stream"}
        return await client.post(path, content=chunks(size) if chunked else b" " * size, headers=headers)

    assert (await send(limit)).json() == limit
    response = await send(limit + 1)
    assert (response.status_code, response.headers["Content-Type"]) == (413, "application/problem+json")
    assert response.json()["detail"] == f"The body is longer than {limit} bytes."


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/things", "no-store"),
        ("/nowhere", "no-store"),  # caches may keep a 404 that says nothing of it
        ("/health/live", "no-store"),
        ("/tagged", "private, no-cache"),
        ("/public", "public, max-age=60"),
    ],
)
async def test_no_cache_keeps_a_response_that_does_not_say_so(
    app: FastAPI, client: httpx2.AsyncClient, path: str, expected: str
) -> None:
    """With an ETag it may, but must ask each time. And no browser guesses another type than the one that is told."""

    @app.get("/tagged")
    async def tagged(response: Response) -> None:
        response.headers["ETag"] = '"1"'

    @app.get("/public")
    async def public(response: Response) -> None:
        response.headers["Cache-Control"] = "public, max-age=60"

    response = await client.get(path)
    assert response.headers.get_list("Cache-Control") == [expected]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_what_a_request_adds_to_its_log_lines_is_not_in_those_of_the_next(
    log: io.StringIO, app: FastAPI, client: httpx2.AsyncClient
) -> None:
    @app.get("/bind")
    async def bind() -> None:
        structlog.contextvars.bind_contextvars(customer="ada")

    await client.get("/bind")
    await client.get("/health/live")
    first, second = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "request"]
    assert first["customer"] == "ada"
    assert "customer" not in second


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b'{"email": "a@example.com", "name": "\xff"}', "application/json", 400),
        (b"[" * 200_000, "application/json", 400),
        (b'{"email": "a@example.com", "name": "\\ud800"}', "application/json", 422),
        (b'{"email": "a@example.com", "\\ud800": "x"}', "application/json", 422),
        (b'{"email": "a@example.com", "name": "Ada"}', "text/plain", 422),
        (b"", "application/json", 422),
    ],
)
async def test_a_body_that_cannot_be_read_is_a_problem_of_the_client(
    client: httpx2.AsyncClient, body: bytes, content_type: str, status: int
) -> None:
    response = await client.post("/things", content=body, headers={"Content-Type": content_type})
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_method_that_an_address_does_not_know_is_405(client: httpx2.AsyncClient) -> None:
    response = await client.put("/things")
    assert response.status_code == 405
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Allow"]
    assert response.json()["detail"] == "This URL does not support this method."


@pytest.mark.parametrize(("status", "detail"), [(400, {"code": 1}), (499, "odd"), (304, None)])
async def test_any_http_exception_has_an_answer(
    app: FastAPI, client: httpx2.AsyncClient, status: int, detail: object
) -> None:
    @app.get("/raise")
    async def fail() -> None:
        raise HTTPException(status, detail)

    response = await client.get("/raise")
    assert response.status_code == status
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("grouped", [False, True])
async def test_the_log_holds_no_row_that_failed(
    log: io.StringIO, app: FastAPI, client: httpx2.AsyncClient, grouped: bool
) -> None:
    """PostgreSQL's DETAIL quotes it, even if it is in the group of errors that a task group raises."""

    @app.post("/fail")
    async def fail(session: DbSession) -> None:
        row = {"email": "one line\nhunter2"}  # not in the line of the call, which a traceback quotes
        failing = session.execute(text("INSERT INTO things (email, name) VALUES (:email, 'any')"), row)
        if not grouped:
            await failing
        async with asyncio.TaskGroup() as group:
            group.create_task(failing)

    assert (await client.post("/fail")).status_code == 500
    assert "NotNullViolation" in log.getvalue()
    assert "left out of the log" in log.getvalue()
    assert "hunter2" not in log.getvalue()


def test_a_web_socket_has_a_request_id_and_its_errors_their_cause(app: FastAPI) -> None:
    @app.websocket("/socket")
    async def socket(websocket: WebSocket, reader: DbReader) -> None:
        await websocket.accept()
        await websocket.send_text(str(await reader.scalar(select(literal(1)))))

    @app.websocket("/refuse")
    async def refuse(websocket: WebSocket) -> None:
        raise HTTPException(403, "not you")

    with TestClient(app) as client:
        with client.websocket_connect("/socket") as connection:
            assert connection.receive_text() == "1"
        with pytest.raises(WebSocketDenialResponse) as raised, client.websocket_connect("/refuse"):
            pass
        assert raised.value.status_code == 403
        assert raised.value.json()["request_id"]
