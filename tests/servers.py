"""The processes of a PostgreSQL server, to break it as a machine would."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from sql import rows

__all__ = ["family_of", "frozen", "postmaster_of"]


def postmaster_of(url: str) -> int:
    """Return the id of the server's first process."""
    return int(rows(url, "SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)::int")[0][0])


def family_of(postmaster: int) -> list[int]:
    """Return the ids of all processes of a server."""
    return [postmaster, *(child.pid for child in psutil.Process(postmaster).children())]


@contextmanager
def frozen(postmaster: int) -> Iterator[None]:
    """Stop all processes of a server for a while: connections stay open, and nothing is said on them."""
    family = family_of(postmaster)
    _signal(family, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(family, signal.SIGCONT)


def _signal(family: list[int], number: signal.Signals) -> None:
    for pid in family:
        with suppress(ProcessLookupError):  # a server's process of one task, such as autovacuum, may have ended
            os.kill(pid, number)
