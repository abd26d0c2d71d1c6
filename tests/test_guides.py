"""The steps of each guide, run as they stand there."""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from commands import TEMPLATE, free_port, run, serving
from load import Load
from sql import execute, rows

pytestmark = pytest.mark.slow


def blocks(guide: str, language: str) -> list[str]:
    """Return the code of a guide."""
    return re.findall(rf"```{language}\n(.*?)```", (TEMPLATE / "docs" / "guides" / guide).read_text(), re.DOTALL)


def test_the_steps_of_the_guide_run_under_load(project: Path, bake: Any, database: str) -> None:
    """Old and new copies of the service side by side, and no client notices."""
    expand, switch, validate, contract = blocks("changing-a-column.md", "python")
    (fill,) = blocks("changing-a-column.md", "sql")
    new = bake()
    (new / ".venv").symlink_to(project / ".venv")

    def migration(revision: str, after: str, body: str) -> None:
        (new / "migrations" / "versions" / f"{revision}.py").write_text(
            f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {revision!r}\n"
            f"down_revision = {after!r}\n\n\n{body}\n\ndef downgrade() -> None:\n    raise AssertionError\n"
        )

    def alembic(*arguments: str, of: Path) -> None:
        run(str(project / ".venv" / "bin" / "alembic"), *arguments, cwd=of, DATABASE_URL=database)

    def service(of: Path) -> tuple[str, Any]:
        port = free_port()
        command = [str(project / ".venv" / "bin" / "uvicorn"), "app.main:app", "--port", str(port)]
        return f"http://127.0.0.1:{port}", serving(command, cwd=of, port=port, DATABASE_URL=database)

    alembic("upgrade", "head", of=project)
    with ExitStack() as rest_of_life:
        with ExitStack() as life_of_old:
            address, old = service(project)
            life_of_old.enter_context(old)
            for _ in range(10):
                httpx2.post(f"{address}/users", json={"email": f"{free_port()}@example.com", "name": "Before"})
            load_on_old = life_of_old.enter_context(Load(address, clients=2))
            load_on_old.wait_for_more(50)

            migration("expand", "4b7d0c9f2a11", expand)
            alembic("upgrade", "head", of=new)
            load_on_old.wait_for_more(50)
            while rows(database, "SELECT 1 FROM users WHERE full_name IS NULL LIMIT 1"):
                execute(database, fill)

            models = new / "app" / "users" / "models.py"
            before = "    name: Mapped[str] = mapped_column(Text)\n"
            assert before in models.read_text()
            models.write_text(models.read_text().replace(before, switch))
            address, newer = service(new)
            rest_of_life.enter_context(newer)
            load_on_new = rest_of_life.enter_context(Load(address, clients=2))
            load_on_new.wait_for_more(50)
            load_on_old.wait_for_more(50)
        migration("validate", "expand", validate)
        migration("contract", "validate", contract)
        alembic("upgrade", "head", of=new)
        load_on_new.wait_for_more(50)
    assert set(load_on_old.statuses) == set(load_on_new.statuses) == {201}
    alembic("check", of=new)
    names = dict(rows(database, "SELECT full_name, count(*) FROM users GROUP BY 1"))
    assert names == {"Before": 10, "Ada": len(load_on_old.acknowledged) + len(load_on_new.acknowledged)}
