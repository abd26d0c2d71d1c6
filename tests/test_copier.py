"""copier and cookiecutter: the same questions, the same refusals, and the same project, byte for byte."""

import ast
import itertools
import json
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bakes import HARD_TEXTS, OPTIONS, bake, files, pairs
from commands import TEMPLATE, run
from copier import run_copy
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from ruamel.yaml import YAML
from test_hostile import ANYTHING, CAREFUL, EMAILS, PRINTABLE, SLUGS

COOKIECUTTER = json.loads((TEMPLATE / "cookiecutter.json").read_text())
COPIER = YAML(typ="safe", pure=True).load((TEMPLATE / "copier.yml").read_text())
ANSWERS_FILE = ".copier-answers.yml"
TEXTS = [
    {},
    HARD_TEXTS,
    {
        "project_name": "-It's 1,000 & Orders_now-",
        "author_email": "o'neil+{tag}@example.com",
        "author_name": "Grüße, 李",
    },
    {"project_slug": "null-service", "description": "{ 0 } %} }} $$ \\\\ `x` \u200d|>", "author_name": '"" \\" [a]'},
]
"""Answers that a file might not give back as they are."""


def copy(template: Path, folder: Path, **answers: str) -> Path:
    """Make a project with copier, with answers from a program."""
    run_copy(str(template), folder, data=answers, defaults=True, quiet=True)
    return folder


def _both(template: Path, folder: Path, answers: dict[str, str]) -> tuple[Path, Path]:
    return copy(template, folder / "copied", **answers), bake(folder / "baked", **answers)


def state(project: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of each file."""
    return {name: (path.stat().st_mode, path.read_bytes()) for name, path in files(project).items()}


def refusals(template: Path, folder: Path, **answers: str) -> set[str]:
    """Return what copier says against some answers. An invalid last answer keeps it from writing files."""
    with pytest.raises(ValueError, match=r"^(Validation error|Invalid choice) for") as refused:
        copy(template, folder / "refused", **answers, auth="refused")
    assert list(folder.iterdir()) == []
    said = str(refused.value)
    return set() if said.startswith("Invalid choice for 'auth'") else set(said.partition(": ")[2].split("\n"))


def problems(answers: dict[str, str]) -> set[str]:
    """Return what cookiecutter says, by its hook."""
    tree = ast.parse((TEMPLATE / "hooks" / "pre_gen_project.py").read_text())
    rules = [
        part
        for part in tree.body
        if isinstance(part, ast.Import)
        or (isinstance(part, ast.FunctionDef) and part.name == "problems")
        or (isinstance(part, ast.Assign) and "RESERVED" in ast.unparse(part.targets[0]))
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(rules, []), "hook", "exec"), names)  # noqa: S102
    return set(names["problems"](answers))


def test_the_questions_are_the_same() -> None:
    """So are their order, their labels, their choices, and the names that the files know."""
    asked = {name: value for name, value in COPIER.items() if not name.startswith("_") and name != "cookiecutter"}
    labels = COOKIECUTTER["__prompts__"]
    assert list(asked) == [name for name in COOKIECUTTER if not name.startswith("_")]
    for name, question in asked.items():
        if name in OPTIONS:
            assert question["choices"] == {labels[name][choice]: choice for choice in OPTIONS[name]}
            assert list(question["choices"].values()) == OPTIONS[name]
            assert (question["help"], question["default"]) == (labels[name]["__prompt__"], OPTIONS[name][0])
        else:
            assert question["help"] == labels[name]
            assert name == "project_slug" or question["default"] == COOKIECUTTER[name]
    known = re.findall(r'^ *"(\w+)":', COPIER["cookiecutter"]["default"].replace(", ", "\n"), re.MULTILINE)
    assert known == [name for name in COOKIECUTTER if name != "__prompts__"]


def test_a_project_is_the_same_byte_for_byte(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any two answers together; no file depends on more. copier adds the file with the answers, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without git copier is twice as fast
    chosen = [answers | TEXTS[answers.pop("texts")] for answers in pairs(texts=list(range(len(TEXTS))))]
    folders = [tmp_path / str(number) for number in range(len(chosen))]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as workers:
        made = list(workers.map(_both, itertools.repeat(clone), folders, chosen))
    for answers, (copied, baked) in zip(chosen, made, strict=True):
        written = (copied / ANSWERS_FILE).read_text()
        kept = YAML(typ="safe", pure=True).load(written)
        assert {name: kept[name] for name in answers} == answers
        assert [name for name in kept if not name.startswith("_")] == sorted(
            name for name in COOKIECUTTER if name[0] != "_"
        )
        there = state(copied)
        del there[ANSWERS_FILE]
        assert there == state(baked), answers
        assert not [path for path in copied.rglob("*") if path.is_dir() and not any(path.iterdir())], answers


@CAREFUL
@given(name=st.sampled_from(["project_name", "description", "author_name"]), text=PRINTABLE | ANYTHING)
@example(name="description", text=" ```\n{{")
@example(name="description", text="x" * 300)
@example(name="description", text="x" * 301)
@example(name="author_name", text="x" * 101)
@example(name="author_name", text=" \u200d")
@example(name="author_name", text="\ud800")
@example(name="author_name", text="{{ _copier_conf.dst_path }}")
def test_a_text_is_refused_in_the_same_words(clone: Path, tmp_path: Path, name: str, text: str) -> None:
    _compare(clone, tmp_path, project_slug="order-service", **{name: text})


@CAREFUL
@given(slug=SLUGS | PRINTABLE, email=EMAILS | PRINTABLE)
@example(slug="a\n", email="a@example.com\n")
@example(slug="x" * 50, email="x" * 243 + "@example.com")
@example(slug="x" * 51, email="x" * 242 + "@example.com")
@example(slug="lpt9", email="{{x}}@example.com")
@example(slug="alembic", email="{x}@example.com")
def test_so_is_a_slug_or_an_email(clone: Path, tmp_path: Path, slug: str, email: str) -> None:
    _compare(clone, tmp_path, project_slug=slug)
    _compare(clone, tmp_path, project_slug="order-service", author_email=email)


def _compare(template: Path, folder: Path, **answers: str) -> None:
    (empty := folder / "empty").mkdir(exist_ok=True)
    defaults = {name: value for name, value in COOKIECUTTER.items() if isinstance(value, str)}
    assert refusals(template, empty, **answers) == problems(defaults | answers)


def test_each_reserved_name_is_refused(clone: Path, tmp_path: Path) -> None:
    for name in ("app", "com0", "lpt9", "null", "postgres", "alembic", "uvloop", "pytest-xdist"):
        _compare(clone, tmp_path, project_slug=name)
        assert problems({**COOKIECUTTER, "project_slug": name})


def test_what_is_refused_at_the_prompts_is_asked_again(clone: Path, tmp_path: Path) -> None:
    """So is a slug for which no default can be offered."""
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        clear, enter, down = "\x15", "\r", "\x1b[B"
        keyboard.send_text(f"{clear}🚀{enter}")
        keyboard.send_text(f"pytest{enter}{clear}order-service{enter}")
        keyboard.send_text(f"{clear}{enter}Ours.{enter}")
        keyboard.send_text(enter + enter)
        keyboard.send_text(enter + down + enter + enter + down + enter + down + enter)
        run_copy(str(clone), tmp_path / "copied", quiet=True)
    answers = {"project_name": "🚀", "project_slug": "order-service", "description": "Ours."}
    chosen = {"license": "Apache-2.0", "deployment": "kubernetes", "auth": "oidc"}
    there = state(tmp_path / "copied")
    del there[ANSWERS_FILE]
    assert there == state(bake(tmp_path, **answers, **chosen))


def test_a_refusal_writes_nothing_and_ends_with_an_error(clone: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("copier")), "copy", "--defaults", "--data", "project_name=Pytest"]
    before = list(tmp_path.iterdir())
    refused = run(*command, str(clone), "project", cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert "project_slug 'pytest': this name is reserved; try pytest-service" in refused.stderr
    assert list(tmp_path.iterdir()) == before
