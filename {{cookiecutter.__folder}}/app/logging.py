"""One format for every log line: the service's own, and those of uvicorn, Alembic and SQLAlchemy.

Lines go to stderr, since stdout is for what a command was asked to print (``alembic upgrade head --sql``).
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from functools import cache, partial
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from app.config import Settings

__all__ = ["configure_logging"]

_encode = json.JSONEncoder(default=str).encode  # made once: json.dumps with a default makes one at each call


class _NamedLogger(structlog.WriteLogger):
    def __init__(self, file: TextIO, name: str = "") -> None:
        super().__init__(file)
        self.name = name


def _as_json(event: EventDict, **_: object) -> str:
    return _encode(event)


def _without_color_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn says some lines twice, once with terminal codes
    return event


def _format(exc_info: ExcInfo) -> str:
    """Write a traceback: plain, since local variables are secrets and users' data, and without PostgreSQL's DETAIL."""
    text = "".join(traceback.format_exception(*exc_info)).rstrip()
    for detail in _details(exc_info[1]):
        text = text.replace(detail, "left out of the log")
    return text


def _details(error: BaseException) -> Iterator[str]:
    """Yield what PostgreSQL says of the rows that failed, in an error and in all that led to it."""
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
    """Give structlog and the standard library's logging one format. Called by programs, never on import."""
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,  # the request id, on each line of a request
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.processors.ExceptionRenderer(_format),
        structlog.dev.ConsoleRenderer() if log_format == "console" else structlog.processors.JSONRenderer(_as_json),
    ]

    # The service's own lines do not go by way of the standard library, which would double what a request's line costs.
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=cache(partial(_NamedLogger, sys.stderr)),
        # A test that configures anew must reach loggers that modules already hold.
        cache_logger_on_first_use=False,
    )

    # The libraries' lines do.
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                *first,
                structlog.stdlib.ExtraAdder(),
                _without_color_message,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
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
