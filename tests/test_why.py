"""The page docs/why.md: its service answers 201 for a row that is not stored, and ours does not."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import web
from commands import TEMPLATE, free_port, serving
from services import program, service
from sql import execute, rows

PAGE = (TEMPLATE / "docs" / "why.md").read_text()
LOCK = 7
SLOW_COMMIT = (
    f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock({LOCK}); "
    "RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "EXECUTE FUNCTION slow()",
)
"""SQL that makes each COMMIT wait for a lock, as for a slow disk."""


def block(language: str) -> str:
    """Return the first code block of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


@contextmanager
def tutorial(project: Path, database: str, folder: Path, *, scope: str | None = None) -> Iterator[str]:
    """Serve the code of the page, with its table; yield its address."""
    code = block("python")
    assert len([line for line in code.splitlines() if line]) <= 25
    if scope is not None:
        assert code.count("Depends(get_session)") == 2
        code = code.replace("Depends(get_session)", f'Depends(get_session, scope="{scope}")')
    (folder / "main.py").write_text(code)
    execute(database, block("sql"))
    port = free_port()
    url = database.replace("postgresql://", "postgresql+asyncpg://")
    command = [program(project, "uvicorn"), "main:app", "--port", str(port)]
    with serving(command, cwd=folder, port=port, ready="/docs", DATABASE_URL=url):
        yield f"http://127.0.0.1:{port}"


def test_the_service_of_the_tutorials_answers_201_for_a_row_that_is_not_stored(
    project: Path, database: str, tmp_path: Path
) -> None:
    with tutorial(project, database, tmp_path) as address:
        statuses = [web.post(f"{address}/people/ada?name={name}").status_code for name in ("Ada", "Eve")]
    assert statuses == [201, 201]
    # Ada, as a rule; Eve, if her transaction ends first: both end after their responses.
    (stored,) = rows(database, "SELECT name FROM people")
    assert stored in [("Ada",), ("Eve",)]


def test_the_service_of_the_tutorials_answers_201_and_then_404(project: Path, database: str, tmp_path: Path) -> None:
    async def read_before_the_commit(address: str) -> tuple[int, int]:
        lock = await asyncpg.connect(database)
        await lock.execute(f"SELECT pg_advisory_lock({LOCK})")
        async with web.AsyncClient(base_url=address) as client:
            created = await client.post("/people/bob?name=Bob")
            read = await client.get("/people/bob")
        await lock.close()
        return created.status_code, read.status_code

    with tutorial(project, database, tmp_path) as address:
        execute(database, *(statement.format("people") for statement in SLOW_COMMIT))
        assert asyncio.run(read_before_the_commit(address)) == (201, 404)


def test_one_argument_repairs_it(project: Path, database: str, tmp_path: Path) -> None:
    with tutorial(project, database, tmp_path, scope="function") as address:
        statuses = [web.post(f"{address}/people/ada?name={name}").status_code for name in ("Ada", "Eve")]
    assert statuses == [201, 500]


def test_our_service_answers_201_when_the_row_is_stored(project: Path, migrated: str) -> None:
    """However long the COMMIT takes; and never for a row that is not stored."""
    execute(migrated, *(statement.format("users") for statement in SLOW_COMMIT))

    async def create_while_commits_wait(address: str) -> None:
        lock = await asyncpg.connect(migrated)
        await lock.execute(f"SELECT pg_advisory_lock({LOCK})")
        async with web.AsyncClient(base_url=address) as client:
            bob = {"email": "bob@example.com", "name": "Bob"}
            creating = asyncio.create_task(client.post("/users", json=bob))
            waiting = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {LOCK} AND NOT granted"
            while not await lock.fetchval(waiting):  # the server tells nobody of it
                await asyncio.sleep(0.01)
            assert not creating.done()
            assert (await client.get("/users")).json()["items"] == []
            await lock.close()
            created = await creating
            assert created.status_code == 201
            assert (await client.get(created.headers["Location"])).json() == created.json()
            assert (await client.post("/users", json=bob)).status_code == 409

    with service(project, migrated) as (address, _):
        asyncio.run(create_while_commits_wait(address))
