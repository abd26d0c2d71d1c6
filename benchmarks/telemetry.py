"""Measures what telemetry costs: removed, off, with a sample of the traces, and with all of them."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.project import Project, bake
from benchmarks.side_by_side import Route, side_by_side, table

_SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
VARIANTS: dict[str, dict[str, str] | None] = {
    "without (its calls taken out)": None,
    "without, once more": None,  # how far apart two equal servers are in this run
    "off": {},
    "on, 10 % of the traces": _SAMPLED,
    "on, all traces": {"OTEL_TRACES_SAMPLER": "always_on"},
}
ROUTES = {
    "GET /users/{id}": Route("get", "/users/00000000-0000-7000-8000-000000000100"),
    "POST /users": Route("create", "/users"),
    "PATCH /users/{id}": Route("patch", "/users"),
}
_TAKEN_OUT = {
    "app/logging.py": ("        _with_trace_ids,\n", ""),
    "app/database/retry.py": ('with span("transaction"):', "if True:"),
}


def cost(project: Project, folder: Path, *, rounds: int, seconds: int, advance: Callable[[], Any]) -> list[list[str]]:
    """Return a table: requests per second and CPU per request, of each variant in turn."""
    without = _without(folder)
    with _collector() as endpoint:
        variants = {}
        for name, variables in VARIANTS.items():
            variants[name] = served = copy.copy(project)
            if variables is None:
                served.folder = without
            elif variables:
                served.environment = project.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | variables
        samples = side_by_side(variants, ROUTES, rounds=rounds, seconds=seconds, advance=advance)
    return table(samples, "telemetry")


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
