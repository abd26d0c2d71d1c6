"""The generated project's own suite through a real PgBouncer in transaction mode, and what start-up says of one."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import environment, free_port, run, serving
from pgbouncer import pooled
from services import failing_start, program
from sql import execute

pytestmark = pytest.mark.slow

DIRECT = {
    "a_slow_statement_is_cut_by_the_server": "sets a time limit when the connection starts",
    "a_statement_that_takes_too_long_is_not_run_again_elsewhere": "the same",
    "a_server_that_has_become_read_only_is_left": "sets default_transaction_read_only when the connection starts",
    "what_the_url_says_of_the_session_wins": "sends `options` when the connection starts",
    "a_connection_that_the_server_closed_is_replaced_unseen": "ends the server's process; PgBouncer keeps the client",
    "who_has_written_reads_from_the_primary_again": "the same, and PgBouncer waits 15 s after a failed login",
}
"""Tests of what a pooler does not let through, with the reason."""

LIMITS = ("statement_timeout = '30s'", "idle_in_transaction_session_timeout = '60s'")


@pytest.fixture(scope="module")
def project_behind_pooler(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose default for DATABASE_POOLER is PgBouncer: its tests make engines in many ways."""
    copy = tmp_path_factory.mktemp("pooled") / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", ".postgres", ".env", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    options = copy / "app" / "database" / "options.py"
    default = 'pooler: Literal["none", "pgbouncer"] = '
    assert f'{default}"none"' in options.read_text()
    options.write_text(options.read_text().replace(f'{default}"none"', f'{default}"pgbouncer"'))
    return copy


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """URL of a server of the test's own, whose role has the time limits that the README asks for."""
    script = (
        "import sys\nfrom dev.cluster import temporary_cluster\nwith temporary_cluster() as cluster:\n"
        "    print(cluster.url(), flush=True)\n    sys.stdin.read()\n"
    )
    command = [program(project, "python"), "-c", script]
    with subprocess.Popen(
        command, cwd=project, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        execute(url, *(f"ALTER ROLE postgres SET {limit}" for limit in LIMITS))
        yield url
        process.communicate("")


def test_the_suite_of_the_project_passes_behind_pgbouncer(project_behind_pooler: Path, server: str) -> None:
    """But for the tests of what a pooler does not let through, and no name on that list is out of date."""
    pytest_of_project = program(project_behind_pooler, "pytest")
    found = run(pytest_of_project, "--collect-only", "-q", "-n", "0", cwd=project_behind_pooler).stdout
    assert [name for name in DIRECT if f"::test_{name}" not in found] == []
    with pooled(server) as url:
        ended = run(
            pytest_of_project,
            "-q",
            "-k",
            f"not ({' or '.join(DIRECT)})",
            cwd=project_behind_pooler,
            timeout=600,
            check=False,
            TEST_DATABASE_URL=url,
        )
    assert ended.returncode == 0, ended.stdout[-6000:]


def test_a_role_without_time_limits_behind_a_pooler_is_a_line_with_the_commands(
    project: Path, migrated: str, pooler: str
) -> None:
    """Without the setting the start ends, and says what to set."""
    refused = failing_start(project, pooler, workers=1).stderr
    assert "set DATABASE_POOLER=pgbouncer" in refused
    port = free_port()
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port)]
    with serving(command, cwd=project, port=port, DATABASE_URL=pooler, DATABASE_POOLER="pgbouncer") as process:
        pass
    (line,) = [line for line in process.output.splitlines() if "DATABASE_POOLER" in line]
    assert all(f"ALTER ROLE postgres SET {limit}" in line for limit in LIMITS)
