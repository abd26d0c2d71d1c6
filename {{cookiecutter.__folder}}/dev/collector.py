"""A receiver of OTLP for your own machine, which prints each trace as a tree: ``python -m dev.collector``.

It stands for a collector in development and in the tests. Nothing is stored, unless ``--record`` names a file.
"""

import sys
import threading
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector", "labels", "receiving"]

Request = ExportTraceServiceRequest | ExportMetricsServiceRequest


class Collector(ThreadingHTTPServer):
    """Stores what it receives, decoded.

    Parameters
    ----------
    port
        Port to listen on; 0: one that is free.
    note
        Function that is called with each request, such as one that prints it.
    """

    def __init__(self, port: int = 0, note: Callable[[Request], None] = lambda _: None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.note = note
        self.requests: list[Request] = []

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their start."""
        return _spans(request for request in self.requests if isinstance(request, ExportTraceServiceRequest))

    @property
    def metrics(self) -> dict[str, Metric]:
        """Newest state of each metric: values are cumulative, so the newest of each process counts."""
        exports = [request for request in self.requests if isinstance(request, ExportMetricsServiceRequest)]
        scopes = [scope for export in exports for sent in export.resource_metrics for scope in sent.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def values(self, name: str, *chosen: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric (the counts of a histogram), by the chosen labels."""
        metric = self.metrics[name]
        found: Counter[tuple[str, ...]] = Counter()
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points:
            of = labels(point.attributes)
            value = point.count if metric.HasField("histogram") else point.as_int or point.as_double
            found[tuple(of.get(label, "") for label in chosen)] += value
        return dict(found)

    def tree(self, root: Span) -> dict[str, Any]:
        """Return the names of the spans below a span, as a tree; a repeated name gets a number."""
        found: dict[str, Any] = {}
        for span in self.spans:
            if span.parent_span_id == root.span_id:
                again = sum(name.split(" #")[0] == span.name for name in found)
                found[f"{span.name} #{again + 1}" if again else span.name] = self.tree(span)
        return found

    def named(self, name: str) -> list[Span]:
        """Return the spans with a name."""
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kinds: dict[str, Any] = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}
        known = kinds.get(self.path)
        if known:
            request = known.FromString(body)
            self.server.requests.append(request)
            self.server.note(request)
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def receiving() -> Iterator[Collector]:
    """Receive until the end of the block."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def labels(attributes: Any) -> dict[str, str]:
    """Return attributes as a dictionary of text."""
    return {pair.key: pair.value.string_value or str(pair.value.int_value) for pair in attributes}


def _spans(requests: Any) -> list[Span]:
    scopes = [scope for request in requests for sent in request.resource_spans for scope in sent.scope_spans]
    return sorted((span for scope in scopes for span in scope.spans), key=lambda span: span.start_time_unix_nano)


def _print_traces(request: Request) -> None:
    spans = _spans([request]) if isinstance(request, ExportTraceServiceRequest) else []
    known = {span.span_id for span in spans}

    def show(span: Span, depth: int) -> None:
        of = labels(span.attributes)
        length = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        more = [of[name] for name in ("http.response.status_code", "error.type", "db.query.text") if name in of]
        print(f"{length:9.2f} ms  {'  ' * depth}{span.name}", *more, sep="  ")
        for child in spans:
            if child.parent_span_id == span.span_id:
                show(child, depth + 1)

    for span in spans:
        if span.parent_span_id not in known:
            print(f"\ntrace {span.trace_id.hex()}")
            show(span, 0)
    sys.stdout.flush()  # it may be a pipe


def main() -> None:
    """Receive until Ctrl-C."""
    parser = ArgumentParser(description="Receive OTLP over HTTP, and print the traces.")
    parser.add_argument("--port", type=int, default=4318)
    parser.add_argument("--record", type=Path, help="file that gets each request as a line of OTLP's JSON")
    arguments = parser.parse_args()

    def note(request: Request) -> None:
        _print_traces(request)
        if arguments.record:
            with arguments.record.open("a", encoding="utf-8") as file:
                file.write(MessageToJson(request, indent=None) + "\n")

    with Collector(arguments.port, note) as server:
        print(f"Set OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{server.server_port} for the service.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
