"""Installs OpenTelemetry's SDK with OTLP exporters, and shuts it down in limited time."""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final

import structlog
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app.metadata import NAME, VERSION

__all__ = ["start"]

_FLUSH: Final = 3.0
"""Time limit in seconds for the last export. A collector takes milliseconds; an absent one must not delay the exit."""

_SENT_BY_THE_CLIENT: Final = ("url.path", "url.query", "server.address", "http.request.method_original")
"""Attributes of FastAPI's spans that a client chooses. The route, the method and the status say enough."""

_STATM: Final = Path("/proc/self/statm")

_log = structlog.get_logger(__name__)


@contextmanager
def start(*, traces: bool, metrics: bool) -> Iterator[None]:
    """Install the SDK for this process, and export until the end of the block. It can be installed only once."""
    resource = Resource.create(
        {"service.name": NAME, "service.version": VERSION, "service.instance.id": str(uuid.uuid4())}
    ).merge(OTELResourceDetector().detect())  # the environment takes precedence
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers[:] = [_Once(logging.WARNING)]
    shutdowns = [install(resource) for install, wanted in ((_trace, traces), (_measure, metrics)) if wanted]
    _log.info("telemetry is exported", traces=traces, metrics=metrics)
    try:
        yield
    finally:
        # Daemon threads: an export that hangs must not keep the process alive.
        threads = [threading.Thread(target=shutdown, daemon=True) for shutdown in shutdowns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_FLUSH / len(threads))


def _trace(resource: Resource) -> Callable[[], None]:
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(_Redaction())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _measure(resource: Resource) -> Callable[[], None]:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    meter = metrics.get_meter(__name__)
    meter.create_observable_counter("process.cpu.time", [_cpu_time], "s", "CPU time of this process.")
    if _STATM.exists():
        meter.create_observable_up_down_counter("process.memory.usage", [_memory], "By", "Resident memory.")
    return provider.shutdown


def _cpu_time(_: CallbackOptions) -> Iterable[Observation]:
    times = os.times()
    yield Observation(times.user, {"cpu.mode": "user"})
    yield Observation(times.system, {"cpu.mode": "system"})


def _memory(_: CallbackOptions) -> Iterable[Observation]:
    yield Observation(int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


class _Redaction(SpanProcessor):
    """Overwrites what a client has sent: a path or a query may contain secrets, such as a token."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # as the SDK has it
        for name in _SENT_BY_THE_CLIENT:
            if name in (span.attributes or ()):
                span.set_attribute(name, "REDACTED")


class _Once(logging.Handler):
    """Logs each kind of problem once: an absent collector would fill the log. Exporters' texts quote the endpoint."""

    _said: ClassVar[set[str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        exporting = record.name.startswith("opentelemetry.exporter")
        kind = "export" if exporting else str(record.msg)
        if kind in self._said or (exporting and record.levelno < logging.ERROR):  # the exporter will try again
            return
        self._said.add(kind)
        if exporting:
            _log.warning(
                "telemetry is lost: it cannot be exported; requests are not affected. Check that the collector runs "
                "and that OTEL_EXPORTER_OTLP_ENDPOINT is its address. This is logged once"
            )
        else:
            _log.warning(f"{record.getMessage()} This is logged once")
