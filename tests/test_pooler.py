"""The generated project's own suite through a real PgBouncer in transaction mode, and what start-up says of one.

The tests behind it are those of a project with the lowest versions that are allowed: two laws in one run of the suite.
"""

import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
import web
from bakes import BAREST, HARD_TEXTS, bake
from commands import free_port, run, serving, started
from pgbouncer import pgbouncer_with_statements, pooled
from services import failing_start, program, service
from sql import execute
from test_dependencies import dependencies, locked

DIRECT = {
    "a_slow_statement_is_cut_by_the_server": "sets a time limit when the connection starts",
    "a_statement_that_takes_too_long_is_not_run_again_elsewhere": "the same",
    "a_server_that_has_become_read_only_is_left": "sets default_transaction_read_only when the connection starts",
    "what_the_url_says_of_the_session_wins": "sends `options` when the connection starts",
    "a_connection_that_the_server_closed_is_replaced_unseen": "ends the server's process; PgBouncer keeps the client",
    "who_has_written_reads_from_the_primary_again": "the same, and PgBouncer waits 15 s after a failed login",
    "initialize_twice_leaks_no_connection": "counts the connections of the server, which are PgBouncer's",
    "a_role_without_time_limits_is_named": "changes the role, and PgBouncer keeps connections from before",
    "a_database_that_does_not_exist_is_not_waited_for": "PgBouncer answers in place of the server, always with 08P01",
    "a_server_with_no_room_is_waited_for": "the same",
    "a_database_that_is_gone_is_an_error_of_sqlalchemy": "the same",
    "a_pool_that_is_too_large_is_named_at_start_up": "behind a pooler start-up looks at the time limits of the role",
    "what_a_migration_runs_outside_of_a_transaction_has_no_time_limit": "a pooler refuses the parameter",
    "a_setting_does_not_stay_for_the_next_request": "a plain SET stays on PgBouncer's own connection: write SET LOCAL",
    "a_cut_connection_ends_its_statement": "asks PostgreSQL with prepared statements of its own",
    "a_killed_process_ends_its_statement": "the same",
    "cancelled_statements_end_at_once": "the same",
    "a_password_that_changes_twice_under_load": "PgBouncer has passwords of its own",
    "a_token_with_a_short_life_is_renewed": "the same",
    "a_busy_table_delays_a_migration_which_says_who": "compares process ids of the server, and PgBouncer has its own",
    "a_migration_gives_up_in_one_line_that_names": "the same",
    "a_role_that_may_not_see_other_sessions": "the same",
    "an_index_that_blocks_nobody_waits_longer": "the same",
}
"""Tests of what a pooler does not let through, with the reason."""

PREPARED = {
    "a_column_that_a_migration_changes_under_a_running_service": "needs prepared statements, and there are none",
    "after_a_changed_column_one_transaction_fails": "the same",
}
"""Tests that pass only where the pooler keeps prepared statements."""

UNPREPARED = {
    "behind_pgbouncer_nothing_is_prepared": "is about the other setting",
    "a_column_that_a_migration_changes": "PgBouncer keeps a plan for all its clients, see the test of RECONNECT below",
    "after_a_changed_column_one_transaction_fails": "the same",
    "a_statement_that_the_program_has_dropped_is_forgotten": "counts the statements of one connection to the server",
}
"""Tests that pass only where it keeps none."""

SENDS_SQL = (
    *("tests/database/", "tests/health/", "tests/idempotency/", "tests/migrations/test_upgrades.py", "tests/scripts/"),
    *("tests/test_dependencies.py", "tests/test_main.py", "tests/users/"),
)
PREPARES = [
    f"tests/database/test_{name}.py"
    for name in ("lost_connections", "promise", "reader", "retry", "session", "statements")
]
"""Tests of what uses statements, of one text on many connections, and of a table that changes under them."""

ALIKE = {"REPEATABLE", "SERIALIZABLE", "the_sets_of_columns_that_clients_send"}
"""What a pooler makes no difference to: other isolation levels than the first, and a limit in the service."""

NOT_BEHIND = [*ALIKE, *DIRECT, *PREPARED]
"""Tests that are not run behind a PgBouncer that prepares nothing."""

LIMITS = (
    *("statement_timeout = '30s'", "idle_in_transaction_session_timeout = '60s'"),
    "client_connection_check_interval = '1s'",
)


def behind_pooler(project: Path, folder: Path, setting: str) -> Path:
    """Return a copy of the project with another default for DATABASE_POOLER: its tests make engines in many ways."""
    copy = folder / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", ".postgres", ".env", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    options = copy / "app" / "database" / "internal" / "options.py"
    default = 'pooler: Literal["none", "pgbouncer", "pgbouncer-prepared"] = '
    assert f'{default}"none"' in options.read_text()
    options.write_text(options.read_text().replace(f'{default}"none"', f'{default}"{setting}"'))
    return copy


@pytest.fixture(scope="module")
def newer_pgbouncer() -> Iterator[list[str]]:
    """The command of a PgBouncer that keeps prepared statements."""
    with pgbouncer_with_statements() as command:
        yield command


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """URL of a server of the test's own, whose role has the time limits that docs/settings.md asks for."""
    script = (
        "import sys\nfrom dev.cluster import temporary_cluster\nwith temporary_cluster() as cluster:\n"
        "    print(cluster.url(), flush=True)\n    sys.stdin.read()\n"
    )
    command = [program(project, "python"), "-c", script]
    with started(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        execute(url, *(f"ALTER ROLE postgres SET {limit}" for limit in LIMITS))
        yield url
        process.communicate("")


@pytest.mark.slow
def test_the_lowest_versions_that_are_allowed_pass_all_checks_and_tests(
    project: Path, tmp_path: Path, server: str
) -> None:
    """In the barest project, with hard texts. What sends SQL does so behind a PgBouncer, where that lets it through.

    The newest versions pass all of them in test_project, with no pooler.
    """
    lowest = bake(tmp_path, **BAREST, **HARD_TEXTS)
    run("make", "check", cwd=lowest, UV_RESOLUTION="lowest-direct")
    versions = locked(lowest)
    for name, bound in dependencies(lowest).items():
        assert f"{versions[name]}.".startswith(f"{bound}."), name

    found = run(program(lowest, "pytest"), "--collect-only", "-q", "-n", "0", "-m", "", cwd=lowest).stdout
    assert [name for name in DIRECT | PREPARED | UNPREPARED if name not in found] == []
    direct = {
        test.partition("[")[0]
        for test in found.splitlines()
        if "::" in test and (not test.startswith(SENDS_SQL) or any(name in test for name in NOT_BEHIND))
    }
    pass_tests(lowest, "", sorted(direct), "-m", "not slow")
    with pooled(server) as url:
        copy = behind_pooler(lowest, tmp_path / "behind", "pgbouncer")
        pass_tests(copy, url, SENDS_SQL, "-k", f"not ({' or '.join(NOT_BEHIND)})")


@pytest.mark.slow
def test_all_that_prepares_statements_works_behind_a_newer_pgbouncer(
    project: Path, tmp_path: Path, server: str, newer_pgbouncer: list[str]
) -> None:
    copy = behind_pooler(project, tmp_path, "pgbouncer-prepared")
    with pooled(server, pgbouncer=newer_pgbouncer) as url:
        names = " or ".join([*ALIKE, *DIRECT, *UNPREPARED])
        pass_tests(copy, url, PREPARES, "-k", f"not ({names})")


def test_after_a_changed_column_a_newer_pgbouncer_must_reconnect(
    project: Path, migrated: str, newer_pgbouncer: list[str]
) -> None:
    """docs/scaling.md says what to run after such a migration."""
    with (
        pooled(migrated, pgbouncer=newer_pgbouncer) as url,
        service(project, url, DATABASE_POOLER="pgbouncer-prepared") as (address, _),
    ):
        assert {web.get(f"{address}/users").status_code for _ in range(5)} == {200}
        execute(migrated, "ALTER TABLE users ALTER COLUMN name TYPE varchar(200)")
        assert web.get(f"{address}/users").status_code == 503
        execute(f"{url.rsplit('/', 1)[0]}/pgbouncer", "RECONNECT")
        assert {web.get(f"{address}/users").status_code for _ in range(5)} == {200}


def pass_tests(project: Path, url: str, tests: Iterable[str], *options: str) -> None:
    """Run tests of the project on a server, or on their own; all must pass."""
    (project / "chosen").write_text("\n".join(tests))
    command = (program(project, "pytest"), "-q", "-m", "", *options, "@chosen")
    ended = run(*command, cwd=project, timeout=600, check=False, TEST_DATABASE_URL=url)
    assert ended.returncode == 0, ended.stdout[-6000:]


def test_a_role_without_time_limits_behind_a_pooler_is_a_line_with_the_commands(project: Path, migrated: str) -> None:
    """Without the setting the start ends, and says what to set."""
    with pooled(migrated) as url:
        refused = failing_start(project, url, workers=1).stderr
        assert "set DATABASE_POOLER=pgbouncer" in refused
        port = free_port()
        command = [program(project, "uvicorn"), "app.main:app", "--port", str(port)]
        with serving(command, cwd=project, port=port, DATABASE_URL=url, DATABASE_POOLER="pgbouncer") as process:
            pass
    (line,) = [line for line in process.output.splitlines() if "DATABASE_POOLER" in line]
    assert all(f"ALTER ROLE postgres SET {limit}" in line for limit in LIMITS)


def test_a_pooler_with_too_many_clients_is_a_503(project: Path, migrated: str) -> None:
    """The clients wait for a lock, each on a connection of the service, and the pooler takes three."""
    held, release = threading.Event(), threading.Event()
    lock = ("BEGIN", "LOCK TABLE users")
    holder = threading.Thread(target=execute, args=(migrated, *lock), kwargs={"held": held, "release": release})
    with (
        pooled(migrated, clients=3) as url,
        service(project, url, DATABASE_POOLER="pgbouncer") as (address, _),
        ThreadPoolExecutor(8) as pool,
    ):
        holder.start()
        assert held.wait(30)
        answers = [pool.submit(web.get, f"{address}/users", timeout=60) for _ in range(8)]
        first = next(as_completed(answers)).result()
        release.set()
        holder.join()
        assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
        assert {answer.result().status_code for answer in answers} == {200, 503}
