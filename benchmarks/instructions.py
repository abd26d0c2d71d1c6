"""Counts the processor's instructions for a request of two versions: other work on the machine changes nothing."""

import re
import shutil
import tempfile
from pathlib import Path

from benchmarks.layers import ROUTES
from benchmarks.project import Project, run

_REQUESTS = 40
_KINDS = {
    "added" if route.added else "page" if "limit" in route.path else route.kind: name for name, route in ROUTES.items()
}
_PROGRAM = Path(__file__).parent / "apps" / "counted.py"


def is_possible() -> bool:
    """Return whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def compare(before: Project, project: Project) -> list[list[str]]:
    """Return a table of what the application does, without the server that reads requests from sockets."""
    rows = [["route", "before", "this version", "of before"]]
    old, new = _count(before), _count(project)
    rows += [[f"`{name}`", f"{old[name]:,}", f"{new[name]:,}", f"{new[name] / old[name]:.3f}"] for name in old]
    return rows


def _count(project: Project) -> dict[str, int]:
    project.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        run(
            *("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"),
            *(project.programs / "python", _PROGRAM, str(_REQUESTS), *_KINDS),
            cwd=project.folder,
            env=project.environment | {"PYTHONPATH": str(project.folder), "PYTHONHASHSEED": "0", "LOG_FORMAT": "json"},
        )
        # Of each kind there are two parts: the first one ends before the requests that count.
        parts = [Path(f"{out}.{2 * number}").read_text(errors="replace") for number in range(1, len(_KINDS) + 1)]
    totals = [re.search(r"^(?:totals|summary): (\d+)", part, re.MULTILINE) for part in parts]
    return {
        name: int(total[1]) // _REQUESTS
        for name, total in zip(_KINDS.values(), totals, strict=True)
        if total is not None
    }
