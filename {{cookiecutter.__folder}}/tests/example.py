"""A table and two routes for the tests of the modules that all features use. They are not part of the service."""

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.database.engine import create_database_engine
from app.dependencies import DbReader, DbSession
from app.problems import problem_responses

__all__ = ["Thing", "create_tables", "router"]


class Base(DeclarativeBase):
    """Separate from the service's base class: migrations ignore these tables."""


class Thing(Base):
    """A thing."""

    __tablename__ = "things"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)


class NewThing(BaseModel):
    """Body of a request to create a thing."""

    email: str = Field(min_length=1)
    name: str = Field(min_length=1)


router = APIRouter(prefix="/things", responses=problem_responses(422))


@router.get("")
async def list_names(reader: DbReader, limit: Annotated[int, Query(ge=1)] = 50) -> list[str]:
    """List the names of things."""
    return [name for (name,) in await reader.all(select(Thing.name).limit(limit))]


@router.post("", status_code=201)
async def create_thing(new: NewThing, session: DbSession) -> None:
    """Create a thing."""
    session.add(Thing(email=new.email, name=new.name))


async def create_tables(url: str) -> None:
    """Create the tables in a database."""
    engine = create_database_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
