"""What the template learns later reaches the projects that were baked before, and their users lose nothing."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import TEMPLATE, copy_template, environment
from machine import need

BEGIN, UPDATE, RECORD, LINK, ANSWER = re.findall(
    r"```sh\n(.*?)```", (TEMPLATE / "docs" / "guides" / "updating-with-cruft.md").read_text(), re.DOTALL
)
"""The steps of the guide, as they stand there."""
VERSIONS = dict(
    re.findall(r"^## (\d\S+) - .*\n\nCommit `(\w+)`", (TEMPLATE / "CHANGELOG.md").read_text(), re.MULTILINE)
)
"""The commit of each version, as the changelog names it."""
FIRST, SECOND = VERSIONS["0.1.0"], VERSIONS["0.2.0"]

NOTES = "### To do when you update"
CI_FILES = [".github", ".gitlab-ci.yml", "renovate.json"]


class Team(NamedTuple):
    """A template with two versions, named as 0.1.0 and 0.2.0 are, and a project that was baked from the first one."""

    template: Path
    project: Path
    programs: Path
    """Stands before the PATH: `uvx`, which runs what is installed here and asks no network."""

    def run(self, script: str, *, cwd: Path | None = None, typed: str = "") -> str:
        """Run commands of the guide, and return all that they print."""
        names = [f"GIT_{role}_{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")]
        env = environment(
            PATH=f"{self.programs}:{environment()['PATH']}",
            TEMPLATE=str(self.template),
            GIT_CONFIG_NOSYSTEM="1",
            GIT_CONFIG_GLOBAL=str(self.programs / "gitconfig"),
            **dict.fromkeys(names, "ada@example.com"),
        )
        ended = subprocess.run(
            ["sh", "-ec", script],
            cwd=cwd or self.project,
            env=env,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, f"{script}\n{ended.stdout}"
        return ended.stdout

    def commit(self) -> None:
        """Record what was changed by hand."""
        self.run("git add --all && git commit --quiet --message 'Our own'")


def answers(**given: str) -> str:
    """Return what a person types at the prompts; an empty line takes the default."""
    lines = []
    for name, default in json.loads((TEMPLATE / "cookiecutter.json").read_text()).items():
        if not name.startswith("_"):
            answer = given.get(name, "")
            lines.append(str(default.index(answer) + 1) if answer and isinstance(default, list) else answer)
    return "\n".join([*lines, ""])


ORDER_SERVICE = answers(project_name="Order Service", description='It\'s "ours" \\ 🚀', ci="none", deployment="docker")


def change(path: Path, before: str, after: str) -> None:
    """Replace text in a file, once."""
    assert before in path.read_text(), path
    path.write_text(path.read_text().replace(before, after, 1))


def learn(baked: Path) -> None:
    """Make the changes of version 0.2.0 in the template's folder that is baked."""
    (baked / "app" / "learnt.py").write_text('"""New in 0.2.0."""\n')
    (baked / "app" / "metadata.py").unlink()
    (baked / "app" / "errors.py").rename(baked / "app" / "faults.py")
    (baked / "app" / "scripts" / "learnt.py").write_text('"""New in 0.2.0."""\n')
    change(baked / "pyproject.toml", "\ndependencies = [\n", '\ndependencies = [\n    "aiocache>=1",\n')
    change(baked / "README.md", "\n\n", "\n\nLearnt.\n\n")
    change(baked / "app" / "health" / "routes.py", '"""', '"""Learnt: ')
    for name in ("app/main.py", "app/users/routes.py", "app/scripts/cleanup.py", "Dockerfile"):
        with (baked / name).open("a") as file:
            file.write("# Learnt in 0.2.0.\n")
    for migration in (baked / "migrations" / "versions").glob("*.py"):
        migration.write_text(migration.read_text() + "# Learnt in 0.2.0.\n")
    workflows = baked / ".github" / "workflows"
    (workflows / "learnt.yml").write_text("on: push\n")
    for workflow in workflows.iterdir():
        workflow.write_text(workflow.read_text() + "# Learnt in 0.2.0.\n")


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, uvx: Path) -> Team:
    """The first step of the guide, and then a second version of the template."""
    need("git")
    folder = tmp_path_factory.mktemp("updates")
    team = Team(folder / "template", folder / "order-service", uvx)

    team.run(
        'git init --quiet "$TEMPLATE" && export GIT_DIR="$TEMPLATE/.git"'
        f" && git --work-tree {shlex.quote(str(TEMPLATE))} add --all && git commit --quiet --message 0.1.0"
        f' && git tag {FIRST} && git --work-tree "$TEMPLATE" reset --quiet --hard',
        cwd=folder,
    )
    team.run(BEGIN, cwd=folder, typed=ORDER_SERVICE)
    learn(next(team.template.glob("{{*}}")))
    team.run(f"git add --all && git commit --quiet --message 0.2.0 && git tag {SECOND}", cwd=team.template)
    return team


def migrations(team: Team) -> dict[str, str]:
    """Return the text of each migration of the project."""
    return {path.name: path.read_text() for path in (team.project / "migrations" / "versions").glob("*.py")}


@pytest.fixture
def team(baked: Team, tmp_path: Path) -> Team:
    """A copy of the project for one test."""
    shutil.copytree(baked.project, tmp_path / "order-service")
    return baked._replace(project=tmp_path / "order-service")


@pytest.mark.parametrize(("flag", "typed"), [("", ORDER_SERVICE), ("--no-input", "")])
def test_cruft_bakes_what_cookiecutter_bakes(baked: Team, tmp_path: Path, flag: str, typed: str) -> None:
    baked.run(f'git clone --quiet --branch {FIRST} "$TEMPLATE" template 2>&1', cwd=tmp_path)
    for tool in ("cookiecutter", "cruft create"):
        baked.run(f"uvx {tool} {flag} --output-dir '{tool}' ./template", cwd=tmp_path, typed=typed)
    differences = baked.run("diff -r cookiecutter/* 'cruft create'/* || true", cwd=tmp_path)
    assert re.fullmatch(r"Only in cruft create/[a-z-]+: \.cruft\.json\n", differences)


def test_an_update_brings_what_the_template_learnt_and_keeps_what_is_the_users(team: Team) -> None:
    app = team.project / "app"
    baked_migrations = migrations(team)
    change(app / "users" / "routes.py", "Create a user.", "Create a user, our way.")
    change(app / "errors.py", "class NotFound", "class Ours(Exception):\n    pass\n\n\nclass NotFound")
    (app / "ours.py").write_text("ours = True\n")
    shutil.rmtree(app / "scripts")
    for name, text in (("pyproject.toml", "\n[tool.ours]\nkept = true\n"), ("README.md", "\nOurs.\n")):
        (team.project / name).write_text((team.project / name).read_text() + text)
    team.commit()

    team.run(UPDATE)

    assert "Learnt in 0.2.0" in (app / "main.py").read_text()
    assert (app / "learnt.py").exists()
    assert not (app / "metadata.py").exists()
    assert "Learnt in 0.2.0" in (team.project / "Dockerfile").read_text()

    routes = (app / "users" / "routes.py").read_text()
    assert "Create a user, our way." in routes
    assert "Learnt in 0.2.0" in routes
    assert not (app / "errors.py").exists()
    assert "class Ours" in (app / "faults.py").read_text(), "what was changed in a file goes with it to its new name"
    assert (app / "ours.py").exists()
    declared = tomllib.loads((team.project / "pyproject.toml").read_text())
    assert declared["tool"]["ours"] == {"kept": True}
    assert "aiocache>=1" in declared["project"]["dependencies"]
    readme = (team.project / "README.md").read_text()
    assert "\n\nLearnt.\n\n" in readme
    assert readme.endswith("\nOurs.\n")

    assert migrations(team) == baked_migrations, "migrations are the project's own"
    assert not (app / "scripts").exists(), "what its user removed does not come back"
    assert [name for name in CI_FILES if (team.project / name).exists()] == [], "nor what was never chosen"
    conflict_free = team.run("git diff HEAD --name-only --diff-filter=U && git diff HEAD --check")
    assert conflict_free == ""

    assert "up to date" in team.run(RECORD)
    assert "Nothing to do" in team.run("uvx cruft update --skip-apply-ask")


def test_a_project_of_version_0_1_0_keeps_its_migrations_by_one_command(team: Team) -> None:
    released = migrations(team)
    change(team.project / "pyproject.toml", "[tool.cruft]\nskip", "[tool.before-0-2-0]\nskip")
    team.commit()
    team.run(UPDATE)
    assert migrations(team) != released
    (restore,) = set(re.findall(r"`(git restore [^`]*)`", (TEMPLATE / "CHANGELOG.md").read_text()))
    team.run(restore)
    assert migrations(team) == released
    assert "migrations" not in team.run("git status --short")


def test_a_conflict_is_marked_in_the_file(team: Team) -> None:
    change(team.project / "app" / "health" / "routes.py", '"""', '"""Ours: ')
    team.commit()
    printed = team.run(UPDATE)
    assert "Applied patch to 'app/health/routes.py' with conflicts." in printed
    assert "UU app/health/routes.py" in printed
    text = (team.project / "app" / "health" / "routes.py").read_text()
    assert re.search(r"<<<<<<< .*\n\"\"\"Ours: .*\n=======\n\"\"\"Learnt: .*\n>>>>>>> ", text)
    assert (team.project / "app" / "learnt.py").exists(), "the rest of the update is there"


def test_a_conflict_is_a_rej_file_where_git_never_saw_what_was_baked(team: Team) -> None:
    shutil.rmtree(team.project / ".git")
    change(team.project / "app" / "health" / "routes.py", '"""', '"""Ours: ')
    team.run("git init --quiet")
    team.commit()
    printed = team.run(UPDATE)
    assert "Applying patch app/health/routes.py with 1 reject..." in printed
    assert "?? app/health/routes.py.rej" in printed
    assert '"""Ours: ' in (team.project / "app" / "health" / "routes.py").read_text()
    assert '+"""Learnt: ' in (team.project / "app" / "health" / "routes.py.rej").read_text()
    assert (team.project / "app" / "learnt.py").exists(), "the rest of the update is there"


def test_a_file_that_the_template_dropped_and_its_user_changed_is_kept_and_named(team: Team) -> None:
    change(team.project / "app" / "metadata.py", '"""', '"""Ours: ')
    team.commit()
    printed = team.run(UPDATE)
    assert "error: app/metadata.py: patch does not apply" in printed
    assert '"""Ours: ' in (team.project / "app" / "metadata.py").read_text()
    assert (team.project / "app" / "learnt.py").exists(), "the rest of the update is there"


def test_a_project_that_was_baked_with_cookiecutter_is_linked_and_then_updated(team: Team) -> None:
    created = (team.project / ".cruft.json").read_text()
    team.run("git rm --quiet .cruft.json && git commit --quiet --message 'As cookiecutter bakes it'")
    team.run(LINK, typed=ORDER_SERVICE + "\n")
    assert (team.project / ".cruft.json").read_text() == created
    team.run(UPDATE)
    assert (team.project / "app" / "learnt.py").exists()


def test_an_answer_is_changed_later(team: Team) -> None:
    team.run(UPDATE)
    team.run(RECORD)
    assert not (team.project / "deploy" / "service.yaml").exists()
    team.run(ANSWER)
    assert (team.project / "deploy" / "service.yaml").exists()
    assert not (team.project / ".github").exists()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, uvx: Path) -> Team:
    """The template with its history, and what is here as its newest commit. No project is baked yet."""
    need("git")
    folder = tmp_path_factory.mktemp("history")
    team = Team(folder / "template", folder / "fastapi-service", uvx)
    (uvx / "gitconfig").write_text("[safe]\n\tdirectory = *\n")  # the clone that is tested may be another user's
    if "false" not in team.run("git rev-parse --is-shallow-repository || true", cwd=TEMPLATE):
        pytest.skip("needs the template's history (in a clone: git fetch --unshallow)")
    team.run(f'git clone --quiet --no-checkout {shlex.quote(str(TEMPLATE))} "$TEMPLATE"', cwd=folder)
    copied = folder / "copied"
    copy_template(copied)
    team.run(
        f'export GIT_DIR="$TEMPLATE/.git" && git --work-tree {shlex.quote(str(copied))} add --all'
        ' && git commit --quiet --allow-empty --message "What is here"'
        ' && git --work-tree "$TEMPLATE" reset --quiet --hard',
        cwd=folder,
    )
    return team


@pytest.mark.parametrize("version", VERSIONS)
def test_the_changelog_names_the_commit_of_a_version(history: Team, version: str) -> None:
    told = history.run(f"git show {VERSIONS[version]}:pyproject.toml", cwd=history.template)
    assert tomllib.loads(told)["project"]["version"] == version
    history.run(f"git merge-base --is-ancestor {VERSIONS[version]} HEAD", cwd=history.template)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_project_of_each_version_becomes_what_is_baked_today(history: Team, tmp_path: Path, version: str) -> None:
    """If nothing was changed in it; its migrations are its own, and 0.1.0 did not know that yet."""
    team = history._replace(project=tmp_path / "old" / "fastapi-service")
    create = 'uvx cruft create --no-input "$TEMPLATE" --output-dir'
    team.run(f"{create} old --checkout {VERSIONS[version]} && {create} new", cwd=tmp_path)
    team.run("git init --quiet")
    team.commit()
    team.run("uvx cruft update --skip-apply-ask")
    differences = team.run("diff -r --exclude=.git --exclude=versions . ../../new/fastapi-service || true")
    assert differences == ""


def test_the_changelog_has_this_version_and_says_what_to_do_for_the_next() -> None:
    sections = re.split(r"^## ", (TEMPLATE / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["version"]
    assert version in [section.split()[0] for section in sections]
    assert NOTES in sections[0]
