"""Podman, with a store of its own, and Debian systems to run in it."""

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import run
from machine import need

__all__ = ["NEEDS", "Podman", "debian", "podman_in"]

Podman = Callable[..., subprocess.CompletedProcess[str]]
NEEDS = ("root", "podman", "runc", "mmdebstrap")
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


def debian(podman: Podman, name: str, packages: str, *options: str, folder: Path) -> None:
    """Make an image of this machine's Debian (or Ubuntu) with some packages. No registry is asked."""
    system = Path("/etc/os-release").read_text()
    release = re.search(r"VERSION_CODENAME=(\w+)", system)
    assert release is not None
    components = "main,universe" if "ID=ubuntu" in system.splitlines() else "main"  # where pip is
    archive = folder / f"{name}.tar"
    command = [
        *("mmdebstrap", "--quiet", "--variant=apt", "--dpkgopt=force-unsafe-io"),
        *(f"--components={components}", f"--include={packages}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")),
        f"--customize-hook=copy-in {CERTIFICATES} {Path(CERTIFICATES).parent}",
        *options,
        *(release[1], str(archive)),
    ]
    run(*command, cwd=folder, timeout=800)
    podman("import", "--quiet", "--change", f"ENV SSL_CERT_FILE={CERTIFICATES}", str(archive), name)
    archive.unlink()
