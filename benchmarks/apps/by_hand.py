"""FastAPI with asyncpg by hand: validation and documentation, and SQL as text."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
from baseline import CHANGE, CREATE, DELETE, GET, LIST, POOL
from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, EmailStr
from uuid_utils.compat import uuid7


class NewUser(BaseModel):
    email: EmailStr
    name: str


class UserChanges(BaseModel):
    email: EmailStr | None = None
    name: str | None = None


class UserOut(BaseModel):
    id: UUID
    email: str
    name: str
    created_at: datetime
    updated_at: datetime


class UserPage(BaseModel):
    items: list[UserOut]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL, max_size=POOL) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/users/{user_id}")
async def get_user(user_id: UUID, request: Request) -> UserOut:
    row = await request.app.state.pool.fetchrow(GET, user_id)
    if row is None:
        raise HTTPException(404)
    return UserOut(**row)


@app.get("/users")
async def list_users(request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> UserPage:
    rows = await request.app.state.pool.fetch(LIST, limit)
    return UserPage(items=[UserOut(**row) for row in rows])


@app.post("/users", status_code=201)
async def create_user(new: NewUser, request: Request) -> UserOut:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(CREATE, uuid7(), new.email, new.name)
    return UserOut(**row)


@app.patch("/users/{user_id}")
async def change_user(user_id: UUID, changes: UserChanges, request: Request) -> UserOut:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(CHANGE, user_id, changes.email, changes.name)
    if row is None:
        raise HTTPException(404)
    return UserOut(**row)


@app.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: UUID, request: Request) -> None:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        if await connection.fetchrow(DELETE, user_id) is None:
            raise HTTPException(404)
