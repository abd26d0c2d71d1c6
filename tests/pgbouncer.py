"""PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from commands import free_port, started
from machine import need, where


@contextmanager
def pooled(url: str, *, clients: int = 200) -> Iterator[str]:
    """Yield the URL of a database behind a PgBouncer that has few connections to the server."""
    need("pgbouncer")
    target, port = urlsplit(url), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PgBouncer refuses to run as root
        (folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={target.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {folder}/users\n"
            # PgBouncer looks up roles that a test creates on the server.
            f"auth_user = {target.username}\npool_mode = transaction\n"
            f"default_pool_size = 4\nmax_client_conn = {clients}\nunix_socket_dir =\n"
            # PostgreSQL copies a database only if it has no connections, and waits five seconds for that.
            "server_idle_timeout = 1\n"
        )
        command = [str(where("pgbouncer")), "-q", str(folder / "ini")]
        with started(command, cwd=folder, user="nobody" if os.geteuid() == 0 else None) as process:
            yield f"postgresql://{target.username}:{target.password}@127.0.0.1:{port}{target.path}"
            process.terminate()
