"""The {{ cookiecutter.plural }} routes: they only translate between HTTP and the repository."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.auth.dependencies import requires
from app.database.retry import run_transaction
from app.dependencies import DbFallbackReader, DbReplicaReader, DbSession
from app.idempotency.dependencies import once
from app.pagination import Cursor, Limit, make_cursor
from app.problems import problem_responses
from app.{{ cookiecutter.plural }} import repository
from app.{{ cookiecutter.plural }}.schemas import New{{ cookiecutter.__class }}, {{ cookiecutter.__class }}Changes, {{ cookiecutter.__class }}Out, {{ cookiecutter.__class }}Page

__all__ = ["router"]

router = APIRouter(prefix="/{{ cookiecutter.plural }}", tags=["{{ cookiecutter.plural }}"], responses=problem_responses(500, 503))


def _with_header(status: int, name: str, description: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"headers": {name: {"description": description, "schema": {"type": "string"}}}}}


_READ: Final = requires("{{ cookiecutter.plural }}:read")
_WRITE: Final = requires("{{ cookiecutter.plural }}:write")
_BODY_ERRORS: Final = problem_responses(400, 409, 413, 422)


@router.get("/{ {{- cookiecutter.singular }}_id}", dependencies=_READ, responses=problem_responses(404, 422))
async def get_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, reader: DbFallbackReader) -> {{ cookiecutter.__class }}Out:
    """Get {{ cookiecutter.__one }}."""
    return {{ cookiecutter.__class }}Out(*await repository.get_{{ cookiecutter.singular }}(reader, {{ cookiecutter.singular }}_id))


@router.post("", status_code=201, dependencies=_WRITE, responses=_with_header(201, "Location", "URL of the new {{ cookiecutter.singular | replace("_", " ") }}.") | _BODY_ERRORS)
@once
async def create_{{ cookiecutter.singular }}(new: New{{ cookiecutter.__class }}, session: DbSession, request: Request, response: Response) -> {{ cookiecutter.__class }}Out:
    """Create {{ cookiecutter.__one }}."""
    created = {{ cookiecutter.__class }}Out(*await repository.create_{{ cookiecutter.singular }}(session, name=new.name))
    response.headers["Location"] = f"{request.scope['path']}/{created.id}"
    return created


@router.get(
    "", dependencies=_READ, responses=_with_header(200, "Link", 'URL of the next page, as rel="next".') | problem_responses(422)
)
async def list_{{ cookiecutter.plural }}(
    reader: DbReplicaReader,
    request: Request,
    response: Response,
    limit: Annotated[Limit, Query()] = 50,
    cursor: Annotated[Cursor, Query()] = None,
) -> {{ cookiecutter.__class }}Page:
    """List {{ cookiecutter.plural }}, oldest first, a page at a time."""
    # One row more than requested shows whether there is a next page.
    rows = await repository.list_{{ cookiecutter.plural }}(reader, limit=limit + 1, after=cursor)
    items = [{{ cookiecutter.__class }}Out(*row) for row in rows[:limit]]
    if len(rows) <= limit:
        return {{ cookiecutter.__class }}Page(items=items, next_cursor=None)
    next_cursor = make_cursor(items[-1].id)
    response.headers["Link"] = f'<{request.scope["path"]}?limit={limit}&cursor={next_cursor}>; rel="next"'
    return {{ cookiecutter.__class }}Page(items=items, next_cursor=next_cursor)


@router.patch("/{ {{- cookiecutter.singular }}_id}", dependencies=_WRITE, responses=problem_responses(404) | _BODY_ERRORS)
async def change_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, changes: {{ cookiecutter.__class }}Changes) -> {{ cookiecutter.__class }}Out:
    """Change some fields of {{ cookiecutter.__one }}."""
    # Under SERIALIZABLE, two concurrent changes may conflict: one of them is retried here, and its client gets no 503.
    return {{ cookiecutter.__class }}Out(
        *await run_transaction(lambda session: repository.change_{{ cookiecutter.singular }}(session, {{ cookiecutter.singular }}_id, changes))
    )


@router.delete("/{ {{- cookiecutter.singular }}_id}", status_code=204, response_class=Response, dependencies=_WRITE, responses=problem_responses(404, 422))
async def delete_{{ cookiecutter.singular }}({{ cookiecutter.singular }}_id: UUID, session: DbSession) -> None:
    """Delete {{ cookiecutter.__one }}."""
    await repository.delete_{{ cookiecutter.singular }}(session, {{ cookiecutter.singular }}_id)
