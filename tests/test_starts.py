"""Starts and deploys under faults: the table in docs/reliability.md names these tests."""

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import free_port, run, started
from services import failing_start, program
from sql import execute, rows


def test_a_server_that_is_not_there_yet_is_waited_for(project: Path, migrated: str) -> None:
    run("make", "db-stop", cwd=project)
    port = free_port()
    env = {"DATABASE_URL": migrated, "DATABASE_PROBE_TRIES": "50", "DATABASE_PROBE_PAUSE": "0.2"}
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port)]
    with started(command, cwd=project, stderr=subprocess.PIPE, **env) as process:
        assert process.stderr is not None
        while "waiting for the database" not in process.stderr.readline():
            assert process.poll() is None
        run("make", "db", cwd=project)
        while "Uvicorn running" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()


@pytest.mark.parametrize(
    ("fault", "says", "is_waited_for", "workers"),
    [
        ("absent", "cannot reach PostgreSQL", True, 1),
        ("absent", "cannot reach PostgreSQL", True, 2),
        ("silent", "no answer in time", True, 1),
        ("full", "too many connections", True, 1),
        ("wrong password", "password authentication failed", False, 1),
        ("wrong password", "password authentication failed", False, 2),
        ("no database", "does not exist", False, 1),
    ],
)
def test_a_start_that_must_fail_says_why_in_a_line(  # noqa: PLR0913, PLR0917  # parameters of a test
    project: Path, database: str, fault: str, says: str, is_waited_for: bool, workers: int
) -> None:
    role = database.rsplit("/", 1)[1]
    server = f"postgresql://{role}:pw@{database.split('@')[1]}"
    limit = "CONNECTION LIMIT 0" if fault == "full" else ""
    execute(database, f"CREATE ROLE {role} LOGIN PASSWORD 'pw' {limit}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = {
            "absent": "postgresql://127.0.0.1:1/orders",
            "silent": f"postgresql://127.0.0.1:{silent.getsockname()[1]}/orders",
            "full": server,
            "wrong password": server.replace(":pw@", ":hunter2@"),
            "no database": f"{server}_not",
        }[fault]
        env = {
            "DATABASE_PROBE_TRIES": "3",
            "DATABASE_PROBE_PAUSE": "0.1",
            "DATABASE_CONNECT_TIMEOUT": "0.5" if fault == "silent" else "20",
        }
        ended = failing_start(project, url, workers=workers, **env)
    # Of two workers the second may be stopped before it has said it all.
    waits, lines = ended.stderr.count("waiting for the database"), ended.stderr.count('"event": "DATABASE_URL: ')
    assert says in ended.stderr
    assert 1 <= lines <= workers
    assert (2 <= waits <= 2 * workers) if is_waited_for else waits == 0
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    assert workers == 2 or ended.returncode == 3


def test_a_server_that_is_starting_is_waited_for_with_one_worker_and_with_two(project: Path, tmp_path: Path) -> None:
    """57P03, made for real: a standby that takes no connections says it for as long as it lives."""
    script = (
        "import sys, pathlib, tempfile\n"
        "from dev.cluster import Cluster, temporary_cluster\n"
        "from dev.programs import run_as_server, give_to_server\n"
        "with temporary_cluster() as cluster:\n"
        "    data = cluster._data\n"
        "    cluster.stop()\n"
        "    (data / 'standby.signal').touch(); give_to_server(data / 'standby.signal')\n"
        "    with (data / 'postgresql.conf').open('a') as conf: conf.write('hot_standby = off\\n')\n"
        "    where = ('-D', data, '-l', cluster._log, '-o', f'-p {cluster._port.read_text()}')\n"
        "    run_as_server('pg_ctl', 'start', '--no-wait', *where)\n"
        "    print(cluster.url(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [program(project, "python"), "-c", script]
    with started(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for workers in (1, 2):
            patience = {"DATABASE_PROBE_TRIES": "3", "DATABASE_PROBE_PAUSE": "0.1"}
            ended = failing_start(project, url, workers=workers, **patience)
            assert 2 <= ended.stderr.count("waiting for the database") <= 2 * workers
            assert ": the database system is" in ended.stderr
            assert "Traceback" not in ended.stderr
        server.communicate("")


def test_eight_upgrades_at_once(project: Path, bake: Any, database: str) -> None:
    """With CREATE INDEX CONCURRENTLY among the migrations, on empty databases and on half-migrated ones."""
    many = bake()
    (many / ".venv").symlink_to(project / ".venv")
    (many / "migrations" / "versions" / "20260102_0000_000000000002_index_names.py").write_text(
        '"""Index names."""\n\nfrom alembic import op\n\nrevision = "000000000002"\n'
        'down_revision = "4b7d0c9f2a11"\nbranch_labels = None\ndepends_on = None\n\n\n'
        "def upgrade() -> None:\n    with op.get_context().autocommit_block():\n"
        '        op.create_index("ix_users_name", "users", ["name"], postgresql_concurrently=True)\n\n\n'
        'def downgrade() -> None:\n    op.drop_index("ix_users_name")\n'
    )
    alembic = program(project, "alembic")
    with ThreadPoolExecutor(8) as pool:
        for start in ("base", "4b7d0c9f2a11"):
            run(alembic, "upgrade", "head", cwd=many, DATABASE_URL=database)
            run(alembic, "downgrade", start, cwd=many, DATABASE_URL=database)
            upgrades = [pool.submit(run, alembic, "upgrade", "head", cwd=many, DATABASE_URL=database) for _ in range(8)]
            for upgrade in upgrades:
                upgrade.result()
            assert rows(database, "SELECT version_num FROM alembic_version") == [("000000000002",)]
            assert rows(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_users_name'::regclass") == [
                (True,)
            ]
