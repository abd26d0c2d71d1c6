"""Passwords that change while the service runs, from a file or from a function."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import Select, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.config import ServiceSettings
from app.database.engine import create_database_engine
from app.database.errors import PasswordUnavailable, is_unavailable
from app.database.internal.options import EngineOptions
from app.database.password import Password, read_password_file
from app.database.probe import DatabaseNotReady, wait_for_database
from app.database.session import db_session_dependency
from app.main import create_app
from app.startup import open_database
from tests import callers
from tests.commands import run


@dataclass
class Role:
    """A role with the rights of the tests' own, whose password changes."""

    name: str
    url: str
    """URL of the test's database, with the role and without a password."""

    admin: asyncpg.Connection

    async def change(self, password: str, *, valid: str = "1 day") -> None:
        """Change the password."""
        change = """
            SELECT format('ALTER ROLE %I PASSWORD %L VALID UNTIL %L', $1::text, $2::text, now() + $3::text::interval)
        """
        await self.admin.execute(await self.admin.fetchval(change, self.name, password, valid))

    async def end_connections(self) -> int:
        """End all connections of the role, and return their number."""
        ended = await self.admin.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", self.name
        )
        return len(ended)


@pytest.fixture
async def role(database_url: str) -> AsyncIterator[Role]:
    admin = await asyncpg.connect(database_url)
    name = f"test_{secrets.token_hex(8)}"
    owner = await admin.fetchval("SELECT quote_ident(current_user)")
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'first' IN ROLE {owner}")
    yield Role(name, f"postgresql://{name}@{database_url.split('@')[1]}", admin)
    await admin.execute(f"DROP ROLE {name}")
    await admin.close()


@dataclass
class Mount:
    """A folder with a secret, as the kubelet mounts it: an update replaces a symbolic link to a folder."""

    folder: Path

    @property
    def file(self) -> Path:
        """Path that the service is told."""
        return self.folder / "password"

    def write(self, password: str) -> None:
        """Write the password to a new folder, and make the mount show that."""
        version = self.folder / f"..{secrets.token_hex(4)}"
        version.mkdir()
        (version / "password").write_text(password)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")
        if not self.file.is_symlink():
            self.file.symlink_to("..data/password")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    mount = Mount(tmp_path)
    mount.write("first")
    return mount


async def ask(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.scalar(text("SELECT current_user")))


@pytest.mark.slow
async def test_a_password_that_changes_twice_under_load_needs_no_restart(role: Role, mount: Mount) -> None:
    """With all connections ended by the server after the second change, only the statements on these may fail."""
    pool = EngineOptions(pool_size=4, pool_timeout=30)
    settings = ServiceSettings(
        database_url=SecretStr(role.url), database_password_file=mount.file, database=pool, auth=callers.options()
    )
    app = create_app(settings)
    statuses: list[int] = []

    async def load(client: httpx2.AsyncClient) -> None:
        while True:
            body = {"email": f"{secrets.token_hex(8)}@example.com", "name": "Ada"}
            statuses.append((await client.post("/users", json=body)).status_code)
            statuses.append((await client.get("/users?limit=1")).status_code)

    async def more(number: int) -> list[int]:
        begin = len(statuses)
        while len(statuses) < begin + number:  # noqa: ASYNC110  # the event loop serves the requests meanwhile
            await asyncio.sleep(0)
        return statuses[begin:]

    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service", headers=callers.headers()) as client,
        asyncio.TaskGroup() as tasks,
    ):
        loads = [tasks.create_task(load(client)) for _ in range(8)]
        await more(100)  # the pool is full
        mount.write("second\n")
        await role.change("second")
        assert {*await more(100)} == {200, 201}
        mount.write("third")
        await role.change("third")
        ended = await role.end_connections()
        assert ended >= pool.pool_size
        answers = await more(200)
        failed = [status for status in answers if status >= 400]
        assert set(failed) <= {503}
        assert len(failed) <= ended
        assert set(answers[-50:]) == {200, 201}
        for task in loads:
            task.cancel()


@pytest.mark.slow
async def test_a_token_with_a_short_life_is_renewed_for_each_connection(role: Role) -> None:
    """A connection that is open keeps working after its token has ended, and is replaced by age."""
    issued: list[str] = []

    async def issue() -> str:
        issued.append(secrets.token_hex(8))
        await role.change(issued[-1], valid="3s")
        return issued[-1]

    engine = create_database_engine(role.url, issue, pool_size=1, pool_recycle=1)
    while len(issued) < 2:
        assert await ask(engine) == role.name
    last = issued[-1]
    with pytest.raises(asyncpg.InvalidPasswordError):
        while True:
            await (await asyncpg.connect(f"{role.url}?sslmode=disable", password=last)).close()
    assert await ask(engine) == role.name
    assert issued[-1] != last
    await engine.dispose()


@pytest.mark.parametrize("kind", ["plain", "async", "object"])
async def test_a_function_may_be_plain_or_async(role: Role, kind: str) -> None:
    async def give() -> str:
        return "first"

    class Tokens:
        async def __call__(self) -> str:
            return "first"

    functions: dict[str, Password] = {"plain": lambda: "first", "async": give, "object": Tokens()}
    engine = create_database_engine(role.url, functions[kind])
    assert await ask(engine) == role.name
    await engine.dispose()


@pytest.mark.parametrize("failure", [RuntimeError("the vault is sealed"), FileNotFoundError(2, "the vault is sealed")])
async def test_a_function_that_fails_is_an_absent_database_with_its_reason(failure: Exception) -> None:
    """Not an error of the network, after which the next host would be tried."""

    def fail() -> str:
        raise failure

    engine = create_database_engine("postgresql://ada@127.0.0.1:1,127.0.0.1:2/orders", fail)
    with pytest.raises(PasswordUnavailable, match="no password for a new connection: .*the vault is sealed") as raised:
        await ask(engine)
    assert is_unavailable(raised.value)
    with pytest.raises(DatabaseNotReady, match="the vault is sealed .*`database_password` in app/startup.py"):
        await wait_for_database(engine, tries=1)


async def test_a_function_that_takes_too_long_is_given_up_after_the_connect_timeout() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    engine = create_database_engine("postgresql://ada@127.0.0.1:1/orders", hang, connect_timeout=0.05)
    with pytest.raises(PasswordUnavailable, match="no answer in time"):
        await ask(engine)


async def test_a_function_that_returns_nothing_is_said_so() -> None:
    engine = create_database_engine("postgresql://ada@127.0.0.1:1/orders", lambda: "")
    with pytest.raises(PasswordUnavailable, match="returned none"):
        await ask(engine)


async def test_a_file_that_is_gone_is_a_503_with_its_reason_in_the_log(role: Role, mount: Mount) -> None:
    settings = ServiceSettings(
        database_url=SecretStr(role.url), database_password_file=mount.file, auth=callers.options()
    )
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service", headers=callers.headers()) as client,
    ):
        await db_session_dependency.engine.dispose()
        mount.file.rename(mount.folder / "elsewhere")
        with capture_logs([merge_contextvars]) as lines:
            answer = await client.get("/users")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        (line,) = [line for line in lines if line["event"] == "request" and line["status"] == 503]
        assert f"no password for a new connection: the file {mount.file} cannot be read" in line["reason"]
        (mount.folder / "elsewhere").rename(mount.file)
        assert (await client.get("/users")).status_code == 200


async def test_the_replica_has_the_password_of_the_file_unless_its_url_has_one(
    role: Role, mount: Mount, database_url: str, replica_url: str
) -> None:
    who: Select[str] = select(literal_column("current_user"))
    at = replica_url.split("@")[1]
    for url, user in ((f"postgresql://{role.name}@{at}", role.name), (replica_url, None)):
        settings = ServiceSettings(
            database_url=SecretStr(role.url),
            database_password_file=mount.file,
            database_replica_url=SecretStr(url),
            auth=callers.options(),
        )
        async with open_database(settings) as database:
            assert database.replica is not None
            found = await database.replica.reader.scalar(who)
            assert (found == role.name) is (user is not None)


@pytest.mark.slow
async def test_migrations_and_scripts_read_the_file(role: Role, mount: Mount) -> None:
    commands = (["alembic", "upgrade", "head"], ["python", "-m", "app.scripts.cleanup"])
    for command in commands:
        run(*command, database_url=role.url, DATABASE_PASSWORD_FILE=str(mount.file)).check_returncode()
    for command in commands:
        ended = run(*command, database_url=role.url, DATABASE_PASSWORD_FILE="/nowhere")
        assert ended.returncode == 78
        assert ended.stderr == ("DATABASE_PASSWORD_FILE: the file /nowhere cannot be read: No such file or directory\n")
    # Printing SQL needs no database, and no password.
    run("alembic", "upgrade", "head", "--sql", DATABASE_PASSWORD_FILE="/nowhere").check_returncode()


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("pw", "pw"),
        ("pw\n", "pw"),
        ("pw\r\n", "pw"),
        ("pw\n\n", "pw\n"),
        (" p w ", " p w "),
        ("p\N{SNOWMAN}", "p\N{SNOWMAN}"),
    ],
)
def test_the_newline_at_the_end_of_a_file_does_not_count(tmp_path: Path, content: str, password: str) -> None:
    (tmp_path / "password").write_bytes(content.encode())
    assert read_password_file(tmp_path / "password") == password


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is not UTF-8 text"), (None, "cannot be read")],
)
def test_a_file_without_a_password_is_one_line(tmp_path: Path, content: Any, says: str) -> None:
    file = tmp_path / "password"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=says) as raised:
        read_password_file(file)
    assert "\n" not in str(raised.value)
