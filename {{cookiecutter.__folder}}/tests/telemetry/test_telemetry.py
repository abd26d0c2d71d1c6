"""What a collector is sent, by the service, the cleanup script and migrations, each a process of its own."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dev.collector import Collector, labels, receiving
from dev.databases import drop_database, ensure_database
from tests.commands import database_name, newest_revision, run
from tests.example import Thing
from tests.telemetry.processes import serving

pytestmark = pytest.mark.slow

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
_SOMEBODY_WAITS = text(
    "SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN "
    "(SELECT pid FROM pg_locks JOIN pg_database ON database = pg_database.oid WHERE datname = current_database())"
)
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


def exporting_to(collector: Collector) -> dict[str, str]:
    """Return the setting that switches telemetry on."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector for this test alone."""
    with receiving() as collector:
        yield collector


def script(work: str, database_url: str, first: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script that opens the database as all do."""
    code = f"""if True:
        {first}
        import asyncio
        from sqlalchemy import text
        from app.config import load_settings
        from app.logging import configure_logging
        from app.startup import open_database

        async def main():
            async with open_database(load_settings()) as database, database.session() as session:
                {work}

        configure_logging(load_settings())
        asyncio.run(main())
    """
    return run(sys.executable, "-c", code, database_url=database_url, **env)


async def add(session: AsyncSession, name: str = "x") -> UUID:
    thing = Thing(id=uuid4(), email=f"{uuid4()}@example.com", name=name)
    session.add(thing)
    await session.commit()
    return thing.id


def test_the_spans_of_a_request_are_one_tree_from_the_callers_span_to_the_commit(
    database_url: str, collector: Collector
) -> None:
    """SIGTERM exports what is pending: nothing waits for the intervals of the SDK here."""
    with serving(database_url, **exporting_to(collector)) as service:
        httpx2.post(f"{service.address}/things", json={"email": "a", "name": "b"}, headers=CALLER).raise_for_status()
        service.stop()
    (root,) = collector.named("POST /things")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert list(collector.tree(root)) == [
        "db.client.connection.wait",
        "BEGIN",
        "PREPARE things",
        "INSERT things",
        "COMMIT",
    ]
    assert all(
        span.end_time_unix_nano <= root.end_time_unix_nano for span in collector.spans if span.trace_id == root.trace_id
    )
    (line,) = (line for line in service.lines if line.get("route") == "/things")
    assert (line["trace_id"], line["span_id"]) == (TRACE, root.span_id.hex())


async def test_each_try_of_a_transaction_is_a_span_and_counts(
    database_url: str, collector: Collector, session: AsyncSession
) -> None:
    """Two transactions change a row at once. The loser is run again, and both tries are in its trace."""
    thing = await add(session)
    with serving(database_url, **exporting_to(collector), DATABASE_ISOLATION_LEVEL="REPEATABLE READ") as service:
        async with httpx2.AsyncClient(base_url=service.address, timeout=30) as client:
            (await client.put(f"/things/{thing}?name=y")).raise_for_status()  # from now on it runs on the driver
            await session.execute(update(Thing).values(name="z"))
            answer = asyncio.create_task(client.put(f"/things/{thing}?name=y", headers=CALLER))
            while not (await session.execute(_SOMEBODY_WAITS)).all():  # noqa: ASYNC110  # the server has no event for it
                await asyncio.sleep(0)
            await session.commit()
            (await answer).raise_for_status()
            stored, duplicate = [await client.post("/things", json={"email": "a", "name": "b"}) for _ in range(2)]
        service.stop()
    assert (stored.status_code, duplicate.status_code) == (201, 500)
    (_, root) = collector.named("PUT /things/{thing_id}")
    tries = collector.tree(root)
    assert list(tries) == ["transaction", "transaction #2"]
    assert list(tries["transaction"]) == ["db.client.connection.wait", "BEGIN", "UPDATE things", "ROLLBACK"]
    assert list(tries["transaction #2"]) == ["db.client.connection.wait", "BEGIN", "UPDATE things", "COMMIT"]
    (failed, *_) = (span for span in collector.named("UPDATE things") if span.status.code)
    assert labels(failed.attributes)["db.response.status_code"] == "40001"
    outcomes = collector.values("app.transactions", "outcome")
    assert (outcomes["committed",], outcomes["conflict",]) == (3, 1)
    assert collector.values("app.transaction.retries") == {(): 1}


async def test_nothing_that_a_client_sent_is_exported_nor_a_password(
    database_url: str, collector: Collector, session: AsyncSession
) -> None:
    """Nor what PostgreSQL quotes in its errors, even if FastAPI is told to export by itself."""
    await session.execute(text("ALTER TABLE things ADD CHECK (name <> 'planted-refused')"))
    await session.execute(
        text(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'planted %', NEW.name USING DETAIL = 'planted', ERRCODE = '40001'; END $$"
        )
    )
    await session.execute(text("CREATE TRIGGER fail BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION fail()"))
    await session.commit()
    thing = await add(session)
    with serving(database_url, **exporting_to(collector), FASTAPI_OTEL_AUTO_CONFIGURE="true") as service:
        sent = {
            "Host": "planted.example",
            "User-Agent": "planted",
            "X-Request-ID": "planted",
            "X-Forwarded-For": "planted",
        }
        with httpx2.Client(base_url=service.address, headers=sent, cookies={"planted": "planted"}) as client:
            statuses = [
                client.get("/planted?planted=planted").status_code,
                client.request("PROPFIND", "/things").status_code,
                client.get("/things?limit=planted").status_code,
                *(client.post("/things", json={"email": "planted", "name": "planted"}).status_code for _ in range(2)),
                client.post("/things", json={"email": "x", "name": "planted-refused"}).status_code,
                client.put(f"/things/{thing}?name=planted").status_code,
            ]
        service.stop()
    assert statuses == [404, 405, 422, 201, 500, 500, 503]
    exported = "".join(map(str, collector.requests))
    assert {labels(span.attributes).get("error.type") for span in collector.named("INSERT things")} == {
        None,
        "23505",
        "23514",
    }
    assert "planted" not in exported.lower()
    password = re.search(r":([^:@]+)@", database_url)
    assert password is None or password[1] not in exported


def test_no_error_is_exported_as_a_log_record(database_url: str) -> None:
    """An agent may have installed an exporter of log records. Errors quote what clients send, and rows."""
    code = """if True:
        import asyncio, httpx2
        from opentelemetry import _logs
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, SimpleLogRecordProcessor
        provider = LoggerProvider()
        provider.add_log_record_processor(SimpleLogRecordProcessor(ConsoleLogRecordExporter()))
        _logs.set_logger_provider(provider)
        from app.config import load_settings
        from app.logging import configure_logging
        from app.main import app
        configure_logging(load_settings())

        @app.get("/fail")
        async def fail(number: int):
            raise ValueError("planted")

        async def main():
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
                for number in ("planted", 1):
                    print((await client.get("/fail", params={"number": number})).status_code)

        asyncio.run(main())
    """
    assert run(sys.executable, "-c", code, database_url=database_url).stdout == "422\n500\n"


def test_values_that_are_written_into_sql_are_not_exported(database_url: str, collector: Collector) -> None:
    sql = "SELECT 'it''s planted', $$planted$$, 4111111111111111 FROM things"
    script(f"await session.execute(text({sql!r}))", database_url, **exporting_to(collector)).check_returncode()
    (span,) = collector.named("SELECT things")
    assert labels(span.attributes)["db.query.text"] == "SELECT ?, ?, ? FROM things"


def test_counters_add_up(database_url: str, server_url: str, collector: Collector) -> None:
    """And a path that matches no route has no label of its own."""
    with serving(database_url, **exporting_to(collector)) as service, httpx2.Client(base_url=service.address) as client:
        for number in range(20):
            client.post("/things", json={"email": str(number), "name": "b"}).raise_for_status()
            client.get(f"/{number}")
        client.get("/things")
        client.get("/health/ready")
        drop_database(server_url, database_url)
        client.get("/health/ready")
        assert client.get("/things").status_code == 503
        ensure_database(server_url, database_name(database_url))
        service.stop()
    assert collector.values("http.server.request.duration", "http.route", "http.response.status_code") == {
        ("/things", "201"): 20,
        ("", "404"): 20,
        ("/things", "200"): 1,
        ("/things", "503"): 1,
        ("/health/ready", "200"): 1,
        ("/health/ready", "503"): 1,
    }
    assert collector.values("http.server.active_requests") == {(): 0}
    assert collector.values("app.transactions", "outcome")["committed",] == 20
    statements = collector.values("db.client.operation.duration", "db.operation.name", "db.collection.name")
    assert (statements["INSERT", "things"], statements["COMMIT", ""], statements["SELECT", "things"]) == (20, 20, 1)
    assert any("SELECT" in collector.tree(probe) for probe in collector.named("GET /health/ready"))
    (waits,) = collector.values("db.client.connection.wait_time").values()
    assert waits > 21  # and those of the start
    assert "db.client.connection.timeouts" not in collector.metrics  # no database is not a busy pool
    assert collector.values("db.client.connection.max") == {(): 15}
    assert collector.values("db.client.connection.count", "db.client.connection.state")["used",] == 0
    assert collector.values("app.readiness", "result") == {("ok",): 1, ("failed",): 1}
    assert collector.values("app.starts", "result") == {("ok",): 1}
    assert collector.values("app.schema", "revision") == {(str(newest_revision()),): 1}
    assert {"process.cpu.time", "process.memory.usage"} <= collector.metrics.keys()


def test_each_connection_of_ours_is_observed_once_and_those_of_other_engines_work(
    database_url: str, collector: Collector
) -> None:
    url = database_url.replace("postgresql:", "postgresql+asyncpg:")
    engine = f"from sqlalchemy.ext.asyncio import create_async_engine; foreign = create_async_engine({url!r})"
    work = """await session.execute(text("SELECT 1 FROM things"))
                async with database.session() as other, foreign.connect() as connection:
                    await other.execute(text("SELECT 2 FROM things"))
                    await connection.execute(text("SELECT 3 FROM things"))
                await foreign.dispose()"""
    script(work, database_url, engine, **exporting_to(collector)).check_returncode()
    assert len(collector.named("SELECT things")) == 2


def test_a_busy_pool_and_its_503_are_counted(database_url: str, collector: Collector) -> None:
    """Two requests want the only connection, and the first one keeps it for longer than the other may wait."""
    busy = {"DATABASE_POOL_SIZE": "1", "DATABASE_POOL_TIMEOUT": "0.1"}
    with serving(database_url, **exporting_to(collector), **busy) as service:
        answers = [httpx2.get(f"{service.address}/held").status_code]
        service.stop()
    assert answers == [503]
    assert collector.values("app.unavailable", "reason") == {("TimeoutError",): 1}
    assert collector.values("db.client.connection.timeouts") == {(): 1}
    waits = [labels(span.attributes).get("error.type") for span in collector.named("db.client.connection.wait")]
    assert waits.count("TimeoutError") == 1


def test_migrations_are_traced(empty_database_url: str, collector: Collector) -> None:
    run("alembic", "upgrade", "head", database_url=empty_database_url, **exporting_to(collector)).check_returncode()
    (root,) = collector.named("migrations")
    assert {"BEGIN", "CREATE", "COMMIT"} <= collector.tree(root).keys()


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, set()),
        ({"OTEL_TRACES_EXPORTER": "none"}, {"Metrics"}),
        ({"OTEL_METRICS_EXPORTER": "none"}, {"Trace"}),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {"Metrics"}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, set()),
        (
            {"OTEL_SERVICE_NAME": "named", "OTEL_RESOURCE_ATTRIBUTES": "place=here"},
            {"Metrics", "Trace"},
        ),
        ({"OTEL_TRACES_SAMPLER": "no such"}, {"Metrics", "Trace"}),
    ],
)
def test_the_variables_of_opentelemetry_are_honoured(
    database_url: str, collector: Collector, setting: dict[str, str], sent: set[str]
) -> None:
    ended = run(
        sys.executable, "-m", "app.scripts.cleanup", database_url=database_url, **exporting_to(collector), **setting
    )
    ended.check_returncode()
    kinds = {
        type(request).__name__.removeprefix("Export").removesuffix("ServiceRequest") for request in collector.requests
    }
    assert kinds == sent
    for request in collector.requests:
        (resource,) = getattr(request, "resource_spans", None) or request.resource_metrics
        of = labels(resource.resource.attributes)
        assert of["service.name"] == setting.get("OTEL_SERVICE_NAME", of["service.name"]) != "unknown_service"
        assert ("place" in of) == ("OTEL_RESOURCE_ATTRIBUTES" in setting)
    assert ("must be http/protobuf" in ended.stderr) == ("OTEL_EXPORTER_OTLP_PROTOCOL" in setting)


def test_a_collector_that_is_away_is_reported_once(database_url: str) -> None:
    """However often an export fails; and requests do not notice."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://secret:secret@127.0.0.1:{nobody.getsockname()[1]}/secret?secret"
        often = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "1",
        }
        with serving(database_url, **often) as service:
            httpx2.get(f"{service.address}/things").raise_for_status()
            service.wait_for("telemetry is lost")
            for _ in range(20):
                httpx2.get(f"{service.address}/things").raise_for_status()
            service.stop()
    (warning,) = [line["event"] for line in service.lines if line["level"] != "info"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in warning
    assert "secret" not in json.dumps(service.lines)


def test_a_collector_that_never_answers_holds_up_no_request_and_no_end(database_url: str) -> None:
    """The SDK alone would wait for half a minute here, as long as a platform waits before it kills."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        patient = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with serving(database_url, **patient) as service:
            httpx2.get(f"{service.address}/things").raise_for_status()
            service.stop(within=20)
        assert service.exit_code == -15


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_without_the_sdk_a_program_works_and_says_what_is_missing(database_url: str, endpoint: str) -> None:
    """With the switch off, the SDK is not even looked for."""
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from app.scripts.cleanup import main; main(['--dry-run'])"
    )
    ended = run(sys.executable, "-c", code, database_url=database_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    ended.check_returncode()
    assert ("uv sync --group telemetry" in ended.stderr) == bool(endpoint)
    assert "telemetry is off" in ended.stderr or not endpoint
