"""Traces and metrics by OpenTelemetry, exported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set in the environment.

The SDK reads its own variables (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and so on). This package installs the
SDK, keeps clients' values out of the export, and observes the pool and the driver. The SDK is imported only if needed.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog
from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["is_on", "telemetry"]

_log = structlog.get_logger(__name__)


@contextmanager
def telemetry(**engines: AsyncEngine) -> Iterator[None]:
    """Export traces and metrics until the end of the block, if the environment names a collector.

    They include the pool and the statements of each of the engines, which are passed by the names of their pools.
    A problem with telemetry is a warning, never an error: a platform sets these variables for every service, and a
    service must not fail because it cannot be observed.
    """
    traces, metrics = _is_wanted("TRACES"), _is_wanted("METRICS")
    with ExitStack() as end:
        try:
            if traces or metrics:
                from app.telemetry.database import observe  # noqa: PLC0415  # takes 0.1 s, wasted if telemetry is off
                from app.telemetry.sdk import start  # noqa: PLC0415

                if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # no agent has installed an SDK
                    end.enter_context(start(traces=traces, metrics=metrics))
                for name, engine in engines.items():
                    observe(engine, pool_name=name)
        except ImportError:
            _log.warning(
                "telemetry is off: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's SDK is not installed; "
                "run `uv sync --group telemetry`, or unset the variable"
            )
        except Exception as error:  # noqa: BLE001  # the SDK could not read a variable; its message may quote the value
            _log.warning(
                f"telemetry is off: its set-up failed with {type(error).__name__}; check the values of OTEL_..."
            )
        yield


def is_on() -> bool:
    """Return whether the environment names a collector."""
    return _has_collector("TRACES") or _has_collector("METRICS")


def _has_collector(signal: str) -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and _exporter_option(signal, "ENDPOINT") is not None


def _exporter_option(signal: str, name: str) -> str | None:
    options = (f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next(filter(None, map(os.environ.get, options)), None)


def _is_wanted(signal: str) -> bool:
    if not _has_collector(signal):
        return False
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    protocol = _exporter_option(signal, "PROTOCOL") or "http/protobuf"
    if exporter == "otlp" and protocol != "http/protobuf":
        _log.warning(
            f"no {signal.lower()} are exported: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, which collectors "
            "accept on port 4318"
        )
    elif exporter not in ("otlp", "none"):
        _log.warning(f"no {signal.lower()} are exported: OTEL_{signal}_EXPORTER must be otlp or none")
    return exporter == "otlp" and protocol == "http/protobuf"
