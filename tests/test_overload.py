"""Above its capacity the service does what it can. Clients arrive at an even rate, as in the benchmark."""

import json
from pathlib import Path
from urllib.parse import urlsplit

from commands import TEMPLATE, run
from services import program, service
from sql import execute, rows

POOL, STATEMENT, SECONDS = 5, 0.2, 6
SLOW = [
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN PERFORM pg_sleep({STATEMENT}); RETURN NEW; END $$",
    "CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()",
]


def test_at_three_times_its_capacity_the_service_does_what_it_can(project: Path, migrated: str) -> None:
    """The limits leave room for a machine that is busy with other tests."""
    execute(migrated, *SLOW)
    capacity = POOL / STATEMENT
    with service(project, migrated, DATABASE_POOL_SIZE=str(POOL)) as (address, _):
        printed = run(
            program(project, "python"),
            str(TEMPLATE / "benchmarks" / "open_loop.py"),
            str(urlsplit(address).port),
            str(3 * capacity),
            str(SECONDS),
            cwd=project,
        ).stdout
    account = [(took, status) for _, took, status in json.loads(printed)]
    assert {status for _, status in account} == {201, 503}  # nobody has given up
    good = [took for took, status in account if status == 201 and took < 1]
    assert len(good) > 0.5 * capacity * SECONDS
    stored = sum(status == 201 for _, status in account)
    assert rows(migrated, "SELECT count(*) FROM users") == [(stored,)]
