"""Measures what an overloaded service still achieves, beside code by hand and a tutorial's session."""

import json
import os
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from benchmarks.load import APPS, HERE, Server, measure, server
from benchmarks.project import DATABASE_CORE, Project

__all__ = ["FACTORS", "STEPS", "Point", "Points", "overload", "table"]

FACTORS: Final = (0.5, 1, 2, 3, 5, 10)
"""Offered load, as multiples of the capacity."""

_APPS: Final = ("by_hand", "tutorial", "service")
_SECONDS: Final = 6
_GOOD: Final = 1.0
"""Seconds within which an answer is of use."""

_USERS: Final = 1_000


class Limit(NamedTuple):
    """What limits the service."""

    method: str
    path: str
    kind: str
    """Kind of request in `wrk.lua`, which measures the capacity."""
    is_slow: bool
    """Whether an INSERT takes a tenth of a second."""


_LIMITS: Final = {
    "the database, whose INSERT takes 0.1 s": Limit("POST", "/users", "create", is_slow=True),
    "the processor, with pages of 200 users": Limit("GET", "/users?limit=200", "get", is_slow=False),
}
STEPS: Final = len(_LIMITS) * len(_APPS) * (len(FACTORS) + 1)


class Point(NamedTuple):
    """What clients got under one offered load."""

    good: float
    """2xx within a second, as a share of the capacity."""
    refused_after: float
    """Median time until a 503, in seconds; 0: there was none."""


Account = list[tuple[float, float, int]]
"""When each request was due, how long it took in seconds, and its status; 0: the client gave up."""

Points = dict[str, dict[str, list[Point]]]


def overload(project: Project, *, advance: Callable[[], Any]) -> Points:
    """Return the points of each application, in the order of `FACTORS`, by limit.

    The capacity is what an application serves to 16 clients that wait for their answers. Then clients arrive at an even
    rate, whatever the server does, and give up after five seconds. Each measurement meets a new process: some do not
    recover.
    """
    points: Points = {}
    for name, limit in _LIMITS.items():
        with _slow_inserts(project) if limit.is_slow else _users(project):
            points[name] = {}
            for app in _APPS:
                with _server(project, app) as target:
                    measure(target, limit.path, 1, kind=limit.kind)
                    capacity = measure(target, limit.path, 3, kind=limit.kind).rate
                    advance()
                points[name][app] = []
                for factor in FACTORS:
                    points[name][app].append(_point(project, app, limit, capacity, factor))
                    advance()
    return points


def table(points: Points) -> list[list[str]]:
    """Return the points as a table."""
    rows = [["limit", "application", *(f"{factor:g} times" for factor in FACTORS)]]
    for limit, by_app in points.items():
        for app, of in by_app.items():
            rows.append([limit, APPS[app], *(f"{point.good:.2f}" for point in of)])
        late = [f"{point.refused_after:.2f} s" if point.refused_after else "" for point in by_app["service"]]
        rows.append([limit, "this template: median time until a 503", *late])
    return rows


def _point(project: Project, app: str, limit: Limit, capacity: float, factor: float) -> Point:
    with _server(project, app) as target:
        _send(project, target, limit, capacity / 4, 1)  # it opens its connections
        account = _send(project, target, limit, factor * capacity, _SECONDS)
    good = sum(200 <= status < 300 and took <= _GOOD for _, took, status in account)
    refused = [took for _, took, status in account if status == 503]
    return Point(good / _SECONDS / capacity, statistics.median(refused) if refused else 0)


@contextmanager
def _server(project: Project, app: str) -> Iterator[Server]:
    with server(project, app) as target:
        yield target
        os.killpg(target.process.pid, signal.SIGKILL)  # it may be busy for minutes


def _send(project: Project, target: Server, limit: Limit, rate: float, seconds: float) -> Account:
    command = ["taskset", "--cpu-list", DATABASE_CORE, str(project.programs / "python"), str(HERE / "open_loop.py")]
    command += [str(target.port), str(rate), str(seconds), "--method", limit.method, "--path", limit.path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    account: Account = json.loads(printed)
    return account


@contextmanager
def _users(project: Project) -> Iterator[None]:
    project.seed(_USERS)
    yield


@contextmanager
def _slow_inserts(project: Project) -> Iterator[None]:
    project.seed(0)
    project.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$"
    )
    project.sql("CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()")
    yield
    project.sql("DROP FUNCTION slow CASCADE")
