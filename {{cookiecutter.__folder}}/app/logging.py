"""One format for all log lines: the service's own, and those of uvicorn, Alembic and SQLAlchemy.

Lines go to stderr: stdout is for the output of a command (``alembic upgrade head --sql``).
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from functools import cache, partial
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, ExcInfo, Processor

from app.config import Settings

__all__ = ["configure_logging"]

_encode = json.JSONEncoder(default=str).encode  # json.dumps with a default creates an encoder at each call


class _NamedLogger(structlog.WriteLogger):
    def __init__(self, file: TextIO, name: str = "") -> None:
        super().__init__(file)
        self.name = name


def _without_color_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn adds a copy of some messages, with terminal codes
    return event


def _with_trace_ids(_logger: object, _method: str, event: EventDict) -> EventDict:
    if "opentelemetry.sdk.trace" not in sys.modules:  # no span is recorded: do not look for one at each line
        return event
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _format(exc_info: ExcInfo) -> str:
    """Format a traceback without local variables and without PostgreSQL's DETAIL: both may contain users' data."""
    text = "".join(traceback.format_exception(*exc_info)).rstrip()
    for detail in _details(exc_info[1]):
        for line in filter(None, detail.splitlines()):  # one by one: in a group of errors each line is indented
            text = text.replace(line, "left out of the log")
    return text


def _details(error: BaseException) -> Iterator[str]:
    """Yield PostgreSQL's DETAIL, which quotes rows, of an error and of all its causes."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if getattr(link, "sqlstate", None) and (detail := getattr(link, "detail", None)):
            yield detail
        pending += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]


def configure_logging(settings: Settings) -> None:
    """Configure structlog and the standard library's logging. Called by programs, never at import."""
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,  # the request id, on each line of a request
        _with_trace_ids,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.processors.ExceptionRenderer(_format),
        structlog.dev.ConsoleRenderer() if log_format == "console" else lambda _logger, _method, event: _encode(event),
    ]

    # The service's own lines bypass the standard library, which would double the cost of the access line.
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=cache(partial(_NamedLogger, sys.stderr)),
        # If a test configures logging again, the loggers of modules must follow.
        cache_logger_on_first_use=False,
    )

    # The lines of libraries come through the standard library.
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.ExtraAdder(), _without_color_message],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)

    # Without uvicorn's own handlers, its lines reach ours. Its access line is dropped: the middleware writes one with
    # the route and the duration.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.NOTSET)  # the root logger's level applies
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.captureWarnings(capture=True)

    # Alembic logs a line for each of its own plugins, at each command.
    logging.getLogger("alembic.runtime.plugins").setLevel("WARNING")
