"""Does the jobs until SIGTERM: ``python -m app.scripts.worker``."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings, load_settings
from app.jobs import do_jobs
from app.logging import configure_logging
from app.startup import errors_as_one_line, open_database

__all__ = ["HANDLERS", "main", "work"]

_log = structlog.get_logger("app.scripts.worker")  # run as a program, __name__ is __main__


async def _hello(session: AsyncSession, name: str) -> None:
    _log.info("hello", name=name)


HANDLERS: dict[str, Callable[..., Awaitable[None]]] = {"hello": _hello}
"""What does each kind of job. It gets a session, which commits when the job is done, and the job's arguments."""


async def work(settings: Settings) -> None:
    """Do jobs until SIGTERM or SIGINT, then finish those that have begun."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_database(settings) as database:
        await do_jobs(database, HANDLERS, stop)


def main() -> None:
    """Exit code: 0 after SIGTERM, 1 if the database is unreachable, 78 for invalid settings."""
    with errors_as_one_line():
        settings = load_settings()
        configure_logging(settings)
        asyncio.run(work(settings))


if __name__ == "__main__":
    main()
