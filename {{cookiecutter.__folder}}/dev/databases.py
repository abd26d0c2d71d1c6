"""Scratch databases for tests and checks, never the one that DATABASE_URL or .env names."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import asyncpg

from app.config import ServiceSettings
from dev.cluster import temporary_cluster

__all__ = [
    "create_database",
    "drop_database",
    "ensure_database",
    "environment_without_settings",
    "scratch_database",
    "scratch_server",
]


def environment_without_settings() -> dict[str, str]:
    """Return the environment without the service's settings, for programs that must ignore them."""
    # DATABASE_, LOG_, AUTH_, and OpenTelemetry's.
    sections = tuple({f"{field.split('_')[0]}_".upper() for field in ServiceSettings.model_fields} | {"OTEL_"})
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(sections)}


@contextmanager
def scratch_server() -> Iterator[str]:
    """Yield the URL of a server for tests: that of TEST_DATABASE_URL, or of a temporary embedded server."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url.replace("+asyncpg", "", 1)
    else:
        with temporary_cluster() as cluster:
            yield cluster.url()


@contextmanager
def scratch_database(server: str, *, template: str | None = None) -> Iterator[str]:
    """Yield the URL of a new database, empty or a copy of another one. It is dropped at the end of the block."""
    url = create_database(server, template=template)
    try:
        yield url
    finally:
        drop_database(server, url)


def create_database(server: str, *, template: str | None = None) -> str:
    """Create a database with a random name, empty or a copy of another one, and return its URL."""
    name = f"test_{secrets.token_hex(8)}"
    source = urlsplit(template).path.lstrip("/") if template else "template0"
    asyncio.run(_execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{source}"'))
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def drop_database(server: str, url: str) -> None:
    """Drop a database, even if clients are connected to it."""
    asyncio.run(_execute(server, f'DROP DATABASE "{urlsplit(url).path.lstrip("/")}" WITH (FORCE)'))


def ensure_database(server: str, name: str) -> None:
    """Create a database, unless it exists."""

    async def ensure() -> None:
        with suppress(asyncpg.DuplicateDatabaseError):
            await _execute(server, f'CREATE DATABASE "{name}"')

    asyncio.run(ensure())


async def _execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
