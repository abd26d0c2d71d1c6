"""Probes: the platform restarts a copy that is not live, and sends no requests to one that is not ready."""

import asyncio
from typing import Final, Literal

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.database.errors import describe
from app.database.session import db_session_dependency
from app.instruments import READINESS
from app.problems import problem, problem_responses

__all__ = ["router"]

_LIMIT: Final = 1.0
"""Time limit in seconds for the database's answer: the default timeout of a Kubernetes probe."""

_log = structlog.get_logger(__name__)
router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    """Response of a successful probe."""

    status: Literal["ok"] = "ok"


@router.get("/live", summary="Is the process alive?")
async def live() -> Health:
    """Answer without any I/O: an unreachable database is no reason to restart this process."""
    return Health()


@router.get("/ready", summary="Can it serve?", response_model=Health, responses=problem_responses(503))
async def ready(request: Request) -> Health | JSONResponse:
    """Query the database, on a connection outside the pool, with a time limit of one second."""
    ping = asyncio.create_task(db_session_dependency.ping())
    # Not asyncio.timeout: it would also wait until a silent connection is closed.
    await asyncio.wait({ping}, timeout=_LIMIT)
    if not ping.done():
        ping.cancel()
        reason = f"no answer within {_LIMIT:g} s"
    elif error := ping.exception():
        reason = describe(error)
    else:
        READINESS.add(1, {"result": "ok"})
        return Health()
    _log.warning("not ready", reason=reason)
    READINESS.add(1, {"result": "failed"})
    return problem(request, 503, "The database does not answer.", headers={"Retry-After": "1"})
