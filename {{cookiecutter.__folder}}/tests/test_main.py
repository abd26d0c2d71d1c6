"""The service as a process: what it needs to start, and what it says where it cannot."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message

from app.config import ServiceSettings
from app.database.internal.transaction import LateCommitError
from app.database.session import db_session_dependency
from app.main import create_app
from app.metadata import VERSION
from tests.commands import PROJECT, environment, run

LATE = Depends(db_session_dependency)


def test_importing_the_service_needs_no_settings() -> None:
    run(sys.executable, "-c", "import app.main").check_returncode()


def test_fastapi_run_finds_the_service_in_pyproject() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    module, _, name = settings["tool"]["fastapi"]["entrypoint"].partition(":")
    assert isinstance(getattr(import_module(module), name), FastAPI)


def test_missing_settings_end_the_service_with_a_line_a_problem() -> None:
    ended = run("uvicorn", "app.main:app", "--port", "0", LOG_LEVEL="loud")
    assert ended.returncode == 3
    assert "DATABASE_URL: is not set" in ended.stderr
    assert "\nLOG_LEVEL: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_schema_that_is_behind_ends_the_service_with_the_command_to_run(empty_database_url: str) -> None:
    ended = run("uvicorn", "app.main:app", "--port", "0", database_url=empty_database_url)
    assert ended.returncode == 3
    assert "DATABASE_URL: the database schema is behind this code" in ended.stderr
    assert "run `alembic upgrade head`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_uvicorns_lines_come_in_our_format_with_one_access_line_a_request(database_url: str) -> None:
    command = ["uvicorn", "app.main:app", "--port", "0"]
    with subprocess.Popen(
        command, cwd="/", env=environment(database_url), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        while not (match := re.search(r"http://127\.0\.0\.1:\d+", "".join(lines[-1:]))):
            lines.append(process.stderr.readline())
        httpx2.get(f"{match[0]}/health/live")
        process.terminate()
        stdout, rest = process.communicate(timeout=30)
    written = [json.loads(line) for line in [*lines[2:], *rest.splitlines()]]  # two come before the start of ours
    assert stdout == ""
    assert {line["logger"] for line in written} == {"uvicorn.error", "app.middleware"}
    assert [line["route"] for line in written if line["logger"] == "app.middleware"] == ["/health/live"]


def _late_sub_dependency(session: Annotated[AsyncSession, LATE]) -> AsyncSession:
    return session


@pytest.mark.parametrize("how", ["route", "router", "sub-dependency", "mount", "method", "websocket"])
async def test_a_route_that_would_commit_after_its_response_is_refused_at_start_up(
    settings: ServiceSettings, how: str
) -> None:
    """An error names each such route, and the fix."""
    app = create_app(settings)
    target = FastAPI() if how == "mount" else app

    if how == "sub-dependency":

        @target.get("/late")
        async def by_sub_dependency(session: Annotated[AsyncSession, Depends(_late_sub_dependency)]) -> None: ...

    elif how == "router":

        @target.get("/late", dependencies=[LATE])
        async def by_route_dependencies() -> None: ...

    elif how == "method":

        @target.get("/late")
        async def by_method(session: Annotated[AsyncSession, Depends(db_session_dependency.__call__)]) -> None: ...

    elif how == "websocket":

        @target.websocket("/late")
        async def by_websocket(session: Annotated[AsyncSession, LATE]) -> None: ...

    else:

        @target.get("/late")
        async def directly(session: Annotated[AsyncSession, LATE]) -> None: ...

    if how == "mount":
        app.mount("/inner", target)
    with pytest.raises(LateCommitError, match="^(GET )?(/inner)?/late: .*session: DbSession"):
        async with app.router.lifespan_context(app):
            pass


async def test_the_server_gets_the_traceback_of_a_start_up_error_that_no_setting_can_fix(
    settings: ServiceSettings,
) -> None:
    app = create_app(settings)

    @asynccontextmanager
    async def failing(_: FastAPI) -> AsyncIterator[None]:
        raise ZeroDivisionError
        yield

    app.router.lifespan_context = failing
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):
        await app({"type": "lifespan", "state": {}}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "Traceback" in message["message"]


def test_the_version_is_the_projects_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f'\nversion = "{VERSION}"\n' in (PROJECT / "pyproject.toml").read_text()
    monkeypatch.setattr("app.main.VERSION", "1.2.3")
    assert create_app().version == "1.2.3"


async def test_the_documentation_loads_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/redoc")).status_code == 404
    docs = await client.get("/docs")
    assert docs.status_code == 200
    assert re.findall(r"https?://[^\"'/]+", docs.text) == []
    assert docs.headers["Content-Security-Policy"]
