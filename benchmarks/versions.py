"""Compares this version with an earlier one, side by side: ``make bench ARGS="--against COMMIT"``."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import instructions
from benchmarks.layers import ROUTES
from benchmarks.load import ADDED
from benchmarks.project import TEMPLATE, Project, bake
from benchmarks.side_by_side import Route, side_by_side, table

STEPS = len(ROUTES) * 3
"""Measurements of a round."""

_ROUTES = {
    name: Route(route.kind, "/added" if route.added else route.path, ADDED if route.added else "service")
    for name, route in ROUTES.items()
}


def against(  # noqa: PLR0913  # all of them are asked for by name
    commit: str, project: Project, folder: Path, *, rounds: int, seconds: int, advance: Callable[[], Any]
) -> list[list[list[str]]]:
    """Return tables of an earlier commit, the same once more, and this version. Each has its own PostgreSQL.

    The last one counts instructions, if valgrind is installed: where other programs run, the first one varies by 20 %.

    Parameters
    ----------
    commit
        Commit of this repository, such as that of a version.
    project
        This version, installed.
    folder
        Empty folder for the earlier one.
    rounds, seconds, advance
        See `side_by_side`.

    """
    template = folder / "template"
    template.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=TEMPLATE, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=template, input=archive, check=True)
    before = Project(bake(folder, template))
    variants = {"before": before, "before, once more": before, "this version": project}
    try:
        measured = table(side_by_side(variants, _ROUTES, rounds=rounds, seconds=seconds, advance=advance), "version")
        return [measured, *([instructions.compare(before, project)] if instructions.is_possible() else [])]
    finally:
        before.stop()
