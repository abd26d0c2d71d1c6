"""Starts, stops, freezes and kills programs, always by process id."""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

ACCOUNT = "postgres" if os.geteuid() == 0 else None
"""Account of the database's programs: PostgreSQL and PgBouncer refuse to run as root. None: our own."""

_STEP = 0.05
"""Seconds between two checks of a condition."""


class DrillError(Exception):
    """The drill cannot continue. The message says why."""


class Program:
    """A program that runs in a folder and writes its log there. It ends when this process ends, even if that is killed.

    Parameters
    ----------
    name
        Name of the program, and of its log file.
    command
        Program and arguments.
    folder
        Folder for its log.
    account
        User to run as; None: our own.
    cwd
        Working directory; None: the folder.
    env
        Environment; None: our own.
    """

    def __init__(
        self,
        name: str,
        command: Iterable[str | Path],
        folder: Path,
        *,
        account: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._log = folder / f"{name}.log"
        self._account = account
        self._cwd = cwd or folder
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        as_account = ["--reuid", self._account, "--regid", self._account, "--init-groups"] if self._account else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *as_account, *self._command],
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Return whether it runs."""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> set[int]:
        """Return the ids of its process and all descendants."""
        return family(self._process.pid) if self._process is not None and self.is_running() else set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process and all descendants."""
        send(number, self.pids())

    def stop(self, *, seconds: float = 30) -> None:
        """Stop it as a supervisor would: SIGTERM, then SIGKILL if it has not ended in time."""
        if self._process is None:
            return
        if self.is_running():
            self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it, descendants included."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def log(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def family(pid: int) -> set[int]:
    """Return the ids of a process and all its descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [(int(child), int(parent)) for child, parent in (line.split() for line in listed.splitlines())]
    found = {pid} & {child for child, _ in pairs}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes; those that have ended are skipped."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 120) -> None:
    """Check a condition until it is true.

    Raises
    ------
    DrillError
        If it is not true in time; the message names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DrillError(f"waited {seconds:.0f} s without success for {what}")
        time.sleep(_STEP)


def free_ports(number: int) -> list[int]:
    """Return ports of the loopback interface that are free at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def listens(port: int) -> bool:
    """Return whether something accepts connections on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def folder_of_account(folder: Path, account: str | None) -> Path:
    """Create a folder that belongs to an account and that nobody else can read."""
    folder.mkdir(mode=0o700)
    if account:
        entry = pwd.getpwnam(account)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    return folder


def write_private(path: Path, text: str, account: str | None) -> Path:
    """Write a file that only an account can read: configurations contain passwords."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    if account:
        entry = pwd.getpwnam(account)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return path
