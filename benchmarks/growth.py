"""Measures what more connections, workers, rows and pages cost."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.load import measure, server
from benchmarks.project import Project

MILLION = 1_000_000


def growth(project: Project, *, seconds: int, advance: Callable[[], Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield tables, each with a title and rows, the first of them its head.

    Nothing is refused here, however slow the machine is at the moment: `benchmarks.overload` measures what a refusal
    is worth, and wrk repeats a refused request without a pause.
    """
    unlimited = {"PROCESSOR_TIMEOUT": "0", "DATABASE_POOL_TIMEOUT": "60"}
    project.environment |= unlimited
    yield "Connections (`GET /users/{id}`, without limits of waits)", _connections(project, seconds, advance)
    yield "Workers, on all cores (`GET /users/{id}`, 64 connections)", _workers(project, seconds, advance)
    by_size, depth = _sizes(project, seconds, advance)
    yield "Rows in the table", by_size
    yield "Depth of the page (`limit=50`, 1,000,100 rows)", depth
    yield "Cleanup (`python -m app.scripts.cleanup`)", _cleanup(project, advance)
    for name in unlimited:
        del project.environment[name]


def _one(project: Project) -> str:
    (row,) = project.sql("SELECT id FROM users ORDER BY id LIMIT 1")
    return f"/users/{row['id']}"


def _connections(project: Project, seconds: int, advance: Callable[[], Any]) -> list[list[str]]:
    table = [["connections", "requests/s", "p50 ms", "p99 ms", "slowest ms"]]
    with server(project) as target:
        path = _one(project)
        for connections in (1, 4, 16, 64, 256):
            sample = measure(target, path, seconds, connections=connections)
            table.append(
                [str(connections), f"{sample.rate:.0f}", *_milliseconds(sample.p50, sample.p99, sample.slowest)]
            )
            advance()
    return table


def _workers(project: Project, seconds: int, advance: Callable[[], Any]) -> list[list[str]]:
    table = [["workers", "requests/s", "p50 ms", "p99 ms"]]
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    for workers in (1, 2):
        with server(project, cores=cores, workers=workers) as target:
            measure(target, _one(project), 1)
            sample = measure(target, _one(project), seconds, connections=64)
            table.append([str(workers), f"{sample.rate:.0f}", *_milliseconds(sample.p50, sample.p99)])
            advance()
    return table


def _sizes(project: Project, seconds: int, advance: Callable[[], Any]) -> tuple[list[list[str]], list[list[str]]]:
    table = [["rows", "one user, requests/s", "first page of 50, requests/s"]]
    for rows in (10_000, 100_000, MILLION + 100):
        project.seed(rows)
        with server(project) as target:
            measure(target, "/users?limit=50", 1)
            one, page = measure(target, _one(project), seconds), measure(target, "/users?limit=50", seconds)
            table.append([f"{rows:,}", f"{one.rate:.0f}", f"{page.rate:.0f}"])
            advance()
            if rows > MILLION:
                deep = measure(target, f"/users?limit=50&cursor={_cursor_after(project, MILLION)}", seconds)
                page = measure(target, "/users?limit=50", seconds)
                depth = [["page", "requests/s", "CPU a request, µs", "p50 ms"]]
                for name, sample in (("first", page), ("after row 1,000,000", deep)):
                    depth.append([name, f"{sample.rate:.0f}", f"{sample.cpu:.0f}", *_milliseconds(sample.p50)])
                ratios = (page.rate / deep.rate, deep.cpu / page.cpu, deep.p50 / page.p50)
                depth.append(["ratio", *(f"{ratio:.2f}" for ratio in ratios)])
                advance()
    return table, depth


def _cursor_after(project: Project, row: int) -> str:
    """Return the cursor of the page after a row, as the baked project makes it."""
    (found,) = project.sql(f"SELECT id FROM users WHERE deleted_at IS NULL ORDER BY id OFFSET {row - 1} LIMIT 1")
    make = "import sys, uuid; from app.pagination import make_cursor; print(make_cursor(uuid.UUID(sys.argv[1])))"
    command = [str(project.programs / "python"), "-c", make, str(found["id"])]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=True).stdout.strip()


def _cleanup(project: Project, advance: Callable[[], Any]) -> list[list[str]]:
    table = [["deleted users", "seconds", "rows/s", "largest memory, MiB"]]
    for rows in (10_000, 100_000, MILLION):
        project.seed(rows, deleted=True)
        start = time.perf_counter()
        process = subprocess.Popen(
            [project.programs / "python", "-m", "app.scripts.cleanup"],
            cwd=project.folder,
            env=project.environment,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status or project.sql("SELECT FROM users LIMIT 1"):
            raise SystemExit("the cleanup left rows")
        table.append([f"{rows:,}", f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{usage.ru_maxrss / 1024:.0f}"])
        advance()
    return table


def _milliseconds(*values: float) -> list[str]:
    return [f"{value:.1f}" for value in values]
