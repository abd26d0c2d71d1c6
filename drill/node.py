"""A node of the cluster, and what can happen to it."""

import signal
from pathlib import Path

from drill.programs import Program, family, send

__all__ = ["Node"]


class Node:
    """One node: Patroni, and the PostgreSQL that it runs.

    Parameters
    ----------
    name
        Name of the member.
    folder
        Folder of the node, with the data; its own disk, if one could be mounted.
    port, rest_port
        Ports of PostgreSQL and of Patroni's REST API.
    patroni
        Patroni's program.
    has_own_disk
        Whether the folder is a disk of limited size.
    """

    def __init__(
        self, name: str, folder: Path, *, port: int, rest_port: int, patroni: Program, has_own_disk: bool
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.rest_port = rest_port
        self.patroni = patroni
        self.has_own_disk = has_own_disk

    def pids(self) -> set[int]:
        """Return the ids of all its processes. PostgreSQL is not a child process of Patroni."""
        file = self.folder / "data" / "postmaster.pid"
        postgres = family(int(file.read_text().splitlines()[0])) if file.exists() else set()
        return self.patroni.pids() | postgres

    def start(self) -> None:
        """Start it."""
        self.patroni.start()

    def stop(self) -> None:
        """Stop it: Patroni stops its PostgreSQL."""
        self.patroni.stop(seconds=20)
        send(signal.SIGKILL, self.pids())

    def kill(self) -> None:
        """Kill all its processes."""
        send(signal.SIGKILL, self.pids())
        self.patroni.kill()

    def freeze(self) -> None:
        """Stop all its processes without ending them: connections stay open, nothing answers."""
        send(signal.SIGSTOP, self.pids())

    def thaw(self) -> None:
        """Let its processes continue."""
        send(signal.SIGCONT, self.pids())

    def fill_disk(self) -> None:
        """Write until its disk is full."""
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            block = bytes(64 * 1024)
            try:
                while True:
                    ballast.write(block)
            except OSError:  # no space left on device
                pass

    def free_disk(self) -> None:
        """Remove what filled the disk."""
        (self.folder / "ballast").unlink(missing_ok=True)
