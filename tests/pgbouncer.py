"""PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from commands import free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """Yield the URL of a database behind a PgBouncer that has few connections to the server."""
    target, port = urlsplit(url), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PgBouncer refuses to run as root
        (folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={target.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
            "default_pool_size = 4\nmax_client_conn = 200\nunix_socket_dir =\n"
            # PostgreSQL copies a database only if it has no connections, and waits five seconds for that.
            "server_idle_timeout = 1\n"
        )
        command = [str(PGBOUNCER), "-q", str(folder / "ini")]
        with subprocess.Popen(command, user="nobody" if os.geteuid() == 0 else None) as process:
            yield f"postgresql://{target.username}@127.0.0.1:{port}{target.path}"
            process.terminate()
