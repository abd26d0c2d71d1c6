"""A primary and a streaming standby, from the programs that a baked project has."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from commands import started
from servers import family_of, frozen, postmaster_of
from services import program
from sql import execute

_SCRIPT = """
import sys
from dev.cluster import Cluster, temporary_cluster
from dev.programs import give_to_server, run_as_server

with temporary_cluster() as primary:
    standby = Cluster(primary._folder / "standby")
    standby._folder.mkdir()
    for name in ("_password", "_log"):
        getattr(standby, name).touch(mode=0o600)
    standby._password.write_text(primary._password.read_text())
    for path in (standby._folder, standby._password, standby._log):
        give_to_server(path)
    run_as_server("pg_basebackup", "-R", "-c", "fast", "-D", standby._data, "-d", primary.url())
    standby._port.write_text("1")  # taken: it finds one of its own
    standby.start()
    print(primary.url(), standby.url(), flush=True)
    for line in sys.stdin:
        {"primary": primary, "standby": standby}[line.strip()].start()
        print(flush=True)
    standby.stop()
"""


@dataclass
class Server:
    """One of the two."""

    name: str
    url: str
    postmaster: int
    _script: subprocess.Popen[str]

    def at(self, database: str) -> str:
        """Return the URL of another database on it."""
        return f"{self.url.rpartition('/')[0]}/{database}"

    def kill(self) -> None:
        """End it at once, as a machine that loses its power."""
        family = family_of(self.postmaster)
        for pid in family:
            with suppress(ProcessLookupError):  # some end by themselves, when the first is gone
                os.kill(pid, signal.SIGKILL)
        while any(map(psutil.pid_exists, family)):
            pass  # until then it cannot be started again

    def start(self) -> None:
        """Start it after a kill."""
        assert self._script.stdin is not None
        print(self.name, file=self._script.stdin, flush=True)
        _line(self._script.stdout)
        self.postmaster = postmaster_of(self.url)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes for a while: connections stay open and nothing is said on them."""
        with frozen(self.postmaster):
            yield


@contextmanager
def primary_and_standby(project: Path) -> Iterator[tuple[Server, Server]]:
    """Run a primary and a standby that follows it, both empty."""
    command = [program(project, "python"), "-c", _SCRIPT]
    with started(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as script:
        primary, standby = _line(script.stdout).split()
        for url in (primary, standby):
            # Servers of tests are otherwise quick and forget the last commits when they are killed.
            execute(url, "ALTER SYSTEM SET synchronous_commit = on")
            execute(url, "ALTER SYSTEM SET wal_retrieve_retry_interval = '200ms'", "SELECT pg_reload_conf()")
        yield (
            Server("primary", primary, postmaster_of(primary), script),
            Server("standby", standby, postmaster_of(standby), script),
        )
        script.communicate("")


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline()
    assert line, "the script that runs the servers has ended"
    return line
