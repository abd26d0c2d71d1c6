"""Removes users for good that were deleted some time ago: ``python -m app.scripts.cleanup``.

It is also the example of work outside of a request: copy its shape for cron jobs and workers.
"""

import asyncio
import signal
import sys
from datetime import timedelta

import click
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings, load_settings
from app.database.retry import run_transaction
from app.logging import configure_logging
from app.startup import errors_as_one_line, open_database
from app.users import repository

__all__ = ["cleanup", "main"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = structlog.get_logger("app.scripts.cleanup")  # run as a program, __name__ is __main__


async def cleanup(settings: Settings, *, deleted_for: timedelta, batch_size: int, dry_run: bool) -> int | None:
    """Purge users, in batches that are each a transaction of their own.

    Parameters
    ----------
    settings
        Which database.
    deleted_for
        Only users that were deleted longer ago.
    batch_size
        Rows a transaction.
    dry_run
        Count and change nothing.

    Returns
    -------
    int or None
        The signal that ended the work early, after the batch in hand; None where all is done.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()
    async with open_database(settings) as database:
        for number in _SIGNALS:
            loop.add_signal_handler(number, _set_once, stop, number)
        async with database.session() as session:
            total = await repository.count_purgeable(session, deleted_for=deleted_for)
        if dry_run:
            _log.info("users to purge", count=total)
            return None

        async def purge(session: AsyncSession) -> int:
            return await repository.purge_users(session, deleted_for=deleted_for, limit=batch_size)

        purged = 0
        terminal = sys.stderr.isatty()
        with click.progressbar(length=total, label="purging users", file=sys.stderr, hidden=not terminal) as bar:
            while not stop.done():
                count = await run_transaction(purge, database=database)
                purged += count
                bar.update(count)
                if not terminal and count:
                    _log.info("purged a batch", count=count, done=purged, of=total)
                if count < batch_size:
                    break
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    _log.info("purged users", count=purged, stopped_early=stop.done())
    return stop.result() if stop.done() else None


def _set_once(future: asyncio.Future[int], number: int) -> None:
    if not future.done():
        future.set_result(number)


@click.command()
@click.option(
    "--older-than-days", default=30, show_default=True, type=click.IntRange(0, 36_500), help="Since deletion."
)
@click.option("--batch-size", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Rows at a time.")
@click.option("--dry-run", is_flag=True, help="Say how many there are, and change nothing.")
def main(older_than_days: int, batch_size: int, dry_run: bool) -> None:
    """Remove users for good that were deleted some time ago.

    Exit code: 0 done; 1 the database is away or its schema is behind; 2 wrong arguments; 78 wrong settings; 143 ended
    by SIGTERM after the batch in hand, and 130 by Ctrl-C.
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
