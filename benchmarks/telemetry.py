"""Measures what telemetry costs: removed, off, with a sample of the traces, and with all of them."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.load import Sample, best, measure, server
from benchmarks.project import Project, bake

_SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
VARIANTS: dict[str, dict[str, str] | None] = {
    "without (its calls taken out)": None,
    "without, once more": None,  # how far apart two equal servers are in this run
    "off": {},
    "on, 10 % of the traces": _SAMPLED,
    "on, all traces": {"OTEL_TRACES_SAMPLER": "always_on"},
}
ROUTES = {
    "GET /users/{id}": ("get", "/users/00000000-0000-7000-8000-000000000100"),
    "POST /users": ("create", "/users"),
    "PATCH /users/{id}": ("patch", "/users"),
}
_USERS = 20_000
_TAKEN_OUT = {
    "app/logging.py": ("        _with_trace_ids,\n", ""),
    "app/database/retry.py": ('with span("transaction"):', "if True:"),
}


def cost(project: Project, folder: Path, *, rounds: int, seconds: int, advance: Callable[[], Any]) -> list[list[str]]:
    """Return a table: requests per second and CPU per request, of each variant in turn.

    Two processes of the same code differ by up to 8 % for as long as they run, so each round starts new ones, and the
    best round counts.
    """
    samples: dict[tuple[str, str], list[Sample]] = {(route, name): [] for route in ROUTES for name in VARIANTS}
    without = _without(folder)
    with _collector() as endpoint:
        for number in range(rounds):
            with ExitStack() as stack:
                running = {}
                for name, variables in VARIANTS.items():
                    served = copy.copy(project)
                    if variables is None:
                        served.folder = without
                    elif variables:
                        served.environment = project.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | variables
                    running[name] = stack.enter_context(server(served))
                for route, (kind, path) in ROUTES.items():
                    for name in _turns(list(running), number):
                        project.seed(_USERS)  # each one meets the same table: rows that were changed are slower
                        measure(running[name], path, 1, kind=kind, users=_USERS)
                        samples[route, name].append(measure(running[name], path, seconds, kind=kind, users=_USERS))
                        advance()
    table = [["route", "telemetry", "requests/s", "of without", "CPU a request, µs", "of without", "p99 ms"]]
    for route in ROUTES:
        base = best(samples[route, next(iter(VARIANTS))])
        for name in VARIANTS:
            of = best(samples[route, name])
            shares = replace(of, rate=of.rate / base.rate, cpu=of.cpu / base.cpu)
            figures = [f"{of.rate:.0f}", f"{shares.rate:.2f}", f"{of.cpu:.0f}", f"{shares.cpu:.2f}", f"{of.p99:.1f}"]
            table.append([f"`{route}`", name, *figures])
    return table


def _turns(names: list[str], number: int) -> list[str]:
    """Begin with another name each time, so that none always follows the same one."""
    first = number % len(names)
    return names[first:] + names[:first]


def _without(folder: Path) -> Path:
    project = bake(folder)
    for name, (old, new) in _TAKEN_OUT.items():
        text = (project / name).read_text()
        assert text.count(old) == 1, name
        (project / name).write_text(text.replace(old, new))
    return project


class _Discard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def _collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Discard) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{collector.server_port}"
        collector.shutdown()
