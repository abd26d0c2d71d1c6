"""The users routes: they only translate between HTTP and the repository."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.auth.dependencies import requires
from app.database.retry import run_transaction
from app.dependencies import DbFallbackReader, DbReplicaReader, DbSession
from app.idempotency.dependencies import once
from app.pagination import Cursor, Limit, make_cursor
from app.problems import problem_responses
from app.users import repository
from app.users.schemas import NewUser, UserChanges, UserOut, UserPage

__all__ = ["router"]

router = APIRouter(prefix="/users", tags=["users"], responses=problem_responses(500, 503))


def _with_header(status: int, name: str, description: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"headers": {name: {"description": description, "schema": {"type": "string"}}}}}


_READ: Final = requires("users:read")
_WRITE: Final = requires("users:write")
_BODY_ERRORS: Final = problem_responses(400, 409, 413, 422)


@router.get("/{user_id}", dependencies=_READ, responses=problem_responses(404, 422))
async def get_user(user_id: UUID, reader: DbFallbackReader) -> UserOut:
    """Get a user."""
    return UserOut(*await repository.get_user(reader, user_id))


@router.post(
    "",
    status_code=201,
    dependencies=_WRITE,
    responses=_with_header(201, "Location", "URL of the new user.") | _BODY_ERRORS,
)
@once
async def create_user(new: NewUser, session: DbSession, request: Request, response: Response) -> UserOut:
    """Create a user."""
    created = UserOut(*await repository.create_user(session, email=new.email, name=new.name))
    response.headers["Location"] = f"{request.scope['path']}/{created.id}"
    return created


@router.get(
    "",
    dependencies=_READ,
    responses=_with_header(200, "Link", 'URL of the next page, as rel="next".') | problem_responses(422),
)
async def list_users(
    reader: DbReplicaReader,
    request: Request,
    response: Response,
    limit: Annotated[Limit, Query()] = 50,
    cursor: Annotated[Cursor, Query()] = None,
) -> UserPage:
    """List users, oldest first, a page at a time."""
    # One row more than requested shows whether there is a next page.
    rows = await repository.list_users(reader, limit=limit + 1, after=cursor)
    items = [UserOut(*row) for row in rows[:limit]]
    if len(rows) <= limit:
        return UserPage(items=items, next_cursor=None)
    next_cursor = make_cursor(items[-1].id)
    response.headers["Link"] = f'<{request.scope["path"]}?limit={limit}&cursor={next_cursor}>; rel="next"'
    return UserPage(items=items, next_cursor=next_cursor)


@router.patch("/{user_id}", dependencies=_WRITE, responses=problem_responses(404) | _BODY_ERRORS)
async def change_user(user_id: UUID, changes: UserChanges) -> UserOut:
    """Change some fields of a user."""
    # Under SERIALIZABLE, two concurrent changes may conflict: one of them is retried here, and its client gets no 503.
    return UserOut(*await run_transaction(lambda session: repository.change_user(session, user_id, changes)))


@router.delete(
    "/{user_id}",
    status_code=204,
    response_class=Response,
    dependencies=_WRITE,
    responses=problem_responses(404, 422),
)
async def delete_user(user_id: UUID, session: DbSession) -> None:
    """Delete a user. Its e-mail can be used again at once."""
    await repository.delete_user(session, user_id)
