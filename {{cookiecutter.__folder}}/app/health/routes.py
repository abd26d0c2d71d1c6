"""Probes for whatever runs the service: restart it when it is not live, send it no requests while it is not ready."""

import asyncio
from typing import Final, Literal

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.database.failures import describe
from app.database.session import db_session_dependency
from app.problems import problem, problem_responses

__all__ = ["router"]

_LIMIT: Final = 1.0
"""Seconds the database has for its answer: the default timeout of a Kubernetes probe."""

_log = structlog.get_logger(__name__)
router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    """The answer of a probe that succeeds."""

    status: Literal["ok"] = "ok"


@router.get("/live", summary="Is the process alive?")
async def live() -> Health:
    """Answer without asking anyone: a database that is away is no reason to restart this process."""
    return Health()


@router.get("/ready", summary="Can it serve?", response_model=Health, responses=problem_responses(503))
async def ready(request: Request) -> Health | JSONResponse:
    """Ask the database, on a connection of its own, for at most a second."""
    ping = asyncio.create_task(db_session_dependency.ping())
    # Not asyncio.timeout: that would also wait until a silent connection has been closed in good order.
    await asyncio.wait({ping}, timeout=_LIMIT)
    reason = f"no answer within {_LIMIT:g} s"
    if ping.done():
        error = ping.exception()
        if error is None:
            return Health()
        reason = describe(error)
    else:
        ping.cancel()
    _log.warning("not ready", reason=reason)
    return problem(request, 503, "The database does not answer.", headers={"Retry-After": "1"})
