"""Each revision can be undone and applied again, with rows in the tables.

A downgrade that does nothing says in a comment that it is meant, ``# nothing to undo: why``. One that cannot be
written, since nobody can bring the data back, raises NotImplementedError; then it is not tried.
"""

import ast
import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from tests.commands import PROJECT, newest_revision
from tests.migrations.databases import execute, fetch
from tests.migrations.rows import insert_rows

Alembic = Callable[..., None]

REVISIONS = list(ScriptDirectory.from_config(Config(toml_file=PROJECT / "pyproject.toml")).walk_revisions())[::-1]

_SCHEMA = """
    WITH tables AS (
        SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ 'alembic_version'
    )
    SELECT format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
            pg_get_expr(adbin, adrelid))
        FROM tables JOIN pg_attribute ON attrelid = oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped
    UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname,
            replace(pg_get_constraintdef(pg_constraint.oid), ' NOT VALID', ''))
        FROM tables JOIN pg_constraint ON conrelid = tables.oid
    UNION ALL SELECT format('%s %s', pg_get_indexdef(indexrelid), indisvalid)
        FROM tables JOIN pg_index ON indexrelid = oid
    UNION ALL SELECT pg_get_triggerdef(pg_trigger.oid) FROM tables JOIN pg_trigger ON tgrelid = tables.oid
        WHERE NOT tgisinternal
    UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
    UNION ALL SELECT format('%s %s', enumtypid::regtype, enumlabel) FROM pg_enum
    ORDER BY 1
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"


def function(script: Script, name: str) -> ast.FunctionDef:
    tree = ast.parse(Path(script.path).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return found


def does_nothing(node: ast.FunctionDef) -> bool:
    """Return whether a function has only a docstring and ``pass``."""
    return all(isinstance(part, ast.Pass | ast.Expr) and not _calls(part) for part in node.body)


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def cannot_be_undone(script: Script) -> bool:
    raised = (part for part in ast.walk(function(script, "downgrade")) if isinstance(part, ast.Raise))
    return any("NotImplementedError" in ast.unparse(part) for part in raised)


def lacks_a_downgrade(script: Script) -> bool:
    """Return whether a downgrade does nothing, the upgrade does something, and no comment says that it is meant."""
    if not does_nothing(function(script, "downgrade")) or does_nothing(function(script, "upgrade")):
        return False
    return not re.search(r"# nothing to undo: \S", Path(script.path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", REVISIONS, ids=lambda script: script.revision)
def test_a_downgrade_that_does_nothing_says_that_it_is_meant(script: Script) -> None:
    assert not lacks_a_downgrade(script), f"{script.path}: write the downgrade, or `# nothing to undo: why` in it"


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "is_found"),
    [
        ("op.execute('SELECT 1')", "pass", True),
        ("op.execute('SELECT 1')", "'Undo it.'", True),
        ("op.execute('SELECT 1')", "pass  # nothing to undo:", True),
        ("op.execute('SELECT 1')", "pass  # nothing to undo: it only reads", False),
        ("op.execute('SELECT 1')", "op.execute('SELECT 2')", False),
        ("pass", "pass", False),
    ],
)
def test_an_empty_downgrade_without_a_reason_is_found(
    with_revision: Callable[[str], list[str]], upgrade: str, downgrade: str, is_found: bool
) -> None:
    """A merge has nothing to do in either direction."""
    start = with_revision(f"def upgrade():\n    {upgrade}\n\ndef downgrade():\n    {downgrade}\n")
    script = ScriptDirectory.from_config(Config(toml_file=start[1])).get_revision("newest")
    assert script is not None
    assert lacks_a_downgrade(script) is is_found


def take_up_and_down(scripts: list[Script], url: str, alembic_command: Alembic) -> None:
    before: list[str] = []
    for script in scripts:
        alembic_command("upgrade", script.revision, DATABASE_URL=url)
        after = fetch(url, _SCHEMA)
        asyncio.run(insert_rows(url))
        if not cannot_be_undone(script):
            alembic_command("downgrade", target_of_undo(script), DATABASE_URL=url)
            assert fetch(url, _SCHEMA) == before, f"{script.path}: the downgrade leaves another schema"
            asyncio.run(insert_rows(url))
            alembic_command("upgrade", script.revision, DATABASE_URL=url)
            assert fetch(url, _SCHEMA) == after, f"{script.path}: the second upgrade leaves another schema"
        execute(url, *(f'TRUNCATE "{table}" CASCADE' for table in fetch(url, _TABLES)))
        before = after


def target_of_undo(script: Script) -> str:
    """Return the target of a downgrade that undoes this revision alone."""
    # A downgrade to the parent would undo the other branches that begin there, and a merge has no single step back.
    return script.down_revision[0] if isinstance(script.down_revision, tuple) else f"{script.revision}@-1"


def test_each_revision_goes_up_down_and_up_again_with_rows(empty_database_url: str, alembic_command: Alembic) -> None:
    """The schema is the same each time; whether a constraint is validated does not count."""
    take_up_and_down(REVISIONS, empty_database_url, alembic_command)


def test_branches_and_their_merge_go_up_down_and_up_again(
    empty_database_url: str, alembic_command: Alembic, with_revision: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """What a branch has done stays when another one is undone."""
    start = with_revision(
        "def upgrade():\n    op.execute('CREATE TABLE newest (number int)')\n\n"
        "def downgrade():\n    op.execute('DROP TABLE newest')\n"
    )
    versions = tmp_path / "migrations" / "versions"
    newest = (versions / "newest.py").read_text()
    (versions / "other.py").write_text(newest.replace("newest", "other"))
    merge = newest.replace("newest", "merge").replace(repr(newest_revision()), "('newest', 'other')")
    (versions / "merge.py").write_text(merge)
    scripts = ScriptDirectory.from_config(Config(toml_file=start[1])).walk_revisions()
    take_up_and_down(list(scripts)[::-1], empty_database_url, partial(alembic_command, config=start[1]))
    assert fetch(empty_database_url, "SELECT version_num FROM alembic_version") == ["merge"]
