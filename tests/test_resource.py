"""The scaffold of a new feature, as its user runs it: ``cookiecutter <template> --directory resource``."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from commands import TEMPLATE, run
from resource_answers import read
from services import program
from sql import rows

COOKIECUTTER = str(Path(sys.executable).parent / "cookiecutter")
LONGEST = "x" * 40
DIFFERENT: dict[str, list[str]] = {
    "models.py": [],
    "schemas.py": ["    name: ShortText", "    name: ShortText"],
    "repository.py": [
        "_THIS = User.id == bindparam('this_id')",
        "_FIRST_PAGE = select(*_COLUMNS).order_by(User.id).limit(bindparam('limit'))",
        "_DELETE = delete(User.__table__).where(_THIS, _UNCHANGED).returning(User.id)",
        "class UserInUse(Conflict):",
        "    created, = await fetch(session, _CREATE, UserOut, id=uuid7(), **vars(new))",
        "    found = await reader.one_or_none(_ONE, UserOut, this_id=user_id)",
        "    if found is None:",
        "    return found",
        "    found = await fetch(session, _CHANGE if changes else _ONE_UNCHANGED, UserOut, this_id=user_id, "
        "if_match=if_match, **changes)",
        "        deleted = await fetch(session, _DELETE, this_id=user_id, if_match=if_match)",
        "        raise UserInUse('Other rows refer to this user.') from error",
        "    if not deleted:",
    ],
    "routes.py": [
        "@router.delete('/{user_id}', status_code=204, response_class=Response, dependencies=_WRITE, "
        "responses=problem_responses(404, 409, 412, 422), openapi_extra=IF_MATCH)",
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


TYPES = ["str", "text", "int", "bigint", "float", "decimal", "bool", "date", "datetime", "uuid", "json"]
NOT_SORTED = {"text", "json", "x|y-1|Z.0", "users"}


def every_type(null: str, *references: str) -> list[str]:
    """Return the answers for a resource with a field of each type, and all filters and orders that there are."""
    types = {f"{kind}_of_it": kind for kind in TYPES} | {"kind": "x|y-1|Z.0", "made_by": "users"}
    fields = [*(f"{name}: {kind}{null}" for name, kind in types.items()), *references]
    return [
        f"fields={', '.join(fields)}",
        f"filters={','.join(name for name, kind in types.items() if kind not in ('text', 'json'))}",
        f"sorts={','.join(name for name, kind in types.items() if kind not in NOT_SORTED)}",
    ]


def drawn(random: Random, references: list[str]) -> list[str]:
    """Return answers with fields drawn at random."""
    types = random.sample([*TYPES, "open|paid", "x|y|z", *references], random.randint(2, 6))
    names = {f"field_{number}": kind for number, kind in enumerate(types)}
    fields = [f"{name}:{kind}{random.choice(['', '?'])}" for name, kind in names.items()]
    filters = [name for name, kind in names.items() if kind not in ("text", "json") and random.random() < 0.5]
    sorts = [name for name, kind in names.items() if kind in TYPES and kind not in NOT_SORTED and random.random() < 0.5]
    return [f"fields={','.join(fields)}", f"filters={', '.join(filters)}", f"sorts={', '.join(sorts)}"]


@pytest.mark.slow
def test_what_it_writes_passes_check_and_test_unedited(fresh: Path) -> None:
    """With each type, with nulls, with references, and with a combination drawn at random."""
    seed = int(os.environ.get("SEED", "20"))
    random = Random(seed)  # noqa: S311
    resources = {
        "categories": ["singular=category", "plural=categories"],
        "orders": [
            "singular=order",
            "fields=amount_cents:int, due:date?, status:open|paid, customer:users",
            "filters=status,due",
        ],
        "items": ["singular=item", *every_type("", "order:orders")],
        "nulls": ["singular=null", *every_type("?", "item:items?", "parent:nulls?")],
        "draws": ["singular=draw", *drawn(random, ["users", "orders", "categories"])],
        f"{LONGEST[:-1]}s": [f"singular={LONGEST}", f"plural={LONGEST[:-1]}s", "migration=yes"],
    }
    for answers in resources.values():
        done = scaffold(fresh, *answers)
        assert done.returncode == 0, (seed, answers, done.stderr)
        serve(fresh, done.stdout)
    (migration,) = (fresh / "migrations" / "versions").glob("*_add*.py")
    assert set(re.findall(r'create_table\(\s*"(\w+)"', migration.read_text())) == set(resources)
    checked = run("make", "check", cwd=fresh, check=False)
    assert checked.returncode == 0, (seed, resources["draws"], checked.stdout)
    names = "tests/migrations/test_upgrades.py::test_all_constraints_have_the_name_that_the_models_give_them"
    folders = [f"tests/{plural}" for plural in ("items", "nulls", "draws")]  # the others have no type of their own
    tested = run(program(fresh, "pytest"), "--verbose", names, *folders, cwd=fresh, timeout=600, check=False).stdout
    assert " failed" not in tested, (seed, resources["draws"], tested)
    assert "tests/nulls/test_routes.py::test_each_order_has_no_gap_and_no_duplicate" in tested


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
    for plural in ("users", "fields", "commands"):
        refused = scaffold(fresh, f"plural={plural}")
        assert refused.returncode == 1
        assert f"{plural}" in refused.stderr
        assert "nothing is overwritten" in refused.stderr
    assert contents(fresh) == before


REFUSED_ANSWERS = [
    (["singular=Order"], "singular 'Order': use lower-case letters"),
    (["singular=order item"], "use lower-case letters"),
    (["singular=../order"], "use lower-case letters"),
    (["singular={{ 1 }}"], "singular '1': use lower-case letters"),
    ([f"singular=x{LONGEST}"], "at most 40"),
    (["singular=order", "plural=order"], "must differ"),
    (["singular=lambda"], "a keyword of Python"),
    (["singular=decimal"], "the class Decimal would hide another name"),
    (["singular=value_error"], "try my_value_error"),
    (["singular=thing"], "try my_thing"),
    (["singular=idempotency_key"], "try my_idempotency_key"),
    (["fields=due:dat?"], "fields 'due:dat?': there is no type and no feature 'dat'"),
    (["fields=a:int\nb:int"], "write name:type"),
    (["fields=a:int, ' + str(1) + '"], "write name:type"),
    (["fields=a:{{ cookiecutter.singular }}"], "no feature 'order'"),
]


def test_what_cannot_be_used_is_refused_and_nothing_is_left(fresh: Path) -> None:
    before = contents(fresh)
    for answers, says in REFUSED_ANSWERS:
        refused = scaffold(fresh, *answers)
        assert refused.returncode == 1, answers
        assert says in refused.stderr
        assert contents(fresh) == before, answers


def test_it_runs_in_the_folder_of_a_project_alone(tmp_path: Path) -> None:
    refused = scaffold(tmp_path)
    assert refused.returncode == 1
    assert "this is not the folder of a project" in refused.stderr
    assert list(tmp_path.iterdir()) == []


REFUSED_FIELDS = {
    "": "write name:type",
    " , ": "write name:type",
    "a": "write name:type",
    "a:": "write name:type",
    "a:int,": "write name:type",
    "a:?": "write name:type",
    "A:int": "write name:type",
    "a__b:int": "write name:type",
    "a b:int": "write name:type",
    "ä:int": "write name:type",
    "1a:int": "write name:type",
    "a:int??": "write name:type",
    "a:int\n": "",  # white space around a field means nothing
    "a:../users": "there is no type '../users'",
    "a:open|": "this one does not: ''",
    "a:o'pen|paid": 'this one does not: "o\'pen"',
    "a:x|{y}": "this one does not: '{y}'",
    "a:x|x": "the value x is there twice",
    "a:INT": "there is no type 'INT'",
    "a:health": "no feature 'health' (app/health/models.py)",
    "parent:orders": "write a ? after the type",
    "a:int,a:str": "there is another column a",
    "user:users,user_id:uuid": "there is another column user_id",
    "class:int": "class is a keyword of Python; try my_class",
    "metadata:json": "metadata cannot be used, since SQLAlchemy's base class has it",
    "registry:str": "SQLAlchemy's base class has it",
    "json:json": "pydantic's base class has it",
    "id:int": "the scaffold uses it",
    "version:int": "the scaffold uses it",
    "date:date": "the scaffold uses it",
    "user:str": "it is a reserved word of SQL; try my_user",
    "xmin:int": "system column",
    "status:a|b,order_status:a|b": "",
    f"{LONGEST}{LONGEST}:int": "PostgreSQL allows 63 bytes",
    f"x{'y' * 45}:users": "PostgreSQL allows 63 bytes",
}


def refusals(project: Path, **answers: str) -> list[str]:
    """Return what the hook says about these answers."""
    given = {"singular": "order", "plural": "orders", "fields": "name:str", "filters": "", "sorts": ""} | answers
    return read(given, project)[1]


@pytest.mark.parametrize("fields", REFUSED_FIELDS)
def test_a_field_that_cannot_work_is_refused_by_name(project: Path, fields: str) -> None:
    problems = refusals(project, fields=fields)
    assert bool(problems) == bool(REFUSED_FIELDS[fields])
    for problem in problems:
        assert REFUSED_FIELDS[fields] in problem
        assert "\n" not in problem
        assert problem.startswith(("fields '", 'fields "'))


def test_a_filter_or_an_order_that_cannot_work_is_refused_by_name(project: Path) -> None:
    fields = "body:text, due:date, due_from:bool, user:users, state:a|b"
    for answers, says in {
        ("filters", "other"): "filters 'other': there is no such field",
        ("filters", "body"): "filters 'body': there is no filter for a field of this type",
        ("filters", "due,due"): "filters 'due': is there twice",
        ("filters", "due, due_from"): "filters: two of them make the query parameter due_from",
        ("sorts", "user"): "sorts 'user': a list cannot be sorted by a field of this type",
        ("sorts", ","): "sorts '': there is no such field",
    }.items():
        (problem,) = refusals(project, fields=fields, **dict([answers]))[:1]
        assert says in problem
    assert refusals(project, fields=fields, filters="due,user,state", sorts="due") == []
    assert refusals(project, fields=fields, filters="user_id") == []


def test_a_set_whose_type_has_the_name_of_the_model_is_refused(project: Path) -> None:
    assert "hide the model" in refusals(project, singular="a_value", fields="a:x|y")[0]


def test_each_name_that_the_files_use_is_refused(fresh: Path, database: str) -> None:
    """For the class, and for a field: the files import it, a base class has it, or SQL reserves it."""
    answers = every_type("", "parent:orders?")
    assert scaffold(fresh, *answers).returncode == 0
    hook = (TEMPLATE / "resource" / "hooks" / "pre_gen_project.py").read_text()
    names = {row[0] for row in rows(database, "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")}
    code = "import json, pydantic, app.database.base as base, app.list_query as lists\n"
    kinds = "pydantic.BaseModel, base.Base, lists.ListQuery"
    code += f"print(json.dumps([name for kind in ({kinds}) for name in dir(kind) if name[0] != '_']))"
    names |= set(json.loads(run(program(fresh, "python"), "-c", code, cwd=fresh).stdout))
    for path in (fresh / "app" / "orders").iterdir():
        for node in ast.walk(ast.parse(path.read_text())):
            for name in node.names if isinstance(node, ast.ImportFrom) else []:
                is_class = name.name[0].isupper() and not name.name.isupper()
                assert not is_class or "Order" in name.name or f'"{name.name}"' in hook, name.name
                if path.name in ("models.py", "schemas.py") and name.name[0].islower():
                    names.add(name.name)
    assert [name for name in sorted(names) if refusals(fresh, fields=f"{name}:int") == []] == []


@pytest.mark.slow
def test_a_value_is_added_to_a_fixed_set_without_a_locked_table(fresh: Path, database: str) -> None:
    """The migration is written by `make migration`, as the check of drift sees the change."""
    done = scaffold(fresh, "fields=status:open|paid", "migration=yes")
    serve(fresh, done.stdout)
    for name in ("models", "schemas"):
        path = fresh / "app" / "orders" / f"{name}.py"
        changed = (
            path.read_text()
            .replace(""""open", "paid\"""", """"open", "paid", "void\"""")
            .replace("'paid'", "'paid', 'void'")
        )
        assert changed != path.read_text()
        path.write_text(changed)
    drift = ["sh", "-c", 'PATH="$PWD/.venv/bin:$PATH" exec python -m dev.postgres drift']
    assert "add_constraint" in run(*drift, cwd=fresh, check=False).stderr
    run("make", "migration", "m=void orders", cwd=fresh)
    run(program(fresh, "alembic"), "upgrade", "head", cwd=fresh, DATABASE_URL=database)
    (constraint,) = rows(
        database, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname ~ 'ck_orders_status'"
    )
    assert "'void'" in constraint[0]
    assert constraint[0].endswith("NOT VALID")  # the rows that are there already are not read
    run(*drift, cwd=fresh)


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
