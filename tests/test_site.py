"""The documentation: the index has each page, reference pages fit the code, the site builds, works and is readable."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bakes import RAW, bake
from commands import TEMPLATE, copy_template, environment, run
from selenium.webdriver.common.by import By

INDEX = TEMPLATE / "docs" / "README.md"
DECISIONS = TEMPLATE / "docs" / "decisions.md"
NO_NETWORK = "import socket\n\ndef connect(*_):\n    raise OSError('no network')\n\nsocket.socket.connect = connect\n"


def rows() -> list[tuple[Path, int]]:
    """Return the pages of the index, with the minutes."""
    found = re.findall(r"^\| \[.+?\]\((\S+?)\) \| .+ \| (\d+) \|$", INDEX.read_text(), re.MULTILINE)
    return [((INDEX.parent / path).resolve(), int(minutes)) for path, minutes in found]


def test_each_page_is_in_the_index_once() -> None:
    folders = [TEMPLATE, TEMPLATE / "docs", TEMPLATE / "docs" / "guides", RAW, RAW / "docs"]
    pages = {page for folder in folders for page in folder.glob("*.md")} - {INDEX}
    listed = [page for page, _ in rows()]
    assert len(listed) == len(set(listed))
    assert pages - set(listed) == set(), "a new page needs a row in docs/README.md"
    assert set(listed) - pages == {TEMPLATE / "benchmarks" / "results.md"}


def test_the_minutes_of_the_index_are_those_of_a_reader() -> None:
    """Who reads 200 words a minute needs neither half of the time nor twice of it."""
    wrong = {}
    for page, minutes in rows():
        needed = len(page.read_text().split()) / 200
        if not minutes / 2 <= max(needed, 1) <= minutes * 2:
            wrong[page.name] = round(needed)
    assert wrong == {}


def test_each_make_target_is_on_the_page_of_commands() -> None:
    page = (TEMPLATE / "docs" / "commands.md").read_text()
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for part, makefile in (("In a project", RAW / "Makefile"), ("In the template", TEMPLATE / "Makefile")):
        documented = set(re.findall(r"`make ([a-z-]+)`", parts[part]))
        targets = set(re.findall(r"^([a-z-]+):.* ## ", makefile.read_text(), re.MULTILINE)) - {"help"}
        assert documented == targets, f"docs/commands.md, {part}"


def test_each_decision_has_a_number_of_its_own() -> None:
    text = DECISIONS.read_text()
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. \S", text, re.MULTILINE)]
    following = f"the next number is {max(numbers) + 1}: ### {max(numbers) + 1}. What was decided"
    assert re.findall(r"^(?:### (?!\d+\. \S)|\*\*).*", text, re.MULTILINE) == [], following
    assert sorted(numbers) == sorted(set(numbers)), following


def test_what_one_reads_first_is_short(tmp_path: Path) -> None:
    assert len((TEMPLATE / "README.md").read_text().splitlines()) <= 130
    for name, chosen in (("default", {}), ("longest", {"deployment": "kubernetes", "auth": "oidc"})):
        project = bake(tmp_path / name, **chosen)
        assert len((project / "README.md").read_text().splitlines()) <= 150, name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it, in Pythons that cannot connect to anything."""
    offline = tmp_path_factory.mktemp("offline")
    (offline / "sitecustomize.py").write_text(NO_NETWORK)
    run("make", "docs", cwd=TEMPLATE, PYTHONPATH=str(offline))
    return TEMPLATE / "site" / "html"


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(rows())
    loading = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//""")
    assert [page.name for page in pages if loading.search(page.read_text())] == []
    importing = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")
    assert [sheet.name for sheet in site.rglob("*.css") if importing.search(sheet.read_text())] == []


def test_a_dead_link_and_a_page_outside_of_the_index_fail(site: Path, tmp_path: Path) -> None:
    broken = copy_template(tmp_path / "template")
    with (broken / "docs" / "scaling.md").open("a") as page:
        page.write("\n[gone](guides/gone.md), [no such part](scaling.md#gone), [none](../tests/gone.py)\n")
    (broken / "docs" / "guides" / "new.md").write_text("# New\n")
    build = next(line for line in (TEMPLATE / "Makefile").read_text().splitlines() if "sphinx-build" in line)
    command = build[build.index("sphinx-build") :].split()
    ended = subprocess.run(
        [TEMPLATE / ".venv" / "bin" / command[0], *command[1:]],
        cwd=broken,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    for said in (
        "guides/gone.md",
        "'gone'",
        "../tests/gone.py",
        "new.md: WARNING: document isn't included",
    ):
        assert said in ended.stderr, ended.stderr


@pytest.fixture
def phone(browser: Any) -> Iterator[Any]:
    """A browser as narrow as a small phone."""
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


def test_no_page_is_wider_than_a_phone(site: Path, phone: Any) -> None:
    wide = {}
    for page in site.rglob("*.html"):
        phone.get(page.as_uri())
        width = phone.execute_script("return document.documentElement.scrollWidth")
        if width > 360:
            wide[page.name] = width
    assert wide == {}


def test_the_search_finds_a_page_by_a_word_in_it(site: Path, browser: Any) -> None:
    browser.get((site / "search.html").as_uri() + "?q=xmin")
    found = browser.find_elements(By.CSS_SELECTOR, "#search-results li a")
    assert any("decisions" in link.get_attribute("href") for link in found)
