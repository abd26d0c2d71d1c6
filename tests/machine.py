"""The PostgreSQL that is installed on this machine, beside the wheel's."""

import os
from pathlib import Path

import pytest


def machines_postgresql() -> Path:
    """Return the folder of its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        if "CI" in os.environ:
            pytest.fail("PostgreSQL is not installed; .ci/run installs it")
        pytest.skip("PostgreSQL is not installed; CI installs it")
    return found[-1].parent
