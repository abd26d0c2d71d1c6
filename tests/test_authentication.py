"""Authentication as its user meets it: the README's commands, the guide's steps, and nothing left behind."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import web
from commands import TEMPLATE, environment, free_port, processes_of, run, serving
from pgbouncer import pooled
from services import program
from test_guide_steps import follow


@pytest.fixture
def fresh(guarded: Path, bake: Any) -> Path:
    """A fresh bake with the programs of one that is installed."""
    baked: Path = bake(auth="oidc")
    (baked / ".venv").symlink_to(guarded / ".venv")
    (baked / "uv.lock").write_bytes((guarded / "uv.lock").read_bytes())
    yield baked
    run("make", "db-stop", cwd=baked)


@pytest.mark.needs("curl")
def test_a_newcomer_creates_a_user_with_a_token(fresh: Path) -> None:
    """From `make run` to an authorized 201, by the README's own commands."""
    commands = re.findall(r"^\$ (TOKEN=.*|curl .*)$", (fresh / "README.md").read_text(), re.MULTILINE)
    assert commands[0].startswith("TOKEN=$(make token")
    port = free_port()
    with serving(["make", "run", f"PORT={port}"], cwd=fresh, port=port):
        script = "\n".join(commands).replace("localhost:8000", f"localhost:{port}")
        answers = run("sh", "-ec", script, cwd=fresh).stdout
        assert answers.startswith("HTTP/1.1 201 Created")
        assert '"status":409' in answers
        assert '"next_cursor"' in answers
    assert processes_of(fresh) == []


def test_after_make_db_the_commands_work_with_no_exports(fresh: Path) -> None:
    run("make", "db", cwd=fresh)
    assert [line.split("=")[0] for line in (fresh / ".env").read_text().splitlines()] == [
        "DATABASE_URL",
        "AUTH_ISSUER",
        "AUTH_AUDIENCE",
    ]
    activate = 'export PATH="$PWD/.venv/bin:$PATH"; '
    run("sh", "-ec", f"{activate} alembic upgrade head", cwd=fresh)
    port = free_port()
    with serving(["sh", "-c", f"{activate} exec uvicorn app.main:app --port {port}"], cwd=fresh, port=port):
        other = free_port()
        with serving(["make", "run", f"PORT={other}"], cwd=fresh, port=other):  # a second user of the same issuer
            pass
        token = run("make", "token", "scope=users:read", cwd=fresh).stdout.strip()
        headers = {"Authorization": f"Bearer {token}"}
        assert web.get(f"http://127.0.0.1:{port}/users", headers=headers).status_code == 200
    run("make", "db", cwd=fresh)  # once more: nothing to do
    assert len((fresh / ".env").read_text().splitlines()) == 3
    run("make", "db-stop", cwd=fresh)
    while processes_of(fresh):
        pass
    none = run("make", "token", cwd=fresh, check=False)
    assert none.returncode != 0
    assert none.stderr.startswith("no development issuer is running")


def test_a_provider_of_the_users_own_is_used_and_none_is_started(fresh: Path) -> None:
    """Named in the environment, or by a line of the user's own in .env."""
    own = "AUTH_ISSUER=https://login.example.com\nAUTH_AUDIENCE=orders\n"
    (fresh / ".env").write_text(own)
    assert "that provider is used, none is started" in run("make", "db", cwd=fresh).stdout
    assert (fresh / ".env").read_text().startswith(own)
    refused = run("make", "token", cwd=fresh, check=False)
    assert "AUTH_ISSUER is set in .env: ask that provider" in refused.stderr
    assert not (fresh / ".issuer").exists()


def test_a_run_that_is_killed_leaves_no_issuer_behind(fresh: Path) -> None:
    port = free_port()
    with serving(["make", "run", f"PORT={port}"], cwd=fresh, port=port) as process:
        running = processes_of(fresh)
        assert [line for line in running if "dev.issuer serve" in line], running
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        while processes_of(fresh):
            pass


def test_the_image_has_no_issuer(fresh: Path) -> None:
    copied = re.findall(r"^COPY (?!--from)(.*)$", (fresh / "Dockerfile").read_text(), re.MULTILINE)
    assert not [line for line in copied if "dev" in line or line.startswith(". ")]


@pytest.mark.slow
def test_authentication(fresh: Path) -> None:
    """The guide, but for the request to somebody's Keycloak."""
    follow("authentication.md", fresh, {"curl -s https://login.example.com": "true https://login.example.com"})


@pytest.mark.slow
def test_the_guide_to_tenants(fresh: Path, uvx: Path, database: str) -> None:
    """The guide, and its tests once more behind a PgBouncer in transaction mode, which has few connections."""
    follow("tenants.md", fresh, TEMPLATE=str(TEMPLATE), PATH=f"{uvx}:{environment()['PATH']}")
    options = fresh / "app" / "database" / "internal" / "options.py"
    default = 'pooler: Literal["none", "pgbouncer", "pgbouncer-prepared"] = '
    assert f'{default}"none"' in options.read_text()
    options.write_text(options.read_text().replace(f'{default}"none"', f'{default}"pgbouncer"'))
    with pooled(database) as url:
        tests = ["tests/notes", "-W", "ignore::UserWarning"]
        run(program(fresh, "pytest"), *tests, cwd=fresh, timeout=300, TEST_DATABASE_URL=url)


def test_the_environment_of_these_tests_names_no_provider() -> None:
    assert not [name for name in environment() if name.startswith("AUTH_")]
