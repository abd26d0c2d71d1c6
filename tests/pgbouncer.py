"""PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import free_port


@contextmanager
def pooled(url: str, *, clients: int = 200) -> Iterator[str]:
    """Yield the URL of a database behind a PgBouncer that has few connections to the server."""
    pgbouncer = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if pgbouncer is None and "CI" not in os.environ:
        pytest.skip("PgBouncer is not installed; CI installs it")
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
        command = [str(pgbouncer), "-q", str(folder / "ini")]
        with subprocess.Popen(command, user="nobody" if os.geteuid() == 0 else None) as process:
            try:
                yield f"postgresql://{target.username}:{target.password}@127.0.0.1:{port}{target.path}"
            finally:
                process.terminate()
