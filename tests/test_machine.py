"""What a machine lacks is skipped and said; in CI nothing is skipped; and what a test starts ends with it."""

import ast
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from commands import TEMPLATE, started
from machine import PACKAGES

TESTS = """
import pytest
from machine import need

@pytest.mark.needs("git")
def test_by_marker():
    pass

def test_in_code():
    need("git", "curl")
"""


def run_tests(folder: Path, *installed: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run tests on a machine that has the named programs and no other."""
    (folder / "conftest.py").write_text('pytest_plugins = ["not_tested"]\n')
    (folder / "test_it.py").write_text(TESTS)
    for name in installed:
        (folder / name).touch(mode=0o755)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    env |= {"PATH": str(folder), "PYTHONPATH": str(TEMPLATE / "tests")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_what_a_machine_lacks_is_skipped_and_listed_with_the_packages_to_install(tmp_path: Path) -> None:
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout
    _, _, summary = done.stdout.partition("not tested here")
    assert "needs git (on Debian: apt-get install git): 1\n  test_it.py::test_by_marker\n" in summary
    assert "needs git, curl (on Debian: apt-get install git curl): 1\n  test_it.py::test_in_code\n" in summary


@pytest.mark.parametrize(("installed", "code"), [(["git"], 1), (["git", "curl"], 0)])
def test_in_ci_a_skipped_test_is_a_failure_of_the_run(tmp_path: Path, installed: list[str], code: int) -> None:
    assert run_tests(tmp_path, *installed, NOTHING_SKIPPED="1").returncode == code


def test_ci_skips_nothing_and_is_told_what_to_install() -> None:
    script = (TEMPLATE / ".ci" / "run").read_text()
    assert "\nNOTHING_SKIPPED=1 make test-all\n" in script
    (told,) = re.findall(r"\$\(python3 (.*)\)", script)
    printed = subprocess.run(
        [sys.executable, told], cwd=TEMPLATE, env={"PATH": ""}, capture_output=True, text=True, check=True
    ).stdout
    assert {"git", "curl", "chromium-driver"} <= set(printed.split()) <= set(PACKAGES.values())


def test_a_test_that_fails_leaves_no_process_behind(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    with suppress(ZeroDivisionError), started(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        raise ZeroDivisionError
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # a container may have nobody who reaps it


def test_all_processes_of_tests_are_started_by_what_ends_them() -> None:
    """By `started`, or by `subprocess.run`, which waits for the end."""
    starting = {
        path.name
        for path in (TEMPLATE / "tests").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "subprocess.Popen"
    }
    assert starting == {"commands.py"}


@pytest.fixture(scope="module")
def shared() -> None:
    """What the tests of a module share."""


def test_tests_that_share_something_stay_in_one_worker(request: pytest.FixtureRequest, shared: None) -> None:
    """If this fails, each worker makes what the tests of a module share: images of containers, whole projects."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@test_machine")
