"""The aliases that handlers ask for."""

import subprocess
import sys
from pathlib import Path

from dev.databases import environment_without_settings

_SERVE = """
import functools
from fastapi.dependencies import utils

solve = utils.solve_dependencies
utils.solve_dependencies = functools.partial(solve)
utils.solve_dependencies.__code__ = (lambda: None).__code__  # as if FastAPI had renamed its stack

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from app.config import ServiceSettings
from app.dependencies import DbSession
from app.main import create_app
from tests import callers
from tests.example import Thing

app = create_app(ServiceSettings(database_url=SecretStr({url!r}), auth=callers.options()))


@app.post("/things", status_code=201)
async def create(session: DbSession) -> None:
    session.add(Thing(email="ada@example.com", name="Ada"))


with TestClient(app) as client:
    print([client.post("/things").status_code for _ in range(2)])
"""


def test_without_fastapis_private_stack_a_session_is_committed_before_the_response_nevertheless(
    database_url: str,
) -> None:
    """If this fails, a new FastAPI that renames it breaks each handler with a session."""
    ended = subprocess.run(
        [sys.executable, "-c", _SERVE.format(url=database_url)],
        cwd=Path(__file__).parent.parent,
        env=environment_without_settings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[-1:] == ["[201, 500]"], ended.stderr
