"""What a collector is sent by the cleanup script."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import User
from dev.collector import receiving
from tests.commands import run

pytestmark = pytest.mark.slow


def test_a_start_that_fails_is_counted(empty_database_url: str) -> None:
    with receiving() as collector:
        exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        ended = run(sys.executable, "-m", "app.scripts.cleanup", database_url=empty_database_url, **exported)
    assert ended.returncode == 1
    assert collector.values("app.starts", "result") == {("failed",): 1}


async def test_a_run_is_one_trace_with_a_span_for_each_batch_and_its_rows_are_counted(
    database_url: str, session: AsyncSession
) -> None:
    deleted = datetime.now(UTC) - timedelta(days=31)
    session.add_all(User(email=f"{number}@example.com", name="x", deleted_at=deleted) for number in range(5))
    await session.commit()
    command = [sys.executable, "-m", "app.scripts.cleanup", "--batch-size", "3"]
    with receiving() as collector:
        exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        run(*command, database_url=database_url, **exported).check_returncode()
    assert "db.client.connection.wait" in collector.tree(collector.named("start")[0])
    (root,) = collector.named("cleanup")
    tree = collector.tree(root)
    batches = [below for name, below in tree.items() if name.startswith("transaction") and "DELETE users" in below]
    assert len(batches) == 2
    assert collector.values("app.rows.purged", "kind")["users",] == 5
