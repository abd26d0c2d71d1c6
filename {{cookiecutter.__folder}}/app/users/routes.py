"""The users routes: they only translate between HTTP and the repository."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.auth.dependencies import requires
from app.database.retry import run_transaction
from app.dependencies import DbReader, DbSession
from app.docs import header
from app.etag import ETAG, IF_MATCH, IF_NONE_MATCH, if_match, tagged
from app.idempotency.dependencies import once
from app.pagination import Cursor, Limit, cut
from app.problems import problem_responses
from app.users import repository
from app.users.schemas import NewUser, UserChanges, UserOut, UserPage

__all__ = ["router"]

router = APIRouter(prefix="/users", tags=["users"], responses=problem_responses(500, 503))

_READ = requires("users:read")
_WRITE = requires("users:write")


@router.get(
    "/{user_id}",
    dependencies=_READ,
    responses=header(200, ETag=ETAG) | header(304, ETag=ETAG) | problem_responses(404, 422),
    openapi_extra=IF_NONE_MATCH,
)
async def get_user(user_id: UUID, reader: DbReader, request: Request, response: Response) -> UserOut:
    """Get a user."""
    return tagged(await repository.get_user(reader, user_id), response, request)


@router.post(
    "",
    status_code=201,
    dependencies=_WRITE,
    responses=header(201, Location="URL of the new user.", ETag=ETAG) | problem_responses(400, 409, 413, 422),
)
@once
async def create_user(new: NewUser, session: DbSession, request: Request, response: Response) -> UserOut:
    """Create a user."""
    created = await repository.create_user(session, new)
    response.headers["Location"] = f"{request.scope['path']}/{created.id}"
    return tagged(created, response)


@router.get(
    "",
    dependencies=_READ,
    responses=header(200, Link='URL of the next page, as rel="next".') | problem_responses(422),
)
async def list_users(
    reader: DbReader,
    request: Request,
    response: Response,
    limit: Annotated[Limit, Query()] = 50,
    cursor: Annotated[Cursor, Query()] = None,
) -> UserPage:
    """List users, oldest first, a page at a time."""
    # One row more than requested shows whether there is a next page.
    found = await repository.list_users(reader, limit=limit + 1, after=cursor)
    return UserPage(*cut(found, limit, request, response))


@router.patch(
    "/{user_id}",
    dependencies=_WRITE,
    responses=header(200, ETag=ETAG) | problem_responses(400, 404, 409, 412, 413, 422),
    openapi_extra=IF_MATCH,
)
async def change_user(user_id: UUID, changes: UserChanges, request: Request, response: Response) -> UserOut:
    """Change some fields of a user."""
    # Under SERIALIZABLE, two concurrent changes may conflict: one of them is retried here, and its client gets no 503.
    changed = await run_transaction(
        lambda session: repository.change_user(session, user_id, changes, if_match(request))
    )
    return tagged(changed, response)


@router.delete(
    "/{user_id}",
    status_code=204,
    response_class=Response,
    dependencies=_WRITE,
    responses=problem_responses(404, 412, 422),
    openapi_extra=IF_MATCH,
)
async def delete_user(user_id: UUID, request: Request) -> None:
    """Delete a user. Its e-mail can be used again at once."""
    await run_transaction(lambda session: repository.delete_user(session, user_id, if_match(request)))
