"""Traces and metrics by OpenTelemetry, exported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set in the environment.

The SDK reads its own variables (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and so on). This package installs the
SDK, keeps clients' values out of the export, and observes the pool and the driver. The SDK is imported only if needed.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import structlog
from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["is_on", "telemetry"]

_TRACES: Final = "TRACES"
_METRICS: Final = "METRICS"
_log = structlog.get_logger(__name__)


@contextmanager
def telemetry(**engines: AsyncEngine) -> Iterator[None]:
    """Export traces and metrics until the end of the block, if the environment names a collector.

    A problem with telemetry is a warning, never an error: a platform sets these variables for every service, and a
    service must not fail because it cannot be observed.

    Parameters
    ----------
    engines
        Engines whose pool and statements are observed, by the name of the pool.
    """
    signals = [signal for signal in (_TRACES, _METRICS) if _is_wanted(signal)]
    with ExitStack() as end:
        try:
            if signals:
                _start(signals, engines, end)
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
    return _has_collector(_TRACES) or _has_collector(_METRICS)


def _has_collector(signal: str) -> bool:
    names = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return any(map(os.environ.get, names)) and not disabled


def _is_wanted(signal: str) -> bool:
    if not _has_collector(signal):
        return False
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    protocols = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, protocols)), "http/protobuf")
    if exporter == "otlp" and protocol != "http/protobuf":
        _log.warning(
            f"no {signal.lower()} are exported: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, which collectors "
            "accept on port 4318"
        )
    elif exporter not in ("otlp", "none"):
        _log.warning(f"no {signal.lower()} are exported: OTEL_{signal}_EXPORTER must be otlp or none")
    return exporter == "otlp" and protocol == "http/protobuf"


def _start(signals: list[str], engines: dict[str, AsyncEngine], end: ExitStack) -> None:
    from app.telemetry.database import observe  # noqa: PLC0415  # takes 0.1 s, which is wasted if telemetry is off
    from app.telemetry.sdk import start  # noqa: PLC0415

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # no agent has installed an SDK
        end.enter_context(start(traces=_TRACES in signals, metrics=_METRICS in signals))
    for name, engine in engines.items():
        observe(engine, pool_name=name)
