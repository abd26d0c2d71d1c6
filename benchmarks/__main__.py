"""Generates a project, compares it with three other applications, and writes the report: ``make bench``."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from benchmarks import overload, telemetry, versions
from benchmarks.cold import cold_start
from benchmarks.growth import growth
from benchmarks.layers import ROUTES, compare
from benchmarks.load import APPS
from benchmarks.project import Project, baked_project
from benchmarks.report import (
    CHART,
    OVERLOAD_CHART,
    PAGE,
    details,
    draw,
    draw_overload,
    machine,
    markdown,
    remember,
    summary,
    write,
    write_overload,
)
from benchmarks.tokens import TOKEN_STEPS, access_tokens

GROWTH_STEPS, COLD_STEPS = 5 + 2 + 4 + 3, 3
TELEMETRY_ROUNDS = VERSION_ROUNDS = 8
TELEMETRY_STEPS = len(telemetry.ROUTES) * len(telemetry.VARIANTS) * TELEMETRY_ROUNDS


@click.command()
@click.option("--quick", is_flag=True, help="Two minutes: only the routes and the cold start, printed and not written.")
@click.option("--telemetry-only", is_flag=True, help="Only what telemetry costs, printed and not written.")
@click.option("--overload-only", is_flag=True, help="Only goodput against offered load; writes its table and picture.")
@click.option("--against", metavar="COMMIT", help="Only an earlier version and this one, printed and not written.")
def main(quick: bool, telemetry_only: bool, overload_only: bool, against: str | None) -> None:
    """Measure what the layers of a service cost."""
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; on Debian: apt-get install {package}")
    rounds, seconds, users = (1, 2, 20_000) if quick else (3, 3, 100_000)
    steps = (len(ROUTES) * len(APPS) + TOKEN_STEPS) * (rounds + 1)
    steps += 2 if quick else GROWTH_STEPS + COLD_STEPS + TELEMETRY_STEPS + overload.STEPS
    with Progress() as progress:
        task = progress.add_task("installing", total=steps)

        def advance() -> None:
            progress.advance(task)

        with baked_project() as project:
            if telemetry_only:
                progress.update(task, description="telemetry", total=TELEMETRY_STEPS)
                click.echo(markdown(_telemetry(project, advance)))
                return
            if overload_only:
                progress.update(task, description="overload", total=overload.STEPS)
                _overload(project, advance)
                return
            if against:
                progress.update(task, description="two versions", total=VERSION_ROUNDS * versions.STEPS)
                with tempfile.TemporaryDirectory() as folder:
                    Path(folder).chmod(0o711)  # if we are root, PostgreSQL runs as another user and must get through
                    tables = versions.against(
                        against, project, Path(folder), rounds=VERSION_ROUNDS, seconds=2, advance=advance
                    )
                click.echo("\n\n".join(map(markdown, tables)))
                return
            progress.update(task, description="the routes, four applications")
            results, memory = compare(project, users=users, rounds=rounds, seconds=seconds, advance=advance)
            progress.update(task, description="cold start")
            cold = cold_start(project, memory, demo=not quick, advance=advance)
            progress.update(task, description="growth")
            more = [] if quick else list(growth(project, seconds=seconds, advance=advance))
            if not quick:
                progress.update(task, description="telemetry")
                more.append(("Telemetry", _telemetry(project, advance)))
                progress.update(task, description="overload")
                _overload(project, advance)
            note = machine(project)
        progress.update(task, description="access tokens")
        tokens = access_tokens(rounds=rounds, seconds=seconds, users=users, advance=advance)
    parts = [
        "# What each layer costs",
        note,
        "One worker has one core, PostgreSQL and wrk share another; 16 connections. All four applications do the same "
        "work: they check the e-mail, and each write is a transaction. The service runs as shipped, with access log, "
        "request ids and problem details; the others have none of these. The baseline is hand-written, with Starlette "
        "and asyncpg.",
        f"## Requests per second, as a share of the baseline's\n\n{summary(results)}\n\n"
        f"![Requests per second of each application]({CHART.name})",
        f"## By route\n\n{details(results, memory)}",
        f"## Access tokens, ES256 (`GET /users/{{id}}`, with `auth: oidc`)\n\n{markdown(tokens)}",
        f"## Cold start\n\n{markdown(cold)}",
        *(f"## {title}\n\n{markdown(table)}" for title, table in more),
    ]
    if not quick:
        parts.append(f"## This version and earlier ones, as shares of the baseline\n\n{remember(results)}")
    page = "\n\n".join(parts) + "\n"
    if quick:
        click.echo(page)
        return
    draw(results, note)
    write(page, f"{summary(results)}\n\n{note}")
    click.echo(f"{summary(results)}\n\nAll figures: {PAGE.relative_to(PAGE.parent.parent)}")


def _overload(project: Project, advance: Callable[[], Any]) -> None:
    points = overload.overload(project, advance=advance)
    draw_overload(points, machine(project))
    write_overload(f"![Goodput against offered load]({OVERLOAD_CHART.name})\n\n{markdown(overload.table(points))}")
    click.echo(markdown(overload.table(points)))


def _telemetry(project: Project, advance: Callable[[], Any]) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        return telemetry.cost(project, Path(folder), rounds=TELEMETRY_ROUNDS, seconds=2, advance=advance)


if __name__ == "__main__":
    main()
