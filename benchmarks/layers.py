"""Measures each route of the four applications, in turn."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.load import ADDED, APPS, Sample, measure, median, servers
from benchmarks.project import Project


class Route(NamedTuple):
    """A measured route."""

    kind: str
    """Kind of request in `wrk.lua`."""
    path: str
    goal: float | None
    """Goal: the service's share of the baseline's rate; None: the share at which it is as fast as POST."""
    added: bool = False
    """Whether the service creates the user by ``session.add``."""


ROUTES = {
    "GET /users/{id}": Route("get", "/users/00000000-0000-7000-8000-000000000100", 0.38),
    "GET /users?limit=50": Route("get", "/users?limit=50", 0.48),
    "POST /users": Route("create", "/users", 0.36),
    "POST /users, by session.add": Route("create", "/users", 0.28, added=True),
    "PATCH /users/{id}": Route("patch", "/users", None),
    "DELETE /users/{id}": Route("delete", "/users", None),
}

Results = dict[str, dict[str, Sample]]


def compare(
    project: Project, *, users: int, rounds: int, seconds: int, advance: Callable[[], Any]
) -> tuple[Results, dict[str, float]]:
    """Measure each route of each application.

    Returns
    -------
    dict, dict
        The medians, by route and application; the memory of each application afterwards, in MiB.

    """
    project.seed(users)
    samples: dict[str, dict[str, list[Sample]]] = {name: {app: [] for app in APPS} for name in ROUTES}
    with servers(project) as running:
        for name, route in ROUTES.items():
            for number in range(rounds + 1):
                for app in APPS:
                    if route.kind == "delete":
                        project.seed(users)  # those that the last burst has deleted are back
                    target, path = (
                        (running[ADDED], "/added") if route.added and app == "service" else (running[app], route.path)
                    )
                    sample = measure(target, path, seconds if number else 1, kind=route.kind, users=users)
                    if number:  # the first one only warms up
                        samples[name][app].append(sample)
                    advance()
        memory = {app: running[app].memory() for app in APPS}
    return {name: {app: median(of) for app, of in by_app.items()} for name, by_app in samples.items()}, memory
