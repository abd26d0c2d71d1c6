"""Follows each guide exactly: writes its files, makes its changes, runs its commands. And no link is dead."""

import re
import shlex
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from commands import TEMPLATE, environment, free_port, run, serving, started
from machine import need
from sql import execute, rows

_BLOCK = re.compile(r"(?:^\*\*`([^`\n]+)`\*\*([^\n]*)\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_FILES = {"console", "mermaid", "sh", "sql", "text"}
_VARIES = {
    "<id>": re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
    "<request id>": re.compile(r"\b[0-9a-f]{32}\b"),
    "<time>": re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z"),
}


_MACHINERY = (
    *(
        "database",
        "idempotency",
        "migrations/test_locks.py",
        "migrations/test_upgrades.py",
        "telemetry/test_telemetry.py",
    ),
    *("test_config.py", "test_databases.py", "test_middleware.py", "test_overload.py"),
)
_NO_ROOM = (
    *("internal", "test_columns.py", "test_password.py", "test_probe.py", "test_streams.py"),
    *("../test_databases.py", "../users/test_etags.py"),
)


def _without(*names: str) -> dict[str, str]:
    return {"PYTEST_ADDOPTS": " ".join(f"--ignore=tests/{name}" for name in names)}


_ONLY_OF_FEATURES = _without(*_MACHINERY)
"""For `make test`: the other tests import no feature, and test_project runs them."""

_ONLY_OF_ROOMS = _without(*(f"database/{name}" for name in _NO_ROOM))
"""The same, for what no room has a part in; mypy has looked at it."""


class Block(NamedTuple):
    """A code block, with the file that the line above names, and the rest of that line."""

    path: str
    note: str
    language: str
    code: str


def blocks(guide: str) -> list[Block]:
    """Return the code blocks of a guide: files, changes of files, commands and diagrams."""
    text = (TEMPLATE / "docs" / "guides" / guide).read_text()
    found = [Block(*(group or "" for group in match.groups())) for match in _BLOCK.finditer(text)]
    assert len(found) * 2 == len(re.findall("^```", text, re.MULTILINE))
    for block in found:
        assert bool(block.path) != (block.language in _NOT_FILES), f"neither a file nor a command: {block}"
    return found


def follow(guide: str, project: Path, addresses: dict[str, str] | None = None, **env: str) -> None:
    """Follow all steps of a guide. ``make run`` serves until its end."""
    if any(re.search(r"\bcurl\b", block.code) for block in blocks(guide)):
        need("curl")
    addresses = dict(addresses or {})
    with ExitStack() as terminals:
        for path, note, language, written in blocks(guide):
            code = written
            for name, here in addresses.items():
                code = code.replace(name, here)
            if path:
                write(project, path, note, language, code)
            elif code == "make run\n":
                port = free_port()
                terminals.enter_context(serving(["make", "run", f"PORT={port}"], cwd=project, port=port, **env))
                addresses["localhost:8000"] = f"localhost:{port}"
            elif language == "sh":
                _in_terminal(code, project, **env)
            elif language == "console":
                commands = [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]
                script = "".join(f"echo {shlex.quote('$ ' + command)}\n{command}\necho\n" for command in commands)
                assert _lasting(_in_terminal(script, project, **env)) == _lasting(code)
            elif language == "sql":
                _psql(code, project, **env)


def _in_terminal(commands: str, project: Path, **env: str) -> str:
    script = f'set -e\nexport PATH="$PWD/.venv/bin:$PATH"\n{commands}'
    return run("sh", "-c", script, cwd=project, timeout=600, **env).stdout


def _psql(statements: str, project: Path, **env: str) -> None:
    answer = subprocess.run(
        ["make", "-s", "psql"],
        cwd=project,
        env=environment(**env),
        input=f"\\set ON_ERROR_STOP on\n{statements}",
        text=True,
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def _lasting(output: str) -> list[str]:
    """Return the lines of an output, with placeholders for what differs in each run."""
    for name, pattern in _VARIES.items():
        output = pattern.sub(name, output)
    return [line for line in output.splitlines() if line]


def write(project: Path, path: str, note: str, language: str, code: str) -> None:
    file = project / path
    if "…" in path:  # a command of the guide has made it
        (file,) = project.glob(path.replace("…", "*"))
    if "…" in path and language != "diff":  # the guide shows what is in it
        assert code in file.read_text(), file.read_text()
        return
    if language == "diff":
        text = file.read_text()
        for hunk in code.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] or line for line in lines if line[0] != "+")
            new = "".join(line[1:] or line for line in lines if line[0] != "-")
            assert text.count(old) == 1, f"{path} must contain this once:\n{old}\n{text}"
            text = text.replace(old, new)
    elif note.startswith(", continued"):
        text = f"{file.read_text()}\n\n{code}"
    else:
        assert not file.exists(), f"{path} exists already"
        text = code
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def fresh(project: Path, bake: Any) -> Path:
    """A fresh bake that shares the venv of the installed project."""
    baked: Path = bake()
    (baked / ".venv").symlink_to(project / ".venv")
    (baked / "uv.lock").write_bytes((project / "uv.lock").read_bytes())  # the same answers: nothing to resolve
    yield baked
    run("make", "db-stop", cwd=baked)


def test_the_first_resource(fresh: Path, uvx: Path) -> None:
    """It ends with `make check`, `make test`, and a request."""
    path = f"{uvx}:{environment()['PATH']}"
    follow("first-resource.md", fresh, TEMPLATE=str(TEMPLATE), PATH=path, **_ONLY_OF_FEATURES)


@pytest.mark.slow
def test_the_guides_to_lists_and_rows(fresh: Path, uvx: Path) -> None:
    """They end with `make check` and the tests of the features."""
    path = f"{uvx}:{environment()['PATH']}"
    for guide in ("lists.md", "rows-that-belong-together.md"):
        follow(guide, fresh, TEMPLATE=str(TEMPLATE), PATH=path)


@pytest.mark.slow
def test_removing_the_example(fresh: Path, bake: Any) -> None:
    """It ends with `make check`, `make test`, and a ready service. docs/deploying.md applies all manifests left."""
    with_manifests = bake(project_slug="with-manifests", deployment="kubernetes")
    for name in ("docs", "deploy"):
        (fresh / name).exists() and run("rm", "-r", name, cwd=fresh)
        (with_manifests / name).rename(fresh / name)
    follow("removing-the-example.md", fresh, **_ONLY_OF_FEATURES)
    applied = set(re.findall(r"-f (deploy/\S+\.yaml)", (fresh / "docs" / "deploying.md").read_text()))
    assert applied == {f"deploy/{path.name}" for path in (fresh / "deploy").glob("*.yaml")}
    code = "".join(path.read_text() for folder in ("app", "migrations") for path in (fresh / folder).rglob("*.py"))
    assert not re.search("app.users|email_validator", code)


@pytest.mark.slow
def test_rooms_are_removed_one_by_one(fresh: Path) -> None:
    """After each the checks pass. The guide on idempotency ends with `make check` and `make test`."""
    (fresh / ".venv").unlink()  # its own, without the SDK
    (fresh / "uv.lock").unlink()
    for room in ("replicas", "telemetry", "overload"):
        run("make", "remove", f"room={room}", cwd=fresh)
        run("make", "check", cwd=fresh, timeout=300)
    follow("idempotency.md", fresh, **_ONLY_OF_ROOMS)
    (migration,) = (fresh / "migrations" / "versions").glob("*_remove_idempotency_keys.py")
    assert re.findall(r'drop_table\("(\w+)"', migration.read_text()) == ["idempotency_keys"]
    assert list((fresh / "dev" / "rooms").iterdir()) == []
    code = "".join(path.read_text() for folder in ("app", "tests") for path in (fresh / folder).rglob("*.py"))
    assert not re.search(
        "app.idempotency|app.telemetry|app.database.replicas|replica_url|app.overload|internal.pool", code
    )


def test_a_room_whose_lines_have_changed_is_left_as_it_is(fresh: Path) -> None:
    changed = fresh / "app" / "startup.py"
    changed.write_text(changed.read_text().replace("telemetry(**database.engines)", "telemetry(**their_engines)"))
    before = {path: path.read_bytes() for path in fresh.rglob("*") if path.is_file() and ".venv" not in path.parts}
    for room, says in {"telemetry": "app/startup.py: these lines are not there", "tellemetry": "no such room"}.items():
        done = run("make", "remove", f"room={room}", cwd=fresh, check=False)
        assert done.returncode != 0
        assert says in done.stderr
    after = {path: path.read_bytes() for path in fresh.rglob("*") if path.is_file() and ".venv" not in path.parts}
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {
        path for path in after if "__pycache__" in path.parts
    }
    (fresh / "app" / "mine.py").write_text("from app.idempotency.dependencies import once\n")
    assert "take out app/mine.py:1: " in run("make", "remove", "room=idempotency", cwd=fresh).stdout


@pytest.mark.needs("curl")
def test_a_trace_without_docker(fresh: Path) -> None:
    """The trace of a request reaches the development collector."""
    text = blocks("observability.md")
    start, serve, request = (block.code for block in text if block.language == "sh" and "make remove" not in block.code)
    collector_port, port = free_port(), free_port()
    address = serve.split()[0].split("=")[1].replace("4318", str(collector_port))
    command = [*start.split(), "--port", str(collector_port)]
    with started(command, cwd=fresh, stdout=subprocess.PIPE) as collector:
        assert collector.stdout is not None
        assert "OTEL_EXPORTER_OTLP_ENDPOINT=" in collector.stdout.readline()
        making = [*serve.split()[1:], f"PORT={port}"]
        with serving(making, cwd=fresh, port=port, OTEL_EXPORTER_OTLP_ENDPOINT=address):
            _in_terminal(request.replace("localhost:8000", f"localhost:{port}"), fresh)
            tree = ""  # it is sent after some seconds
            while not re.search(r"POST /users.*\bCOMMIT\b", tree, re.DOTALL):
                line = collector.stdout.readline()
                tree = line if line.startswith("trace ") else tree + line
        collector.terminate()
    for name in ("db.client.connection.wait", "BEGIN", "INSERT users"):
        assert name in tree


@pytest.mark.slow
def test_the_other_guides(fresh: Path, database: str) -> None:
    """One project with the files of all of them passes `make check`."""
    server, _, name = database.removeprefix("postgresql://postgres:").rpartition("/")
    password, _, address = server.partition("@")
    here = {"postgres.example:5432/shop": f"{address}/{name}"}
    execute(database, "CREATE ROLE administrator LOGIN CREATEROLE PASSWORD 'pw'")
    execute(database, f"ALTER DATABASE {name} OWNER TO administrator")
    as_administrator = f"postgresql://administrator:pw@{address}/{name}"
    follow("several-services-in-one-database.md", fresh, here, DATABASE_URL=as_administrator)
    as_billing = f"postgresql://billing:choose-another@{address}/{name}"
    try:
        assert rows(as_billing, "SELECT * FROM orders.active_users") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            rows(as_billing, "SELECT * FROM orders.users")
        found = rows(database, "SELECT schemaname FROM pg_tables WHERE tablename = 'alembic_version' ORDER BY 1")
        assert found == [("billing",), ("orders",)]
    finally:
        execute(database, f"ALTER DATABASE {name} OWNER TO postgres")
        everybody = "orders, billing, administrator"
        execute(database, f"DROP OWNED BY {everybody} CASCADE", f"DROP ROLE {everybody}")

    here = {"postgres@postgres.example:5432": f"postgres:{password}@{address}"}
    follow("transactions-and-retries.md", fresh, here)
    follow("streams.md", fresh, here)
    follow("testing.md", fresh, here)
    follow("lost-updates.md", fresh, here)
    run("make", "check", cwd=fresh)


_LINK = re.compile(r"""(?:\]\(|(?:href|src)=")([^)"\s]+)""")


def dead_links(document: Path) -> list[str]:
    """Return the relative links of a document whose file or heading does not exist."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for link in _LINK.findall(prose):
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        if ":" not in link and not (target.exists() and (not heading or heading in _headings(target))):
            dead.append(f"{document.name}: {link}")
    return dead


def _headings(document: Path) -> list[str]:
    """Return the anchors that a forge generates for the headings."""
    titles = re.findall("^#+ (.*)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_no_relative_link_is_dead(bake: Any) -> None:
    documents = [*TEMPLATE.glob("*.md"), *TEMPLATE.glob("docs/**/*.md")]
    for deployment in ("none", "kubernetes"):
        project = bake(project_slug=f"with-{deployment}", deployment=deployment, auth="oidc")
        documents += [*project.glob("*.md"), *project.glob("docs/*.md")]
    assert len(documents) > 10
    assert [link for document in documents for link in dead_links(document)] == []
