"""Draws the dashboard's panels from the metrics of a real run: ``make picture``. No Grafana is needed.

Paced clients use the example for 40 seconds. In the middle somebody locks the table for a few seconds: the pool fills,
and requests get a 503.
"""

import asyncio
import json
import random
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.load import server
from benchmarks.project import TEMPLATE, Project, baked_project

PICTURE = TEMPLATE / "docs" / "guides" / "observability.svg"
_SECONDS, _CLIENTS, _LOCKED = 40, 12, (16, 22)
_PORT = 14319

Series = dict[tuple[str, ...], list[tuple[float, Any]]]


def main() -> None:
    """Run the service under light load, and draw what it exported."""
    with baked_project() as project, TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        command = [
            str(project.programs / "python"),
            "-m",
            "dev.collector",
            "--port",
            str(_PORT),
            "--record",
            str(record),
        ]
        with subprocess.Popen(command, cwd=project.folder, stdout=subprocess.DEVNULL) as collector:
            project.environment |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{_PORT}",
                "OTEL_TRACES_SAMPLER": "always_off",
                "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                "DATABASE_POOL_SIZE": "8",
                "DATABASE_POOL_TIMEOUT": "2",
            }
            project.seed(1000)
            with server(project) as running:
                _load(project, running.port)
            collector.terminate()
        draw(record)


def _load(project: Project, port: int) -> None:
    end = time.monotonic() + _SECONDS
    clients = [threading.Thread(target=_client, args=(port, end)) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(_LOCKED[0])
    asyncio.run(_lock(project.url))
    for client in clients:
        client.join()


async def _lock(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE users")
            await asyncio.sleep(_LOCKED[1] - _LOCKED[0])
    finally:
        await connection.close()


def _client(port: int, end: float) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    while time.monotonic() < end:
        user = f"/users/00000000-0000-7000-8000-{random.randrange(1, 1000):012x}"  # noqa: S311  # no secret
        body = json.dumps({"name": "Ada"})
        method, path = random.choice([("GET", user), ("GET", "/users?limit=50"), ("PATCH", user), ("GET", "/nowhere")])  # noqa: S311
        with suppress(OSError):
            connection.request(method, path, body if method == "PATCH" else None, {"Content-Type": "application/json"})
            connection.getresponse().read()
        time.sleep(0.1)


def draw(record: Path) -> None:
    """Draw the picture from OTLP requests, one per line."""
    metrics = _read(record)
    duration, wait = "http.server.request.duration", "db.client.connection.wait_time"
    panels: list[tuple[str, Series]] = [
        ("Requests by route, /s", _rates(metrics, duration, "http.route")),
        ("Latency by route, 95 %, s", _quantiles(metrics, duration, "http.route")),
        ("503 responses by reason, /s", _rates(metrics, "app.unavailable", "reason")),
        ("Connections by state", _values(metrics, "db.client.connection.count", "db.client.connection.state")),
        ("Wait for a connection, 95 %, s", _quantiles(metrics, wait, "db.client.connection.pool.name")),
        ("Transactions by outcome, /s", _rates(metrics, "app.transactions", "outcome")),
    ]
    start = min(at for _, series in panels for points in series.values() for at, _ in points)
    mpl.rcParams.update({"svg.hashsalt": "dashboard", "font.size": 8})
    figure, axes = plt.subplots(2, 3, figsize=(12, 5.5), layout="constrained")
    for axis, (title, series) in zip(axes.flat, panels, strict=True):
        for key, points in sorted(series.items()):
            axis.plot(
                [at - start for at, _ in points], [value for _, value in points], label=" ".join(key) or "no route"
            )
        axis.set_title(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(PICTURE, metadata={"Date": None})


def _read(record: Path) -> dict[str, Series]:
    """Return the points of each metric by all labels, each with its time in seconds."""
    found: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for line in record.read_text().splitlines():
        for sent in json.loads(line).get("resourceMetrics", ()):
            for metric in (metric for scope in sent["scopeMetrics"] for metric in scope["metrics"]):
                (kind,) = {"sum", "gauge", "histogram"} & metric.keys()
                for point in metric[kind]["dataPoints"]:
                    labels = tuple(
                        f"{of['key']}={next(iter(of['value'].values()))}" for of in point.get("attributes", ())
                    )
                    found[metric["name"]][labels].append((int(point["timeUnixNano"]) / 1e9, point))
    return found


def _by(series: Series, label: str, number: Callable[[Any], Any]) -> dict[tuple[str, ...], dict[float, list[Any]]]:
    found: dict[tuple[str, ...], dict[float, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for labels, points in series.items():
        key = tuple(text.partition("=")[2] for text in labels if text.startswith(f"{label}="))
        for at, point in points:
            found[key][at].append(number(point))
    return found


def _count(point: dict[str, Any]) -> float:
    return float(point.get("count", point.get("asInt", point.get("asDouble", 0))))


def _values(metrics: dict[str, Series], name: str, label: str) -> Series:
    by = _by(metrics[name], label, _count)
    return {key: [(at, sum(of)) for at, of in sorted(points.items())] for key, points in by.items()}


def _rates(metrics: dict[str, Series], name: str, label: str) -> Series:
    found: Series = {}
    for key, points in _values(metrics, name, label).items():
        pairs = pairwise(points)
        found[key] = [(at, (now - before) / (at - then)) for (then, before), (at, now) in pairs]
    return found


def _quantiles(metrics: dict[str, Series], name: str, label: str) -> Series:
    """Return the 95th percentile of each interval, interpolated as Prometheus does."""
    bounds = next(point["explicitBounds"] for points in metrics[name].values() for _, point in points)
    found: Series = {}
    by = _by(metrics[name], label, lambda point: [int(count) for count in point["bucketCounts"]])
    for key, points in by.items():
        totals = [(at, [sum(column) for column in zip(*of, strict=True)]) for at, of in sorted(points.items())]
        found[key] = [
            (at, _quantile([b - a for a, b in zip(before, now, strict=True)], bounds))
            for (_, before), (at, now) in pairwise(totals)
        ]
    return found


def _quantile(counts: list[int], bounds: list[float]) -> float:
    rank, lower = 0.95 * sum(counts), 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * rank / count
        rank, lower = rank - count, upper
    return lower if sum(counts) else 0.0


if __name__ == "__main__":
    main()
