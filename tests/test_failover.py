"""A failover loses nothing that was acknowledged: the smallest case of what `make drill` does to a whole cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import web
from commands import run
from load import new_user
from services import program, service
from sql import execute, rows
from standby import Server, primary_and_standby

from drill.load import Load


@pytest.fixture
def servers(project: Path) -> Iterator[tuple[Server, Server]]:
    """A migrated primary, and a standby that each COMMIT waits for."""
    with primary_and_standby(project) as (primary, standby):
        execute(primary.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        execute(primary.url, "SELECT pg_reload_conf()")
        run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=primary.url)
        yield primary, standby


def test_a_failover_keeps_acknowledged_writes_and_a_repeat_by_key_is_stored_once(
    project: Path, servers: tuple[Server, Server]
) -> None:
    """Writes wait for a standby that is frozen when the primary dies: they reach it, and their clients do not know."""
    primary, standby = servers
    host = standby.url.partition("@")[2]
    both = f"{primary.url.removesuffix('/postgres')},{host}?target_session_attrs=primary"
    with service(project, both) as (address, _), Load(address, {}) as load:
        load.wait_for_more("write", 20)
        with standby.frozen():
            while len(rows(primary.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")) < 5:
                pass
            sent = rows(primary.url, "SELECT pg_current_wal_flush_lsn()::text")[0][0]
            acknowledged = load.count("write")
            primary.kill()
        while not rows(standby.url, f"SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{sent}'::pg_lsn"):
            pass
        assert len(rows(standby.url, "SELECT id FROM users")) >= acknowledged + 5
        execute(standby.url, "SELECT pg_promote()")
        load.wait_for_more("write", 20)
    stored = rows(standby.url, "SELECT email, id::text FROM users")
    assert sorted(stored) == sorted((write.body["email"], write.id) for write in load.writes)
    assert sum(write.is_doubtful for write in load.writes) >= 5
    assert {answer.status for answer in load.answers if answer.kind == "write"} == {201, 503}


def test_a_repeat_is_not_acknowledged_before_the_standby_has_the_write(
    project: Path, servers: tuple[Server, Server]
) -> None:
    """PostgreSQL shows a write that was given up while it waited for the standby, and would lose it in a failover."""
    primary, standby = servers
    body, key = new_user(), {"Idempotency-Key": "key"}
    with service(project, primary.url, DATABASE_STATEMENT_TIMEOUT="1") as (address, _):
        standby.kill()
        answers = [web.post(f"{address}/users", json=body, headers=key, timeout=30) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert rows(primary.url, "SELECT email FROM users") == [(body["email"],)]
        standby.start()
        assert web.post(f"{address}/users", json=body, headers=key, timeout=30).status_code == 201
