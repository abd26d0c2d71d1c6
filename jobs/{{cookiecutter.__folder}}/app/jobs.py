"""Jobs, which PgQueuer stores in PostgreSQL: added in a transaction, done by ``app.scripts.worker``."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from functools import cache, partial
from typing import Any

import structlog
from pgqueuer import AsyncpgDriver, DatabaseRetryEntrypointExecutor, Job, Queries, QueueManager
from pgqueuer.adapters.persistence.qb import DBSettings, QueryBuilderEnvironment, QueryQueueBuilder
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.database.retry import run_transaction
from app.database.session import DatabaseSessionDependency

__all__ = ["add_job", "do_jobs"]

_log = structlog.get_logger(__name__)


async def add_job(session: AsyncSession, kind: str, /, **arguments: Any) -> None:
    """Add a job in the session's transaction. The arguments of its handler must be JSON values."""
    await (await _queries(session)).enqueue(kind, json.dumps(arguments).encode())


async def do_jobs(
    database: DatabaseSessionDependency,
    handlers: Mapping[str, Callable[..., Awaitable[None]]],
    stop: asyncio.Event,
    *,
    retries: int = 5,
) -> None:
    """Do jobs until the event is set.

    Parameters
    ----------
    database
        Provider of the sessions: each job is a transaction of its own.
    handlers
        What does each kind of job, by name: ``async def welcome(session, user_id)``.
    stop
        Ends the loop, after the jobs that have begun.
    retries
        How often a job that fails is retried: after 1, 2, 4, ... seconds, at most 5 minutes apart. Then it is kept.
    """

    async def do(job: Job) -> None:
        async def work(session: AsyncSession) -> None:
            await handlers[job.entrypoint](session, **json.loads(job.payload or b"{}"))
            queries = await _queries(session)
            # Removed in the same transaction, so that what the job writes is stored once.
            end = queries.qbq.build_log_job_query()
            if await queries.driver.execute(end, [job.id], ["successful"], [None]) != "1":
                raise RuntimeError(f"another worker has done job {job.id}; this transaction is rolled back")

        log = _log.bind(job=job.id, kind=job.entrypoint)
        log.info("job begun")
        await run_transaction(work, database=database)
        log.info("job done")

    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    manager = QueueManager(_queries_on(engine.connect, engine.get_execution_options()))
    manager.shutdown = stop
    retrying = partial(DatabaseRetryEntrypointExecutor, max_attempts=retries)
    for kind in handlers:
        manager.entrypoint(kind, on_failure="hold", executor_factory=retrying)(do)
    await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=5, max_concurrent_tasks=10)


async def _queries(session: AsyncSession) -> Queries:
    connection = await session.connection()
    return _queries_on(lambda: nullcontext(connection), session.get_bind().get_execution_options())


def _queries_on(connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]], options: Any) -> Queries:
    names = _names((options.get("schema_translate_map") or {}).get(None))
    driver = AsyncpgDriver(_Connection(connect))
    return Queries(driver, qbq=QueryQueueBuilder(names), qbe=QueryBuilderEnvironment(names))


@cache
def _names(schema: str | None) -> DBSettings:
    return DBSettings(db_schema=schema)


class _Connection:
    """The methods of an asyncpg connection that PgQueuer uses, on SQLAlchemy's connections."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._connect = connect

    async def fetch(self, query: str, *args: Any) -> Sequence[RowMapping]:
        async with self._connect() as connection:
            return (await connection.exec_driver_sql(query, args)).mappings().all()

    async def execute(self, query: str, *args: Any) -> str:
        async with self._connect() as connection:
            return str((await connection.exec_driver_sql(query, args)).rowcount)

    async def add_listener(self, *_: object) -> None:
        """Do nothing: PgBouncer's transaction mode has no LISTEN, so the worker polls, once a second."""
