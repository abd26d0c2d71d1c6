"""The cleanup script with much to do: the table in docs/reliability.md names these tests."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import run, started
from services import program
from sql import execute, rows


def fill(url: str, number: int) -> None:
    """Add users that were deleted long ago."""
    execute(
        url,
        "INSERT INTO users (id, email, name, deleted_at) SELECT gen_random_uuid(), n || '@example.com', 'x', "
        f"now() - interval '60 days' FROM generate_series(1, {number}) n",
    )


@pytest.mark.parametrize("isolation_level", ["", "SERIALIZABLE"])
def test_two_cleanups_share_the_work_and_neither_waits(project: Path, migrated: str, isolation_level: str) -> None:
    fill(migrated, 20_000)
    execute(migrated, "ALTER TABLE users SET (autovacuum_enabled = off)")  # it would lock the table to make it shorter
    cleanup = (program(project, "python"), "-m", "app.scripts.cleanup", "--batch-size", "500")
    with ThreadPoolExecutor(2) as pool:
        # A lock that one would wait for longer than this ends it with an error.
        options = {"DATABASE_URL": f"{migrated}?options=-c%20lock_timeout%3D2ms"}
        options["DATABASE_ISOLATION_LEVEL"] = isolation_level
        done = [pool.submit(run, *cleanup, cwd=project, **options) for _ in range(2)]
        counts = [_count(process.result().stderr) for process in done]
    assert sum(counts) == 20_000
    assert rows(migrated, "SELECT count(*) FROM users") == [(0,)]


def _count(log: str) -> int:
    last = json.loads(log.splitlines()[-1])
    assert last["event"] == "purged users"
    return int(last["count"])


def test_a_cleanup_of_many_rows_takes_constant_memory_and_survives_a_kill(project: Path, migrated: str) -> None:
    fill(migrated, 200_000)
    peak = (
        "import resource, sys\nfrom app.scripts.cleanup import main\n"
        "try: main(sys.argv[1:])\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [program(project, "python"), "-c", peak, "--batch-size", "1000"]
    with started(command, cwd=project, stderr=subprocess.PIPE, DATABASE_URL=migrated) as process:
        assert process.stderr is not None
        batches = 0
        while batches < 20:
            batches += json.loads(process.stderr.readline())["event"] == "purged a batch"
        process.kill()
    while len(rows(migrated, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()")) > 1:
        pass  # a COMMIT that was on its way may still come through
    left = rows(migrated, "SELECT count(*) FROM users")[0][0]
    assert 0 < left <= 180_000
    assert left % 1000 == 0  # each batch whole or not at all
    whole = run(*command, cwd=project, timeout=300, DATABASE_URL=migrated)
    assert _count(whole.stderr) == left
    fill(migrated, 2_000)
    small = run(*command, cwd=project, DATABASE_URL=migrated)
    assert int(whole.stdout) < 1.2 * int(small.stdout)
