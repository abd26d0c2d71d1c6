"""Fixtures of the template's tests: baked projects, in the environment of a new user."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from commands import TEMPLATE, copy_template, environment, install, run
from containers import Podman, debian, podman_in
from cookiecutter.main import cookiecutter
from machine import need, where
from pgbouncer import pooled
from selenium import webdriver
from services import new_database, program

pytest_plugins = ["not_tested"]

Bake = Callable[..., Path]
QUIET = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "window-size=1400,2000"),
)
HARD_FOLDER = 'it\'s a "folder" (ünï)'


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, and keep together what shares `guarded` or a fixture of its module.

    Each worker of the run has its own `project`, with its own server: a test may stop it.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        shared = item._fixtureinfo.name2fixturedefs
        if not item.get_closest_marker("xdist_group"):
            if "guarded" in shared:
                item.add_marker(pytest.mark.xdist_group("guarded"))
            elif any(fixtures[-1].scope == "module" for fixtures in shared.values()):
                item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def _baked(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    @cache
    def baked(**answers: str) -> Path:
        folder = tmp_path_factory.mktemp("baked")
        return Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder), extra_context=answers))

    return baked


@pytest.fixture
def bake(tmp_path: Path, _baked: Bake) -> Bake:
    """Bake the template with the default answers, except those that are passed: a copy of what a worker bakes once."""

    def bake(**answers: str) -> Path:
        baked = _baked(**answers)
        return Path(shutil.copytree(baked, tmp_path / baked.name))

    return bake


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baked and installed project, in a folder whose path needs quoting."""
    folder = tmp_path_factory.mktemp(HARD_FOLDER)
    baked = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder)))
    install(baked)
    yield baked
    run("make", "db-stop", cwd=baked)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baked and installed project whose routes ask for access tokens."""
    baked = Path(
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path_factory.mktemp("guarded")),
            extra_context={"auth": "oidc"},
        )
    )
    install(baked)
    yield baked
    run("make", "db-stop", cwd=baked)


@pytest.fixture(scope="session")
def uvx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the PATH: its `uvx` runs the installed programs, without a network."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "uvx").write_text(f'#!/bin/sh\nexec {shlex.quote(str(Path(sys.executable).parent))}/"$@"\n')
    (folder / "uvx").chmod(0o755)
    return folder


@pytest.fixture
def path_without_uv(tmp_path: Path) -> str:
    """A PATH with all programs of this machine, but for uv."""
    folder = tmp_path / "all-but-uv"
    folder.mkdir()
    for place in environment()["PATH"].split(os.pathsep):
        for found in Path(place).glob("*"):
            if found.name not in {"uv", "uvx"} and not (folder / found.name).is_symlink():
                (folder / found.name).symlink_to(found)
    return str(folder)


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """Podman with a store of its own, whose path must be short, and a Debian in it."""
    with tempfile.TemporaryDirectory(prefix="podman-") as folder, podman_in(Path(folder)) as podman:
        debian(podman, Path(folder))
        yield podman


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of the template, including uncommitted changes, in a folder whose path needs quoting."""
    return copy_template(tmp_path / HARD_FOLDER / "clone")


@pytest.fixture
def database(project: Path) -> str:
    """URL of an empty database, on the server that `make db` runs in the baked project."""
    return new_database(project)


@pytest.fixture
def pooler(database: str) -> Iterator[str]:
    """URL of the database behind a PgBouncer in transaction mode, with few connections to the server."""
    with pooled(database) as url:
        yield url


@pytest.fixture(scope="session")
def _migrated(project: Path) -> str:
    """Name of a migrated database, of which each test gets a copy."""
    url = new_database(project)
    run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=url)
    return url.rpartition("/")[2]


@pytest.fixture
def migrated(project: Path, _migrated: str) -> str:
    """URL of a migrated database of the test's own."""
    return new_database(project, copy_of=_migrated)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, with an empty profile."""
    need("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(where("chromium"))
    for argument in (*QUIET, f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(where("chromedriver")))
    browser.implicitly_wait(20)
    yield browser
    browser.quit()
