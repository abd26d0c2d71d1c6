"""Installs the drill's programs from Debian, without starting them as services."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "patroni": "/usr/bin/patroni",
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
    "python3-etcd": "/usr/lib/python3/dist-packages/etcd/__init__.py",
    "etcd-server": "/usr/bin/etcd",
    "haproxy": "/usr/sbin/haproxy",
    "pgbouncer": "/usr/sbin/pgbouncer",
    "procps": "/usr/bin/ps",
    "mount": "/usr/bin/mount",
}
"""Debian 12 packages, each with one of its programs."""

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
"""Script that stops packages from starting services at installation, by exiting with 101."""

_CLUSTERS: Final = Path("/etc/postgresql-common/createcluster.d/drill.conf")
"""Configuration with which PostgreSQL's package creates no cluster of its own."""

_SERVICES: Final = {"patroni": "patroni", "etcd-server": "etcd", "haproxy": "haproxy", "pgbouncer": "pgbouncer"}


def ensure_packages() -> None:
    """Install what is missing, or end with the command to run."""
    missing = [package for package, program in PACKAGES.items() if not Path(program).exists()]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(
            "The drill needs packages of Debian 12. Run it as root: it installs them, and starts no services of theirs."
            f" Or run, as root: apt-get update && {' '.join(command)}"
        )
    print(f"installing {', '.join(missing)}")
    with ExitStack() as stack:
        if not _POLICY.exists():
            stack.callback(_POLICY.unlink)
            _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
            _POLICY.chmod(0o755)
        stack.callback(_CLUSTERS.unlink)
        _CLUSTERS.parent.mkdir(parents=True, exist_ok=True)
        _CLUSTERS.write_text("create_main_cluster = false\n", encoding="utf-8")
        said = ""  # the update ends well even if it could not fetch: why is in its warnings
        for step in (["apt-get", "update", "-qq"], command):
            ended = subprocess.run(
                step,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            said += ended.stdout + ended.stderr
            if ended.returncode:
                sys.exit(f"{' '.join(step)} failed:\n{said}")
    for package in missing:
        if service := _SERVICES.get(package):  # not at the next boot either
            subprocess.run(["update-rc.d", service, "disable"], capture_output=True, check=False)
