"""Starts each server on its own core, and puts load on it."""

import json
import os
import signal
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from urllib.error import URLError

from benchmarks.project import DATABASE_CORE, SERVER_CORE, Project

HERE = Path(__file__).resolve().parent
APPS = {
    "baseline": "Starlette + asyncpg, by hand",
    "by_hand": "FastAPI + asyncpg, by hand",
    "tutorial": "session per request as in the tutorials",
    "service": "**this template**",
}
"""Name of each application in tables and charts."""

ADDED = "added"
"""The service with one more route, which creates a user by ``session.add``."""

_ports = count(8300)
_runs = count(1)


@dataclass
class Server:
    """A running server, with all processes that it started."""

    process: subprocess.Popen[bytes]
    port: int

    def pids(self) -> list[int]:
        """Return the processes of the server."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "-g", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used."""
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return the memory of its largest process in MiB; shared memory counts in proportion."""

        def pss(pid: int) -> int:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

        return max(pss(pid) for pid in self.pids()) / 1024


@dataclass
class Sample:
    """One burst of load."""

    rate: float
    """Requests per second."""
    cpu: float
    """CPU time of the server per request, in microseconds."""
    p50: float
    """Milliseconds."""
    p99: float
    """Milliseconds."""
    slowest: float
    """Milliseconds."""


def median(samples: list[Sample]) -> Sample:
    """Return the median of each figure."""
    return Sample(
        *(statistics.median(getattr(s, name) for s in samples) for name in ("rate", "cpu", "p50", "p99", "slowest"))
    )


def best(samples: list[Sample]) -> Sample:
    """Return the best of each figure: other work on the machine only ever adds to it, as the manual of timeit says."""
    rate = max(sample.rate for sample in samples)
    return Sample(rate, *(min(getattr(s, name) for s in samples) for name in ("cpu", "p50", "p99", "slowest")))


@contextmanager
def server(
    project: Project,
    app: str = "service",
    *,
    cores: str = SERVER_CORE,
    workers: int = 1,
    ready: str = "/users?limit=1",
) -> Iterator[Server]:
    """Serve one of the applications; its log goes into a file."""
    port = next(_ports)
    # The others write no access line: they are measured with nothing else on.
    target = (
        ["app.main:app"] if app == "service" else ["--app-dir", str(HERE / "apps"), f"{app}:app", "--no-access-log"]
    )
    command = ["taskset", "--cpu-list", cores, str(project.programs / "uvicorn"), *target]
    command += ["--port", str(port), "--workers", str(workers)]
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment | {"PYTHONPATH": str(project.folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(process, f"http://127.0.0.1:{port}{ready}")
            yield Server(process, port)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def wait_for(process: subprocess.Popen[bytes], address: str, *, pause: float = 0.01) -> None:
    """Send requests until one is answered with 200."""
    deadline = time.monotonic() + 300
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args}: does not serve")
        with suppress(URLError, ConnectionError):
            if urllib.request.urlopen(address, timeout=30).status == 200:
                return
        time.sleep(pause)


@contextmanager
def servers(project: Project) -> Iterator[dict[str, Server]]:
    """Serve all applications at once, on one core; only one has load at a time."""
    with ExitStack() as stack:
        yield {app: stack.enter_context(server(project, app)) for app in (*APPS, ADDED)}


def measure(  # noqa: PLR0913  # all of them are asked for by name
    target: Server,
    path: str,
    seconds: float,
    *,
    connections: int = 16,
    kind: str = "get",
    users: int = 0,
    tokens: str = "",
) -> Sample:
    """Load a server for a while with one kind of request of `wrk.lua`."""
    before = target.cpu_seconds()
    arguments = [kind, f"{os.getpid()}-{next(_runs)}", str(users), tokens]
    command = ["taskset", "--cpu-list", DATABASE_CORE, "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "60s", "--script", str(HERE / "wrk.lua")]
    command += [f"http://127.0.0.1:{target.port}{path}", "--", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(printed.splitlines()[-1])
    if result["failed"] or not result["requests"]:
        raise SystemExit(f"{path}: {result['failed']} of {result['requests']} requests failed")
    return Sample(
        rate=result["requests"] / result["microseconds"] * 1e6,
        cpu=(target.cpu_seconds() - before) / result["requests"] * 1e6,
        p50=result["p50"] / 1000,
        p99=result["p99"] / 1000,
        slowest=result["slowest"] / 1000,
    )
