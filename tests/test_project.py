"""The baked project as its owner meets it: the commands, verbatim, in a fresh terminal."""

import ast
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import web
from commands import environment, free_port, processes_of, run, serving
from sql import execute

ACTIVE = 'export PATH="$PWD/.venv/bin:$PATH"; '


def in_terminal(project: Path, command: str, *, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Type a command where the project's venv is active."""
    return run("sh", "-c", ACTIVE + command, cwd=project, check=check, **env)


def test_make_check_and_make_test_pass(project: Path) -> None:
    run("make", "check", cwd=project)
    assert re.search(r"= \d+ passed in ", run("make", "test", cwd=project, timeout=600).stdout)
    assert processes_of(project) == []


@pytest.mark.slow
def test_the_slow_tests_pass(project: Path) -> None:
    """`make test` runs all others; `make test-all` runs both."""
    tested = in_terminal(project, "pytest -m slow").stdout
    (passed,) = re.findall(r"= (\d+) passed in ", tested)
    only_listed = {"PYTEST_ADDOPTS": "--collect-only -q -n 0"}
    found = [run("make", target, cwd=project, **only_listed).stdout for target in ("test", "test-all")]
    others, every, left = re.search(r"(\d+)/(\d+) tests collected \((\d+) deselected\)", found[0]).groups()
    assert passed == left
    assert 0 < int(others) < int(every)
    assert f"\n{every} tests collected" in found[1]
    assert processes_of(project) == []


def test_make_openapi_writes_the_same_each_time_and_ci_sees_a_change(project: Path, bake: Any) -> None:
    """It needs no settings. CI ignores the document where it is not committed."""
    seen_by_ci = ["git", "diff", "--exit-code", "--", "uv.lock", "openapi.json"]
    assert any(" ".join(seen_by_ci) in path.read_text() for path in (project / ".github" / "workflows").iterdir())
    new = bake()
    (new / ".venv").symlink_to(project / ".venv")
    run("git", "init", "--quiet", cwd=new)
    documents = set()
    for seed in ("0", "1"):
        run("make", "openapi", cwd=new, PYTHONHASHSEED=seed)
        documents.add((new / "openapi.json").read_text())
    assert len(documents) == 1
    schemas = new / "app" / "fields.py"
    schemas.write_text(schemas.read_text().replace("max_length=200", "max_length=100"))
    for changes in (False, True):
        run("make", "openapi", cwd=new)
        assert run(*seen_by_ci, cwd=new, check=False).returncode == changes
        (new / "openapi.json").write_text(*documents)
        run("git", "add", "openapi.json", cwd=new)


def test_after_make_db_the_commands_work_with_no_exports(project: Path) -> None:
    run("make", "db", cwd=project)
    (marked,) = (project / ".env").read_text().splitlines()
    assert marked.endswith("# written by make db")
    assert (project / ".env").stat().st_mode & 0o077 == 0
    in_terminal(project, "alembic upgrade head")
    assert "purged users" in in_terminal(project, "python -m app.scripts.cleanup").stderr
    port = free_port()
    with serving(["sh", "-c", f"{ACTIVE} exec uvicorn app.main:app --port {port}"], cwd=project, port=port):
        pass
    run("make", "db", cwd=project)  # once more: nothing to do, and one line still
    assert len((project / ".env").read_text().splitlines()) == 1
    run("make", "db-stop", cwd=project)
    assert processes_of(project) == []
    stopped = in_terminal(project, "DATABASE_PROBE_TRIES=1 python -m app.scripts.cleanup", check=False)
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("DATABASE_URL: cannot reach PostgreSQL")


def test_make_run_serves_keeps_its_data_and_leaves_no_process_behind(project: Path) -> None:
    port = free_port()
    for expected in ([], ["Ada"]):
        with serving(["make", "run", f"PORT={port}"], cwd=project, port=port):
            users = f"http://127.0.0.1:{port}/users"
            assert [user["name"] for user in web.get(users).json()["items"]] == expected
            web.post(users, json={"email": "ada@example.com", "name": "Ada"})
        assert processes_of(project) == []


def test_the_last_of_two_users_stops_the_server(project: Path) -> None:
    one, two = free_port(), free_port()
    with serving(["make", "run", f"PORT={one}"], cwd=project, port=one):
        with serving(["make", "run", f"PORT={two}"], cwd=project, port=two):
            pass
        assert web.get(f"http://127.0.0.1:{one}/health/ready").status_code == 200
    assert processes_of(project) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_server_behind(project: Path, number: int) -> None:
    port = free_port()
    with serving(["make", "run", f"PORT={port}"], cwd=project, port=port) as process:
        os.killpg(process.pid, number)
        process.wait(60)
        while processes_of(project):
            pass


def test_a_server_of_the_users_own_is_used_and_none_is_started(project: Path, database: str) -> None:
    """Named in the environment, or by a line of the user's own in .env."""
    moved = (project / ".env").rename(project / ".env.before")
    try:
        run("make", "migrate", cwd=project, DATABASE_URL=database)
        (project / ".env").write_text(f"DATABASE_URL={database}\n")
        assert "none is started" in run("make", "db", cwd=project).stdout
        assert (project / ".env").read_text() == f"DATABASE_URL={database}\n"
        assert "(head)" in in_terminal(project, "alembic current").stdout
        (project / ".env").write_text(f"database_url={database}\n")  # the settings take any letter case
        assert "none is started" in run("make", "db", cwd=project).stdout
        assert "none is started" in run("make", "db", cwd=project, database_url=database).stdout
    finally:
        moved.rename(project / ".env")
    run("make", "db-stop", cwd=project)


def test_psql_takes_every_password_that_the_service_takes(project: Path, database: str) -> None:
    execute(database, "CREATE ROLE at LOGIN PASSWORD 'p@ss'")
    url = f"postgresql://at:p@ss@{database.rpartition('@')[2]}"
    asked = {"cwd": project, "env": environment(DATABASE_URL=url), "input": "SELECT current_user", "text": True}
    assert "at" in subprocess.run(["make", "-s", "psql"], capture_output=True, check=True, **asked).stdout.split()


def test_an_env_file_is_no_longer_readable_for_others_once_a_password_is_in_it(bake: Any, project: Path) -> None:
    new = bake()
    (new / ".venv").symlink_to(project / ".venv")
    (new / ".env").write_text("LOG_LEVEL=DEBUG\n")
    (new / ".env").chmod(0o644)
    run("make", "db", cwd=new)
    try:
        assert (new / ".env").stat().st_mode & 0o077 == 0
        assert (new / ".env").read_text().startswith("LOG_LEVEL=DEBUG\nDATABASE_URL=")
        (new / ".env").write_bytes(b"LOG_LEVEL=\xff\n")
        refused = run("make", "db", cwd=new, check=False)
        assert refused.returncode != 0
        assert refused.stderr.startswith(".env: is not UTF-8")
    finally:
        run("make", "db-stop", cwd=new)


def test_tests_never_touch_the_database_of_the_settings(project: Path, database: str) -> None:
    env = {"DATABASE_URL": database, "DATABASE_SCHEMA": "mine", "LOG_LEVEL": "loud"}
    some = "pytest -q -n 2 tests/users/test_etags.py tests/migrations/test_revisions.py"
    in_terminal(project, f"{some} && python -m dev.postgres drift && python -m dev.migrations check", **env)
    listed = subprocess.run(
        ["make", "-s", "psql"],
        cwd=project,
        env=environment(**env),
        input="SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information)'",
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert listed.split()[2] == "0", listed
    assert " passed" in in_terminal(project, some, TEST_DATABASE_URL=database).stdout


def test_two_projects_run_their_servers_at_once(project: Path, bake: Any) -> None:
    other = bake(project_slug="other-service")
    (other / ".venv").symlink_to(project / ".venv")
    run("make", "db", cwd=project)
    run("make", "db", cwd=other)
    try:
        for folder in (project, other):
            in_terminal(folder, "alembic upgrade head")
    finally:
        run("make", "db-stop", cwd=other)
        run("make", "db-stop", cwd=project)


def test_make_migration_writes_a_formatted_revision(project: Path) -> None:
    versions = project / "migrations" / "versions"
    before = set(versions.glob("*.py"))
    models = project / "app" / "users" / "models.py"
    text = models.read_text()
    try:
        column = "    name: Mapped[str]"
        models.write_text(text.replace(column, f"    nickname: Mapped[str | None]\n{column}"))
        drifted = run("make", "check", cwd=project, check=False)
        assert drifted.returncode != 0
        assert "nickname" in drifted.stdout + drifted.stderr
        assert run("make", "migration", cwd=project, check=False).returncode == 2
        message = 'it\'s a $HOME \\N "name" """ `id`'
        run("make", "migration", f"m={message}", cwd=project)
        (new,) = set(versions.glob("*.py")) - before
        assert "add_column" in new.read_text()
        assert (ast.get_docstring(ast.parse(new.read_text())) or "").startswith(message)
        run("make", "check", cwd=project)
        new.unlink()
    finally:
        models.write_text(text)


@pytest.mark.slow
@pytest.mark.needs("root")
def test_an_ordinary_user_needs_no_more_than_root(bake: Any) -> None:
    ordinary_user = pwd.getpwnam("games")
    folder = Path("/var/tmp") / f"ordinary-{os.getpid()}"  # noqa: S108  # a folder that another user can get to
    shutil.copytree(bake(), folder / "fastapi-service")
    shutil.copy2(shutil.which("uv", path=environment()["PATH"]) or "", folder / "uv")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, ordinary_user.pw_uid, ordinary_user.pw_gid)
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"  # root's own folders are closed to others
    env = environment(HOME=str(folder), UV_CACHE_DIR=str(folder / "cache"), TMPDIR=str(folder), PATH=path)
    env["PYTEST_ADDOPTS"] = (
        "tests/users/test_etags.py tests/migrations/test_revisions.py"  # the server is what may differ
    )
    try:
        tested = subprocess.run(
            ["make", "test"],
            cwd=folder / "fastapi-service",
            env=env,
            user=ordinary_user.pw_uid,
            group=ordinary_user.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert tested.returncode == 0, tested.stdout + tested.stderr
    finally:
        shutil.rmtree(folder)


@pytest.mark.needs("root")
def test_as_root_below_a_private_folder_no_permission_is_changed(bake: Any, project: Path, tmp_path: Path) -> None:
    """PostgreSQL then runs as a user who cannot get through that folder: what it needs is put elsewhere."""
    tmp_path.chmod(0o700)
    private = bake()
    (private / ".venv").symlink_to(project / ".venv")
    before = {path: path.stat().st_mode for path in (tmp_path, *tmp_path.parents, private)}
    try:
        run("make", "db", cwd=private)
        in_terminal(private, "alembic upgrade head")
    finally:
        run("make", "db-stop", cwd=private)
    assert {path: path.stat().st_mode for path in before} == before
