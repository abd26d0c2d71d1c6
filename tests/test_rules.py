"""The import rules of a baked project hold for a feature that they have never heard of."""

from pathlib import Path
from typing import Any

import pytest
from commands import run

FEATURE = {
    "__init__": '"""Orders."""',
    "models": "from app.database.base import Base\nfrom app.users.models import User",
    "schemas": "from pydantic import BaseModel",
    "repository": "from app.orders import models, schemas\nfrom app.database.statements import fetch",
    "dependencies": "from fastapi import Depends\nfrom app.orders import repository",
    "routes": "from fastapi import APIRouter\nfrom app.orders import dependencies, repository, schemas",
}
"""A feature that breaks no rule, by module."""


@pytest.fixture
def fresh(project: Path, bake: Any) -> Path:
    """A fresh bake with a second feature, and the programs of a project that is installed."""
    baked: Path = bake()
    (baked / ".venv").symlink_to(project / ".venv")
    (baked / "app" / "orders").mkdir()
    for name, code in FEATURE.items():
        (baked / "app" / "orders" / f"{name}.py").write_text(f"{code}\n")
    return baked


def broken(project: Path) -> list[str]:
    """Return the names of the rules that are broken."""
    said = run(str(project / ".venv" / "bin" / "lint-imports"), cwd=project, check=False).stdout
    assert "Contracts:" in said, said
    return [line.split(" BROKEN")[0] for line in said.splitlines() if " BROKEN" in line]


def test_a_feature_in_good_order_breaks_no_rule(fresh: Path) -> None:
    assert broken(fresh) == []


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("orders/routes", "import app.users.repository", "A feature keeps"),
        ("orders/repository", "import app.users.repository", "A feature keeps"),
        ("orders/service", "import app.users.routes", "A feature keeps"),
        ("problems", "import app.orders.repository", "A feature keeps"),
        ("orders/repository", "import app.orders.routes", "Inside a feature"),
        ("orders/schemas", "import app.orders.models", "Schemas know no database"),
        ("orders/schemas", "import app.database.errors", "Schemas know no database"),
        ("orders/schemas", "import sqlalchemy", "Schemas know no database"),
        ("orders/models", "import app.orders.schemas", "Models know the declarative base"),
        ("orders/models", "import app.database.session", "Models know the declarative base"),
        ("database/session", "import app.orders.models", "What features stand on knows no feature"),
        ("dependencies", "import app.orders.schemas", "What features stand on knows no feature"),
        ("users/models", "import app.orders.models", "No circles"),
        ("database/reader", "import app.database.session", "Imports run one way"),
        ("orders/service", "import app.main", "Features do not start the service"),
        ("orders/service", "import app.startup", "Features do not start the service"),
        ("orders/service", "import app.config", "Settings are read by"),
        ("orders/models", "import fastapi", "FastAPI stays in"),
        ("orders/repository", "import starlette.requests", "FastAPI stays in"),
        ("orders/service", "from fastapi import HTTPException", "FastAPI stays in"),
    ],
)
def test_each_rule_is_red_when_a_feature_breaks_it(fresh: Path, module: str, line: str, rule: str) -> None:
    with (fresh / "app" / f"{module}.py").open("a") as file:
        file.write(f"{line}\n")
    assert [name for name in broken(fresh) if name.startswith(rule)] != []
