"""One format for every log line: the service's own, and those of uvicorn, Alembic and SQLAlchemy.

Lines go to stderr, since stdout is for what a command was asked to print (``alembic upgrade head --sql``).
"""

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor

from app.config import Settings

__all__ = ["configure_logging"]


def _without_color_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn says some lines twice, once with terminal codes
    return event


def _without_row_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    if "exception" in event:  # PostgreSQL's DETAIL quotes the row that failed
        event["exception"] = re.sub(r"(?m)^DETAIL: .*$", "DETAIL: left out of the log", event["exception"])
    return event


def configure_logging(settings: Settings) -> None:
    """Route the standard library's logging and structlog into one handler. Called by programs, never on import."""
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,  # the request id, on each line of a request
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        _without_color_message,
    ]
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # plain: with local variables it would print secrets and users' data
        _without_row_values,
        structlog.dev.ConsoleRenderer() if log_format == "console" else structlog.processors.JSONRenderer(default=str),
    ]

    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)

    # uvicorn has handlers of its own: without them its lines come to ours. Its access line goes: the middleware
    # writes one with the route and the duration.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.NOTSET)  # ours then holds for it
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.captureWarnings(capture=True)

    # At each command it lists plugins of its own, a line each.
    logging.getLogger("alembic.runtime.plugins").setLevel("WARNING")

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A test that configures anew must reach loggers that modules already hold.
        cache_logger_on_first_use=False,
    )
