"""A 2xx is a committed transaction, under faults made for real: the table in docs/reliability.md names these tests."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import web
from commands import run
from load import Load, new_user
from servers import frozen, postmaster_of
from services import PATIENT, service
from sql import execute, rows


def assert_stored(url: str, acknowledged: list[str]) -> None:
    stored = {str(row[0]) for row in rows(url, "SELECT id FROM users")}
    assert set(acknowledged) <= stored


def test_a_client_that_reads_right_after_its_201_finds_the_row(project: Path, migrated: str) -> None:
    with service(project, migrated, "--workers", "2") as (address, _):

        def pairs(number: int) -> int:
            found = 0
            # Each request on a new connection: either worker may have it.
            with web.Client(base_url=address, limits=httpx2.Limits(max_keepalive_connections=0)) as client:
                for _ in range(number):
                    created = client.post("/users", json=new_user())
                    found += client.get(created.headers["Location"]).status_code == 200
            return found

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(pairs, [250] * 8)) == 2000


def test_a_commit_that_fails_is_an_error_and_stores_nothing_over_a_socket(project: Path, migrated: str) -> None:
    """A constraint that is checked at COMMIT refuses whoever is called Eve."""
    execute(
        migrated,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.name = 'Eve' THEN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END IF; RETURN NEW; END $$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with service(project, migrated) as (address, _):
        assert web.post(f"{address}/users", json=new_user() | {"name": "Eve"}).status_code == 500
        assert rows(migrated, "SELECT count(*) FROM users") == [(0,)]
        created = web.post(f"{address}/users", json=new_user())
        assert web.patch(address + created.headers["Location"], json={"name": "Eve"}).status_code == 500
        assert rows(migrated, "SELECT name FROM users") == [("Ada",)]


def test_an_error_raised_after_a_write_stores_nothing_over_a_socket(project: Path, bake: Any, migrated: str) -> None:
    failing = bake()
    with (failing / "app" / "main.py").open("a") as main:
        main.write(
            "\n\nfrom fastapi import HTTPException\n\nfrom app.dependencies import DbSession\n"
            "from app.users import repository\nfrom app.users.schemas import NewUser\n\n\n@app.post('/fail/{status}')\n"
            "async def fail(status: int, session: DbSession) -> None:\n"
            "    await repository.create_user(session, NewUser(email='eve@example.com', name='Eve'))\n"
            "    raise HTTPException(status) if status < 500 else RuntimeError\n"
        )
    (failing / ".venv").symlink_to(project / ".venv")
    with service(failing, migrated) as (address, _):
        for status in (400, 500):
            assert web.post(f"{address}/fail/{status}").status_code == status
    assert rows(migrated, "SELECT count(*) FROM users") == [(0,)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile, or is a zombie
        return False


def test_a_worker_that_is_killed_loses_no_acknowledged_row(project: Path, migrated: str) -> None:
    with service(project, migrated, "--workers", "2") as (address, process), Load(address) as load:
        for _ in range(3):
            load.wait_for_more()
            children = psutil.Process(process.pid).children()
            next(child for child in children if is_worker(child)).kill()
        load.wait_for_more()
    assert_stored(migrated, load.acknowledged)
    assert set(load.statuses) <= {201, 503}


def test_sigterm_under_load_drops_no_acknowledged_row(project: Path, migrated: str) -> None:
    with service(project, migrated) as (address, process), Load(address) as load:
        load.wait_for_more()
        process.terminate()
        process.wait(30)
    assert_stored(migrated, load.acknowledged)
    assert set(load.statuses) == {201}


def test_sigterm_finishes_what_is_in_flight_and_refuses_new_connections(project: Path, migrated: str) -> None:
    """The request in flight waits for a lock of ours, so that the signal comes while it does."""
    execute(
        migrated,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$",
        "CREATE TRIGGER wait BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    with service(project, migrated) as (address, process), ThreadPoolExecutor(1) as pool:
        with _holding(migrated, "SELECT pg_advisory_lock(1)"):
            answer = pool.submit(web.post, f"{address}/users", json=new_user(), timeout=30)
            while not rows(migrated, waiting):
                pass
            process.terminate()
            while _accepts(address):
                pass
        assert answer.result().status_code == 201
        process.wait(30)
    assert_stored(migrated, [answer.result().json()["id"]])


@contextmanager
def _holding(url: str, statement: str) -> Iterator[None]:
    """Hold what a statement takes, on a connection of its own."""
    release, held = threading.Event(), threading.Event()
    thread = threading.Thread(target=execute, args=(url, statement), kwargs={"held": held, "release": release})
    thread.start()
    try:
        assert held.wait(30)
        yield
    finally:
        release.set()
        thread.join()


def _accepts(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rsplit(":", 1)[1]))) == 0


def test_two_hundred_clients_that_want_one_email(project: Path, migrated: str) -> None:
    with service(project, migrated, "--workers", "2", **PATIENT) as (address, _), ThreadPoolExecutor(200) as pool:
        body = {"email": "ada@example.com", "name": "Ada"}
        created = list(pool.map(lambda _: web.post(f"{address}/users", json=body, timeout=60), range(200)))
        assert sorted(answer.status_code for answer in created) == [201] + [409] * 199

        others = [web.post(f"{address}/users", json=new_user()).headers["Location"] for _ in range(50)]
        wanted = {"email": "eve@example.com"}
        changed = list(pool.map(lambda path: web.patch(address + path, json=wanted, timeout=60), others))
        assert sorted(answer.status_code for answer in changed) == [200] + [409] * 49


def test_thirty_two_clients_that_change_the_same_rows_under_serializable(project: Path, migrated: str) -> None:
    with (
        service(project, migrated, DATABASE_ISOLATION_LEVEL="SERIALIZABLE") as (address, _),
        ThreadPoolExecutor(32) as pool,
    ):
        paths = [web.post(f"{address}/users", json=new_user()).headers["Location"] for _ in range(2)]

        def change(number: int) -> tuple[str, str, httpx2.Response]:
            path, name = paths[number % 2], str(number)
            return path, name, web.patch(address + path, json={"name": name}, timeout=60)

        answers = list(pool.map(change, range(320)))
        assert {answer.status_code for *_, answer in answers} <= {200, 503}
        assert all(answer.headers["Retry-After"] for *_, answer in answers if answer.status_code == 503)
        assert sum(answer.status_code == 200 for *_, answer in answers) > 32
        for path in paths:
            final = web.get(address + path).json()
            accepted = {name: answer.json() for at, name, answer in answers if at == path and answer.status_code == 200}
            # The state is that of one accepted change, and it is the last one in the order of the transactions.
            assert final == accepted[final["name"]]


def test_a_database_that_stops_and_starts_under_load(project: Path, migrated: str) -> None:
    env = {"DATABASE_CONNECT_TIMEOUT": "2"}
    with service(project, migrated, **env) as (address, _), Load(address) as load:
        for _ in range(2):
            load.wait_for_more()
            run("make", "db-stop", cwd=project)
            failed = load.statuses.count(503)
            load.wait_for(lambda failed=failed: load.statuses.count(503) > failed + 20)
            assert web.get(f"{address}/health/ready").status_code == 503
            assert web.get(f"{address}/health/live").status_code == 200
            run("make", "db", cwd=project)
            assert web.post(f"{address}/users", json=new_user(), timeout=30).status_code == 201
        load.wait_for_more()
    assert set(load.statuses) == {201, 503}
    assert load.slowest < 10, "a request hung"
    assert_stored(migrated, load.acknowledged)


def test_the_first_request_after_a_restart_succeeds_with_dead_connections_in_the_pool(
    project: Path, migrated: str
) -> None:
    with service(project, migrated) as (address, _), ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: web.post(f"{address}/users", json=new_user()), range(50)))
        run("make", "db-stop", cwd=project)
        run("make", "db", cwd=project)
        answers = list(pool.map(lambda _: web.post(f"{address}/users", json=new_user()), range(10)))
        assert [answer.status_code for answer in answers] == [201] * 10


def test_a_server_that_goes_silent_is_cut(project: Path, migrated: str) -> None:
    env = {"DATABASE_STATEMENT_TIMEOUT": "1", "DATABASE_CONNECT_TIMEOUT": "1"}
    with service(project, migrated, **env) as (address, _):
        assert web.get(f"{address}/users").status_code == 200
        with frozen(postmaster_of(migrated)):
            for path in ("/users", "/users", "/health/ready"):
                start = time.monotonic()
                assert web.get(address + path, timeout=30).status_code == 503
                assert time.monotonic() - start < 10
        while web.get(f"{address}/health/ready").status_code != 200:
            pass
        assert web.get(f"{address}/users").status_code == 200


def test_sigterm_ends_a_service_whose_server_is_silent(project: Path, migrated: str) -> None:
    """It would wait for each connection as long as for a statement, half a minute."""
    with service(project, migrated) as (address, process):
        assert web.get(f"{address}/users").status_code == web.get(f"{address}/health/ready").status_code == 200
        with frozen(postmaster_of(migrated)):
            process.terminate()
            process.wait(28)


def test_a_thousand_clients_that_hang_up_leak_no_connection(project: Path, migrated: str) -> None:
    with service(project, migrated) as (address, _):
        port = int(address.rsplit(":", 1)[1])

        def hang_up(number: int) -> None:
            body = b'{"email": "%d@example.com", "name": "x"}' % number
            head = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            whole = head % len(body) + body
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(whole[: len(whole) - number % 3])  # two of three in the middle of the body

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(hang_up, range(1000)))
            answers = list(pool.map(lambda _: web.get(f"{address}/users", timeout=30).status_code, range(100)))
        assert set(answers) == {200}
        idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        while rows(migrated, idle)[0][0]:
            pass
