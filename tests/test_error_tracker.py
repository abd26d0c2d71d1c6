"""The guide's error tracker: it gets the service's own errors and no client's data."""

from pathlib import Path
from typing import Any

import pytest
from commands import run
from test_guide_steps import follow


@pytest.mark.slow
def test_the_guide_on_error_trackers(project: Path, bake: Any) -> None:
    """It ends with `make check` and tests against an endpoint that receives what is reported."""
    fresh: Path = bake()  # the SDK goes into a venv of its own
    (fresh / "uv.lock").write_bytes((project / "uv.lock").read_bytes())
    try:
        follow("error-tracker.md", fresh)
    finally:
        run("make", "db-stop", cwd=fresh)
