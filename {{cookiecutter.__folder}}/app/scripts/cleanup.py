"""Permanently deletes what is no longer needed: ``python -m app.scripts.cleanup``.

It is also an example of work outside requests: copy its structure for cron jobs and workers.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import click
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings, load_settings
from app.database.reader import Reader
from app.database.retry import run_transaction
from app.database.session import DatabaseSessionDependency
from app.idempotency import repository as keys
from app.instruments import PURGED, span
from app.logging import configure_logging
from app.startup import errors_as_one_line, open_database
from app.users import repository as users

__all__ = ["cleanup", "main"]

_log = structlog.get_logger("app.scripts.cleanup")  # run as a program, __name__ is __main__


@dataclass(frozen=True)
class _Purge:
    """Rows of one kind that are no longer needed."""

    what: str
    count: Callable[[Reader], Awaitable[int]]
    delete: Callable[[AsyncSession], Awaitable[int]]


async def cleanup(settings: Settings, *, deleted_for: timedelta, batch_size: int, dry_run: bool) -> int | None:
    """Purge what is no longer needed, in transactions of up to ``batch_size`` rows. A dry run only counts the rows.

    Users are kept for at least ``deleted_for`` after their deletion.
    Returns the signal that ended the work early, after the current batch; None if all rows were purged.
    """
    purges = [
        _Purge("idempotency keys", keys.count_purgeable, partial(keys.purge_keys, limit=batch_size)),
        _Purge(
            "users",
            partial(users.count_purgeable, deleted_for=deleted_for),
            partial(users.purge_users, deleted_for=deleted_for, limit=batch_size),
        ),
    ]
    async with open_database(settings) as database:
        with span("cleanup"), _signals() as received:
            for purge in purges:
                if dry_run:
                    _log.info(f"{purge.what} to purge", count=await purge.count(database.reader))
                else:
                    await _run(purge, database, batch_size, received)
    return received[0] if received else None


async def _run(purge: _Purge, database: DatabaseSessionDependency, batch_size: int, received: list[int]) -> None:
    async def delete(session: AsyncSession) -> int:
        # Concurrent cleanups skip each other's rows. Under SERIALIZABLE one of them would fail nevertheless.
        await session.connection(execution_options={"isolation_level": "READ COMMITTED"})
        return await purge.delete(session)

    total = await purge.count(database.reader)
    purged = 0
    terminal = sys.stderr.isatty()
    progress = click.progressbar(length=total, label=f"purging {purge.what}", file=sys.stderr, hidden=not terminal)
    with progress as bar:
        while not received:
            batch = await run_transaction(delete, database=database)
            purged += batch
            PURGED.add(batch, {"kind": purge.what})
            bar.update(batch)
            if not terminal and batch:
                _log.info("purged a batch", of_what=purge.what, count=batch, done=purged, of=total)
            if batch < batch_size:
                break
    _log.info(f"purged {purge.what}", count=purged, stopped_early=bool(received))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of exiting at once."""
    received: list[int] = []
    loop = asyncio.get_running_loop()
    with ExitStack() as end:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, received.append, number)
            end.callback(loop.remove_signal_handler, number)
        yield received


@click.command()
@click.option(
    "--older-than-days",
    default=30,
    show_default=True,
    type=click.IntRange(0, 36_500),
    help="Days since a user was deleted.",
)
@click.option("--batch-size", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Rows at a time.")
@click.option("--dry-run", is_flag=True, help="Only count the rows.")
def main(older_than_days: int, batch_size: int, dry_run: bool) -> None:
    """Permanently delete users that were marked as deleted some time ago, and other rows that are no longer needed.

    Exit code: 0 done; 1 the database is unreachable or its schema is behind the code; 2 invalid arguments; 78 invalid
    settings; 143 ended by SIGTERM after the current batch, 130 by Ctrl-C.
    """
    with errors_as_one_line():
        settings = load_settings()
        configure_logging(settings)
        ended_by = asyncio.run(
            cleanup(settings, deleted_for=timedelta(days=older_than_days), batch_size=batch_size, dry_run=dry_run)
        )
    if ended_by is not None:
        raise SystemExit(128 + ended_by)


if __name__ == "__main__":
    main()
