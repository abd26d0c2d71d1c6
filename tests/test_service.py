"""The service under real load and beside others, over real sockets."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from commands import environment, free_port, run, serving


def program(project: Path, name: str) -> str:
    return str(project / ".venv" / "bin" / name)


def serve(project: Path, port: int, *arguments: str) -> list[str]:
    return [program(project, "uvicorn"), "app.main:app", "--port", str(port), *arguments]


def test_a_thousand_users_page_through_without_a_gap_or_a_duplicate(project: Path, database: str) -> None:
    run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=database)
    port = free_port()
    with (
        serving(serve(project, port, "--workers", "2"), cwd=project, port=port, DATABASE_URL=database),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
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
    assert sorted(user["id"] for user in seen) == sorted(created)
    assert [user["created_at"] for user in seen] == sorted(user["created_at"] for user in seen)


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
            assert httpx2.post(f"http://127.0.0.1:{port}/users", json=body).status_code == 201
        for port in (one, two):
            users = httpx2.get(f"http://127.0.0.1:{port}/users").json()["items"]
            assert [user["name"] for user in users] == [str(port)]
    run(program(project, "alembic"), "downgrade", "base", cwd=project, **env["one"])
    run(program(project, "alembic"), "check", cwd=project, **env["two"])


def test_two_workers_that_cannot_start_say_why_and_end(project: Path, database: str) -> None:
    env = environment(DATABASE_URL=database)
    ended = subprocess.run(
        serve(project, free_port(), "--workers", "2"),
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "DATABASE_URL: the schema is behind" in ended.stderr
    assert "Traceback" not in ended.stderr
