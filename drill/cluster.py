"""A three-node PostgreSQL cluster under Patroni, with etcd, HAProxy and PgBouncer, on loopback and free ports."""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2

from drill.node import Node
from drill.programs import (
    ACCOUNT,
    Program,
    folder_of_account,
    free_ports,
    listens,
    wait_until,
    write_private,
)

TTL: Final = 10
"""Seconds after which a standby takes over from a silent primary."""

DISK: Final = 384
"""Size of each node's disk, in MiB, if disks can be mounted."""

_PATRONI: Final = {
    "ttl": TTL,
    "loop_wait": 1,
    "retry_timeout": 3,
    "synchronous_mode": True,
    # Without a standby, writes wait: an acknowledged write is always on two nodes.
    "synchronous_mode_strict": True,
    # A standby takes over when PostgreSQL has crashed, as on a full disk. Otherwise Patroni would restart it for ever.
    "primary_start_timeout": 0,
    "postgresql": {
        "use_pg_rewind": True,
        # A former primary whose disk was full cannot be rewound: make a new copy.
        "remove_data_directory_on_rewind_failure": True,
        "remove_data_directory_on_diverged_timelines": True,
        "parameters": {
            "max_connections": 100,
            "shared_buffers": "32MB",
            "wal_log_hints": True,
            "wal_keep_size": "64MB",
            "max_wal_size": "96MB",
            "min_wal_size": "32MB",
        },
    },
}

_PROGRAMS: Final = Path("/usr/lib/postgresql/15/bin")


class Cluster:
    """The programs, their addresses, and their state according to Patroni."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        # One client for all requests: a new one reads certificates, which would delay the clients of the load.
        self._http = stack.enter_context(httpx2.Client(timeout=1))
        self._passwords = {name: secrets.token_urlsafe(18) for name in ("postgres", "replicator", "service")}
        etcd, peer, self._primary_port, self._replica_port, self._pooler_port, *ports = free_ports(11)
        self.etcd = self._etcd(etcd, peer)
        self.nodes = [self._node(f"node{number + 1}", etcd, ports[number], ports[number + 3]) for number in range(3)]
        self.balancer = self._balancer()
        self.pooler = self._pooler()

    def url(self, ports: list[int], *, attributes: str = "primary") -> str:
        """Return the URL of the service's database with every node as a host; one port for each."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"{self._account('service')}@{hosts}/service?target_session_attrs={attributes}"

    def pooler_url(self, database: str = "service") -> str:
        """Return the URL of the service's database behind PgBouncer; ``service_replicas`` is for the replicas."""
        return f"{self._account('service')}@127.0.0.1:{self._pooler_port}/{database}"

    def node_url(self, node: Node) -> str:
        """Return the URL of the superuser's database on one node."""
        return f"{self._account('postgres')}@127.0.0.1:{node.port}/postgres"

    def start(self) -> None:
        """Start all programs, and create the service's role and database."""
        for program in (self.etcd, self.balancer):
            program.start()
            self._stack.callback(program.stop)
        for node in self.nodes:
            node.start()
            self._stack.callback(node.stop)
        self.wait_until_healthy()
        self._create_database()
        self._stack.callback(self.pooler.stop)
        self.pooler.start()
        wait_until(lambda: listens(self._pooler_port), "PgBouncer to listen")

    def members(self) -> list[dict[str, Any]]:
        """Return the members of the cluster, as Patroni lists them; an empty list if no Patroni answers."""
        for node in self.nodes:
            try:
                answer = self._http.get(f"http://127.0.0.1:{node.rest_port}/cluster")
                members: list[dict[str, Any]] = answer.json()["members"]
            except (httpx2.TransportError, ValueError, KeyError):
                continue
            return members
        return []

    def node(self, role: str) -> Node | None:
        """Return the node that has a role, ``leader`` or ``sync_standby``; None if there is none."""
        names = [member["name"] for member in self.members() if member["role"] == role]
        return next((node for node in self.nodes if node.name in names), None)

    def primary(self) -> Node:
        """Return the primary."""
        return self._required("leader")

    def synchronous_standby(self) -> Node:
        """Return the synchronous standby."""
        return self._required("sync_standby")

    def switch_over(self) -> None:
        """Ask Patroni to make the synchronous standby the primary."""
        primary, standby = self.primary(), self.synchronous_standby()
        body = {"leader": primary.name, "candidate": standby.name}
        self._http.post(f"http://127.0.0.1:{primary.rest_port}/switchover", json=body, timeout=60).raise_for_status()

    def is_healthy(self) -> bool:
        """Return whether there is a primary, a synchronous standby and a second standby, all without lag."""
        members = self.members()
        running = all(
            member["state"] in ("running", "streaming") and member.get("lag", 0) in (0, "0") for member in members
        )
        roles = sorted(member["role"] for member in members)
        return running and roles == ["leader", "replica", "sync_standby"]

    def wait_until_healthy(self, *, seconds: float = 180) -> None:
        """Wait until the cluster is complete."""
        wait_until(self.is_healthy, f"a healthy cluster (logs in {self.folder})", seconds=seconds)

    def versions(self) -> str:
        """Return the versions of the programs, as text."""
        names = ("postgresql-15", "patroni", "etcd-server", "haproxy", "pgbouncer")
        show = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *names]
        lines = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()
        return ", ".join(re.split(r"-\d+[+~\w]*$", line)[0] for line in lines)

    def _account(self, user: str) -> str:
        return f"postgresql://{user}:{self._passwords[user]}"

    def _required(self, role: str) -> Node:
        wait_until(lambda: self.node(role), f"a node with the role {role}")
        node = self.node(role)
        assert node is not None
        return node

    def _etcd(self, port: int, peer: int) -> Program:
        data = folder_of_account(self.folder / "etcd", ACCOUNT)
        client, other = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        addresses = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", other]
        addresses += ["--initial-advertise-peer-urls", other, "--initial-cluster", f"etcd={other}"]
        command = ["etcd", "--enable-v2", "--name", "etcd", "--data-dir", str(data / "data"), *addresses]
        return Program("etcd", command, self.folder, account=ACCOUNT, cwd=data)

    def _node(self, name: str, etcd: int, port: int, rest_port: int) -> Node:
        folder = folder_of_account(self.folder / name, ACCOUNT)
        mounted = self._mount(folder)
        account = {user: {"username": user, "password": self._passwords[user]} for user in ("postgres", "replicator")}
        hosts = "127.0.0.1/32 scram-sha-256"
        settings: dict[str, Any] = {
            "scope": "drill",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{rest_port}"},
            # Not etcd3: by that protocol, before version 3.0.3, a primary that was frozen may overwrite the lock of its
            # successor, and what the successor has acknowledged is lost.
            "etcd": {"hosts": [f"127.0.0.1:{etcd}"]},
            "bootstrap": {
                "dcs": _PATRONI,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{port}",
                "data_dir": str(folder / "data"),
                "bin_dir": str(_PROGRAMS),
                "pgpass": str(folder / "pgpass"),
                "authentication": {"superuser": account["postgres"], "replication": account["replicator"]},
                "basebackup": {"checkpoint": "fast"},
                "parameters": {"unix_socket_directories": ""},
                "pg_hba": [f"host all all {hosts}", f"host replication replicator {hosts}"],
            },
        }
        file = write_private(self.folder / f"{name}.json", json.dumps(settings, indent=2), ACCOUNT)
        patroni = Program(name, ["/usr/bin/patroni", file], self.folder, account=ACCOUNT, cwd=folder)
        return Node(name, folder, port=port, rest_port=rest_port, patroni=patroni, has_own_disk=mounted)

    def _mount(self, folder: Path) -> bool:
        """Mount a disk of limited size, in memory, on a folder; return whether that succeeded."""
        if ACCOUNT is None:
            return False
        options = f"size={DISK}m,mode=0700,uid={ACCOUNT},gid={ACCOUNT}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "drill", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if mounted:
            self._stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
        return mounted

    def _balancer(self) -> Program:
        """HAProxy, in front of the nodes: one port for the primary, one for the replicas."""
        servers = "\n".join(
            f"  server {node.name} 127.0.0.1:{node.port} check port {node.rest_port}" for node in self.nodes
        )
        text = f"""
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout check 1s
  # Patroni says which node is the primary. A node that no longer is the primary loses its connections at once.
  default-server inter 500ms fastinter 200ms downinter 200ms fall 1 rise 1 on-marked-down shutdown-sessions
frontend primary
  bind 127.0.0.1:{self._primary_port}
  default_backend primary
frontend replicas
  bind 127.0.0.1:{self._replica_port}
  use_backend replicas if {{ nbsrv(replicas) gt 0 }}
  default_backend primary
backend primary
  option httpchk OPTIONS /primary
{servers}
backend replicas
  option httpchk OPTIONS /replica
{servers}
"""
        file = write_private(self.folder / "balancer.cfg", text, None)
        return Program("balancer", ["/usr/sbin/haproxy", "-db", "-f", file], self.folder)

    def _pooler(self) -> Program:
        """PgBouncer, in transaction mode, in front of HAProxy."""
        folder = folder_of_account(self.folder / "pgbouncer", ACCOUNT)
        users = write_private(folder / "users.txt", f'"service" "{self._passwords["service"]}"\n', ACCOUNT)
        text = f"""
[databases]
service = host=127.0.0.1 port={self._primary_port} dbname=service
service_replicas = host=127.0.0.1 port={self._replica_port} dbname=service
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self._pooler_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
; Short, so that clients get an error while there is no primary, and a connection as soon as there is one.
query_wait_timeout = 3
server_connect_timeout = 2
server_login_retry = 0.2
"""
        file = write_private(folder / "pgbouncer.ini", text, ACCOUNT)
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        return Program("pgbouncer", [program, file], self.folder, account=ACCOUNT, cwd=folder)

    def _create_database(self) -> None:
        primary = self.primary()
        for statement in (
            f"CREATE ROLE service LOGIN PASSWORD '{self._passwords['service']}'",
            # PgBouncer accepts no time limits from the service.
            "ALTER ROLE service SET statement_timeout = '3s'",
            "ALTER ROLE service SET idle_in_transaction_session_timeout = '60s'",
            "CREATE DATABASE service OWNER service",
        ):
            self.sql(primary, statement)

    def write_wal(self, node: Node) -> None:
        """Make a node write WAL until its disk is full: a small load would take minutes to fill a segment."""
        message = "SELECT pg_logical_emit_message(false, 'drill', repeat('x', 1000000)) FROM generate_series(1, 200)"
        with suppress(subprocess.CalledProcessError):
            self.sql(node, message)

    def sql(self, node: Node, statement: str) -> str:
        """Run a statement on a node as superuser, in that user's database, and return what psql prints."""
        command = [str(_PROGRAMS / "psql"), "--no-psqlrc", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement]
        address = f"postgresql://postgres@127.0.0.1:{node.port}/postgres"
        env = os.environ | {"PGPASSWORD": self._passwords["postgres"]}
        ended = subprocess.run([*command, address], env=env, capture_output=True, text=True, check=True, timeout=60)
        return str(ended.stdout).strip()


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster in a folder, and stop all its programs at the end."""
    with ExitStack() as stack:
        cluster = Cluster(folder, stack)
        cluster.start()
        yield cluster
