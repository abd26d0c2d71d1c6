"""What the tests need of a machine besides Python, make and uv, and what they do where it is missing.

A test or a fixture names it: ``@pytest.mark.needs("git")``, or ``need("git")`` in its code. Where it is missing, the
test is skipped. ``python3 tests/machine.py`` prints the packages to install.
"""

import os
import shutil
from pathlib import Path

__all__ = ["PACKAGES", "machines_postgresql", "need", "where"]

PACKAGES = {
    "chromedriver": "chromium-driver",  # the page /docs in a browser
    "chromium": "chromium",
    "curl": "curl",  # the guides' commands, as they stand there
    "haproxy": "haproxy",  # the proxy in front of the service
    "initdb": "postgresql",  # TLS, and another version than the wheel's
    "git": "git",  # updates of a project, hooks of a commit
    "mmdebstrap": "mmdebstrap",  # the base of the image, and a bare machine
    "pgbouncer": "pgbouncer",  # a connection pooler
    "podman": "podman",  # the image
    "promtool": "prometheus",  # alerts and queries
    "runc": "runc",
}
"""All programs, each with its package in Debian."""

_SERVERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
_PATH = os.pathsep.join([*_SERVERS, os.environ.get("PATH", ""), "/usr/sbin"])


def where(name: str) -> str | None:
    """Return the path of a program, None if it is not installed. An ordinary user's PATH may lack /usr/sbin."""
    assert name in PACKAGES, f"{name} is to be listed in {__name__}.PACKAGES"
    return shutil.which(name, path=_PATH)


def need(*names: str) -> None:
    """Skip the test unless the machine has these programs. ``"root"`` asks for the rights of root."""
    import pytest  # noqa: PLC0415  # as a program this module runs before anything is installed

    if "root" in names and os.geteuid() != 0:
        pytest.skip("needs root")
    if missing := [name for name in names if name != "root" and not where(name)]:
        packages = " ".join(PACKAGES[name] for name in missing)
        pytest.skip(f"needs {', '.join(missing)} (on Debian: apt-get install {packages})")


def machines_postgresql() -> Path:
    """Return the folder of the programs of the PostgreSQL that is installed on this machine, beside the wheel's."""
    need("initdb")
    return Path(where("initdb") or "").parent


if __name__ == "__main__":
    print(*sorted({package for name, package in PACKAGES.items() if not where(name)}))
