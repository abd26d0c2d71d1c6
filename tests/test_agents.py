"""AGENTS.md of a project: short, and each path, command and name in it exists."""

import ast
import re
from pathlib import Path

import pytest
from bakes import BAREST, bake, files

PATH = re.compile(r"^(?:[.\w-]+/)*[\w.-]+(?:/|\.(?:py|md|toml|lock))$")


@pytest.fixture(scope="module", params=[{}, BAREST], ids=["default", "barest"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the default answers, and one with the fewest files."""
    return bake(tmp_path_factory.mktemp("agents"), **request.param)


def quoted(project: Path) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`\n]+)`", (project / "AGENTS.md").read_text())


def test_it_is_read_in_two_minutes(fresh: Path) -> None:
    assert len((fresh / "AGENTS.md").read_text().splitlines()) <= 80


def test_each_path_exists(fresh: Path) -> None:
    made_by_a_command = {".venv", ".env", "uv.lock"}
    of_any_feature = {f"{name}.py" for name in ("routes", "repository", "models", "schemas")}
    paths = {name for name in quoted(fresh) if PATH.match(name)} - made_by_a_command
    assert len(paths) > 15
    for name in paths:
        assert (fresh / "app" / "users" / name if name in of_any_feature else fresh / name).exists(), name


def test_each_command_is_a_target_or_a_program(fresh: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (fresh / "Makefile").read_text(), re.MULTILINE))
    made = {command.split()[1] for command in quoted(fresh) if command.startswith("make ")}
    assert made >= {"run", "test", "check", "fix", "migration", "migrate"}
    assert made <= targets
    (pytest_command,) = [command for command in quoted(fresh) if command.startswith(".venv/bin/")]
    program, test, *_ = pytest_command.split()
    assert f'"{Path(program).name}>=' in (fresh / "pyproject.toml").read_text()
    assert (fresh / test).exists()


def test_each_name_of_code_is_defined_in_the_project(fresh: Path) -> None:
    """Functions, aliases, fixtures, and modules of SQLAlchemy that the example uses."""
    defined: set[str] = set()
    for name, path in files(fresh).items():
        if name.endswith(".py") and not name.startswith("tests/database"):
            for node in ast.walk(ast.parse(path.read_text())):
                defined |= {getattr(node, field, "") or "" for field in ("name", "id", "attr", "arg")}
    names = {
        re.sub(r"\(.*", "", name).removeprefix("@") for name in quoted(fresh) if re.match(r"@?[A-Za-z_]+(\(|$)", name)
    }
    words_of_sql_and_python = {
        "SET",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "OFFSET",
        "print",
        "close",
        "rollback",
        "commit",
        "DATABASE_URL",
    }
    of_a_feature = {"routes", "repository", "models", "schemas"}
    assert {"DbSession", "fetch", "once", "run_transaction"} <= names
    assert names - words_of_sql_and_python - of_a_feature <= defined


def test_fastapi_still_recommends_the_late_commit(project: Path) -> None:
    """When this fails, the rule about its instructions can go."""
    (skill,) = (project / ".venv").glob("lib/*/site-packages/fastapi/.agents/skills/fastapi/references/dependencies.md")
    example = re.search(r'default scope `"request"`.*?```python(.*?)```', skill.read_text(), re.DOTALL)
    assert example
    assert "yield db" in example[1]
    assert "Depends(get_db)]" in example[1]
