"""Runs statements in a test's database, and lists what is in it."""

import asyncio
from typing import Any

import asyncpg

__all__ = ["OUTSIDE", "TABLES", "execute", "fetch", "relations", "tables"]

OUTSIDE = "with op.get_context().autocommit_block():\n    "
"""Start of a block of a revision whose statements are outside of a transaction."""

TABLES = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information)' ORDER BY 1"


def execute(url: str, *statements: str) -> None:
    async def execute_all() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(execute_all())


def fetch(url: str, query: str) -> list[Any]:
    """Return the first column of a query's rows."""

    async def fetch_all() -> list[Any]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(query)
        await connection.close()
        return [row[0] for row in rows]

    return asyncio.run(fetch_all())


def tables(url: str) -> list[str]:
    return fetch(url, TABLES)


def relations(url: str) -> list[str]:
    return fetch(url, "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class")
