"""Any two answers together bake into a project whose files are whole; a few that cover all options run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bakes import BAREST, HARD_TEXTS, OPTIONS, RAW, bake, data, files, pairs
from commands import TEMPLATE, environment, run
from jinja2 import Environment
from jinja2.nodes import CondExpr, Getattr, If, Node

Bakes = list[tuple[dict[str, str], Path]]

OPTIONAL = {
    ".github/": lambda chosen: chosen["ci"] == "github",
    ".gitlab-ci.yml": lambda chosen: chosen["ci"] == "gitlab",
    "renovate.json": lambda chosen: chosen["ci"] == "gitlab",
    "Dockerfile": lambda chosen: chosen["deployment"] != "none",
    ".dockerignore": lambda chosen: chosen["deployment"] != "none",
    "compose.yaml": lambda chosen: chosen["deployment"] != "none",
    "deploy/observability/": lambda chosen: chosen["deployment"] != "none",
    **{
        f"deploy/{name}.yaml": lambda chosen: chosen["deployment"] == "kubernetes"
        for name in ("cleanup", "config", "migrate", "service")
    },
    "dev/issuer.py": lambda chosen: chosen["auth"] == "oidc",
    "{{cookiecutter.__auth_none}}/": lambda chosen: chosen["auth"] == "none",
    "{{cookiecutter.__auth_oidc}}/": lambda chosen: chosen["auth"] == "oidc",
    "{{cookiecutter.__answers_file}}": lambda chosen: False,
}
BY_AUTH = {
    *("app/auth/__init__.py", "app/auth/dependencies.py", "app/auth/options.py", "tests/callers.py"),
    *("Makefile", "pyproject.toml"),
}
"""Files that are there in any case, and differ with the answer to ``auth``."""
LICENSES = {
    "MIT": "MIT License",
    "Apache-2.0": "Apache License",
    "BSD-3-Clause": "BSD 3-Clause",
    "proprietary": "All rights reserved",
}
DEFAULT = {name: choices[0] for name, choices in OPTIONS.items()}
TO_CHECK = [
    {"ci": "gitlab", "deployment": "kubernetes", "license": "Apache-2.0", "python_version": "3.14", "auth": "none"},
    {"ci": "gitlab", "deployment": "docker", "license": "BSD-3-Clause", "python_version": "3.12", "auth": "none"},
]


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the template's own venv."""
    return run(str(Path(sys.executable).with_name(str(command[0]))), *map(str, command[1:]), cwd=TEMPLATE)


def placed(name: str) -> str:
    """Return where a file of the template stands in a project: a folder for one answer is not seen there."""
    return name.partition("/")[2] if name.startswith("{{") else name


@pytest.fixture(scope="module")
def bakes(tmp_path_factory: pytest.TempPathFactory) -> Bakes:
    """Combinations in which any two answers meet, each with the project that was baked from it."""
    folder = tmp_path_factory.mktemp("bakes")
    return [(chosen, bake(folder / "-".join(chosen.values()), **chosen)) for chosen in pairs()]


def distinct(bakes: Bakes, name: str) -> list[Path]:
    """Return a file of all bakes, each content once."""
    found = {path.read_bytes(): path for _, project in bakes if (path := project / name).exists()}
    assert found, name
    return list(found.values())


def answers_of(node: Node, above: frozenset[str] = frozenset()) -> Iterator[frozenset[str]]:
    """Yield for each part of a file the questions on whose answers it depends."""
    if isinstance(node, If | CondExpr):
        above |= {asked.attr for asked in node.test.find_all(Getattr) if asked.attr in OPTIONS}
    yield above
    for child in node.iter_child_nodes():
        yield from answers_of(child, above)


def test_no_condition_depends_on_more_than_two_answers() -> None:
    """So combinations in which any two answers meet speak for all."""
    found: set[frozenset[str]] = set()
    for path in files(RAW).values():
        found.update(answers_of(Environment().parse(path.read_text())))  # noqa: S701  # nothing is rendered
    assert frozenset({"ci", "deployment"}) in found
    assert [answers for answers in found if len(answers) > 2] == []


def test_an_option_adds_and_removes_whole_files(bakes: Bakes) -> None:
    for chosen, project in bakes:
        left_out = tuple(name for name, wanted in OPTIONAL.items() if not wanted(chosen))
        wanted = [placed(name) for name in files(RAW) if not name.startswith(left_out)]
        assert sorted(files(project)) == sorted(wanted), chosen
        assert not [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())], chosen
    for name in OPTIONAL:
        assert any(file.startswith(name) for file in files(RAW)), name


def test_all_files_parse_and_no_jinja_is_left(bakes: Bakes) -> None:
    for chosen, project in bakes:
        parsed = data(project)
        assert parsed["pyproject.toml"][0]["project"]["license"] == {"proprietary": "LicenseRef-Proprietary"}.get(
            chosen["license"], chosen["license"]
        )
        assert LICENSES[chosen["license"]] in (project / "LICENSE").read_text()
        for name, path in files(project).items():
            assert not re.search(r"cookiecutter\.|\{%|(?<!\$)\{\{", path.read_text()), (chosen, name)


def test_lint_and_format_hold_unfixed(bakes: Bakes) -> None:
    """In all of them, with the rules of each project's own pyproject.toml, which is itself among the files checked."""
    folder = str(Path(os.path.commonpath([project for _, project in bakes])))
    tool("ruff", "check", "--no-cache", folder)
    tool("ruff", "format", "--no-cache", "--check", folder)


def test_what_runs_depends_on_one_option_alone(bakes: Bakes) -> None:
    """So the few whose tests are run speak for all: but for the licence's name, they read the same bytes.

    Authentication changes the files that it names, and no other.
    """
    running = ("app/", "dev/", "migrations/", "tests/", "Makefile", "pyproject.toml")

    def read(project: Path) -> dict[str, bytes]:
        return {
            name: re.sub(rb'\nlicense = ".*"\n', b"\n", path.read_bytes())
            for name, path in files(project).items()
            if name.startswith(running)
        }

    first = {chosen["auth"]: read(project) for chosen, project in bakes}
    for chosen, project in bakes:
        assert read(project) == first[chosen["auth"]], chosen
    without, with_auth = (first[answer] for answer in OPTIONS["auth"])
    assert len(without) > 50
    assert {name for name in without if without[name] != with_auth[name]} == BY_AUTH
    assert with_auth.keys() - without.keys() <= {"dev/issuer.py"} | set(map(placed, files(RAW))) - set(files(RAW))


def test_github_accepts_its_files(bakes: Bakes) -> None:
    """Those of this repository too."""
    workflows = [TEMPLATE / ".github/workflows/ci.yml", *distinct(bakes, ".github/workflows/ci.yml")]
    updates = [TEMPLATE / ".github/dependabot.yml", *distinct(bakes, ".github/dependabot.yml")]
    tool("actionlint", "-no-color", "-shellcheck=", "-pyflakes=", *workflows)
    tool("zizmor", "--quiet", "--offline", "--persona", "pedantic", *workflows, *updates)
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    tool("check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", *workflows)
    tool("check-jsonschema", "--builtin-schema", "vendor.dependabot", *updates)
    *forms, config = sorted((TEMPLATE / ".github/ISSUE_TEMPLATE").iterdir(), key=lambda path: path.name == "config.yml")
    tool("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)
    tool("check-jsonschema", "--builtin-schema", "vendor.github-issue-config", config)


def test_gitlab_accepts_its_file_and_renovate_the_other(bakes: Bakes) -> None:
    gitlab = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    tool("check-jsonschema", *gitlab, *distinct(bakes, ".gitlab-ci.yml"))
    tool("check-jsonschema", "--builtin-schema", "vendor.renovate", *distinct(bakes, "renovate.json"))


def test_both_services_run_the_same_jobs(bakes: Bakes) -> None:
    """On all Pythons, the chosen one first, and on PostgreSQL from the oldest major that the service promises."""
    majors = ["19", "18", "17", "16", "15"]
    targets = set(re.findall(r"^([a-z-]+):", (RAW / "Makefile").read_text(), re.M))
    for chosen, project in bakes:
        if chosen["ci"] == "none":
            continue
        if chosen["ci"] == "github":
            jobs = data(project)[".github/workflows/ci.yml"][0]["jobs"]
            pythons = jobs["test"]["strategy"]["matrix"]["python"]
            postgresqls = jobs["test-postgresql"]["strategy"]["matrix"]["postgresql"]
            typed = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        else:
            jobs = {
                name: job
                for name, job in data(project)[".gitlab-ci.yml"][0].items()
                if name not in {"workflow", "variables", "default"}
            }
            pythons = jobs["test"]["parallel"]["matrix"][0]["UV_PYTHON"]
            postgresqls = jobs["test-postgresql"]["parallel"]["matrix"][0]["POSTGRESQL"]
            typed = [line for job in jobs.values() for line in job["script"]]
        image = ["build-image"] if chosen["deployment"] != "none" else []
        assert list(jobs) == ["check", "test", "test-postgresql", *image, "audit"], chosen
        assert pythons[0] == chosen["python_version"]
        assert sorted(pythons) == sorted(OPTIONS["python_version"])
        assert postgresqls == majors
        made = [line.removeprefix("make ") for line in typed if line.startswith("make ")]
        assert made == ["check", "openapi", "test-all", "test-all", "audit"]
        assert set(made) <= targets


def test_the_template_pins_the_actions_that_it_hands_out(bakes: Bakes) -> None:
    """Dependabot sees only this repository's own workflow: what it bumps there is to be bumped in the other one."""

    def pins(path: Path) -> set[str]:
        used = re.findall(r"uses: (\S+)@(\S+) # (v[\d.]+)$", path.read_text(), re.M)
        assert len(used) == path.read_text().count("uses:")
        assert all(re.fullmatch("[0-9a-f]{40}", commit) for _, commit, _ in used)
        return {" ".join(pin) for pin in used}

    ours = pins(TEMPLATE / ".github/workflows/ci.yml")
    for path in distinct(bakes, ".github/workflows/ci.yml"):
        assert pins(path) <= ours


@pytest.mark.needs("git")
def test_a_commit_is_formatted_by_the_projects_own_tools(project: Path, tmp_path: Path) -> None:
    new = bake(tmp_path)
    (new / ".venv").symlink_to(project / ".venv")
    programs = Path(sys.executable).parent
    env = {"PATH": os.pathsep.join([str(programs), environment()["PATH"]]), "GIT_CONFIG_GLOBAL": os.devnull}
    env |= {f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("git", *arguments, cwd=new, check=check, **env)

    git("init", "--quiet", "--initial-branch=main")
    run("pre-commit", "install", cwd=new, **env)
    git("add", "--all")
    git("commit", "--quiet", "--message=As baked")
    metadata = new / "app" / "metadata.py"
    clean = metadata.read_text()
    metadata.write_text(clean.replace('"""\n', '"""\nimport os\n', 1) + "X = {  }\n")
    git("add", "--all")
    refused = git("commit", "--message=Untidy", check=False)
    assert refused.returncode == 1
    assert metadata.read_text() == clean + "X = {}\n"
    git("add", "--all")
    git("commit", "--quiet", "--message=Tidy")


@pytest.mark.parametrize("chosen", TO_CHECK, ids=lambda chosen: "-".join(chosen.values()))
def test_projects_of_other_options_pass_their_own_checks(project: Path, tmp_path: Path, chosen: dict[str, str]) -> None:
    """They share one venv: what is installed depends on no option."""
    new = bake(tmp_path, **chosen, **HARD_TEXTS)
    (new / ".venv").symlink_to(project / ".venv")
    run("make", "check", cwd=new)


def test_each_choice_of_each_option_is_among_those_that_run() -> None:
    """The default runs its checks and tests in test_project and test_bare_machine, the barest in test_dependencies."""
    for option, choices in OPTIONS.items():
        assert {chosen[option] for chosen in (DEFAULT, BAREST, *TO_CHECK)} == set(choices)
