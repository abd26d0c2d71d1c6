"""A session per request as in the tutorials: a dependency that commits after the response, and ORM objects."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, EmailStr
from sqlalchemy import DateTime, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

engine = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"))
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class NewUser(BaseModel):
    email: EmailStr
    name: str


class UserChanges(BaseModel):
    email: EmailStr | None = None
    name: str | None = None


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    created_at: datetime
    updated_at: datetime


class UserPage(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    items: list[UserOut]


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session
        await session.commit()


Session = Annotated[AsyncSession, Depends(get_session)]


async def find(session: AsyncSession, user_id: UUID) -> User:
    user = await session.get(User, user_id)
    if user is None or user.deleted_at is not None:
        raise HTTPException(404)
    return user


@app.get("/users/{user_id}", response_model=UserOut)
async def get_user(user_id: UUID, session: Session) -> User:
    return await find(session, user_id)


@app.get("/users", response_model=UserPage)
async def list_users(session: Session, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> dict[str, object]:
    users = await session.scalars(select(User).where(User.deleted_at.is_(None)).order_by(User.id).limit(limit))
    return {"items": users.all()}


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(new: NewUser, session: Session) -> User:
    user = User(email=new.email, name=new.name)
    session.add(user)
    await session.flush()
    await session.refresh(user)
    return user


@app.patch("/users/{user_id}", response_model=UserOut)
async def change_user(user_id: UUID, changes: UserChanges, session: Session) -> User:
    user = await find(session, user_id)
    for name, value in changes.model_dump(exclude_unset=True).items():
        setattr(user, name, value)
    await session.flush()
    await session.refresh(user)
    return user


@app.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: UUID, session: Session) -> None:
    user = await find(session, user_id)
    user.deleted_at = datetime.now(UTC)
