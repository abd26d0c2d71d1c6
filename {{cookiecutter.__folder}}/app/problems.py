"""Turns every error into an ``application/problem+json`` answer (RFC 9457). The only module that knows both sides."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.database.failures import DatabaseUnavailable, describe, is_refused, is_unavailable, sqlstate
from app.errors import Conflict, DomainError, NotFound

__all__ = ["Problem", "install_problems", "problem", "problem_responses"]

_MEDIA_TYPE: Final = "application/problem+json"

_RETRY_AFTER: Final = "1"
"""Seconds a client should wait after a 503: about what a pool needs to drain, or a database to restart."""

_DETAILS: Final = {
    404: "There is nothing at this address.",
    405: "This address does not answer that method.",
}

_log = structlog.get_logger(__name__)


class InvalidField(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer to it, beginning with its place: body, query, path or header.")
    detail: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(default="about:blank", description="about:blank: the status says what it is.")
    title: str = Field(description="The name of the status.")
    status: int = Field(description="The status of the answer.")
    detail: str = Field(description="What happened, and how to mend it.")
    instance: str = Field(description="The path of the request.")
    request_id: str = Field(description="The request's id; each log line about it has the same one.")
    errors: list[InvalidField] | None = Field(default=None, description="With 422: each thing that is wrong.")


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: list[InvalidField] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make the answer for an error.

    Parameters
    ----------
    request
        What it answers.
    status
        HTTP status.
    detail
        A sentence for the client; nothing internal.
    errors
        With 422, each thing that is wrong.
    headers
        Further headers.
    """
    body = Problem(
        title=_title(status),
        status=status,
        detail=detail,
        instance=request.scope["path"],
        request_id=request.state.request_id,
        errors=errors,
    )
    return JSONResponse(body.model_dump(exclude_none=True), status, headers=headers, media_type=_MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document statuses of a route, for its ``responses=``. Each of them is a `Problem`."""
    content = {_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install_problems(app: FastAPI) -> None:
    """Register the handlers, and the schema that `problem_responses` refers to."""
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DomainError, _domain_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(DatabaseUnavailable, _database_error)

    make_schema = app.openapi

    def openapi() -> dict[str, Any]:
        schema = make_schema()
        models = schema.setdefault("components", {}).setdefault("schemas", {})
        own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        models.update(own.pop("$defs"))
        models["Problem"] = own
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents


# Starlette types handlers by the base class: each of these is called with the class it was registered for.


def _title(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Status {status}"


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (204, 304):  # these have no body
        return Response(status_code=error.status_code, headers=error.headers)
    # Starlette's own 404 and 405 have the status' name for a detail: say a little more.
    title = _title(error.status_code)
    detail = _DETAILS.get(error.status_code, title) if error.detail == title else str(error.detail)
    return problem(request, error.status_code, detail, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = []
    for item in error.errors():  # not its "input": a client's secret would come back, and a lone surrogate is no UTF-8
        # Where the body is no JSON at all, the location is an offset into it and no pointer.
        location = item["loc"][:1] if item["type"] == "json_invalid" else item["loc"]
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
        errors.append(InvalidField(pointer=pointer, detail=item["msg"].removeprefix("Value error, ")))
    return problem(request, 422, "The request is not valid; see errors.", errors=errors)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    match error:
        case NotFound():
            return problem(request, 404, str(error))
        case Conflict():
            return problem(request, 409, str(error))
    raise error  # a kind without a status: the middleware makes it a 500 and logs it


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    if not (is_unavailable(error) or is_refused(error)):
        raise error
    _log.warning("database unavailable", reason=describe(error), sqlstate=sqlstate(error))
    return problem(
        request,
        503,
        "The database is busy or away; try again shortly.",
        headers={"Retry-After": _RETRY_AFTER},
    )
