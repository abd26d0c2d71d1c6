"""The service with the routes of `tests.example`, and one that may conflict: ``uvicorn tests.telemetry.served:app``."""

from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.retry import run_transaction
from app.database.statements import fetch
from app.dependencies import DbReader, DbSession
from app.main import create_app
from tests import example

_RENAME = (
    update(example.Thing)
    .where(example.Thing.id == bindparam("thing"))
    .values(name=bindparam("new"))
    .returning(example.Thing.id)
)

app = create_app()
app.include_router(example.router)


@app.put("/things/{thing_id}")
async def rename(thing_id: UUID, name: str) -> None:
    """Rename a thing, by a statement that runs on the driver from its second call on."""

    async def change(session: AsyncSession) -> None:
        await fetch(session, _RENAME, thing=thing_id, new=name)

    await run_transaction(change)


@app.get("/held")
async def hold(session: DbSession, reader: DbReader) -> None:
    """Keep a connection and ask for another."""
    await session.execute(select(1))
    await reader.scalar(select(1))
