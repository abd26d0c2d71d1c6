"""The baseline: Starlette and asyncpg, written by hand for these routes, and nothing else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import orjson
from email_validator import validate_email
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uuid_utils.compat import uuid7

COLUMNS = "id, email, name, created_at, updated_at"
GET = f"SELECT {COLUMNS} FROM users WHERE id = $1 AND deleted_at IS NULL"
LIST = f"SELECT {COLUMNS} FROM users WHERE deleted_at IS NULL ORDER BY id LIMIT $1"
CREATE = f"INSERT INTO users (id, email, name) VALUES ($1, $2, $3) RETURNING {COLUMNS}"
CHANGE = (
    "UPDATE users SET email = coalesce($2, email), name = coalesce($3, name), updated_at = now() "
    f"WHERE id = $1 AND deleted_at IS NULL RETURNING {COLUMNS}"
)
DELETE = "UPDATE users SET deleted_at = now(), updated_at = now() WHERE id = $1 AND deleted_at IS NULL RETURNING id"
POOL = 15


def answer(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content, default=str), status, media_type="application/json")


async def get_user(request: Request) -> Response:
    row = await request.app.state.pool.fetchrow(GET, UUID(request.path_params["user_id"]))
    return answer(dict(row)) if row else answer(None, 404)


async def list_users(request: Request) -> Response:
    rows = await request.app.state.pool.fetch(LIST, int(request.query_params.get("limit", "50")))
    return answer({"items": [dict(row) for row in rows]})


async def create_user(request: Request) -> Response:
    body = orjson.loads(await request.body())
    validate_email(body["email"], check_deliverability=False)
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(CREATE, uuid7(), body["email"], body["name"])
    return answer(dict(row), 201)


async def change_user(request: Request) -> Response:
    body = orjson.loads(await request.body())
    if "email" in body:
        validate_email(body["email"], check_deliverability=False)
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        user_id = UUID(request.path_params["user_id"])
        row = await connection.fetchrow(CHANGE, user_id, body.get("email"), body.get("name"))
    return answer(dict(row)) if row else answer(None, 404)


async def delete_user(request: Request) -> Response:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(DELETE, UUID(request.path_params["user_id"]))
    return Response(status_code=204) if row else answer(None, 404)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL, max_size=POOL) as app.state.pool:
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/users", list_users),
        Route("/users", create_user, methods=["POST"]),
        Route("/users/{user_id}", get_user),
        Route("/users/{user_id}", change_user, methods=["PATCH"]),
        Route("/users/{user_id}", delete_user, methods=["DELETE"]),
    ],
)
