"""PgBouncer in transaction mode, in front of a PostgreSQL of the tests."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from commands import free_port, run, started
from machine import need, where

_NEWER = "trixie"
"""Release of Debian with a PgBouncer that keeps prepared statements."""


def installed_pgbouncer() -> list[str]:
    """Return the command of the PgBouncer of this machine."""
    need("pgbouncer")
    return [str(where("pgbouncer"))]


@contextmanager
def pgbouncer_with_statements() -> Iterator[list[str]]:
    """Yield the command of a PgBouncer that keeps prepared statements: of version 1.21 or later.

    It is that of the machine, or else one of a newer Debian, which is unpacked and runs with its own libraries.
    """
    command = installed_pgbouncer()
    version = re.search(r"PgBouncer (\d+)\.(\d+)", subprocess.check_output([*command, "--version"], text=True))
    assert version is not None
    if (int(version[1]), int(version[2])) >= (1, 21):
        yield command
        return
    need("mmdebstrap")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("mmdebstrap", "--quiet", "--variant=extract", "--include=pgbouncer", _NEWER, name, cwd=folder, timeout=300)
        folder.chmod(0o755)  # PgBouncer refuses to run as root
        (loader,) = folder.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
        yield [str(loader), "--library-path", str(loader.parent), str(folder / "usr" / "sbin" / "pgbouncer")]


@contextmanager
def pooled(url: str, *, clients: int = 200, pgbouncer: Sequence[str] = ()) -> Iterator[str]:
    """Yield the URL of a database behind a PgBouncer that has few connections to the server."""
    target, port = urlsplit(url), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PgBouncer refuses to run as root
        (folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={target.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {folder}/users\n"
            # PgBouncer looks up roles that a test creates on the server.
            f"auth_user = {target.username}\nadmin_users = {target.username}\npool_mode = transaction\n"
            f"default_pool_size = 4\nmax_client_conn = {clients}\nunix_socket_dir =\n"
            # PostgreSQL copies a database only if it has no connections, and waits five seconds for that.
            "server_idle_timeout = 1\n"
        )
        command = [*(pgbouncer or installed_pgbouncer()), "-q", str(folder / "ini")]
        with started(command, cwd=folder, user="nobody" if os.geteuid() == 0 else None) as process:
            yield f"postgresql://{target.username}:{target.password}@127.0.0.1:{port}{target.path}"
            process.terminate()
