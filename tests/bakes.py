"""Bakes the template in this process, with answers from a program or from prompts, and reads the result."""

import itertools
import json
import random
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from commands import TEMPLATE
from cookiecutter.cli import main as cookiecutter_command
from cookiecutter.main import cookiecutter
from ruamel.yaml import YAML

RAW = next(TEMPLATE.glob("{{*}}"))
_ASKED = {
    name: default
    for name, default in json.loads((TEMPLATE / "cookiecutter.json").read_text()).items()
    if not name.startswith("_")
}
OPTIONS: dict[str, list[str]] = {name: choices for name, choices in _ASKED.items() if isinstance(choices, list)}
"""The multiple-choice questions, each with its choices."""
BAREST = {"ci": "none", "deployment": "none", "license": "proprietary", "python_version": "3.11", "auth": "oidc"}
"""The fewest files, and all that is ever installed."""
HARD_TEXTS = {
    "project_name": 'Ünï "code" 🚀 \\n',
    "project_slug": "x" * 50,
    "description": "'''\"\"\" # [x] = {} \\ ${HOME} $(id) שלום " + "y" * 200,
    "author_name": "O'Neil \\u0041 <&> 👩\u200d💻",
}


def bake(folder: str | Path, **answers: str) -> Path:
    """Bake as a program does. Answers are data: template syntax in them is escaped."""
    literal = {name: answer if name in OPTIONS else _as_template(answer) for name, answer in answers.items()}
    return Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder), extra_context=literal))


def bake_at_the_prompts(folder: Path, **answers: str) -> bool:
    """Bake as a person does, with answers typed at the prompts of ``cookiecutter``. Return whether it succeeded."""
    typed = "".join(f"{answers.get(name, '')}\n" for name in _ASKED)
    return CliRunner().invoke(cookiecutter_command, [str(TEMPLATE), "-o", str(folder)], input=typed).exit_code == 0


def pairs(**more: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield few combinations in which any two answers to any two multiple-choice questions meet.

    ``test_options`` shows that no condition of the template depends on more than two. ``more`` are further questions.
    """
    questions = {**OPTIONS, **more}
    combinations = [frozenset(zip(questions, chosen, strict=True)) for chosen in itertools.product(*questions.values())]
    random.Random(24).shuffle(combinations)  # noqa: S311
    missing = {pair for chosen in combinations for pair in itertools.combinations(sorted(chosen, key=str), 2)}
    while missing:
        met = {chosen: missing & set(itertools.combinations(sorted(chosen, key=str), 2)) for chosen in combinations}
        best = max(combinations, key=lambda chosen: len(met[chosen]))
        missing -= met[best]
        yield {name: answer for name in questions for asked, answer in best if asked == name}


def files(project: Path) -> dict[str, Path]:
    """Return all files of a project, by their relative paths."""
    return {str(path.relative_to(project)): path for path in sorted(project.rglob("*")) if path.is_file()}


def data(project: Path) -> dict[str, list[Any]]:
    """Parse all TOML, YAML and JSON files; a YAML file may have several documents."""
    return {
        name: _parse(path.suffix, path.read_text())
        for name, path in files(project).items()
        if path.suffix in {".toml", ".yml", ".yaml", ".json"}
    }


def python_of(project: Path) -> Mapping[str, bytes]:
    """Return the content of a project's Python files."""
    return {name: path.read_bytes() for name, path in files(project).items() if path.suffix == ".py"}


@cache
def _parse(suffix: str, text: str) -> list[Any]:
    if suffix == ".toml":
        return [tomllib.loads(text)]
    if suffix == ".json":
        return [json.loads(text)]
    return list(YAML(typ="safe", pure=True).load_all(text))  # it refuses duplicate keys


def _as_template(answer: str) -> str:
    """Return a template that renders to a text: cookiecutter renders answers that a program passes."""
    return '{{ "' + answer.encode("unicode_escape", "surrogatepass").decode().replace('"', '\\"') + '" }}'
