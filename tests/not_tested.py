"""A plugin of pytest: skips tests of what the machine lacks, and lists at the end what was not tested.

With NOTHING_SKIPPED in the environment, as in CI, a run that has skipped a test fails.
"""

import os
from typing import Any

import pytest
from machine import need


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "needs(*names): skip the test unless the machine has these programs, or root")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names what is missing, before its fixtures."""
    for marker in item.iter_markers("needs"):
        need(*marker.args)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List what was not tested, by reason."""
    tests: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        tests.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if tests:
        terminalreporter.section("not tested here")
    for reason, names in sorted(tests.items()):
        terminalreporter.line(f"{reason}: {len(names)}")
        for name in names:
            terminalreporter.line(f"  {name}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped and none may be."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NOTHING_SKIPPED") and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = 1
