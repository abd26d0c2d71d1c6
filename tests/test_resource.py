"""The scaffold of a new feature, as its user runs it: ``cookiecutter <template> --directory resource``."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import TEMPLATE, run

COOKIECUTTER = str(Path(sys.executable).parent / "cookiecutter")
LONGEST = "x" * 40
DIFFERENT = {
    "models.py": [],
    "schemas.py": [
        "Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), "
        "AfterValidator(_check_text)]",
    ],
    "repository.py": [
        "UserRow = Row[UUID, str, datetime, datetime]",
        "_columns = (User.id, User.name, User.created_at, User.updated_at)",
        "_this = User.id == bindparam('user_id')",
        "_ONE = select(*_columns).where(_this)",
        "_FIRST_PAGE = select(*_columns).order_by(User.id).limit(bindparam('limit'))",
        "_CREATE = insert(_table).values({User.id: bindparam('new_id'), User.name: bindparam('new_name')})"
        ".returning(*_columns)",
        "_DELETE = delete(_table).where(_this).returning(User.id)",
        "def _change(*fields: str) -> ReturningUpdate[UUID, str, datetime, datetime]:",
        "    return update(_table).where(_this).values(new).returning(*_columns)",
        "async def create_user(session: AsyncSession, *, name: str) -> UserRow:",
        "    row, = await fetch(session, _CREATE, new_id=uuid7(), new_name=name)",
        "    rows = await fetch(session, _change(*changes) if changes else _ONE, user_id=user_id, **new)",
    ],
    "routes.py": [
        "    created = UserOut(*await repository.create_user(session, name=new.name))",
    ],
}
"""The lines of the scaffold that the users example does not have: it has e-mails, and marks rows as deleted."""


def scaffold(project: Path, *answers: str) -> subprocess.CompletedProcess[str]:
    """Run the scaffold in a project."""
    command = [COOKIECUTTER, str(TEMPLATE), "--directory", "resource", "--no-input", *answers]
    return run(*command, cwd=project, check=False, timeout=120)


def serve(project: Path, printed: str) -> None:
    """Add the line that the scaffold has printed where it says."""
    line, file = re.search(r"add one line to _FEATURES in (\S+):\n\n( +\S+)\n", printed).group(2, 1)
    main = project / file
    main.write_text(main.read_text().replace('    "health",\n', f'    "health",\n{line}\n'))


def contents(project: Path) -> dict[Path, bytes]:
    """Return all files of a project."""
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".venv" not in path.parts}


@pytest.fixture
def fresh(project: Path, bake: Any) -> Path:
    """A fresh bake with the programs of one that is installed."""
    baked: Path = bake()
    (baked / ".venv").symlink_to(project / ".venv")
    (baked / "uv.lock").write_bytes((project / "uv.lock").read_bytes())
    (baked / ".venv" / ".installed").touch()
    yield baked
    run("make", "db-stop", cwd=baked)


@pytest.mark.slow
def test_what_it_writes_passes_check_and_test_unedited(fresh: Path) -> None:
    for answers in (
        ["singular=order"],
        ["singular=category", "plural=categories"],
        [f"singular={LONGEST}", f"plural={LONGEST[:-1]}s", "migration=yes"],
    ):
        done = scaffold(fresh, *answers)
        assert done.returncode == 0, done.stderr
        serve(fresh, done.stdout)
    (migration,) = (fresh / "migrations" / "versions").glob("*_add*.py")
    assert re.findall(r'create_table\(\s*"(\w+)"', migration.read_text()) == [
        "categories",
        "orders",
        f"{LONGEST[:-1]}s",
    ]
    run("make", "check", cwd=fresh)
    others = "--ignore=tests/database --ignore=tests/telemetry --ignore=tests/idempotency"
    tested = run("make", "test", cwd=fresh, timeout=600, PYTEST_ADDOPTS=f"{others} --verbose").stdout
    assert " passed" in tested
    assert "tests/orders/test_routes.py::test_create_then_get" in tested


def test_a_project_without_idempotency_keys_gets_a_feature_without_them(fresh: Path) -> None:
    assert scaffold(fresh).returncode == 0
    with_keys = (fresh / "app" / "orders" / "routes.py").read_text()
    assert "\n@once\nasync def create_order(" in with_keys
    for folder in ("idempotency", "orders"):
        shutil.rmtree(fresh / "app" / folder)
    shutil.rmtree(fresh / "tests" / "orders")
    assert scaffold(fresh).returncode == 0
    without = (fresh / "app" / "orders" / "routes.py").read_text()
    dropped = ["from app.idempotency.dependencies import once", "@once"]
    assert [line for line in with_keys.splitlines() if line not in without.splitlines()] == dropped


def test_an_existing_feature_is_never_overwritten(fresh: Path) -> None:
    before = contents(fresh)
    for plural in ("users", "pages", "commands"):
        refused = scaffold(fresh, f"plural={plural}")
        assert refused.returncode == 1
        assert f"{plural}" in refused.stderr
        assert "nothing is overwritten" in refused.stderr
    assert contents(fresh) == before


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (["singular=Order"], "singular 'Order': use lower-case letters"),
        (["singular=order item"], "use lower-case letters"),
        (["singular=../order"], "use lower-case letters"),
        (["singular={{ 1 }}"], "singular '1': use lower-case letters"),
        ([f"singular=x{LONGEST}"], "at most 40"),
        (["singular=order", "plural=order"], "must differ"),
        (["singular=lambda"], "a keyword of Python"),
        (["singular=row"], "the class Row would hide another name"),
        (["singular=value_error"], "try my_value_error"),
        (["singular=thing"], "try my_thing"),
        (["singular=idempotency_key"], "try my_idempotency_key"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_left(fresh: Path, answers: list[str], says: str) -> None:
    before = contents(fresh)
    refused = scaffold(fresh, *answers)
    assert refused.returncode == 1
    assert says in refused.stderr
    assert contents(fresh) == before


def test_it_runs_in_the_folder_of_a_project_alone(tmp_path: Path) -> None:
    refused = scaffold(tmp_path)
    assert refused.returncode == 1
    assert "this is not the folder of a project" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_each_name_that_the_files_import_is_refused_for_a_class(fresh: Path) -> None:
    assert scaffold(fresh).returncode == 0
    hook = (TEMPLATE / "resource" / "hooks" / "pre_gen_project.py").read_text()
    for path in (fresh / "app" / "orders").iterdir():
        for node in ast.walk(ast.parse(path.read_text())):
            for name in node.names if isinstance(node, ast.ImportFrom) else []:
                assert not name.name[0].isupper() or "Order" in name.name or f'"{name.name}"' in hook, name.name


def statements(path: Path) -> list[str]:
    """Return what a file does, line by line, in one form and in the words of the users example."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text_or_import(part)]
    text = ast.unparse(tree).replace("Order", "User").replace("orders", "users")
    return re.sub(r"order(?!_by)", "user", text).splitlines()


def _is_text_or_import(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom) or "__all__" in ast.unparse(node)


def test_the_scaffold_and_the_users_example_have_one_shape(fresh: Path) -> None:
    assert scaffold(fresh).returncode == 0
    for name, different in DIFFERENT.items():
        mine = statements(fresh / "app" / "orders" / name)
        theirs = statements(fresh / "app" / "users" / name)
        assert [line for line in mine if line not in theirs] == different, name
    routes = [
        re.findall(r'^@router\.(\w+)\(\s*"([^"]*)"', path.read_text().replace("order_id", "user_id"), re.MULTILINE)
        for path in (fresh / "app" / "orders" / "routes.py", fresh / "app" / "users" / "routes.py")
    ]
    assert routes[0] == routes[1]
