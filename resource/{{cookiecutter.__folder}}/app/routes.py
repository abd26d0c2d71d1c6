{%- set it = cookiecutter | resource -%}
"""The {{ cookiecutter.plural }} routes: they only translate between HTTP and the repository."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.auth.dependencies import requires
from app.database.retry import run_transaction
from app.dependencies import DbReader, DbSession
from app.docs import header
from app.etag import ETAG, IF_MATCH, IF_NONE_MATCH, if_match, tagged
from app.idempotency.dependencies import once
from app.pagination import {% if not it.has_query %}Cursor, Limit, {% endif %}cut
from app.problems import problem_responses
from app.{{ cookiecutter.plural }} import repository
from app.{{ cookiecutter.plural }}.schemas import New{{ cookiecutter.__class }}, {{ cookiecutter.__class }}Changes, {{ cookiecutter.__class }}Out, {{ cookiecutter.__class }}Page{% if it.has_query %}, {{ cookiecutter.__class }}Query{% endif %}

__all__ = ["router"]

router = APIRouter(prefix="/{{ cookiecutter.plural }}", tags=["{{ cookiecutter.plural }}"], responses=problem_responses(500, 503))

_READ = requires("{{ cookiecutter.plural }}:read")
_WRITE = requires("{{ cookiecutter.plural }}:write")


@router.get("/{ {{- cookiecutter.singular }}_id}", dependencies=_READ, responses=header(200, ETag=ETAG) | header(304, ETag=ETAG) | problem_responses(404, 422), openapi_extra=IF_NONE_MATCH)
async def get_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, reader: DbReader, request: Request, response: Response) -> {{ cookiecutter.__class }}Out:
    """Get {{ cookiecutter.__one }}."""
    return tagged(await repository.get_{{ cookiecutter.singular }}(reader, {{ cookiecutter.singular }}_id), response, request)


@router.post(
    "",
    status_code=201,
    dependencies=_WRITE,
    responses=header(201, Location="URL of the new {{ cookiecutter.__words }}.", ETag=ETAG) | problem_responses(400, 409, 413, 422),
)
@once
async def create_{{ cookiecutter.singular }}(new: New{{ cookiecutter.__class }}, session: DbSession, request: Request, response: Response) -> {{ cookiecutter.__class }}Out:
    """Create {{ cookiecutter.__one }}."""
    created = await repository.create_{{ cookiecutter.singular }}(session, new)
    response.headers["Location"] = f"{request.scope['path']}/{created.id}"
    return tagged(created, response)


@router.get(
    "",
    dependencies=_READ,
    responses=header(200, Link='URL of the next page, as rel="next".') | problem_responses(422),
)
{%- if it.has_query %}
async def list_{{ cookiecutter.plural }}(
    reader: DbReader, request: Request, response: Response, query: Annotated[{{ cookiecutter.__class }}Query, Query()]
) -> {{ cookiecutter.__class }}Page:
    """List {{ cookiecutter.plural }}, a page at a time."""
    found = await repository.list_{{ cookiecutter.plural }}(reader, query)
    return {{ cookiecutter.__class }}Page(*cut(found, query.limit, request, response, query.cursor_of))
{%- else %}
async def list_{{ cookiecutter.plural }}(
    reader: DbReader,
    request: Request,
    response: Response,
    limit: Annotated[Limit, Query()] = 50,
    cursor: Annotated[Cursor, Query()] = None,
) -> {{ cookiecutter.__class }}Page:
    """List {{ cookiecutter.plural }}, oldest first, a page at a time."""
    # One row more than requested shows whether there is a next page.
    found = await repository.list_{{ cookiecutter.plural }}(reader, limit=limit + 1, after=cursor)
    return {{ cookiecutter.__class }}Page(*cut(found, limit, request, response))
{%- endif %}


@router.patch("/{ {{- cookiecutter.singular }}_id}", dependencies=_WRITE, responses=header(200, ETag=ETAG) | problem_responses(400, 404, 409, 412, 413, 422), openapi_extra=IF_MATCH)
async def change_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, changes: {{ cookiecutter.__class }}Changes, request: Request, response: Response) -> {{ cookiecutter.__class }}Out:
    """Change some fields of {{ cookiecutter.__one }}."""
    # Under SERIALIZABLE, two concurrent changes may conflict: one of them is retried here, and its client gets no 503.
    changed = await run_transaction(lambda session: repository.change_{{ cookiecutter.singular }}(session, {{ cookiecutter.singular }}_id, changes, if_match(request)))
    return tagged(changed, response)


@router.delete(
    "/{ {{- cookiecutter.singular }}_id}", status_code=204, response_class=Response, dependencies=_WRITE, responses=problem_responses(404, 409, 412, 422), openapi_extra=IF_MATCH
)
async def delete_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, request: Request) -> None:
    """Delete {{ cookiecutter.__one }}."""
    await run_transaction(lambda session: repository.delete_{{ cookiecutter.singular }}(session, {{ cookiecutter.singular }}_id, if_match(request)))
