"""What the template learns later reaches the projects that copier made before, and their users lose nothing unseen."""

import os
import pty
import re
import shutil
import subprocess
import tty
from pathlib import Path
from typing import NamedTuple

import pytest
from bakes import bake
from commands import TEMPLATE, environment
from machine import need
from ruamel.yaml import YAML

GUIDE = (TEMPLATE / "docs" / "guides" / "updating.md").read_text()
BEGIN, UPDATE, RECORD, ANSWER, ADOPT = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
"""The steps of the guide, as they stand there."""

ANSWERS_FILE = ".copier-answers.yml"


class Team(NamedTuple):
    """A template with the versions 0.3.0 and 0.4.0 at a public address, and a project that was made from the first."""

    template: Path
    project: Path
    programs: Path
    """Stands before the PATH: `uvx`, which runs what is installed here and asks no network."""

    def run(self, script: str, *, cwd: Path | None = None, typed: str = "", status: int = 0) -> str:
        """Run commands of the guide, and return all that they print. What is typed at the prompts is typed ahead."""
        names = [f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")]
        public = {
            "GIT_CONFIG_KEY_0": f"url.{self.template}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/owner/name.git",
        }
        env = environment(
            PATH=f"{self.programs}:{environment()['PATH']}",
            TEMPLATE="gh:owner/name",
            COPIER_CACHE_DIR=str(self.template.with_name("cache")),
            GIT_CONFIG_NOSYSTEM="1",
            GIT_CONFIG_COUNT="1",
            **public,
            **dict.fromkeys(names, "ada@example.com"),
        )
        keyboard, terminal = pty.openpty()
        tty.setraw(terminal)  # the prompt reads the keys as they are
        os.write(keyboard, typed.encode())
        try:
            ended = subprocess.run(
                ["sh", "-ec", script],
                cwd=cwd or self.project,
                env=env,
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert ended.returncode == status, f"{script}\n{ended.stdout}"
        return ended.stdout

    def commit(self, message: str = "Our own") -> None:
        """Record what was changed by hand."""
        self.run(f"git add --all && git commit --quiet --message '{message}'")

    def read(self, name: str) -> str:
        """Return a file of the project."""
        return (self.project / name).read_text()


def change(path: Path, before: str, after: str) -> None:
    """Replace text in a file, once."""
    assert before in path.read_text(), path
    path.write_text(path.read_text().replace(before, after, 1))


def append(path: Path, line: str) -> None:
    """Add a line to the end of a file."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def learn(template: Path) -> None:
    """Make the changes of version 0.4.0."""
    folder = next(template.glob("{{*}}"))
    (folder / "app" / "learnt.py").write_text('"""New in 0.4.0."""\n')
    (folder / "app" / "metadata.py").unlink()
    (folder / "app" / "errors.py").rename(folder / "app" / "faults.py")
    change(folder / "app" / "health" / "routes.py", '"""', '"""Learnt: ')
    change(folder / "pyproject.toml", "\ndependencies = [\n", '\ndependencies = [\n    "aiocache>=1",\n')
    for name in (
        "app/main.py",
        "app/users/routes.py",
        "app/scripts/cleanup.py",
        "Dockerfile",
        ".github/workflows/ci.yml",
    ):
        append(folder / name, "# Learnt in 0.4.0.")
    (migration,) = (folder / "migrations" / "versions").glob("*.py")
    append(migration, "# Learnt in 0.4.0.")
    shutil.copy2(migration, migration.with_name("20260202_learnt.py"))
    append(template / "copier.yml", "region:\n  type: str\n  help: New in 0.4.0\n  default: eu")
    for name in ("README.md", "{{cookiecutter.__auth_none}}/tests/callers.py"):
        append(folder / name, "# Learnt in 0.4.0.")


def typed(**answers: str) -> str:
    """Return the keys for all prompts: an answer in place of the default, or Enter alone."""
    asked = [name for name in YAML(typ="safe").load((TEMPLATE / "copier.yml").read_text()) if name[0] != "_"]
    asked.remove("cookiecutter")  # it is computed
    return "".join(f"\x15{answers[name]}\r" if name in answers else "\r" for name in asked)


ORDER_SERVICE = typed(project_name="Order Service", description='It\'s "ours" \\ {0}')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, uvx: Path) -> Team:
    """The first step of the guide, and then a second version of the template."""
    need("git")
    folder = tmp_path_factory.mktemp("updates")
    team = Team(folder / "template", folder / "order-service", uvx)
    team.run(
        f'git init --quiet template && export GIT_DIR="$PWD/template/.git" && git --work-tree {TEMPLATE} add --all'
        " && git commit --quiet --message 0.3.0 && git tag 0.3.0 && git --work-tree template reset --quiet --hard",
        cwd=folder,
    )
    team.run(BEGIN, cwd=folder, typed=ORDER_SERVICE)
    learn(team.template)
    team.run("git add --all && git commit --quiet --message 0.4.0 && git tag 0.4.0", cwd=team.template)
    return team


@pytest.fixture
def team(made: Team, tmp_path: Path) -> Team:
    """A copy of the project for one test."""
    shutil.copytree(made.project, tmp_path / "order-service")
    return made._replace(project=tmp_path / "order-service")


def test_an_update_brings_what_the_template_learnt_and_keeps_what_is_the_users(team: Team) -> None:
    """One update with everything at once; then an answer is changed."""
    app = team.project / "app"
    migrations = {path.name: path.read_text() for path in (team.project / "migrations" / "versions").iterdir()}
    change(app / "users" / "routes.py", "Create a user.", "Create a user, our way.")
    change(app / "health" / "routes.py", '"""', '"""Ours: ')
    append(app / "errors.py", "OURS = 1")
    append(app / "metadata.py", "OURS = 2")
    (app / "ours.py").write_text("ours = True\n")
    shutil.rmtree(app / "scripts")
    append(team.project / "pyproject.toml", "\n[tool.ours]\nkept = true")
    team.commit()

    printed = team.run(UPDATE, typed="\x15us\r", status=2)

    for name in ("app/main.py", "app/users/routes.py", "Dockerfile", ".github/workflows/ci.yml", "tests/callers.py"):
        assert team.read(name).endswith("# Learnt in 0.4.0.\n"), name
    assert (app / "learnt.py").exists()
    assert "Create a user, our way." in team.read("app/users/routes.py")
    assert "aiocache>=1" in team.read("pyproject.toml")
    assert team.read("pyproject.toml").endswith("\n[tool.ours]\nkept = true\n")
    assert (app / "ours.py").exists()
    assert not (app / "scripts").exists(), "what its user removed does not come back"
    now = {path.name: path.read_text() for path in (team.project / "migrations" / "versions").iterdir()}
    assert now == migrations, "migrations are the project's own"
    assert not (team.project / "deploy" / "service.yaml").exists(), "nor what was never chosen"
    assert YAML(typ="safe").load(team.read(ANSWERS_FILE))["region"] == "us", "a new question is asked"

    conflict = r"<<<<<<< .*\n\"\"\"Ours: .*\n=======\n\"\"\"Learnt: .*\n>>>>>>> "
    assert re.search(conflict, team.read("app/health/routes.py"))
    dropped, _, conflicts = printed.partition("app/health/routes.py:1: leftover conflict marker\n")
    assert set(re.findall(r"^(\S+?):\d+:", conflicts, re.MULTILINE)) == {"app/health/routes.py"}
    assert "\nR  app/errors.py -> app/faults.py\n" in dropped
    assert {"-OURS = 1", "-OURS = 2"} <= set(dropped.splitlines()), "what a rename or a deletion dropped is shown"
    (restore,) = re.findall(r"`(git restore .*) path`", GUIDE)
    team.run(f"{restore} app/metadata.py")
    assert "OURS = 2" in team.read("app/metadata.py")

    team.run(RECORD)
    team.run(ANSWER)
    assert (team.project / "deploy" / "service.yaml").exists()
    assert "# Learnt in 0.4.0." in team.read("app/main.py")
    kept = YAML(typ="safe").load(team.read(ANSWERS_FILE))
    assert (kept["_commit"], kept["_src_path"], kept["deployment"]) == ("0.4.0", "gh:owner/name", "kubernetes")


def test_a_project_of_cookiecutter_or_cruft_goes_on_with_copier(team: Team, tmp_path: Path) -> None:
    """Nothing but the answers is written, and the next update finds what the template has learnt."""
    created = team.read(ANSWERS_FILE)
    baked = bake(tmp_path / "baked", project_name="Order Service", description='It\'s "ours" \\ {0}')
    append(baked / "app" / "errors.py", "OURS = 1")
    (baked / ".cruft.json").write_text("{}")
    team = team._replace(project=baked)
    team.run("git init --quiet")
    team.commit()
    team.run(ADOPT, typed=ORDER_SERVICE)
    assert team.read(ANSWERS_FILE) == created
    assert "project_name: Order Service\n" in created
    assert team.run("git show --format= --name-status").split() == ["A", ANSWERS_FILE, "D", ".cruft.json"]
    team.run("uvx copier check-update --quiet", status=2)
    team.run("uvx copier update --defaults --quiet")
    assert (team.project / "app" / "learnt.py").exists()


def test_a_template_without_tags_is_copied_and_updated_too(made: Team, tmp_path: Path) -> None:
    """Its latest commit is the version. What nobody has changed is what a new project of that version gets."""
    team = made._replace(template=tmp_path / "template", project=tmp_path / "old")
    team.run(f"git clone --quiet --no-tags {made.template} template", cwd=tmp_path)
    team.run("git reset --quiet --hard HEAD~1", cwd=team.template)
    answers = "--defaults --quiet --data auth=oidc"
    team.run(f'uvx copier copy {answers} "$TEMPLATE" old && cd old && git init --quiet', cwd=tmp_path)
    team.commit()
    team.run("git pull --quiet --no-tags", cwd=team.template)
    team.run("uvx copier update --defaults --quiet --vcs-ref HEAD --data ci=gitlab")
    team.run(f'uvx copier copy {answers} --vcs-ref HEAD --data ci=gitlab "$TEMPLATE" new', cwd=tmp_path)
    differences = team.run("diff --recursive --exclude .git old new || true", cwd=tmp_path)
    names = re.findall(r"^(?:diff .* |Only in )(\S+)", differences, re.MULTILINE)
    assert names == ["new/migrations/versions/20260101_0000_4b7d0c9f2a11_create_users.py", "new/migrations/versions:"]
