"""Databases for tests, each for one test at a time: to empty one is quicker than to create one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg

from dev.databases import create_database, drop_database

__all__ = ["Databases"]

_Rows = dict[str, tuple[int, int | None]]

_CATALOGS: Final = (
    *("pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_depend", "pg_index", "pg_namespace"),
    *("pg_policy", "pg_proc", "pg_rewrite", "pg_trigger", "pg_type"),
    "pg_database WHERE datname = current_database()",
    "pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
)
_ROWS: Final = "count(*), sum(xmin::text::bigint)"
"""The number of rows of a table, and a sum that changes with each change of one: xmin is the transaction's id."""
_SCHEMA: Final = " UNION ALL ".join(f"SELECT '{name.split()[0]}', {_ROWS} FROM {name}" for name in _CATALOGS)  # noqa: S608
"""Changes with each change of the schema, and of the database's settings."""
_TABLES: Final = (
    "SELECT oid::regclass::text FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'"
)
_SEQUENCES: Final = "SELECT '', count(*), sum(last_value) FROM pg_sequences"
_END_CONNECTIONS: Final = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Databases:
    """Copies of a template database.

    A test may do with its database whatever it likes. Another test gets it only if its schema and settings are as they
    were, and also its rows, once the tables that were changed have been emptied. Otherwise it is dropped.

    Parameters
    ----------
    server
        URL of the server's maintenance database.
    template
        URL of the database to copy.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[_Database] = []

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield the URL of a database that is like the template, and that no other test has."""
        database = self._free.pop() if self._free else _Database(create_database(self._server, template=self._template))
        try:
            yield database.url
        finally:
            if database.restore():
                self._free.append(database)
            else:
                drop_database(self._server, database.url)

    def drop(self) -> None:
        """Drop all databases."""
        for database in self._free:
            drop_database(self._server, database.url)


class _Database:
    def __init__(self, url: str) -> None:
        self.url = url
        asyncio.run(self._inspect())

    def restore(self) -> bool:
        """Empty the tables that were changed. Return whether the database is as it was."""
        try:
            return asyncio.run(self._restore())
        except (OSError, asyncpg.PostgresError):
            return False  # it is gone, or takes no connections

    async def _inspect(self) -> None:
        async with self._transaction() as connection:
            self._tables = [name for (name,) in await connection.fetch(_TABLES)]
            self._schema = await connection.fetch(_SCHEMA)
            self._rows = await self._rows_of(connection)

    async def _restore(self) -> bool:
        async with self._transaction() as connection:
            await connection.execute(_END_CONNECTIONS)
            if await connection.fetch(_SCHEMA) != self._schema:
                return False
            rows = await self._rows_of(connection)
            if changed := [table for table in self._tables if rows[table] != self._rows[table]]:
                await connection.execute(f"TRUNCATE {', '.join(changed)} RESTART IDENTITY CASCADE")
                rows = await self._rows_of(connection)
                self._schema = await connection.fetch(_SCHEMA)  # TRUNCATE gives a table a new file
            return rows == self._rows

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.url, statement_cache_size=0)  # there may be a pooler in between
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    async def _rows_of(self, connection: Any) -> _Rows:
        counts = [f"SELECT $${table}$$, {_ROWS} FROM {table}" for table in self._tables]  # noqa: S608
        found = await connection.fetch(" UNION ALL ".join([*counts, _SEQUENCES]))
        return {name: (count, total) for name, count, total in found}
