"""Two copies of a baked service behind HAProxy, and a release of it that changes the schema."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import httpx2

from benchmarks.project import OURS, bake, run
from drill.cluster import Cluster
from drill.programs import Program, free_ports, listens, wait_until, write_private
from drill.recipes import Release, recipes

COPIES: Final = ("direct", "pooled")
"""The copies: ``direct`` has a URL with all three nodes, ``pooled`` connects to PgBouncer."""

COPY_HEADER: Final = "X-Copy"
"""Header with the name of the copy that answered, added by HAProxy. HAProxy's own responses do not have it."""

SETTINGS: Final = {
    "DATABASE_CONNECT_TIMEOUT": "1",
    "DATABASE_STATEMENT_TIMEOUT": "3",
    "DATABASE_POOL_TIMEOUT": "3",
}
"""Settings of both copies that differ from the defaults."""

_RECIPE: Final = recipes()["Rename a column"]


class Service:
    """The copies and their balancer.

    Parameters
    ----------
    folder
        Folder for the project, the configuration and the logs.
    cluster
        Cluster with the service's database.
    http
        Client for the checks whether the service answers.
    """

    def __init__(self, folder: Path, cluster: Cluster, http: httpx2.Client) -> None:
        self._folder = folder
        self._http = http
        self._cluster = cluster
        front, *ports = free_ports(1 + len(COPIES) + len(cluster.nodes))
        self._ports = dict(zip(COPIES, ports, strict=False))
        self._link_ports = ports[len(COPIES) :]
        self.link = self._make_link()
        self.address = f"http://127.0.0.1:{front}"
        inherited = {name: value for name, value in os.environ.items() if name not in OURS}
        shared = inherited | SETTINGS | {"LOG_LEVEL": "WARNING", "LOG_FORMAT": "json"}
        self._environments = {
            "direct": shared
            | {
                "DATABASE_URL": cluster.url(self._link_ports),
                "DATABASE_REPLICA_URL": cluster.url(self._link_ports, attributes="prefer-standby"),
            },
            "pooled": shared
            | {
                "DATABASE_URL": cluster.pooler_url(),
                "DATABASE_REPLICA_URL": cluster.pooler_url("service_replicas"),
                "DATABASE_POOLER": "pgbouncer",
            },
        }
        self._control = folder / "service-balancer.sock"
        self._balancer = self._make_balancer(front)
        self._project = bake(folder)
        _read_from_replicas(self._project / "app" / "users" / "routes.py")
        run("make", "install", cwd=self._project, env=inherited)
        self.copies = {copy: self._copy(copy, self._project) for copy in COPIES}

    def start(self, stack: ExitStack) -> None:
        """Migrate the database, and start the copies and the balancer; the stack stops them."""
        stack.callback(self.link.stop)
        self.link.start()
        wait_until(lambda: listens(self._link_ports[0]), "the link of a copy to listen")
        self._alembic(self._project, "upgrade", "head")
        for copy in COPIES:
            stack.callback(self._stop, copy)
            self.copies[copy].start()
            self.wait_until_ready(copy)
        stack.callback(self._balancer.stop)
        self._balancer.start()
        wait_until(self._answers, f"the service's balancer to answer (logs in {self._folder})")

    def wait_until_ready(self, copy: str) -> None:
        """Wait until a copy is ready."""
        address = f"http://127.0.0.1:{self._ports[copy]}/health/ready"

        def is_ready() -> bool:
            try:
                return self._http.get(address).status_code == 200
            except httpx2.TransportError:
                return False

        wait_until(is_ready, f"the copy {copy} to be ready; its log ends with:\n{self.copies[copy].log()}")

    @contextmanager
    def table_in_use(self) -> Iterator[None]:
        """Keep the table that a release changes in use until the end of the block, so that its migration must wait."""
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(asyncio.run, self._read(ended))
            try:
                yield
            finally:
                ended.set()
            reading.result()  # or why it has ended earlier

    def begin_release(self) -> Path:
        """Write the next release, which renames a column as the guide says, and do what comes before its deploy."""
        self._release = Release(self._project).copy(self._folder / "next-release")
        for revision in _RECIPE.before:
            self._release.revise(revision)
        self._alembic(self._release.folder, "upgrade", "head")
        for statements in _RECIPE.fill:
            asyncio.run(self._execute(statements))
        for block in _RECIPE.code:
            self._release.apply(block)
        return self._release.folder

    def end_release(self) -> None:
        """Drop the old column, when no copy uses it any more."""
        for revision in _RECIPE.after:
            self._release.revise(revision)
        self._alembic(self._release.folder, "upgrade", "head")

    def replace(self, copy: str, release: Path) -> None:
        """Replace a copy with one of another release: drain it, stop it, start the new one."""
        self._tell_balancer(f"set server copies/{copy} state drain")
        wait_until(lambda: self._sessions(copy) == 0, f"the copy {copy} to have no requests")
        self.copies[copy].stop()
        self.copies[copy] = self._copy(copy, release)
        self.copies[copy].start()
        self.wait_until_ready(copy)
        self._tell_balancer(f"set server copies/{copy} state ready")

    @contextmanager
    def slow_inserts(self, seconds: float) -> Iterator[None]:
        """Make each new user take a while during a block."""
        asyncio.run(
            self._execute(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$;"
                "CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()"
            )
        )
        try:
            yield
        finally:
            asyncio.run(self._execute("DROP FUNCTION slow CASCADE"))

    def _stop(self, copy: str) -> None:
        self.copies[copy].stop()

    def _copy(self, copy: str, project: Path) -> Program:
        command = [str(project / ".venv" / "bin" / "uvicorn"), "app.main:app", "--port", str(self._ports[copy])]
        return Program(copy, command, self._folder, cwd=project, env=self._environments[copy])

    def _alembic(self, project: Path, *arguments: str) -> None:
        run(project / ".venv" / "bin" / "alembic", *arguments, cwd=project, env=self._environments["direct"])

    async def _execute(self, statements: str) -> None:
        connection = await asyncpg.connect(self._environments["direct"]["DATABASE_URL"])
        await connection.execute(statements)
        await connection.close()

    async def _read(self, ended: threading.Event) -> None:
        """Read the table in transactions of two seconds, one after the other."""
        connection = await asyncpg.connect(self._environments["direct"]["DATABASE_URL"])
        await connection.execute("SET statement_timeout = 0")
        while not ended.is_set():
            await connection.execute("SELECT count(*) FROM users, pg_sleep(2)")
        await connection.close()

    def _answers(self) -> bool:
        try:
            return self._http.get(f"{self.address}/users?limit=1").status_code == 200
        except httpx2.TransportError:
            return False

    def _tell_balancer(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._control))
            control.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def _sessions(self, copy: str) -> int:
        """Return the number of requests that the balancer has open on a copy."""
        head, *rows = self._tell_balancer("show stat").splitlines()
        names = head.removeprefix("# ").split(",")
        found = [dict(zip(names, row.split(","), strict=False)) for row in rows]
        return next(int(row["scur"]) for row in found if (row.get("pxname"), row.get("svname")) == ("copies", copy))

    def _make_link(self) -> Program:
        """Relays between the direct copy and each node: when frozen, they act like a network that drops all packets."""
        relays = "\n".join(
            f"listen {node.name}\n  bind 127.0.0.1:{port}\n  server {node.name} 127.0.0.1:{node.port}"
            for node, port in zip(self._cluster.nodes, self._link_ports, strict=True)
        )
        text = f"""
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  retries 0
{relays}
"""
        file = write_private(self._folder / "link.cfg", text, None)
        return Program("link", ["/usr/sbin/haproxy", "-db", "-f", file], self._folder)

    def _make_balancer(self, port: int) -> Program:
        servers = "\n".join(f"  server {copy} 127.0.0.1:{self._ports[copy]} check" for copy in COPIES)
        text = f"""
global
  maxconn 1000
  stats socket {self._control} mode 600 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout check 2s
frontend service
  bind 127.0.0.1:{port}
  default_backend copies
backend copies
  option httpchk GET /health/ready
  default-server inter 500ms fastinter 200ms fall 2 rise 1
  # A request without any response is sent to the other copy; a POST, which may have been stored, only with a key.
  # HAProxy buffers the whole request for that.
  option http-buffer-request
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response
  http-request disable-l7-retry if METH_POST !{{ req.hdr(Idempotency-Key) -m found }}
  http-response set-header {COPY_HEADER} %s
{servers}
"""
        file = write_private(self._folder / "service-balancer.cfg", text, None)
        return Program("service-balancer", ["/usr/sbin/haproxy", "-db", "-f", file], self._folder)


@contextmanager
def running_service(folder: Path, cluster: Cluster) -> Iterator[Service]:
    """Run the service on a cluster, and stop it at the end."""
    with ExitStack() as stack:
        service = Service(folder, cluster, stack.enter_context(httpx2.Client(timeout=5)))
        service.start(stack)
        yield service


def _read_from_replicas(routes: Path) -> None:
    """Change the handlers as the guide on replicas does."""
    text = routes.read_text(encoding="utf-8")
    for old, new in (
        ("import DbReader, DbSession", "import DbFallbackReader, DbReplicaReader, DbSession"),
        ("user_id: UUID, reader: DbReader", "user_id: UUID, reader: DbFallbackReader"),
        ("    reader: DbReader,", "    reader: DbReplicaReader,"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    routes.write_text(text, encoding="utf-8")
