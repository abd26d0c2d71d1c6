"""The three routes, by four applications, in turn."""

from collections.abc import Callable
from typing import Any

from benchmarks.load import APPS, Sample, measure, median, servers
from benchmarks.project import Project

ROUTES = {
    "GET /users/{id}": 0.25,
    "GET /users?limit=50": 0.35,
    "POST /users": 0.25,
}
"""Each route, and the share of the floor's rate that the service is to reach."""

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
    (row,) = project.sql(f"SELECT id FROM users OFFSET {users // 2} LIMIT 1")
    paths = {
        "GET /users/{id}": f"/users/{row['id']}",
        "GET /users?limit=50": "/users?limit=50",
        "POST /users": "/users",
    }
    samples: dict[str, dict[str, list[Sample]]] = {route: {app: [] for app in APPS} for route in ROUTES}
    with servers(project) as running:
        for route, path in paths.items():
            for number in range(rounds + 1):
                for app, target in running.items():
                    sample = measure(target, path, seconds if number else 1, create=route.startswith("POST"))
                    if number:  # the first one only warms up
                        samples[route][app].append(sample)
                    advance()
        memory = {app: target.memory() for app, target in running.items()}
    return {route: {app: median(of) for app, of in by_app.items()} for route, by_app in samples.items()}, memory
