"""The service's own metrics and spans. Names, units and labels are an interface: dashboards and alerts refer to them.

Only OpenTelemetry's API is used, which comes with FastAPI and does nothing until `app.telemetry` installs the SDK.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import metrics, trace

__all__ = ["LOOP_DELAY", "PURGED", "READINESS", "RETRIES", "SCHEMA", "STARTS", "TRANSACTIONS", "UNAVAILABLE", "span"]

_meter = metrics.get_meter("app")
_tracer = trace.get_tracer("app")

TRANSACTIONS: Final = _meter.create_counter(
    "app.transactions",
    "{transaction}",
    "Ended transactions, by outcome: committed, rolled_back, conflict, or unknown if the answer was lost.",
)
RETRIES: Final = _meter.create_counter(
    "app.transaction.retries", "{retry}", "Transactions that were run again after a conflict."
)
UNAVAILABLE: Final = _meter.create_counter(
    "app.unavailable",
    "{response}",
    "503 responses, by reason: an SQLSTATE, the class of the error, or processor: refused by app.overload.",
)
LOOP_DELAY: Final = _meter.create_histogram(
    "app.loop.delay",
    "s",
    "Time for which work that is ready waits for the processor, while several requests run.",
    explicit_bucket_boundaries_advisory=[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
)
READINESS: Final = _meter.create_counter("app.readiness", "{probe}", "Readiness probes, by result: ok or failed.")
STARTS: Final = _meter.create_counter(
    "app.starts", "{start}", "Starts of the service and of scripts, by result: ok or failed."
)
PURGED: Final = _meter.create_counter("app.rows.purged", "{row}", "Rows that the cleanup script deleted permanently.")
SCHEMA: Final = _meter.create_gauge(
    "app.schema", "{revision}", "Always 1; the labels are the schema's revision and the one that the code needs."
)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Trace a block. If it fails, the span has the error's class, but not its text, which may contain users' data."""
    current = _tracer.start_span(name)
    if not current.get_span_context().is_valid:  # telemetry is off
        yield
        return
    with trace.use_span(current, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            current.set_status(trace.StatusCode.ERROR)
            current.set_attribute("error.type", type(error).__qualname__)
            raise
