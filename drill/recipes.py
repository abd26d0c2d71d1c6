"""The recipes of the guide to changing a table, and a release of the service that follows one."""

import re
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.project import TEMPLATE

__all__ = ["Block", "Recipe", "Release", "recipes"]

_GUIDE: Final = TEMPLATE / "docs" / "guides" / "changing-a-column.md"
_BLOCK: Final = re.compile(r"(?:^\*\*`([^`\n]+)`\*\*\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILL: Final = "Fill a column of a large table"
_FIRST: Final = "4b7d0c9f2a11"
"""Revision of a generated project."""


class Block(NamedTuple):
    """A code block of the guide."""

    path: str
    """File that the line above names; empty: a revision, or SQL."""
    language: str
    code: str


class Recipe(NamedTuple):
    """The steps of a recipe."""

    before: list[str]
    """Revisions that are applied before the new code is deployed."""
    fill: list[str]
    """SQL that fills a column after that."""
    code: list[Block]
    """Changes of the code."""
    after: list[str]
    """Revisions that are applied when no old copy runs."""


def recipes() -> dict[str, Recipe]:
    """Return the recipes by their titles."""
    sections = _GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]
    blocks = {text.split("\n")[0]: [Block(*match.groups("")) for match in _BLOCK.finditer(text)] for text in sections}
    (fill,) = blocks.pop(_FILL)
    blocks["Rename a column"].insert(1, fill)  # the recipe refers to it
    return {title: _recipe(found) for title, found in blocks.items() if found}


def _recipe(blocks: list[Block]) -> Recipe:
    code = [block for block in blocks if block.path]
    deployed = max(blocks.index(block) for block in code)
    revisions = [(n, block.code) for n, block in enumerate(blocks) if block.language == "python" and not block.path]
    return Recipe(
        before=[code for n, code in revisions if n < deployed],
        fill=[block.code for block in blocks if block.language == "sql"],
        code=code,
        after=[code for n, code in revisions if n > deployed],
    )


class Release:
    """A version of a generated project, to which revisions and changes of code are added.

    Parameters
    ----------
    folder
        Folder of the project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, folder: Path) -> "Release":
        """Copy it, with the same virtual environment."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
        (folder / ".venv").symlink_to((self.folder / ".venv").resolve())
        return Release(folder)

    def revise(self, code: str) -> None:
        """Add a revision with the functions ``upgrade`` and ``downgrade``."""
        versions = self.folder / "migrations" / "versions"
        number = len(list(versions.glob("*.py")))
        after = _FIRST if number == 1 else f"step_{number - 1}"
        (versions / f"step_{number}.py").write_text(
            f'"""Step {number}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
            f'revision = "step_{number}"\ndown_revision = "{after}"\n\n\n{code}',
            encoding="utf-8",
        )

    def apply(self, block: Block) -> None:
        """Change a file, or write a new one."""
        file = self.folder / block.path
        if block.language != "diff":
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.code, encoding="utf-8")
            return
        text = file.read_text(encoding="utf-8")
        for hunk in block.code.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert text.count(old) == 1, f"{block.path} must contain this once:\n{old}\n{text}"
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")
