"""Keys are kept for a day, then the cleanup script purges them."""

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.database.internal.options import EngineOptions
from app.idempotency import repository
from app.idempotency.models import IdempotencyKey
from app.startup import open_database
from tests.commands import run


async def add(session: AsyncSession, age: timedelta, number: int) -> None:
    session.add_all(
        IdempotencyKey(key=f"{age} {index}", fingerprint=b"", created_at=func.now() - age) for index in range(number)
    )
    await session.commit()


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


async def purge(database_url: str, *arguments: str) -> list[tuple[str, int]]:
    """Run the script, and return what it says of keys."""
    ended = await asyncio.to_thread(
        run, sys.executable, "-m", "app.scripts.cleanup", *arguments, database_url=database_url
    )
    assert ended.returncode == 0, ended.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in ended.stderr.splitlines()]
    return [
        (line["event"], line["count"])
        for line in lines
        if "idempotency keys" in line["event"] or line.get("of_what") == "idempotency keys"
    ]


@pytest.mark.slow
async def test_the_cleanup_script_purges_keys_older_than_a_day_in_batches(
    database_url: str, session: AsyncSession
) -> None:
    await add(session, timedelta(hours=23), 2)
    await add(session, timedelta(hours=25), 5)
    assert await purge(database_url, "--dry-run") == [("idempotency keys to purge", 5)]
    assert await count(session) == 7
    assert await purge(database_url, "--batch-size", "3") == [
        ("purged a batch", 3),
        ("purged a batch", 2),
        ("purged idempotency keys", 5),
    ]
    assert await count(session) == 2


@pytest.mark.slow
async def test_keys_that_another_run_has_in_hand_are_passed_over(database_url: str, session: AsyncSession) -> None:
    await add(session, timedelta(days=2), 3)
    await session.scalars(select(IdempotencyKey.key).limit(1).with_for_update())
    assert await purge(database_url) == [("purged a batch", 2), ("purged idempotency keys", 2)]
    assert await count(session) == 1


@pytest.mark.slow
async def test_keys_are_in_the_schema_of_the_service(empty_database_url: str) -> None:
    """Claimed twice: the second run of a statement is on the driver."""
    env = {"DATABASE_SCHEMA": 'it"s "orders"'}
    migrated = await asyncio.to_thread(run, "alembic", "upgrade", "head", database_url=empty_database_url, **env)
    assert migrated.returncode == 0, migrated.stderr
    settings = Settings(
        database_url=SecretStr(empty_database_url), database=EngineOptions(schema=env["DATABASE_SCHEMA"])
    )
    async with open_database(settings) as database:
        for key in ("k", "l"):
            async with database.session() as session:
                assert await repository.claim(session, ("", key), fingerprint=b"f") is None
                await repository.keep(session, ("", key), 201, {"location": "/"}, b"{}")
            async with database.session() as session:
                stored = await repository.claim(session, ("", key), fingerprint=b"f")
                assert stored is not None
                assert tuple(stored) == (b"f", 201, {"location": "/"}, b"{}")
