"""The HTTP service: ``uvicorn app.main:app``."""

import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.dependencies import open_auth
from app.config import ServiceSettings, SettingsError, load_settings
from app.database.internal.transaction import LateCommitError
from app.database.probe import DatabaseNotReady
from app.database.session import db_session_dependency
from app.dependencies import refuse_late_commits
from app.docs import DuplicateOperationIdError, install_docs, refuse_duplicate_operation_ids
from app.logging import configure_logging
from app.metadata import DESCRIPTION, NAME, VERSION
from app.middleware import RequestMiddleware
from app.overload import ProcessorQueue
from app.problems import install_problems
from app.startup import open_database
from app.telemetry import is_on

__all__ = ["app", "create_app"]

_FEATURES: Final = [
    "users",
    "health",
]
"""Folders of ``app/`` whose routes are served. Routes are tried in this order: the busiest first."""

_MAX_BODY_BYTES: Final = 1024 * 1024
"""Well above any valid body, well below what would hurt a worker."""

_TELEMETRY: Final[TelemetryConfig] = {
    "auto_configure": False,  # app.telemetry does it, for scripts and migrations too
    "logs": False,  # they would contain PostgreSQL's DETAIL, which quotes users' data
    "operation_spans": False,  # four more spans per request
    # Otherwise FastAPI checks at each request whether they are configured: 1 to 2 % of a read.
    "tracing": is_on(),
    "metrics": is_on(),
}


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """Create the application. Without settings it reads them when it starts: importing this module needs none."""
    processor = ProcessorQueue()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current = settings or load_settings(ServiceSettings)
        configure_logging(current)
        refuse_late_commits(app)
        refuse_duplicate_operation_ids(app)
        processor.timeout = current.processor_timeout
        async with open_database(current, database=db_session_dependency), open_auth(current.auth):
            yield

    app = FastAPI(
        title=NAME,
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # generated clients name their functions after it
        telemetry=_TELEMETRY,
    )
    install_problems(app)
    install_docs(app)
    # The middleware added last is the outermost.
    app.add_middleware(RequestMiddleware, max_body_bytes=_MAX_BODY_BYTES, processor=processor)
    app.add_middleware(_OneLineStartup)
    for feature in _FEATURES:
        app.include_router(import_module(f"app.{feature}.routes").router)
    return app


_FIXABLE: Final = (SettingsError, DatabaseNotReady, LateCommitError, DuplicateOperationIdError)


class _OneLineStartup:
    """Reports fixable start-up errors in one line each, instead of the server's traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (self._start if scope["type"] == "lifespan" else self._app)(scope, receive, send)

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_line(message: Message) -> None:
            if isinstance(error := sys.exception(), _FIXABLE):  # Starlette sends it while it handles the error
                message["message"] = str(error)
            await send(message)

        with suppress(*_FIXABLE):
            await self._app(scope, receive, send_one_line)


app = create_app()
