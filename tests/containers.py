"""Podman, with a store of its own, and Debian systems to run in it. No registry is asked."""

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import run
from machine import need

__all__ = ["NEEDS", "PURGE", "Podman", "debian", "podman_in", "system"]

Podman = Callable[..., subprocess.CompletedProcess[str]]
NEEDS = ("root", "podman", "runc", "mmdebstrap")
PURGE = "apt-get purge --yes --quiet --autoremove"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Those of this machine: what runs in a container asks the network as this machine does."""


@contextmanager
def podman_in(folder: Path) -> Iterator[Podman]:
    """Yield Podman with a store in a folder, which is gone at the end."""
    need(*NEEDS)
    # Podman asks for more than a container of CI may have.
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\nlog_driver = "k8s-file"\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    places = [f"--{name}={folder / name}" for name in ("root", "runroot", "tmpdir")]

    def podman(
        *arguments: str, cwd: Path = folder, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        config = str(folder / "containers.conf")
        return run("podman", *places, *arguments, cwd=cwd, timeout=timeout, check=check, CONTAINERS_CONF=config)

    yield podman
    podman("rm", "--all", "--force", "--time=0")
    subprocess.run(["umount", folder / "root" / "overlay"], check=False, capture_output=True)
    shutil.rmtree(folder / "root")


def debian(podman: Podman, folder: Path) -> None:
    """Make the image ``debian``: this machine's Debian (or Ubuntu) with Python, pip, venv and make."""
    system = Path("/etc/os-release").read_text()
    release = re.search(r"VERSION_CODENAME=(\w+)", system)
    assert release is not None
    components = "main,universe" if "ID=ubuntu" in system.splitlines() else "main"  # where pip is
    archive = folder / "debian.tar"
    command = [
        *("mmdebstrap", "--quiet", "--variant=apt", "--dpkgopt=force-unsafe-io", f"--components={components}"),
        "--include=ca-certificates,make,python-is-python3,python3,python3-pip,python3-venv",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")),
        f"--customize-hook=copy-in {CERTIFICATES} {Path(CERTIFICATES).parent}",
        *(release[1], str(archive)),
    ]
    run(*command, cwd=folder, timeout=800)
    podman("import", "--quiet", "--change", f"ENV SSL_CERT_FILE={CERTIFICATES}", str(archive), "debian")
    archive.unlink()


def system(podman: Podman, name: str, commands: str, folder: Path) -> None:
    """Make an image of ``debian`` after some commands."""
    (folder / "Containerfile").write_text(f"FROM debian\nRUN {commands}\n")
    podman("build", "--isolation=chroot", "--pull=never", f"--tag={name}", ".", cwd=folder, timeout=300)
