"""Writes the results as a Markdown page and a chart."""

import datetime
import json
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

import matplotlib as mpl

from benchmarks.layers import ROUTES, Results
from benchmarks.load import APPS
from benchmarks.overload import FACTORS, Points
from benchmarks.project import TEMPLATE, Project

mpl.use("svg")
from matplotlib import pyplot as plt

PAGE = TEMPLATE / "benchmarks" / "results.md"
HISTORY = TEMPLATE / "benchmarks" / "history.json"
CHART = TEMPLATE / "benchmarks" / "results.svg"
OVERLOAD_CHART = TEMPLATE / "docs" / "overload.svg"
RELIABILITY = TEMPLATE / "docs" / "reliability.md"
README = TEMPLATE / "README.md"
_COLOURS = {"baseline": "#9aa5b1", "by_hand": "#7b8794", "tutorial": "#cbd2d9", "service": "#0b69a3"}


def markdown(table: list[list[str]]) -> str:
    """Return a table as Markdown."""
    head, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def summary(results: Results) -> str:
    """Return the shares of the baseline's rate: the table that the README shows."""
    table = [["route", *(APPS[app] for app in APPS if app != "baseline"), "goal"]]
    as_post = results["POST /users"]["service"].rate
    for name, route in ROUTES.items():
        baseline = results[name]["baseline"].rate
        shares = [f"{results[name][app].rate / baseline:.2f}" for app in APPS if app != "baseline"]
        table.append([f"`{name}`", *shares, f"{route.goal or as_post / baseline:.2f}"])
    return markdown(table)


def remember(results: Results) -> str:
    """Store the service's shares with those of earlier versions, and return the table of all."""
    shares = {route: round(by_app["service"].rate / by_app["baseline"].rate, 2) for route, by_app in results.items()}
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    runs = json.loads(HISTORY.read_text(encoding="utf-8"))
    runs[version] = {"measured": str(datetime.datetime.now(datetime.UTC).date()), "shares": shares}
    HISTORY.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    table = [["version", "measured", *(f"`{route}`" for route in ROUTES)]]
    for name, run in runs.items():
        table.append([name, run["measured"], *(f"{run['shares'].get(route, '')}" for route in ROUTES)])
    return markdown(table)


def details(results: Results, memory: dict[str, float]) -> str:
    """Return all figures of each route."""
    parts = []
    for route, by_app in results.items():
        table = [["", "requests/s", "of the baseline", "CPU a request, µs", "of the baseline", "p50 ms", "p99 ms"]]
        baseline = by_app["baseline"]
        for app, sample in by_app.items():
            rate, cpu = f"{sample.rate / baseline.rate:.2f}", f"{sample.cpu / baseline.cpu:.1f} times"
            row = [APPS[app], f"{sample.rate:.0f}", rate, f"{sample.cpu:.0f}", cpu]
            table.append([*row, f"{sample.p50:.1f}", f"{sample.p99:.1f}"])
        parts.append(f"### `{route}`\n\n{markdown(table)}")
    table = [["", "memory of a worker, MiB"], *([APPS[app], f"{size:.0f}"] for app, size in memory.items())]
    return "\n\n".join([*parts, f"### Memory\n\n{markdown(table)}"])


def machine(project: Project) -> str:
    """Return date, versions and machine, in a sentence."""
    names = ("fastapi", "starlette", "sqlalchemy", "asyncpg", "pydantic", "uvicorn")
    show = f"import importlib.metadata as m; print(', '.join(f'{{n}} {{m.version(n)}}' for n in {names}))"
    python = project.programs / "python"
    versions = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout.strip()
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    (row,) = project.sql("SELECT split_part(version(), ' ', 2) AS version")
    day = datetime.datetime.now(datetime.UTC).date()
    return (
        f"Measured on {day} with {version}, PostgreSQL {row['version']}, {versions}, on {os.cpu_count()} cores "
        f"({platform.machine()}, shared with others): compare the columns of one run, not two runs."
    )


def draw(results: Results, note: str) -> None:
    """Draw the rates, as shares of the baseline."""
    mpl.rcParams["svg.hashsalt"] = "the same ids in each run"
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    height = 0.2
    for place, (app, colour) in enumerate(_COLOURS.items()):
        shares = [results[route][app].rate / results[route]["baseline"].rate for route in ROUTES]
        rows = [number + (place - 1.5) * height for number in range(len(ROUTES))]
        bars = axes.barh(rows, shares, height * 0.9, color=colour, label=APPS[app].strip("*"))
        axes.bar_label(bars, [f" {share:.2f}" for share in shares], fontsize=8)
    axes.set_yticks(range(len(ROUTES)), list(ROUTES))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("requests a second, as a share of what the hand-written baseline serves")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(CHART, metadata={"Date": None, "Description": note})


def draw_overload(points: Points, note: str) -> None:
    """Draw goodput against offered load."""
    mpl.rcParams["svg.hashsalt"] = "the same ids in each run"
    figure, panels = plt.subplots(1, len(points), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axes, (limit, by_app) in zip(panels, points.items(), strict=True):
        for app, of in by_app.items():
            line = {"color": _COLOURS[app], "lw": 2.5 if app == "service" else 1.5, "marker": "o", "ms": 4}
            axes.plot(FACTORS, [point.good for point in of], label=APPS[app].strip("*"), **line)
        axes.set_title(f"the limit is {limit}", fontsize=9)
        axes.set_xscale("log")
        axes.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS])
        axes.minorticks_off()
        axes.set_xlabel("offered load, in capacities")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("2xx within a second, in capacities")
    panels[-1].legend(fontsize=8, frameon=False, loc="center right")
    figure.savefig(OVERLOAD_CHART, metadata={"Date": None, "Description": note})


def write_overload(text: str) -> None:
    """Replace the marked part of the page on reliability."""
    replace_marked(RELIABILITY, "overload", text)


def write(page: str, readme: str) -> None:
    """Write the page, and replace the marked part of the README."""
    PAGE.write_text(page, encoding="utf-8")
    replace_marked(README, "benchmark", readme)


def replace_marked(file: Path, mark: str, text: str) -> None:
    """Replace the text of a file between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    marked = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    old = file.read_text(encoding="utf-8")
    file.write_text(marked.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", old), encoding="utf-8")
