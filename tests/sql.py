"""Queries a database from outside the service."""

import asyncio
import threading
from typing import Any

import asyncpg


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def execute(
    url: str, *statements: str, held: threading.Event | None = None, release: threading.Event | None = None
) -> None:
    """Run statements, and keep the connection and its locks until the end of the block."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
            if held is not None and release is not None:
                held.set()
                await asyncio.to_thread(release.wait)
        finally:
            await connection.close()

    asyncio.run(run())
