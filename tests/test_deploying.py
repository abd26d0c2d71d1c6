"""The commands of a project's docs/deploying.md, typed as they stand there."""

import json
import os
import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit

import pytest
from commands import environment, run
from deployments import SLUG, compose, container, load, manifests_of, pods
from services import program
from sql import execute


def page_blocks(project: Path, language: str) -> list[str]:
    """Return the code of the page on deploying."""
    page = (project / "docs" / "deploying.md").read_text()
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [dedent(block) for _, block in blocks]


def test_the_commands_of_the_page_work_on_a_baked_project(bake: Any, tmp_path: Path) -> None:
    """With stand-ins for docker and the others, which only write down what they are told."""
    project = bake(project_slug=SLUG, deployment="kubernetes")
    manifests = manifests_of(project)
    log = tmp_path / "log"
    for name in ("curl", "docker", "kubectl", "make"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {shlex.quote(str(log))}\n')
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{environment()['PATH']}"
    (project / "backup.dump").touch()
    passwords = {"DATABASE_PASSWORD": "pw", "REGISTRY_USER": "user", "REGISTRY_PASSWORD": "pw"}
    for block in page_blocks(project, "sh"):
        run("sh", "-euc", block, cwd=project, PATH=path, **passwords)

    told = log.read_text().splitlines()
    for line in told:
        for file in re.findall(r"-f (\S+)", line):
            assert (project / file).is_file(), line
        for kind, name in re.findall(r"\b(job|deployment)[ /](\S+)", line):
            assert name == manifests[kind.title()]["metadata"]["name"], line
        for service in re.findall(r"(?:run --rm|exec -T) (\w+)", line):
            assert service in load(project / "compose.yaml")[0]["services"], line
    address = urlsplit(next(line for line in told if line.startswith("curl")).split()[-1])
    assert address.path == "/health/ready"
    ports = load(project / "compose.yaml")[0]["services"]["app"]["ports"]
    assert [port.replace("${PORT:-8000}", "8000").rpartition(":")[0] for port in ports] == [address.netloc]
    assert f"kubectl create secret generic {SLUG} --from-literal=DATABASE_PASSWORD=pw" in told
    order = [
        *("kubectl delete job", "kubectl apply -f deploy/migrate.yaml", "kubectl wait job/"),
        *("kubectl apply -f deploy/service.yaml", "kubectl rollout status"),
    ]
    at = [next(number for number, line in enumerate(told) if line.startswith(begin)) for begin in order]
    assert at == sorted(at)
    applied = {file for line in told for file in re.findall(r"-f deploy/(\S+)", line)}
    assert applied == {path.name for path in (project / "deploy").glob("*.yaml")}

    pushed = next(line for line in told if line.startswith("docker push")).split()[-1]
    assert pushed != container(pods(manifests)["Job"])["image"]
    for file in (project / "deploy").glob("*.yaml"):
        assert set(re.findall(r"image: (.*)", file.read_text())) <= {pushed}
    resolved = json.loads(compose(project, "config", "--format", "json").stdout)
    postgres, secret = resolved["services"]["postgres"], resolved["secrets"]["postgres_password"]
    assert len(Path(secret["file"]).read_text().strip()) == 64
    assert Path(secret["file"]).stat().st_mode & 0o777 == 0o644  # the image's user reads it
    assert Path(secret["file"]).parent.stat().st_mode & 0o777 == 0o700
    for line in told:
        for name in re.findall(r"(?:pg_dump|createdb|dropdb) .* (\w+)$|--(?:username|dbname)=(\w+)", line):
            assert "".join(name) == postgres["environment"]["POSTGRES_USER"], line


@pytest.mark.parametrize("slug", [SLUG, "order"])
def test_the_role_of_the_page_may_migrate_and_work(bake: Any, project: Path, database: str, slug: str) -> None:
    """And it is the role, and the database, that the manifests name, a word of SQL too. Its maker is no superuser."""
    deployed = bake(project_slug=slug, deployment="kubernetes")
    (config,) = load(deployed / "deploy" / "config.yaml")
    server, told = urlsplit(database), urlsplit(config["data"]["DATABASE_URL"])

    def url(role: str | None, password: str, path: str) -> str:
        return server._replace(netloc=f"{role}:{password}@{server.netloc.rpartition('@')[2]}", path=path).geturl()

    administrator = f"administrator_{os.urandom(6).hex()}"
    execute(database, f"CREATE ROLE {administrator} LOGIN CREATEROLE CREATEDB PASSWORD 'pw'")
    (block,) = page_blocks(deployed, "sql")
    for statement in re.findall(r"[^;\n][^;]*;", block):  # one at a time: a database is not made in a transaction
        execute(url(administrator, "pw", server.path), statement)
    for command in (["alembic", "upgrade", "head"], ["python", "-m", "app.scripts.cleanup"]):
        address = url(told.username, "choose-one", told.path)
        run(program(project, command[0]), *command[1:], cwd=project, DATABASE_URL=address)
