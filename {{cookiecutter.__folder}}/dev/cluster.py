"""The embedded PostgreSQL server of this project: TCP on loopback, random port and password, no Unix socket."""

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dev.programs import PostgresError, folder_for_server, give_to_server, major_version, run_as_server

__all__ = ["Cluster", "cluster_in_use", "temporary_cluster"]

_PROJECT: Final = Path(__file__).resolve().parent.parent
_READY: Final = b"ready\n"
_SETTINGS: Final = ("listen_addresses = '127.0.0.1'", "unix_socket_directories = ''")
_QUICK: Final = (
    *("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 200"),
    *("autovacuum = off", "max_wal_size = 4GB", "max_prepared_transactions = 2"),
)
"""Settings of a temporary server: its data need not survive a crash of the machine."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # others can write there, and mkdtemp makes a folder of our own
_ROOM: Final = 2**30
"""Bytes that must be free in memory for a temporary server. A run of the tests needs a tenth of it."""


class Cluster:
    """A server and its data, in one folder.

    Parameters
    ----------
    folder
        Folder of the data; it is created if it does not exist.
    quick
        Whether to prefer speed to durability. It applies when the data directory is initialized.
    """

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        self._folder = folder_for_server(folder)
        self._quick = quick
        self._data = self._folder / "data"
        self._keep = self._folder / "keep"
        self._port = self._folder / "port"
        self._password = self._folder / "password"
        self._log = self._folder / "log"

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        password, port = self._password.read_text(), self._port.read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"

    def start(self, *, keep: bool = False) -> None:
        """Start the server, unless it is running.

        Parameters
        ----------
        keep
            Whether the server continues after its last user has ended.

        Raises
        ------
        PostgresError
            If the server does not start.
        """
        with self._lock():
            if not self._port.exists():  # written last
                self._make()
            if not self._is_running():
                self._keep.unlink(missing_ok=True)
                self._start()
            if keep:
                self._keep.touch()

    def stop(self) -> None:
        """Stop the server, even if it is in use."""
        with self._lock():
            self._stop()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run the server until the end of the block. The last of several users stops it, unless it is kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_SH)  # the operating system releases it when this process ends
            self.start()
            try:
                yield
            finally:
                with self._lock(), suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises an error if the server has another user
                    if not self._keep.exists():
                        self._stop()

    def _is_running(self) -> bool:
        return self._data.exists() and run_as_server("pg_ctl", "status", "-D", self._data, check=False) == 0

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # of an interrupted attempt
        self._data.mkdir(mode=0o700)
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_urlsafe(24))
        self._log.touch(mode=0o600)
        for path in (self._data, self._password, self._log):
            give_to_server(path)
        # Letter case of all languages, on each machine the same. Before PostgreSQL 17 the operating system provides it.
        builtin = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        run_as_server(
            "initdb",
            f"--pgdata={self._data}",
            f"--pwfile={self._password}",
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *(builtin if major_version() >= 17 else ["--locale=C.UTF-8"]),
            *(["--no-sync"] if self._quick else []),
        )
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{setting}\n" for setting in (*_SETTINGS, *(_QUICK if self._quick else ())))
        self._port.write_text(str(_free_port()))

    def _start(self) -> None:
        for _ in range(5):  # a port that was free may have been taken meanwhile
            where = ("-D", self._data, "-l", self._log, "-o", f"-p {self._port.read_text()}")
            if run_as_server("pg_ctl", "start", "--wait", *where, check=False) == 0:
                return
            self._port.write_text(str(_free_port()))
        lines = self._log.read_text(errors="replace").splitlines()
        raise PostgresError("\n".join(["the embedded PostgreSQL does not start; its log ends with:", *lines[-8:]]))

    def _stop(self) -> None:
        self._keep.unlink(missing_ok=True)
        if self._is_running():
            run_as_server("pg_ctl", "stop", "--wait", "--mode=fast", "-D", self._data)


@contextmanager
def cluster_in_use(folder: Path, *, temporary: bool = False) -> Iterator[Cluster]:
    """Run a server until the end of the block, or of this process.

    A separate process holds the server and waits for the end of this one, so that a killed test run or ``make run``
    leaves no server behind.

    Parameters
    ----------
    folder
        Folder of the data.
    temporary
        Whether to remove the folder at the end.

    Raises
    ------
    PostgresError
        If the server does not start.
    """
    command = [sys.executable, "-m", "dev.cluster", str(folder), *(["temporary"] if temporary else [])]
    with subprocess.Popen(
        command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if (said := holder.stdout.readline()) != _READY:
            raise PostgresError((said + holder.stdout.read()).decode().strip())
        try:
            yield Cluster(folder)
        finally:
            holder.stdin.close()
            holder.wait()


@contextmanager
def temporary_cluster() -> Iterator[Cluster]:
    """Run a server whose data is removed at the end of the block."""
    # Each database has hundreds of files: on a disk, making and deleting them is a sixth of the work of a test run.
    in_memory = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_MEMORY if in_memory else None))
    give_to_server(folder)
    with cluster_in_use(folder, temporary=True) as cluster:
        yield cluster


def _hold(folder: Path, *, temporary: bool) -> None:
    """Run a server until standard input ends, which happens when the parent process ends."""
    try:
        with Cluster(folder, quick=temporary).in_use():
            sys.stdout.buffer.write(_READY)
            sys.stdout.flush()
            sys.stdin.read()
    except PostgresError as error:
        print(error, flush=True)
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    _hold(Path(sys.argv[1]), temporary="temporary" in sys.argv[2:])
