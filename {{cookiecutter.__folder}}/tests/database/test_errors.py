"""What the error of a statement says of its cause."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.errors import violates


@pytest.mark.parametrize(
    ("index", "recognized"),
    [
        ("uq_pets_name", True),
        ("uq_pets_name_102011", True),  # as Citus names it on a shard
        ("uq_pets_name_2", False),
        ("uq_pets_name_102011_2", False),
        ("uq_pets", False),
    ],
)
async def test_a_constraint_is_recognized_by_its_name_with_and_without_the_number_of_a_shard(
    session: AsyncSession, index: str, recognized: bool
) -> None:
    await session.execute(text("CREATE TABLE pets (name text)"))
    await session.execute(text(f"CREATE UNIQUE INDEX {index} ON pets (name)"))
    with pytest.raises(IntegrityError) as raised:
        await session.execute(text("INSERT INTO pets VALUES ('Rex'), ('Rex')"))
    assert violates(raised.value, "uq_pets_name") is recognized


async def test_another_error_violates_no_constraint(session: AsyncSession) -> None:
    with pytest.raises(DBAPIError) as raised:
        await session.execute(text("SELECT 1/0"))
    assert not violates(raised.value, "uq_pets_name")
