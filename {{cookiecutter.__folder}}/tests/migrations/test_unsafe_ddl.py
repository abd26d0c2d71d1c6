"""`make check` names DDL of new revisions that would block a busy table or break running copies."""

import re
import shutil
from pathlib import Path

import pytest

from dev import migrations
from tests.commands import PROJECT, newest_revision
from tests.migrations.databases import OUTSIDE

_RULE = "require-concurrent-index-creation"
_INDEX = "    op.create_index('by_name', 'users', ['name'])\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the check reads."""
    shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
    for name in ("pyproject.toml", ".squawk.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.setattr(migrations, "_PROJECT", tmp_path)
    monkeypatch.setattr(migrations, "_PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: Path, upgrade: str, name: str = "newest", after: tuple[str, ...] = ()) -> None:
    (project / "migrations" / "versions" / f"{name}.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nrevision = {name!r}\n"
        f"down_revision = {after or newest_revision()!r}\ndef upgrade():\n{upgrade}"
    )


def release(project: Path, revision: str | None) -> None:
    """Name the newest revision that is deployed."""
    settings = project / "pyproject.toml"
    text = settings.read_text()
    assert text.count('\nreleased = "') == 1
    settings.write_text(re.sub('\nreleased = ".*?"', f'\nreleased = "{revision}"', text))


def problems() -> list[str]:
    """Return what the check says, without the last line, which says how to accept it."""
    try:
        migrations.main(["check"], standalone_mode=False)
    except SystemExit as error:
        return str(error.code).splitlines()[:-1]
    return []


def test_unsafe_ddl_is_named_with_its_line(project: Path) -> None:
    column = "    # a comment\n    op.add_column(\n        'users', sa.Column('a', sa.Text, nullable=False)\n    )\n"
    concurrently = f"    {OUTSIDE}    op.create_index('b', 'users', ['created_at'], postgresql_concurrently=True)\n"
    write(project, _INDEX + column + concurrently)
    assert [line.split(": ")[:2] for line in problems()] == [
        ["migrations/versions/newest.py:6", _RULE],
        ["migrations/versions/newest.py:8", "adding-required-field"],
    ]


def test_an_exception_is_a_comment_with_a_reason_beside_the_operation(project: Path) -> None:
    accepted = [f"# squawk-ignore {_RULE}: small", f"# squawk-ignore other, {_RULE}: small\n    # and so on"]
    refused = [f"# squawk-ignore {_RULE}", f"# squawk-ignore {_RULE}:", f"# squawk-ignore other: {_RULE}"]
    beside = [*accepted, *refused, f"# squawk-ignore {_RULE}: elsewhere\n    pass"]
    write(project, "".join(f"    {comment}\n{_INDEX}" for comment in beside))
    wants_reason = "the comment that accepts it must give a reason"
    assert [wants_reason in line for line in problems()] == [True, True, False, False]


def test_only_revisions_after_the_released_one_are_new(project: Path) -> None:
    """That needs no Git."""
    write(project, _INDEX)
    for released, count in (("base", 1), ("newest", 0), (newest_revision(), 1)):
        release(project, released)
        assert len(problems()) == count
    release(project, "mistyped")
    with pytest.raises(SystemExit, match="`released` in .tool.migrations. must be a revision, or base"):
        migrations.main(["check"], standalone_mode=False)


def test_a_branch_that_is_not_released_and_a_merge_are_new(project: Path) -> None:
    """The branch need not follow the released one."""
    write(project, _INDEX)
    write(project, _INDEX, "other")
    write(project, _INDEX, "merge", after=("newest", "other"))
    release(project, "newest")
    assert [line.split(": ")[:2] for line in problems()] == [
        ["migrations/versions/other.py:6", _RULE],
        ["migrations/versions/merge.py:6", _RULE],
    ]


def test_the_sql_of_the_newest_revision_is_shown_with_what_is_unsafe_in_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make migration` does so."""
    write(project, _INDEX)
    migrations.main(["show"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "CREATE INDEX by_name ON users (name);" in shown
    assert f"newest.py:6: {_RULE}" in shown
    assert "CREATE TABLE users" not in shown
    write(project, "    pass\n")
    migrations.main(["show"], standalone_mode=False)
    assert capsys.readouterr().out.endswith("Nothing in it is known to be unsafe.\n")


def test_a_revision_that_cannot_be_printed_is_named(project: Path) -> None:
    write(project, "    op.get_bind().execute(sa.text('SELECT 1')).one()\n")
    with pytest.raises(SystemExit, match="newest.py: cannot be printed as SQL, and so not be checked .AttributeError"):
        migrations.main(["check"], standalone_mode=False)
