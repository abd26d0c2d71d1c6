"""Migrations of a service under load: the recipes of the guide, and tables that are never free."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import web
from commands import run
from load import Load
from services import program, service
from sql import execute, rows

from drill.recipes import Block, Release, recipes

_MODELS = "app/users/models.py"
_NAME = "     name: Mapped[str] = mapped_column(Text)\n"
_BIOS = '''"""Routes of what users say about themselves."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Response
from sqlalchemy import bindparam, select, update

from app.database.base import Base
from app.dependencies import DbReader, DbSession
from app.users.models import User

router = APIRouter(prefix="/bios")
_users = Base.metadata.tables["users"]

_READ = select(User.bio).where(User.id == bindparam("for_user"))
_WRITE = update(_users).where(User.id == bindparam("for_user")).values({User.bio: bindparam("new_text")})


@router.get("/{user_id}")
async def get_bio(user_id: UUID, reader: DbReader) -> str | None:
    """Get a bio."""
    return await reader.scalar(_READ, for_user=user_id)


@router.put("/{user_id}", status_code=204, response_class=Response)
async def put_bio(user_id: UUID, text: Annotated[str, Body()], session: DbSession) -> None:
    """Write a bio."""
    await session.execute(_WRITE, {"for_user": user_id, "new_text": text})
'''

_BEFORE: dict[str, tuple[str, list[Block]]] = {
    "Add a value to a fixed set": (
        "plan text NOT NULL DEFAULT 'free' CONSTRAINT ck_users_plan CHECK (plan IN ('free', 'paid'))",
        [
            Block(
                _MODELS,
                "diff",
                "-from sqlalchemy import DateTime, Index, Text, func\n"
                "+from sqlalchemy import CheckConstraint, DateTime, Index, Text, func\n"
                f'@@\n{_NAME}+    plan: Mapped[str] = mapped_column(Text, server_default="free")\n'
                "@@\n     __table_args__ = (\n+        CheckConstraint(\"plan IN ('free', 'paid')\", name=\"plan\"),\n",
            )
        ],
    ),
    "Add a unique constraint": (
        "handle text",
        [Block(_MODELS, "diff", f"{_NAME}+    handle: Mapped[str | None] = mapped_column(Text)\n")],
    ),
    "Split a table": (
        "bio text",
        [
            Block(_MODELS, "diff", f"{_NAME}+    bio: Mapped[str | None] = mapped_column(Text)\n"),
            Block("app/main.py", "diff", '     "users",\n+    "bios",\n'),
            Block("app/bios/__init__.py", "python", '"""Bios."""\n'),
            Block("app/bios/routes.py", "python", _BIOS),
        ],
    ),
}
"""What a recipe finds in the project: a column of ``users``, and code."""

_AT_ONCE = (
    ("Add a NOT NULL column with a default", "Add a value to a fixed set", "Add an index", "Add a unique constraint"),
    ("Add a foreign key", "Change a type", "Rename a column"),
    ("Split a table",),
)
"""Recipes that one deploy may follow: they change other lines, those of a group in this order."""


class Reads(Load):
    """Clients that read a page of users until they are stopped."""

    def _run(self) -> None:
        with web.Client(base_url=self._address, timeout=30) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                answer = client.get("/users", params={"limit": 20})
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.statuses.append(answer.status_code)


@contextmanager
def in_thread(work: Any, *arguments: Any) -> Iterator[None]:
    """Run a coroutine until the end of the block; its last argument is the event that says so."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(work(*arguments, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def use_tables(url: str, seconds: float, delay: float, stop: threading.Event) -> None:
    """Run transactions that read the tables and stay open for a while, one after the other."""
    connection = await asyncpg.connect(url, timeout=30)
    await asyncio.sleep(delay)
    while not stop.is_set():
        async with connection.transaction():
            await connection.execute("SELECT count(*) FROM users; SELECT count(*) FROM idempotency_keys")
            await asyncio.sleep(seconds * random.uniform(0.97, 1.03))  # noqa: S311
    await connection.close()


async def watch_waits(url: str, waits: list[float], stop: threading.Event) -> None:
    """Record for how long others than the migrations wait for a lock."""
    connection = await asyncpg.connect(url, timeout=30)
    while not stop.is_set():
        waits.append(
            await connection.fetchval(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0)::float FROM pg_locks "
                "JOIN pg_stat_activity USING (pid) "
                "WHERE NOT granted AND datname = current_database() AND application_name !~ 'migrations$'"
            )
        )
        await asyncio.sleep(0.02)
    await connection.close()


def alembic(release: Release, url: str, *arguments: str) -> None:
    run(program(release.folder, "alembic"), *arguments, cwd=release.folder, DATABASE_URL=url, LOG_LEVEL="WARNING")


def add_what_is_there(title: str, release: Release) -> None:
    column, code = _BEFORE.get(title, ("", []))
    if column:
        release.revise(
            f'def upgrade() -> None:\n    op.execute("ALTER TABLE users ADD COLUMN {column}")\n\n\n'
            f'def downgrade() -> None:\n    op.drop_column("users", "{column.split()[0]}")\n'
        )
    for block in code:
        release.apply(block)


@pytest.fixture
def release(project: Path, bake: Any) -> Release:
    """A generated project that shares the virtual environment of the installed one."""
    baked: Path = bake()
    (baked / ".venv").symlink_to(project / ".venv")
    return Release(baked)


def test_each_recipe_of_the_guide_is_run() -> None:
    assert sorted(title for titles in _AT_ONCE for title in titles) == sorted(recipes())


@pytest.mark.parametrize("titles", _AT_ONCE, ids=" + ".join)
def test_recipes_of_the_guide_run_under_load(
    titles: tuple[str, ...], release: Release, database: str, tmp_path: Path
) -> None:
    """Old and new copies of the service side by side: no error, no lost row, no reader that waits for a second."""
    steps = [recipes()[title] for title in titles]
    for title in titles:
        add_what_is_there(title, release)
    alembic(release, database, "upgrade", "head")
    execute(
        database,
        "INSERT INTO users (id, email, name) "
        "SELECT gen_random_uuid(), number::text, 'Before' FROM generate_series(1, 12000) AS number",
    )
    new = release.copy(tmp_path / "new")
    waits: list[float] = []
    with ExitStack() as rest_of_life:
        rest_of_life.enter_context(in_thread(use_tables, database, 0.3, 0))
        rest_of_life.enter_context(in_thread(watch_waits, database, waits))
        with ExitStack() as life_of_old:
            address, _ = life_of_old.enter_context(service(release.folder, database))
            old_load = life_of_old.enter_context(Load(address, clients=1, keyed=True))
            old_reads = life_of_old.enter_context(Reads(address, clients=1))
            for revision in chain.from_iterable(recipe.before for recipe in steps):
                new.revise(revision)
            alembic(new, database, "upgrade", "head")
            execute(database, *chain.from_iterable(recipe.fill for recipe in steps))
            old_load.wait_for_more(20)
            for block in chain.from_iterable(recipe.code for recipe in steps):
                new.apply(block)
            new_address, _ = rest_of_life.enter_context(service(new.folder, database))
            new_load = rest_of_life.enter_context(Load(new_address, clients=1, keyed=True))
            new_reads = rest_of_life.enter_context(Reads(new_address, clients=1))
            new_load.wait_for_more(20)
            old_load.wait_for_more(20)
            if "Split a table" in titles:
                both_see_what_either_writes(address, new_address, old_load.acknowledged[0])
        for revision in chain.from_iterable(recipe.after for recipe in steps):
            new.revise(revision)
        alembic(new, database, "upgrade", "head")
        new_load.wait_for_more(20)
    assert set(old_load.statuses) == set(new_load.statuses) == {201}
    assert set(old_reads.statuses) == set(new_reads.statuses) == {200}
    assert max(waits) < 1, (old_reads.slowest, new_reads.slowest)
    acknowledged = len(old_load.acknowledged) + len(new_load.acknowledged)
    name = "full_name" if "Rename a column" in titles else "name"
    found = dict(rows(database, f"SELECT {name}, count(*) FROM users GROUP BY 1"))
    assert found == {"Before": 12000, "Ada": acknowledged}
    status = "status_code" if "Change a type" in titles else "status"
    found = rows(database, f"SELECT {status}, count(*) FROM idempotency_keys GROUP BY 1")
    assert found == [(201, acknowledged)]
    alembic(new, database, "check")


def both_see_what_either_writes(old: str, new: str, user: str) -> None:
    for writer, reader in ((old, new), (new, old), (old, new)):
        text = uuid4().hex
        assert web.put(f"{writer}/bios/{user}", json=text).status_code == 204
        assert web.get(f"{reader}/bios/{user}").json() == web.get(f"{writer}/bios/{user}").json() == text


@pytest.mark.slow
def test_the_recipes_pass_the_checks_of_a_project(release: Release) -> None:
    """`make check` finds nothing unsafe, and each revision goes up, down and up again."""
    for title in _BEFORE:
        add_what_is_there(title, release)
    before = f"step_{len(_BEFORE)}"
    for recipe in recipes().values():
        for revision in [*recipe.before, *recipe.after]:
            release.revise(revision)
    settings = release.folder / "pyproject.toml"
    settings.write_text(settings.read_text().replace('released = "base"', f'released = "{before}"'))
    run(program(release.folder, "python"), "-m", "dev.migrations", "check", cwd=release.folder)
    tests = ("tests/migrations/test_revisions.py", "-n", "0")
    run(program(release.folder, "pytest"), *tests, cwd=release.folder, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(("transactions", "seconds"), [(1, 9.0), (6, 2.5)])
def test_a_table_that_is_never_free_is_migrated(
    release: Release, migrated: str, transactions: int, seconds: float
) -> None:
    """Transactions that follow or overlap each other without a gap do not starve a migration.

    Attempts begin when the transactions are about to end, so 4 or 5 are enough. With pauses that only grow, 22 failed.
    """
    release.revise("def upgrade() -> None:\n    op.execute('ALTER TABLE users ADD COLUMN added text')\n")
    waits: list[float] = []
    with ExitStack() as stack:
        for number in range(transactions):
            stack.enter_context(in_thread(use_tables, migrated, seconds, number * seconds / transactions))
        stack.enter_context(in_thread(watch_waits, migrated, waits))
        in_use = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND granted"
        while rows(migrated, in_use) != [(transactions,)]:
            time.sleep(0.05)
        done = run(
            program(release.folder, "alembic"),
            "upgrade",
            "head",
            cwd=release.folder,
            timeout=300,
            DATABASE_URL=migrated,
        )
    assert rows(migrated, "SELECT added FROM users") == []
    assert (done.stdout + done.stderr).count("trying again") < 12
    assert max(waits) < 1


def test_an_autovacuum_makes_way_for_a_migration(release: Release, migrated: str) -> None:
    """It ends only for those who wait longer than an attempt lasts."""
    release.revise("def upgrade() -> None:\n    op.execute('ALTER TABLE users ADD COLUMN added text')\n")
    slow = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    at_once = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0"
    insert = "INSERT INTO users (id, email, name) SELECT gen_random_uuid(), number::text, 'Ada'"
    vacuums = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE relation = 'users'::regclass AND granted AND backend_type = 'autovacuum worker'"
    )
    execute(
        migrated,
        f"ALTER TABLE users SET ({slow}, {at_once})",
        f"{insert} FROM generate_series(1, 50000) AS number",
        "UPDATE users SET name = 'Grace'",
        "ALTER SYSTEM SET autovacuum_naptime = '1s'",
        "SELECT pg_reload_conf()",
    )
    try:
        while rows(migrated, vacuums) != [(1,)]:
            time.sleep(0.05)
        command = (program(release.folder, "alembic"), "upgrade", "head")
        run(*command, cwd=release.folder, timeout=300, DATABASE_URL=migrated, DATABASE_MIGRATION_LOCK_WAIT="30")
    finally:
        execute(migrated, "ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")
    assert rows(migrated, "SELECT DISTINCT added FROM users") == [(None,)]
