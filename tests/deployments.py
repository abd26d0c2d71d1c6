"""Reads the deployment files of a baked project with the official tools."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from commands import run
from ruamel.yaml import YAML

SLUG = "order-service"


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def load(path: Path) -> list[Any]:
    """Return the documents of a file; a duplicate key is an error."""
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def manifests_of(project: Path) -> dict[str, Any]:
    """Return all objects, by kind: there is one of each."""
    documents = [document for path in sorted((project / "deploy").glob("*.yaml")) for document in load(path)]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def pods(manifests: dict[str, Any]) -> dict[str, Any]:
    """Return the three pod templates, by the kind of their owner."""
    return {
        "Deployment": manifests["Deployment"]["spec"]["template"],
        "Job": manifests["Job"]["spec"]["template"],
        "CronJob": manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    }


def container(pod: Any) -> Any:
    (only,) = pod["spec"]["containers"]
    assert "initContainers" not in pod["spec"]
    return only


def compose(project: Path, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    return run(tool("docker-compose"), *arguments, cwd=project, check=check, **env)
