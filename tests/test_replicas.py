"""Reads with a real streaming standby: what lags, what is away, and what goes on."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import web
from commands import run
from load import new_user
from services import program, service
from sql import execute, rows
from standby import Server, primary_and_standby
from test_guide_steps import blocks, write

OUTAGE = 3.0
"""Seconds that no read may take: about 0.7 are promised, and a busy machine is given the rest."""


@pytest.fixture(scope="module")
def project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with the handlers of the guide on replicas."""
    copy = tmp_path_factory.mktemp("replicas") / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", ".postgres", ".env"))
    (copy / ".venv").symlink_to(project / ".venv")
    for block in blocks("replicas.md"):
        if block.path:
            write(copy, *block)
    return copy


@pytest.fixture(scope="module")
def shared(project: Path) -> Iterator[tuple[Server, Server]]:
    """A primary with the tables of the service in a database to copy, and a standby."""
    with primary_and_standby(project) as (primary, standby):
        execute(primary.url, "CREATE DATABASE migrated")
        run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=primary.at("migrated"))
        yield primary, standby


@pytest.fixture
def servers(shared: tuple[Server, Server]) -> tuple[Server, Server]:
    """A primary with the tables of the service, and a standby that has them too. A test leaves them as they were."""
    primary, standby = shared
    name = f"test_{os.urandom(6).hex()}"
    execute(primary.at("postgres"), f"CREATE DATABASE {name} TEMPLATE migrated")
    execute(standby.at("postgres"), "SELECT pg_wal_replay_resume()")
    catch_up(primary, standby)
    for server in shared:
        server.url = server.at(name)
    return shared


@pytest.fixture
def promoted(project: Path) -> Iterator[tuple[Server, Server]]:
    """Servers for a test that promotes the standby."""
    with primary_and_standby(project) as (primary, standby):
        run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=primary.url)
        catch_up(primary, standby)
        yield primary, standby


def catch_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has all that the primary has written."""
    # Not of the next insert: after a record that fills its page, that is behind the next page's header.
    ((position,),) = rows(primary.url, "SELECT pg_current_wal_flush_lsn()::text")
    while not rows(standby.url, f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn")[0][0]:
        pass


def replicated(project: Path, primary: Server, standby: Server, **env: str) -> AbstractContextManager[tuple[str, Any]]:
    return service(project, primary.url, DATABASE_REPLICA_URL=standby.url, **env)


class Reads:
    """Clients that read one address each, until told to stop."""

    def __init__(self, *addresses: str) -> None:
        self.statuses: list[int] = []
        self.slowest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(address,)) for address in addresses * 2]

    def __enter__(self) -> "Reads":
        """Begin."""
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, number: int = 200) -> None:
        """Wait for so many more answers."""
        goal = len(self.statuses) + number
        while len(self.statuses) < goal:
            assert not self._stop.wait(0.01)

    def _run(self, address: str) -> None:
        with web.Client(timeout=60) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                status = client.get(address).status_code
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.statuses.append(status)


@contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    yield
    server.start()


def away(server: Server, how: str) -> AbstractContextManager[None]:
    return killed(server) if how == "killed" else server.frozen()


def test_a_standby_that_lags_hides_no_row_that_is_asked_by_its_id(
    project: Path, servers: tuple[Server, Server]
) -> None:
    primary, standby = servers
    with replicated(project, primary, standby) as (address, _):
        old = web.post(f"{address}/users", json=new_user()).json()
        catch_up(primary, standby)
        execute(standby.url, "SELECT pg_wal_replay_pause()")
        created = web.post(f"{address}/users", json=new_user())
        new = address + created.headers["Location"]
        assert web.get(new).json() == created.json()
        assert web.get(f"{address}/users").json()["items"] == [old], "the list is of the standby"
        changed = web.patch(new, json={"name": "Eve"}).json()
        assert web.get(new).json() == changed
        with killed(primary):
            missing = web.get(new)
            assert (missing.status_code, missing.headers["Retry-After"]) == (503, "1")
            assert web.get(f"{address}/users/{old['id']}").json() == old
        while web.delete(new, timeout=30).status_code != 204:
            pass
        assert web.get(new).status_code == 404
        assert web.delete(f"{address}/users/{old['id']}").status_code == 204
        assert web.get(f"{address}/users/{old['id']}").status_code == 404


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_reads_go_on_while_the_primary_is_away(project: Path, servers: tuple[Server, Server], how: str) -> None:
    primary, standby = servers
    with replicated(project, primary, standby, DATABASE_STATEMENT_TIMEOUT="2") as (address, process):
        user = address + web.post(f"{address}/users", json=new_user()).headers["Location"]
        catch_up(primary, standby)
        with Reads(user, f"{address}/users") as reads:
            with away(primary, how):
                assert web.post(f"{address}/users", json=new_user(), timeout=60).status_code == 503
                reads.go_on()
                start = time.monotonic()
                assert web.get(f"{address}/health/ready").status_code == 200
                assert time.monotonic() - start < OUTAGE
            while web.post(f"{address}/users", json=new_user(), timeout=60).status_code != 201:
                pass
            reads.go_on()
        assert set(reads.statuses) == {200}
        assert reads.slowest < OUTAGE
    assert "Traceback" not in process.output


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_primary_answers_while_the_standby_is_away(project: Path, servers: tuple[Server, Server], how: str) -> None:
    primary, standby = servers
    with replicated(project, primary, standby) as (address, _):
        user = address + web.post(f"{address}/users", json=new_user()).headers["Location"]
        with Reads(user, f"{address}/users") as reads:
            with away(standby, how):
                reads.go_on()
                newest = web.post(f"{address}/users", json=new_user()).json()
                assert web.get(f"{address}/users").json()["items"][-1] == newest
                assert web.get(f"{address}/health/ready").status_code == 200
            execute(standby.url, "SELECT pg_wal_replay_pause()")
            hidden = web.post(f"{address}/users", json=new_user()).json()
            while hidden in web.get(f"{address}/users").json()["items"]:
                pass  # the primary is asked until the standby is seen to be back
        assert set(reads.statuses) == {200}
        assert reads.slowest < OUTAGE


def test_a_service_without_any_server_is_unready_and_says_503(project: Path, servers: tuple[Server, Server]) -> None:
    primary, standby = servers
    with replicated(project, primary, standby) as (address, _):
        assert web.get(f"{address}/users").status_code == 200
        with primary.frozen(), standby.frozen():
            for path in ("/health/ready", "/users", "/users"):
                start = time.monotonic()
                assert web.get(address + path, timeout=60).status_code == 503
                assert time.monotonic() - start < OUTAGE
        while web.get(f"{address}/users").status_code != 200:
            pass


def test_a_standby_that_is_away_at_the_start_is_a_warning(project: Path, servers: tuple[Server, Server]) -> None:
    primary, standby = servers
    standby.kill()
    with replicated(project, primary, standby) as (address, process):
        assert web.get(f"{address}/users").status_code == 200
    assert process.output.count("DATABASE_REPLICA_URL: cannot reach PostgreSQL") == 1
    assert "Traceback" not in process.output
    standby.start()


@pytest.mark.parametrize("first", ["primary", "standby"])
def test_of_several_hosts_a_standby_is_preferred_and_a_promoted_one_is_still_read(
    project: Path, promoted: tuple[Server, Server], first: str
) -> None:
    primary, standby = promoted
    hosts = [server.url.split("@")[1].split("/")[0] for server in promoted]
    listed = ",".join(hosts if first == "primary" else hosts[::-1])
    account, database = primary.url.split("@")[0], primary.url.rsplit("/", 1)[1]
    both = f"{account}@{listed}/{database}?target_session_attrs="
    env = {"DATABASE_REPLICA_URL": f"{both}prefer-standby"}
    with service(project, f"{both}primary", **env) as (address, _):
        execute(standby.url, "SELECT pg_wal_replay_pause()")
        web.post(f"{address}/users", json=new_user())
        assert web.get(f"{address}/users").json()["items"] == []
        with Reads(f"{address}/users") as reads:
            execute(standby.url, "SELECT pg_wal_replay_resume()")
            catch_up(primary, standby)
            primary.kill()
            execute(standby.url, "SELECT pg_promote()")
            while web.post(f"{address}/users", json=new_user(), timeout=60).status_code != 201:
                pass
            reads.go_on()
        assert set(reads.statuses) == {200}
        assert reads.slowest < OUTAGE
        assert len(web.get(f"{address}/users").json()["items"]) == 2


def test_stale_reads_leave_a_standby_that_has_become_the_primary(
    project: Path, promoted: tuple[Server, Server]
) -> None:
    """A promotion closes no connection. The pool opens new ones, which go to a standby if there is one."""
    primary, standby = promoted
    reading = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%FROM users%' AND pid <> pg_backend_pid()"
    replica = f"{standby.url}?target_session_attrs=prefer-standby"
    with service(project, primary.url, DATABASE_REPLICA_URL=replica) as (address, _):
        assert web.get(f"{address}/users").status_code == 200
        before = rows(standby.url, reading)
        execute(standby.url, "SELECT pg_promote()")
        # The first answer after the promotion tells that there was one.
        assert [web.get(f"{address}/users").status_code for _ in range(2)] == [200, 200]
        assert before
        assert not set(before) & set(rows(standby.url, reading))
