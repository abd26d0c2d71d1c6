"""Runs commands as a new user would: an empty HOME, no settings, nothing of this repository on the PATH."""

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import web

TEMPLATE = Path(__file__).resolve().parent.parent
_OURS = ("AUTH_", "DATABASE_", "TEST_", "TESTS_", "LOG_", "OTEL_", "MAKE", "MFLAGS", "UV_", "VIRTUAL_ENV", "PYTEST")


def _make_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="home-"))
    home.chmod(0o711)  # an unprivileged PostgreSQL must have access
    (home / "tmp").mkdir(mode=0o711)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


_HOME = Path(os.environ["TESTS_HOME"]) if "TESTS_HOME" in os.environ else _make_home()
os.environ["TESTS_HOME"] = str(_HOME)  # for the workers of this run, which share its caches
_WORKERS = max(2, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
"""Number of workers for the tests of a project that a test runs: others run beside it, and all of them wait a lot."""


def environment(**env: str) -> dict[str, str]:
    """Return the environment of a fresh terminal, with the caches of uv and mypy kept for the whole run."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    path = [folder for folder in inherited["PATH"].split(os.pathsep) if not Path(folder).is_relative_to(TEMPLATE)]
    uv = TEMPLATE / ".tools" / "bin"
    return (
        inherited
        | {"PATH": os.pathsep.join([*path, str(uv)]), "HOME": str(_HOME), "UV_CACHE_DIR": str(_HOME / "uv-cache")}
        | {"TMPDIR": str(_HOME / "tmp"), "MYPY_CACHE_DIR": str(_HOME / "mypy-cache")}
        | {"PYTEST_XDIST_AUTO_NUM_WORKERS": str(_WORKERS)}
        | env
    )


def copy_template(folder: Path) -> Path:
    """Copy what a clone of the template has, including uncommitted changes."""
    ignored = [line.rstrip("/") for line in (TEMPLATE / ".gitignore").read_text().splitlines()]
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


def run(
    *command: str, cwd: Path, timeout: float = 300, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends."""
    with started(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **env) as process:
        stdout, stderr = process.communicate(timeout=timeout)
    assert not check or process.returncode == 0, f"{command}\n{stdout}\n{stderr}"
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def install(project: Path) -> None:
    """Install a project. The first of the run compiles uv's cache too: each later one links the bytecode from there."""
    with (_HOME / "compiled").open("a") as compiled:
        fcntl.flock(compiled, fcntl.LOCK_EX)
        run("make", "install", cwd=project)
        if not compiled.tell():
            packages = environment()["UV_CACHE_DIR"] + "/archive-v0"
            # It fails, since packages have templates and tests that are not Python, or not this one's.
            run(f"{project}/.venv/bin/python", "-m", "compileall", "-q", "-j", "0", packages, cwd=project, check=False)
            compiled.write("yes")


@contextmanager
def started(
    command: Sequence[str], *, cwd: Path, user: str | None = None, **options: Any
) -> Iterator["subprocess.Popen[str]"]:
    """Start a command. The end of the block waits for its end; after an error there, it is killed with its children.

    The options ``stdin``, ``stdout`` and ``stderr`` say where its input and output go; the others are variables of its
    environment.
    """
    env = {name: options.pop(name) for name in list(options) if not name.startswith("std")}
    with subprocess.Popen(
        command, cwd=cwd, env=environment(**env), user=user, text=True, start_new_session=True, **options
    ) as process:
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def free_port() -> int:
    """Return a port that is free now, below those that Linux gives to outgoing connections at any moment."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def serving(
    command: Sequence[str], *, cwd: Path, port: int, timeout: float = 120, ready: str = "/health/ready", **env: str
) -> Iterator[Any]:
    """Run a command, wait until it serves, and end it by Ctrl-C to its process group, as a terminal does."""
    with (
        tempfile.TemporaryFile("w+") as output,
        started(command, cwd=cwd, stdout=output, stderr=output, **env) as process,
    ):
        try:
            deadline = time.monotonic() + timeout
            while True:
                assert process.poll() is None, _read(output)
                assert time.monotonic() < deadline, _read(output)
                try:
                    if web.get(f"http://127.0.0.1:{port}{ready}").status_code == 200:
                        break
                except httpx2.TransportError:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.1)  # it ends, or it may serve by now
            yield process
        except BaseException:
            print(_read(output))  # pytest shows it with the failure of the test
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
            process.output = _read(output)  # type: ignore[attr-defined]


def _read(output: Any) -> str:
    output.seek(0)
    return str(output.read())


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that contain a folder's name."""
    listed = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in listed if str(folder) in line]
