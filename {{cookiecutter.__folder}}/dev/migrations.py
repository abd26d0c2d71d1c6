"""Names DDL that blocks a busy table, or breaks running copies, in new revisions: ``python -m dev.migrations``.

squawk reads the SQL that Alembic prints for each revision. ``.squawk.toml`` says which of its rules do not apply here.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from dev.databases import environment_without_settings

_PROJECT: Final = Path(__file__).resolve().parent.parent
_PYPROJECT: Final = _PROJECT / "pyproject.toml"
_SQUAWK: Final = Path(sys.executable).parent / "squawk"
_EXCEPTION: Final = re.compile(r"# squawk-ignore (?P<rules>[a-z-]+(?:, [a-z-]+)*)(?P<reason>: *\S.*)?")
_HELP: Final = "To accept one, write beside the operation `# squawk-ignore RULE: why it does no harm here`."


class _Finding(NamedTuple):
    """A statement that squawk warns about."""

    line: int | None
    """Line of the revision; None: Alembic itself wrote the statement."""
    rule: str
    message: str


class _Printed(io.StringIO):
    """SQL that Alembic prints, with the line of the revision that has caused each line of it."""

    def __init__(self, revision: str) -> None:
        super().__init__()
        self._revision = revision
        self.causes: list[int | None] = []

    def write(self, text: str) -> int:
        stack = traceback.walk_stack(None)
        cause = next((line for frame, line in stack if frame.f_code.co_filename == self._revision), None)
        self.causes += [cause] * text.count("\n")
        return super().write(text)


@click.group()
def main() -> None:
    """Look for unsafe DDL in revisions."""


@main.command()
def check() -> None:
    """Check each revision after the one that pyproject.toml names as released."""
    scripts = ScriptDirectory.from_config(Config(toml_file=_PYPROJECT))
    problems = [problem for script in _new(scripts) for problem in _problems(script, _print(script))]
    if problems:
        sys.exit("\n".join([*problems, _HELP]))


@main.command()
def show() -> None:
    """Print the SQL of the newest revision, and what is unsafe in it."""
    scripts = ScriptDirectory.from_config(Config(toml_file=_PYPROJECT))
    for script in scripts.get_revisions("heads"):
        assert isinstance(script, Script)
        sql = _print(script)
        click.echo(sql.getvalue())
        problems = list(_problems(script, sql))
        click.echo("\n".join([*problems, _HELP] if problems else ["Nothing in it is known to be unsafe."]))


def _new(scripts: ScriptDirectory) -> Iterator[Script]:
    released = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["tool"]["migrations"]["released"]
    try:
        old = {script.revision for script in scripts.walk_revisions(head=released)}
    except CommandError as error:
        sys.exit(f"pyproject.toml: `released` in [tool.migrations] must be a revision, or base: {error}")
    # Not only those that follow it: another branch, merged later, is new too.
    yield from (script for script in reversed(list(scripts.walk_revisions())) if script.revision not in old)


def _print(script: Script) -> _Printed:
    """Return the SQL of one revision."""
    sql = _Printed(script.path)
    config = Config(toml_file=_PYPROJECT, output_buffer=sql)
    scripts = ScriptDirectory.from_config(config)

    def steps(heads: Any, _: Any) -> Any:
        return scripts._upgrade_revs(script.revision, heads)  # noqa: SLF001  # as Alembic's command does

    try:
        # The command begins at one revision. A merge needs several.
        with EnvironmentContext(config, scripts, fn=steps, as_sql=True, starting_rev=script.down_revision):
            scripts.run_env()
    except Exception as error:  # noqa: BLE001  # of the revision's own code
        path = Path(script.path).relative_to(_PROJECT)
        sys.exit(
            f"{path}: cannot be printed as SQL, and so not be checked ({type(error).__name__}: {error}): what needs a "
            "connection must run only `if not op.get_context().as_sql`"
        )
    return sql


def _problems(script: Script, sql: _Printed) -> Iterator[str]:
    """Yield a line for each finding that the revision does not explain."""
    path = Path(script.path)
    source = path.read_text(encoding="utf-8")
    for finding in _findings(sql):
        explained = _exceptions(source, finding.line) if finding.line else {}
        where = f"{path.relative_to(_PROJECT)}:{finding.line or 1}: {finding.rule}"
        if finding.rule not in explained:
            yield f"{where}: {finding.message}"
        elif not explained[finding.rule]:
            yield f"{where}: the comment that accepts it must give a reason"


def _findings(sql: _Printed) -> Iterator[_Finding]:
    command: list[str | Path] = [_SQUAWK, "--config", _PROJECT / ".squawk.toml", "--reporter", "json"]
    done = subprocess.run(command, input=sql.getvalue(), capture_output=True, text=True, check=False)
    if not done.stdout.startswith("["):
        sys.exit(f"squawk failed: {done.stderr or done.stdout}")
    for found in json.loads(done.stdout):
        message = " ".join(filter(None, (found["message"], found["help"])))
        yield _Finding(sql.causes[found["line"]], found["rule_name"], message)


def _exceptions(source: str, line: int) -> dict[str, bool]:
    """Return the rules that a comment beside a statement accepts, and whether it gives a reason."""
    around = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    inner = [node for node in around if node.lineno <= line <= (node.end_lineno or 0)]
    statement = min(inner, key=lambda node: (node.end_lineno or 0) - node.lineno)
    lines = source.splitlines()
    first = statement.lineno - 1
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    comments = [found for text in lines[first : statement.end_lineno] if (found := _EXCEPTION.search(text))]
    return {rule: bool(found["reason"]) for found in comments for rule in found["rules"].split(", ")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        settings_of_the_user = os.environ.keys() - environment_without_settings().keys()
        for name in settings_of_the_user:
            del os.environ[name]
        os.chdir(folder)  # there is no .env
        main()
