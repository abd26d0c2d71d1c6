"""A request with an Idempotency-Key is carried out once, over real sockets: docs/reliability.md names these tests."""

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import web
from load import new_user
from services import PATIENT, service
from sql import execute, rows

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "SERIALIZABLE"])
def test_fifty_clients_that_send_one_key_make_one_row_and_get_one_answer(
    project: Path, migrated: str, isolation_level: str
) -> None:
    env = {"DATABASE_ISOLATION_LEVEL": isolation_level, **PATIENT}
    with service(project, migrated, "--workers", "2", **env) as (address, _), ThreadPoolExecutor(50) as pool:
        for number in range(1, 4):
            body, key = new_user(), {"Idempotency-Key": f"key {number}"}
            together = threading.Barrier(50)

            def create(_: int, body: dict[str, str] = body, key: dict[str, str] = key) -> httpx2.Response:
                together.wait(60)  # noqa: B023  # all of a round are answered before the next one
                return web.post(f"{address}/users", json=body, headers=key, timeout=60)

            answers = list(pool.map(create, range(50)))
            created = [answer for answer in answers if answer.status_code == 201]
            assert {answer.status_code for answer in answers} <= {201, 409}
            assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 409)
            assert len({(answer.headers["Location"], answer.content) for answer in created}) == 1
            again = web.post(f"{address}/users", json=body, headers=key)
            assert (again.status_code, again.content) == (201, created[0].content)
            assert rows(migrated, "SELECT count(*) FROM users") == [(number,)]


@contextmanager
def proxy(url: str) -> Iterator[tuple[str, threading.Event]]:
    """Stand between a service and PostgreSQL. If told to, let one COMMIT through, and cut before its answer is."""
    target, cut = urlsplit(url), threading.Event()

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((target.hostname, target.port)) as server:
                committing = False
                while True:
                    for source in select.select([self.request, server], [], [])[0]:
                        data = source.recv(65_536)
                        if not data or (source is server and committing):
                            return
                        if source is self.request and b"COMMIT;" in data and cut.is_set():
                            committing = True
                            cut.clear()
                        (server if source is self.request else self.request).sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Connection) as listener:
        threading.Thread(target=listener.serve_forever).start()
        try:
            yield url.replace(f":{target.port}/", f":{listener.server_address[1]}/"), cut
        finally:
            listener.shutdown()


def test_a_commit_whose_answer_is_lost_is_repeated_safely(project: Path, migrated: str) -> None:
    """The row is there, and the client cannot know. Without a key, the same request would be a second one."""
    with proxy(migrated) as (url, cut), service(project, url) as (address, _):
        body = new_user()
        cut.set()
        lost = web.post(f"{address}/users", json=body, headers=KEY)
        assert not cut.is_set()
        assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
        assert lost.json()["detail"].endswith("repeat the request with the same Idempotency-Key.")
        ((stored,),) = rows(migrated, "SELECT id::text FROM users")

        repeated = [web.post(f"{address}/users", json=body, headers=KEY) for _ in range(2)]
        assert [answer.status_code for answer in repeated] == [201, 201]
        assert repeated[0].headers["Location"] == f"/users/{stored}"
        assert repeated[0].content == repeated[1].content == web.get(f"{address}/users/{stored}").content
        assert rows(migrated, "SELECT count(*) FROM users") == [(1,)]

        cut.set()
        lost = web.post(f"{address}/users", json=new_user())
        assert lost.status_code == 503
        assert "send an Idempotency-Key" in lost.json()["detail"]
        cut.set()
        lost = web.delete(f"{address}/users/{stored}")
        assert (lost.status_code, "Idempotency-Key" in lost.text) == (503, False)


def test_a_connection_that_is_killed_in_commit_is_repeated_safely(project: Path, migrated: str) -> None:
    """A deferred trigger kills its own connection, the first time."""
    execute(
        migrated,
        "CREATE SEQUENCE commits",
        "CREATE FUNCTION die_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('commits') = 1 THEN "
        "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); END IF; RETURN NEW; END $$",
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION die_once()",
    )
    with service(project, migrated) as (address, _):
        body = new_user()
        statuses = [web.post(f"{address}/users", json=body, headers=KEY).status_code for _ in range(3)]
        assert statuses == [503, 201, 201]
    assert rows(migrated, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM idempotency_keys)") == [(1, 1)]
