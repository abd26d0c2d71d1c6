"""Turns every error into an ``application/problem+json`` response (RFC 9457)."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.database.errors import DatabaseUnavailable, describe, is_refused, is_unavailable, sqlstate
from app.errors import Busy, Conflict, NotFound, PreconditionFailed, RefersToNothing, Unprocessable
from app.instruments import UNAVAILABLE

__all__ = ["Problem", "install_problems", "problem", "problem_responses"]

_MEDIA_TYPE: Final = "application/problem+json"

_RETRY: Final = {"Retry-After": "1"}
"""In seconds: about what a busy pool or a restarting database needs."""

_DETAILS: Final = {
    (404, "Not Found"): "There is nothing at this URL.",
    (405, "Method Not Allowed"): "This URL does not support this method.",
}
"""What Starlette's own details, which are just the name of the status, become."""

_log = structlog.get_logger(__name__)


class InvalidField(BaseModel):
    """One invalid part of a request."""

    pointer: str = Field(description="JSON pointer to the field; it begins with body, query, path or header.")
    detail: str = Field(description="What is wrong with the field.")


class Problem(BaseModel):
    """An error in the format of RFC 9457."""

    type: str = Field(default="about:blank", description="about:blank: the status identifies the kind of error.")
    title: str = Field(description="Name of the status.")
    status: int = Field(description="HTTP status of the response.")
    detail: str = Field(description="What happened, and how to fix it.")
    instance: str = Field(description="Path of the request.")
    request_id: str = Field(description="Id of the request, which is in each of its log lines.")
    errors: list[InvalidField] | None = Field(default=None, description="With a 422: the invalid parts of the request.")


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: list[InvalidField] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Create the response to an error. Its ``detail`` is a sentence for the client, without internal details."""
    body = Problem(
        title=HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Status {status}",
        status=status,
        detail=detail,
        instance=request.scope["path"],
        request_id=request.state.request_id,
        errors=errors,
    )
    return JSONResponse(body.model_dump(exclude_none=True), status, headers=headers, media_type=_MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of error statuses for a route's ``responses=``. Each is a `Problem`."""
    content = {_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install_problems(app: FastAPI) -> None:
    """Register the exception handlers, and the schema that `problem_responses` refers to."""
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind, status in ((NotFound, 404), (Conflict, 409), (PreconditionFailed, 412), (Unprocessable, 422)):
        app.add_exception_handler(kind, partial(_domain_error, status=status))
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(DatabaseUnavailable, _database_error)

    make_schema = app.openapi

    def openapi() -> dict[str, Any]:
        schema = make_schema()
        models = schema.setdefault("components", {}).setdefault("schemas", {})
        own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        models |= own.pop("$defs") | {"Problem": own}
        # A route with a security dependency can refuse its caller.
        for operation in (operation for path in schema["paths"].values() for operation in path.values()):
            if "security" in operation:
                operation["responses"] |= problem_responses(401, 403)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


# Starlette declares handlers for Exception; each is called with the class that it was registered for.


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code < 300:
        raise RuntimeError(
            f"HTTPException({error.status_code}) was raised: an error rolls the session back, so it cannot report a "
            "success. Return a Response with this status instead."
        ) from error
    if error.status_code == 304:  # it has no body
        return Response(status_code=error.status_code, headers=error.headers)
    detail = str(error.detail)
    return problem(request, error.status_code, _DETAILS.get((error.status_code, detail), detail), headers=error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = []
    for item in error.errors():  # without "input": it may be a secret, or invalid UTF-8
        # If the body is not JSON, the location is an offset into it, not a pointer.
        location = item["loc"][:1] if item["type"] == "json_invalid" else item["loc"]
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
        errors.append(InvalidField(pointer=pointer, detail=item["msg"].removeprefix("Value error, ")))
    return problem(request, 422, "The request is not valid; see errors.", errors=errors)


async def _domain_error(request: Request, error: Exception, *, status: int) -> JSONResponse:
    errors = None
    if isinstance(error, RefersToNothing):
        errors = [InvalidField(pointer=f"/body/{error.field}", detail="there is no such row")]
    return problem(request, status, str(error), errors=errors, headers=_RETRY if isinstance(error, Busy) else None)


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    if not (is_unavailable(error) or is_refused(error)):
        raise error
    structlog.contextvars.bind_contextvars(reason=describe(error), sqlstate=sqlstate(error))  # for the request's line
    UNAVAILABLE.add(1, {"reason": sqlstate(error) or type(error).__name__})
    # If the COMMIT had been sent, the write may be stored: the route knows whether a repetition is safe.
    advice = getattr(request.state, "advice", "try again shortly")
    return problem(request, 503, f"The database is busy or unreachable; {advice}.", headers=_RETRY)
