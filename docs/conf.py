"""The site: Sphinx reads the Markdown files of this repository where they are. ``make docs`` builds it, strictly."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).resolve().parent.parent
GENERATED = "site/project"
"""Pages of a generated project: one with all options, whose Jinja is filled in."""

project = "FastAPI on PostgreSQL"
extensions = ["myst_parser"]
_FOLDERS = ("", "docs/", "docs/guides/", "benchmarks/", f"{GENERATED}/", f"{GENERATED}/docs/")
include_patterns = [f"{folder}*.md" for folder in _FOLDERS]
root_doc = "README"
suppress_warnings = ["misc.highlighting_failure"]  # the lexer for SQL does not know `:=`
html_theme = "furo"
html_title = "A template for FastAPI services on PostgreSQL"
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
myst_heading_anchors = 3


def write_generated_pages(*_: object) -> None:
    """Generate a project, and keep its pages."""
    pages = TEMPLATE / GENERATED
    shutil.rmtree(pages, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE)]
        subprocess.run([*command, "deployment=kubernetes", "auth=oidc"], stdout=subprocess.DEVNULL, check=True)
        (baked,) = Path(folder).iterdir()
        for page in [*baked.glob("*.md"), *baked.glob("docs/*.md")]:
            copy = pages / page.relative_to(baked)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, copy)


def link_generated_pages(app: Any, page: str, source: list[str]) -> None:
    """Let links to pages of the raw project lead to those of the generated one, and add the navigation."""
    source[0] = source[0].replace("{{cookiecutter.__folder}}/", f"{GENERATED}/")
    if page == root_doc:
        source[0] += navigation((TEMPLATE / "docs" / "README.md").read_text(encoding="utf-8"))


def navigation(index: str) -> str:
    """Return the index of docs/README.md as Sphinx's navigation: a part for each heading."""
    parts = ["```{toctree}\n:hidden:\n\ndocs/README\n```"]
    for part in index.split("\n## ")[1:]:
        links = re.findall(r"^\| \[(.+?)\]\((.+?)\.md\)", part, re.MULTILINE)
        pages = [f"{title} </{_normal(path)}>" for title, path in links if _normal(path) != root_doc]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {part.splitlines()[0]}", "", *pages, "```"]))
    return "\n\n" + "\n\n".join(parts) + "\n"


def _normal(link: str) -> str:
    """Return the name of a page from the root, for a link in docs/README.md."""
    page = link.removeprefix("../") if link.startswith("../") else f"docs/{link}"
    return page.replace("{{cookiecutter.__folder}}/", f"{GENERATED}/")


def write_start_page(app: Any, error: Exception | None) -> None:
    """Serve the README at the site's address as well."""
    if error is None:
        shutil.copyfile(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    """Take part in the build."""
    write_generated_pages()
    app.connect("source-read", link_generated_pages)
    app.connect("build-finished", write_start_page)
