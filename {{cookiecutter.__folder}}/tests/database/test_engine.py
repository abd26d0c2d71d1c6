"""How the service connects, and what it does where a connection is lost or a schema is its own."""

import asyncio
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import create_database_engine
from app.database.errors import DatabaseUnavailable, TlsFailed, is_unavailable, sqlstate
from tests.example import Thing
from tests.network import Network, negotiating_tls


async def test_a_peer_that_says_nothing_is_given_up_after_the_connect_timeout(silent_server: str) -> None:
    engine = create_database_engine(silent_server, connect_timeout=0.1)
    with pytest.raises(DatabaseUnavailable, match="cannot reach PostgreSQL at 127.0.0.1"):
        await engine.connect()


async def test_the_connect_timeout_of_the_url_wins(silent_server: str) -> None:
    engine = create_database_engine(f"{silent_server}?connect_timeout=1", connect_timeout=60)
    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnavailable):
            await engine.connect()
    await engine.dispose()


async def test_a_statement_that_a_silent_server_does_not_answer_is_given_up_by_the_driver(network: Network) -> None:
    """The server's own limit cannot help then."""
    engine = create_database_engine(network.url, statement_timeout=0.5)
    async with asyncio.timeout(10), engine.connect() as connection:
        network.is_silent = True
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            await connection.execute(text("SELECT 1"))
    network.is_silent = False
    await engine.dispose()


async def test_a_slow_statement_is_cut_by_the_server(database_url: str) -> None:
    engine = create_database_engine(database_url, statement_timeout=0.5)
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text("SELECT pg_sleep(60)"))
    assert sqlstate(raised.value) == "57014"
    assert is_unavailable(raised.value)
    await engine.dispose()


async def test_a_statement_that_the_server_never_ends_is_cut_by_the_driver(database_url: str) -> None:
    engine = create_database_engine(database_url, statement_timeout=0, connect_args={"command_timeout": 0.1})
    async with engine.connect() as connection:
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            await connection.execute(text("SELECT pg_sleep(60)"))
        assert connection.invalidated
    await engine.dispose()


async def test_a_connection_that_the_server_closed_is_replaced_unseen(database_url: str, session: AsyncSession) -> None:
    """As after a restart: the pool holds dead connections, and the next request succeeds all the same."""
    engine = create_database_engine(database_url)
    async with engine.connect() as connection:
        first = await connection.scalar(text("SELECT pg_backend_pid()"))
        driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    while not driver.is_closed():  # noqa: ASYNC110  # the event loop has yet to read the end of the connection
        await asyncio.sleep(0)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != first
    await engine.dispose()


async def test_errors_show_no_values(session: AsyncSession) -> None:
    with pytest.raises(DBAPIError) as raised:
        await session.execute(text("SELECT CAST(:value AS text) || 1/0"), {"value": "hunter2"})
    assert "hunter2" not in str(raised.value)


async def test_the_application_has_a_name_on_the_server_and_the_url_can_change_it(database_url: str) -> None:
    for url, name in ((database_url, None), (f"{database_url}?application_name=me", "me")):
        engine = create_database_engine(url)
        async with engine.connect() as connection:
            found = await connection.scalar(text("SHOW application_name"))
            assert found == name or (name is None and found)
        await engine.dispose()


async def test_the_options_of_the_pool_reach_the_pool(database_url: str) -> None:
    options: dict[str, Any] = {
        "pool_size": 2,
        "max_overflow": 3,
        "pool_timeout": 4.0,
        "pool_recycle": 5,
        "pool_pre_ping": True,
    }
    pool: Any = create_database_engine(database_url, **options).pool
    found = (pool.size(), pool._max_overflow, pool.timeout(), pool._recycle, pool._pre_ping)
    assert found == tuple(options.values())


async def test_a_password_may_be_a_secret(database_url: str) -> None:
    engine = create_database_engine("postgresql://ada@db/orders", SecretStr("p@ss"))
    await engine.dispose()


async def test_a_schema_holds_whatever_the_connection_looked_at_before(database_url: str) -> None:
    """A transaction pooler lends a connection to others between transactions: they leave their search_path on it."""
    engine = create_database_engine(database_url, schema="mine", pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        for schema in ("mine", "theirs"):
            await connection.execute(text(f"CREATE SCHEMA {schema}"))
            await connection.execute(text(f"CREATE TABLE {schema}.things (LIKE public.things INCLUDING ALL)"))
    async with AsyncSession(engine) as session:
        await session.execute(text("SET search_path TO theirs"))
        await session.commit()
        session.add(Thing(email="ada@example.com", name="Ada"))
        await session.commit()
        assert (await session.scalars(select(Thing.name))).all() == ["Ada"]
        assert await session.scalar(text("SELECT count(*) FROM mine.things")) == 1
        assert await session.scalar(text("SELECT count(*) FROM theirs.things")) == 0
    await engine.dispose()


async def test_a_schema_costs_no_round_trip(database_url: str) -> None:
    """What is sent for a read is the same with a schema and without, but for the schema's name."""
    sent: dict[str, list[str]] = {}
    for schema in ("public", ""):
        engine = create_database_engine(database_url, schema=schema or None)
        async with AsyncSession(engine) as session:
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            assert driver is not None
            queries = sent.setdefault(schema, [])
            driver.add_query_logger(lambda record, queries=queries: queries.append(record.query))
            await session.scalars(select(Thing.name))
            await session.commit()
        await engine.dispose()
    assert [query.replace("public.", "") for query in sent["public"]] == sent[""]


async def test_a_first_host_that_is_silent_is_passed_over(silent_server: str, database_url: str) -> None:
    silent = silent_server.split("@")[1].split("/", maxsplit=1)[0]
    engine = create_database_engine(database_url.replace("@", f"@{silent},", 1), connect_timeout=0.5)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("wanted", "works"), [("primary", True), ("prefer-standby", True), ("standby", False), ("any", True)]
)
async def test_the_kind_of_server_that_is_wanted_is_heeded(database_url: str, wanted: str, works: bool) -> None:
    engine = create_database_engine(f"{database_url}?target_session_attrs={wanted}")
    if works:
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    else:
        with pytest.raises(DatabaseUnavailable):
            await engine.connect()
    await engine.dispose()


@pytest.mark.parametrize("option", ["-c%20statement_timeout%3D7s", "--Statement-Timeout%3D7s"])
async def test_what_the_url_says_of_the_session_wins(database_url: str, option: str) -> None:
    engine = create_database_engine(f"{database_url}?options={option}%20-c%20jit%3Doff")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW statement_timeout")) == "7s"
        assert await connection.scalar(text("SHOW jit")) == "off"
        assert await connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"
    await engine.dispose()


async def test_a_socket_that_is_not_there_is_a_server_that_is_away_and_the_next_one_is_asked(
    database_url: str, tmp_path: Path
) -> None:
    engine = create_database_engine(f"postgresql://ada@/orders?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable, match="cannot reach PostgreSQL at"):
        await engine.connect()
    parts = urlsplit(database_url)
    hosts = f"host={tmp_path},{parts.hostname}&port=5432,{parts.port}"
    engine = create_database_engine(f"postgresql://{parts.username}@{parts.path}?{hosts}", parts.password)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_a_server_that_cannot_begin_a_session_is_away_and_the_next_one_is_asked(database_url: str) -> None:
    """As PostgreSQL with a full disk, which says so with an internal error."""

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        fields = b"SFATAL\0VFATAL\0CXX000\0Mcould not write init file\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        writer.close()

    async with await asyncio.start_server(fail, "127.0.0.1", 0) as server:
        broken = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engine = create_database_engine(f"postgresql://ada@{broken}/orders?sslmode=disable")
        with pytest.raises(DatabaseUnavailable, match="could not write init file"):
            await engine.connect()
        engine = create_database_engine(database_url.replace("@", f"@{broken},", 1))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
        await engine.dispose()


async def test_a_connection_lost_after_a_recovered_savepoint_is_an_absent_database(
    database_url: str, session: AsyncSession
) -> None:
    engine = create_database_engine(database_url)
    own = AsyncSession(engine)
    with pytest.raises(DBAPIError):
        async with own.begin_nested():
            await own.execute(text("SELECT 1/0"))
    pid = await own.scalar(text("SELECT pg_backend_pid()"))
    await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(DBAPIError) as raised:
        await own.commit()
    assert is_unavailable(raised.value)
    await own.close()
    await engine.dispose()


@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "transaction_timeout"])
async def test_a_transaction_that_the_server_ended_is_an_absent_database(
    database_url: str, session: AsyncSession, limit: str
) -> None:
    if not await session.scalar(text("SELECT count(*) FROM pg_settings WHERE name = :name"), {"name": limit}):
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    engine = create_database_engine(database_url)
    async with engine.connect() as connection:
        await connection.execute(text(f"SET LOCAL {limit} = '10ms'"))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        while not driver.is_closed():  # noqa: ASYNC110  # the event loop has yet to read the end of the connection
            await asyncio.sleep(0)
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text("SELECT 1"))
        assert is_unavailable(raised.value)
    await engine.dispose()


async def test_a_server_without_tls_is_not_waited_for_where_tls_is_required(database_url: str) -> None:
    engine = create_database_engine(f"{database_url}?sslmode=require")
    with pytest.raises(TlsFailed, match="rejected SSL upgrade"):
        await engine.connect()


@pytest.mark.parametrize(("parameters", "is_permanent"), [("", False), ("?sslmode=require", True)])
async def test_a_server_that_is_killed_in_the_negotiation_of_tls_is_away(parameters: str, is_permanent: bool) -> None:
    """Its last words are read with its answer: asyncpg knows neither."""
    async with negotiating_tls(b"NSFATAL") as host:
        with pytest.raises(DatabaseUnavailable) as raised:
            await create_database_engine(f"postgresql://ada@{host}/orders{parameters}").connect()
    assert is_unavailable(raised.value)
    assert isinstance(raised.value, TlsFailed) == is_permanent


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("keepalives=1", {"SO_KEEPALIVE": 1}),
        (
            "keepalives_idle=31&keepalives_interval=7&keepalives_count=4",
            {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 31, "TCP_KEEPINTVL": 7, "TCP_KEEPCNT": 4},
        ),
        ("keepalives=0&keepalives_count=4", {"SO_KEEPALIVE": 0, "TCP_KEEPCNT": None}),
        ("keepalives_count=0", {"SO_KEEPALIVE": 1, "TCP_KEEPCNT": None}),
        ("tcp_user_timeout=5000", {"TCP_USER_TIMEOUT": 5000}),
    ],
)
async def test_the_socket_has_the_options_of_the_url(
    database_url: str, parameters: str, expected: dict[str, int | None]
) -> None:
    """As in libpq, where 0 is the system's own default."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        for name, value in expected.items():
            if value is None:
                expected[name] = plain.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
    engine = create_database_engine(f"{database_url}?{parameters}")
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        own = driver._transport.get_extra_info("socket")
        levels = {"SO_KEEPALIVE": socket.SOL_SOCKET}
        found = {name: own.getsockopt(levels.get(name, socket.IPPROTO_TCP), getattr(socket, name)) for name in expected}
    assert found == expected
    await engine.dispose()


async def test_a_connect_timeout_of_0_in_the_url_is_none(silent_server: str) -> None:
    engine = create_database_engine(f"{silent_server}?connect_timeout=0", connect_timeout=0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await engine.connect()
    await engine.dispose()


async def test_behind_pgbouncer_nothing_is_prepared_and_no_time_limit_is_sent(database_url: str) -> None:
    engine = create_database_engine(database_url, pooler="pgbouncer", pool_size=1)
    async with engine.connect() as connection:
        for _ in range(2):
            await connection.execute(select(Thing.name))
        assert await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
        found = await connection.scalar(text("SHOW statement_timeout"))
    await engine.dispose()
    bare = await asyncpg.connect(database_url)
    assert found == await bare.fetchval("SHOW statement_timeout")  # the role's
    await bare.close()
