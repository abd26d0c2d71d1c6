"""The faults: each is really caused, then repaired, while the load continues."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from drill.cluster import Cluster
from drill.load import Load
from drill.programs import wait_until
from drill.service import COPIES, Service

__all__ = ["FAULTS", "Fault", "Run", "make"]

_CALM: Final = 3.0
"""Seconds of undisturbed load before a fault and after its repair."""

_MANY: Final = 20
"""Multiple of the usual load that neither the copies nor the cluster can bear on one machine."""

_SLOW: Final = 2.0
"""Seconds of an INSERT with which the pools are too small for the usual load."""

_OVERLOADED: Final = 10.0
"""Seconds of an overload: longer than the service lets a request wait."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    how: str
    """How it is caused, for the table."""
    make: Callable[[Cluster, Service, Load], None]
    """Function that causes and repairs it."""
    obstacle: Callable[[Cluster], str | None] = lambda _: None
    """Function that returns why it cannot be caused on this machine, or None."""


@dataclass(frozen=True)
class Run:
    """One fault that was caused."""

    fault: Fault
    start: float
    """When it began, on the monotonic clock."""
    end: float
    """When the system was healthy again, on the monotonic clock."""
    obstacle: str | None = None
    """Why it was not caused."""


def make(cluster: Cluster, service: Service, load: Load, faults: list[Fault]) -> Iterator[Run]:
    """Cause each fault on a healthy system, and wait until the system is healthy again."""
    _wait_until_well(cluster, service, load)
    for fault in faults:
        if why := fault.obstacle(cluster):
            yield Run(fault, 0, 0, why)
            continue
        start = time.monotonic()
        fault.make(cluster, service, load)
        _wait_until_well(cluster, service, load)
        yield Run(fault, start, time.monotonic())


def _wait_until_well(cluster: Cluster, service: Service, load: Load) -> None:
    cluster.wait_until_healthy()
    for copy in COPIES:
        service.wait_until_ready(copy)
    _wait_until_served(load)
    time.sleep(_CALM)  # the picture shows it


def _wait_until_served(load: Load) -> None:
    """Wait until each copy has answered writes and reads."""
    for copy in COPIES:
        load.wait_for_more("write", 20, copy=copy)
        load.wait_for_more("read", 10, copy=copy)


def _wait_until_taken_over(cluster: Cluster, load: Load, primary: str) -> None:
    def is_taken_over() -> bool:
        node = cluster.node("leader")
        return node is not None and node.name != primary

    wait_until(is_taken_over, f"another primary than {primary}")
    _wait_until_served(load)


def _kill_primary(cluster: Cluster, _: Service, load: Load) -> None:
    primary = cluster.primary()
    primary.kill()
    _wait_until_taken_over(cluster, load, primary.name)
    primary.start()


def _switch_over(cluster: Cluster, _: Service, load: Load) -> None:
    primary = cluster.primary()
    cluster.switch_over()
    _wait_until_taken_over(cluster, load, primary.name)


def _kill_standby(cluster: Cluster, _: Service, load: Load) -> None:
    standby = cluster.synchronous_standby()
    standby.kill()
    _wait_until_served(load)
    standby.start()


def _freeze_primary(cluster: Cluster, _: Service, load: Load) -> None:
    primary = cluster.primary()
    primary.freeze()
    try:
        _wait_until_taken_over(cluster, load, primary.name)
    finally:
        primary.thaw()


def _cut_copy(_: Cluster, service: Service, load: Load) -> None:
    service.link.signal(signal.SIGSTOP)
    try:
        time.sleep(10)  # long enough for all time limits of the copy
        load.wait_for_more("write", 20, copy="pooled")
    finally:
        service.link.signal(signal.SIGCONT)


def _restart_pooler(cluster: Cluster, _: Service, load: Load) -> None:
    cluster.pooler.stop()
    cluster.pooler.start()


def _kill_copy(_: Cluster, service: Service, load: Load) -> None:
    service.copies["direct"].kill()
    load.wait_for_more("write", 100, copy="pooled")
    service.copies["direct"].start()


def _roll_out(_: Cluster, service: Service, load: Load) -> None:
    with service.table_in_use():
        release = service.begin_release()
        _wait_until_served(load)  # by the old code, on the new schema
        for copy in COPIES:
            service.replace(copy, release)
            load.wait_for_more("write", 20, copy=copy)
        service.end_release()


def _fill_disk(cluster: Cluster, _: Service, load: Load) -> None:
    primary = cluster.primary()
    primary.fill_disk()
    try:
        cluster.write_wal(primary)
        _wait_until_taken_over(cluster, load, primary.name)
    finally:
        primary.free_disk()


def _overload(_: Cluster, __: Service, load: Load) -> None:
    with load.multiplied(_MANY):
        time.sleep(_OVERLOADED)


def _slow_database(_: Cluster, service: Service, __: Load) -> None:
    with service.slow_inserts(_SLOW):
        time.sleep(_OVERLOADED)


def _needs_disks(cluster: Cluster) -> str | None:
    if all(node.has_own_disk for node in cluster.nodes):
        return None
    return "needs root and the right to mount, for disks of limited size"


FAULTS: Final = [
    Fault("kill the primary", "`kill -9` of all processes of its node", _kill_primary),
    Fault("switch over", "requested from Patroni", _switch_over),
    Fault("kill the synchronous standby", "`kill -9` of all processes of its node", _kill_standby),
    Fault("freeze the primary", "SIGSTOP to all processes of its node, SIGCONT after the takeover", _freeze_primary),
    Fault("cut the network of a copy", "the relays between it and the nodes are frozen for 10 s", _cut_copy),
    Fault("restart PgBouncer", "SIGTERM, then a new start", _restart_pooler),
    Fault("kill a copy", "`kill -9`", _kill_copy),
    Fault(
        "roll out a migration",
        "a column is renamed: expand, fill, replace one copy after the other, contract; "
        "transactions of 2 s keep the table in use",
        _roll_out,
    ),
    Fault("overload", f"{_MANY} times the clients for {_OVERLOADED:g} s", _overload),
    Fault("slow database", f"an INSERT takes {_SLOW:g} s for {_OVERLOADED:g} s", _slow_database),
    Fault(
        "fill the disk of the primary",
        "a file takes all space of its node, and WAL is written until PostgreSQL stops",
        _fill_disk,
        _needs_disks,
    ),
]
