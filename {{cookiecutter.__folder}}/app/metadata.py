"""Name, version and description of the project, read from pyproject.toml."""

import tomllib
from pathlib import Path
from typing import Final

__all__ = ["DESCRIPTION", "NAME", "PROJECT_FILE", "VERSION"]

PROJECT_FILE: Final = Path(__file__).resolve().parent.parent / "pyproject.toml"

_project = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]

NAME: Final[str] = _project["name"]
VERSION: Final[str] = _project["version"]
DESCRIPTION: Final[str] = _project["description"]
