"""The databases of the tests: no test sees what another one did."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.commands import database_name
from tests.databases import Databases

_TABLES = (
    "CREATE TABLE colours AS SELECT 'red' AS name; "
    "CREATE TABLE parents (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY); "
    "CREATE TABLE children (parent int NOT NULL REFERENCES parents)"
)
_WRITE = "INSERT INTO parents DEFAULT VALUES; INSERT INTO children VALUES (1)"


def execute(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture
def databases(server_url: str, empty_database_url: str) -> Iterator[Databases]:
    execute(empty_database_url, _TABLES)
    databases = Databases(server_url, template=empty_database_url)
    yield databases
    databases.drop()


def test_one_that_has_been_written_to_is_used_again_with_empty_tables(databases: Databases) -> None:
    """And with identities that count from 1 again."""
    with databases.lend() as first:
        execute(first, _WRITE)
    with databases.lend() as again, databases.lend() as other:
        assert again == first != other
        execute(again, _WRITE)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE other (id int)",
        "ALTER TABLE children ALTER parent DROP NOT NULL",
        "ALTER TABLE children DISABLE TRIGGER ALL",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER DATABASE {database} SET lock_timeout = '1s'",
        "ALTER DATABASE {database} CONNECTION LIMIT 3",
        "DELETE FROM colours",
        "SELECT nextval('parents_id_seq')",
    ],
)
def test_one_that_cannot_be_restored_is_not_used_again(databases: Databases, statement: str) -> None:
    with databases.lend() as url:
        execute(url, statement.format(database=database_name(url)))
    with databases.lend() as another:
        assert another != url


def test_connections_that_a_test_leaves_open_are_ended(databases: Databases) -> None:
    with asyncio.Runner() as runner, databases.lend() as url:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("BEGIN; LOCK TABLE parents"))
    with databases.lend() as again:
        assert again == url
        execute(again, _WRITE)


def test_the_server_of_the_tests_is_in_memory_where_there_is_room(server_url: str) -> None:
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the server of TEST_DATABASE_URL is where it is")
    memory = Path("/dev/shm")  # noqa: S108
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30

    async def place() -> str:
        connection = await asyncpg.connect(server_url)
        folder: str = await connection.fetchval("SHOW data_directory")
        await connection.close()
        return folder

    assert Path(asyncio.run(place())).is_relative_to(memory) == has_room
