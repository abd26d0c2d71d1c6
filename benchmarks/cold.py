"""Measures how long installation, start-up and the demo take."""

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load import wait_for
from benchmarks.project import OURS, TEMPLATE, Project, bake


def cold_start(
    project: Project, memory: dict[str, float], *, demo: bool, advance: Callable[[], Any]
) -> list[list[str]]:
    """Return a table of the measurements and their limits."""
    python = str(project.programs / "python")
    imports = _median(lambda: subprocess.run([python, "-c", "import fastapi, sqlalchemy"], check=True))
    service = _median(lambda: _until_it_serves(project))
    advance()
    table = [
        ["", "measured", "at most"],
        ["first 200 of `uvicorn app.main:app`", f"{service:.2f} s", f"{imports + 1:.2f} s"],
        ["of it, `import fastapi, sqlalchemy`", f"{imports:.2f} s", ""],
        ["memory of a worker under load", f"{memory['service']:.0f} MiB", "80 MiB"],
        ["of the session per request as in the tutorials", f"{memory['tutorial']:.0f} MiB", ""],
        ["bake", f"{_median(_bake):.2f} s", "1.00 s"],
    ]
    advance()
    if demo:
        _demo()  # fills the package cache
        table.append(["from clone to the first 200 of `make demo`, packages cached", f"{_demo():.1f} s", "30.0 s"])
        advance()
    return table


def _median(action: Callable[[], Any], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _until_it_serves(project: Project) -> None:
    command = [project.programs / "uvicorn", "app.main:app", "--port", "8299"]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_for(process, "http://127.0.0.1:8299/users?limit=1")
        process.kill()


def _bake() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bake(Path(folder))


def _demo() -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        start = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", TEMPLATE, folder / "clone"], check=True)
        with subprocess.Popen(
            ["make", "demo", "PORT=8298"],
            cwd=folder / "clone",
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_for(process, "http://127.0.0.1:8298/health/ready")
            taken = time.perf_counter() - start
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
    return taken
