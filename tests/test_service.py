"""The service under real load and beside others, over real sockets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import web
from commands import free_port, run, serving
from services import failing_start, program


def serve(project: Path, port: int, *arguments: str) -> list[str]:
    return [program(project, "uvicorn"), "app.main:app", "--port", str(port), *arguments]


def test_a_thousand_users_page_through_without_a_gap_or_a_duplicate(project: Path, migrated: str) -> None:
    port = free_port()
    with (
        serving(serve(project, port, "--workers", "2"), cwd=project, port=port, DATABASE_URL=migrated),
        web.Client(base_url=f"http://127.0.0.1:{port}") as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def create(number: int) -> str:
            answer = client.post("/users", json={"email": f"{number}@example.com", "name": str(number)})
            assert answer.status_code == 201
            assert client.get(answer.headers["Location"]).json() == answer.json()
            return str(answer.json()["id"])

        created = list(pool.map(create, range(1000)))
        seen: list[dict[str, str]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = client.get("/users", params={"limit": 37, "cursor": cursor}).json()
            seen += page["items"]
            cursor = page["next_cursor"]
    # The order of ids is that of creation to the millisecond, in one process: two workers may swap neighbours.
    assert [user["id"] for user in seen] == sorted(created)


def test_two_services_share_a_database_each_in_its_schema(project: Path, database: str) -> None:
    one, two = free_port(), free_port()
    env = {schema: {"DATABASE_URL": database, "DATABASE_SCHEMA": schema} for schema in ("one", "two")}
    for settings in env.values():
        run(program(project, "alembic"), "upgrade", "head", cwd=project, **settings)
    with (
        serving(serve(project, one), cwd=project, port=one, **env["one"]),
        serving(serve(project, two), cwd=project, port=two, **env["two"]),
    ):
        for port in (one, two):
            body = {"email": "ada@example.com", "name": str(port)}
            assert web.post(f"http://127.0.0.1:{port}/users", json=body).status_code == 201
        for port in (one, two):
            users = web.get(f"http://127.0.0.1:{port}/users").json()["items"]
            assert [user["name"] for user in users] == [str(port)]
    run(program(project, "alembic"), "downgrade", "base", cwd=project, **env["one"])
    run(program(project, "alembic"), "check", cwd=project, **env["two"])


def test_two_workers_that_cannot_start_say_why_and_end(project: Path, database: str) -> None:
    ended = failing_start(project, database, workers=2)
    assert "DATABASE_URL: the database schema is behind this code" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_migration_may_take_longer_than_a_statement_of_the_service(bake: Any, project: Path, database: str) -> None:
    """The driver's limit is a second above the server's: the migration takes longer than both."""
    patient = bake()
    (patient / ".venv").symlink_to(project / ".venv")
    (patient / "migrations" / "versions" / "slow.py").write_text(
        "from alembic import op\n\nrevision = 'slow'\ndown_revision = '4b7d0c9f2a11'\n\n\n"
        "def upgrade() -> None:\n    op.execute('SELECT pg_sleep(1.2)')\n"
    )
    alembic = program(project, "alembic")
    run(alembic, "upgrade", "head", cwd=patient, DATABASE_URL=database, DATABASE_STATEMENT_TIMEOUT="0.1")
    current = run(alembic, "current", cwd=patient, DATABASE_URL=database)
    assert "slow (head)" in current.stdout


def test_behind_a_transaction_pooler_each_service_finds_its_own_schema(project: Path, pooler: str) -> None:
    """The pooler hands connections from one service to the other. Without the setting, the start says what to set."""
    refused = failing_start(project, pooler, workers=1).stderr
    assert "DATABASE_POOLER=pgbouncer" in refused
    assert "Traceback" not in refused
    schemas = {"one": free_port(), "two": free_port()}
    env = {
        schema: {"DATABASE_URL": pooler, "DATABASE_SCHEMA": schema, "DATABASE_POOLER": "pgbouncer"}
        for schema in schemas
    }
    with ThreadPoolExecutor(8) as pool:
        alembic = program(project, "alembic")
        for done in [
            pool.submit(run, alembic, "upgrade", "head", cwd=project, **env[schema]) for schema in ("one", "two") * 2
        ]:
            done.result()
        with (
            serving(serve(project, schemas["one"]), cwd=project, port=schemas["one"], **env["one"]),
            serving(serve(project, schemas["two"]), cwd=project, port=schemas["two"], **env["two"]),
        ):

            def create(number: int) -> int:
                schema = "one" if number % 2 else "two"
                body = {"email": f"{number}@example.com", "name": schema}
                return web.post(f"http://127.0.0.1:{schemas[schema]}/users", json=body).status_code

            assert set(pool.map(create, range(200))) == {201}
            for schema, port in schemas.items():
                users = web.get(f"http://127.0.0.1:{port}/users?limit=200").json()["items"]
                assert [user["name"] for user in users] == [schema] * 100
