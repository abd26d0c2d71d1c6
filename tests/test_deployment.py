"""The files of a deployment, and what they must hold."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
from bakes import bake as bake_into
from commands import TEMPLATE, run
from deployments import SLUG, compose, container, load, manifests_of, pods, tool
from services import program

OLDEST_KUBERNETES = "1.30"  # the guide promises it; before that there is no preStop sleep
GUIDE = TEMPLATE / "docs" / "guides" / "deploying.md"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all files of a deployment. Nothing is installed in it."""
    return bake_into(tmp_path_factory.mktemp("deployed"), project_slug=SLUG, deployment="kubernetes")


@pytest.fixture(scope="module")
def manifests(deployed: Path) -> dict[str, Any]:
    return manifests_of(deployed)


# --- the image ---


def test_hadolint_finds_nothing_in_the_dockerfile(deployed: Path) -> None:
    run(tool("hadolint"), "Dockerfile", cwd=deployed)


@pytest.mark.parametrize("python", ["3.11", "3.14"])
def test_the_image_is_of_the_python_that_was_asked_for(bake: Any, python: str) -> None:
    bases = re.findall(r"^FROM (\S+)", (bake(python_version=python) / "Dockerfile").read_text(), re.MULTILINE)
    assert bases == [f"python:{python}-slim"] * 2


def test_no_image_is_named_without_a_version(deployed: Path) -> None:
    named = [
        image
        for path in [deployed / "Dockerfile", deployed / "compose.yaml", *(deployed / "deploy").rglob("*.yaml")]
        for image in re.findall(r"^ *(?:FROM|image:) (\S+)", path.read_text(), re.MULTILINE)
    ]
    assert len(named) == 10
    for image in named:
        assert re.fullmatch(r"[a-z.-]+(/[a-z-]+)?:v?\d\S*", image), image


# --- compose ---


def test_the_compose_file_is_valid_by_the_specification(deployed: Path) -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=deployed)


@pytest.mark.parametrize("password", [{}, {"POSTGRES_PASSWORD_FILE": ""}])
def test_compose_refuses_to_run_without_a_password_and_says_what_to_do(
    deployed: Path, password: dict[str, str]
) -> None:
    refused = compose(deployed, "config", check=False, **password)
    assert refused.returncode != 0
    assert "POSTGRES_PASSWORD_FILE" in refused.stderr
    assert "set it in .env or in the environment" in refused.stderr


def test_of_env_only_the_password_reaches_the_containers(bake: Any) -> None:
    """The line of `make db` is meant for this machine, and would name a server that no container finds."""
    project = bake(project_slug=SLUG)
    (project / ".env").write_text(
        "DATABASE_URL=postgresql://u:leaked@127.0.0.1:1/x  # make db\nDATABASE_PASSWORD=leaked\n"
        "DATABASE_POOL_SIZE=leaked\nPOSTGRES_PASSWORD_FILE=.secrets/postgres\n"
    )
    resolved = compose(project, "config", "--format", "json").stdout
    assert "leaked" not in resolved
    services = json.loads(resolved)["services"]
    for name in ("app", "migrate"):
        assert services[name]["environment"] == {
            "DATABASE_URL": "postgresql://order_service@postgres/order_service",
            "DATABASE_PASSWORD_FILE": "/run/secrets/postgres_password",
            "FORWARDED_ALLOW_IPS": "172.16.0.0/12,192.168.0.0/16",
        }
    for service in services.values():
        assert [secret["source"] for secret in service["secrets"]] == ["postgres_password"]


def test_compose_migrates_a_healthy_database_and_then_serves_with_no_rights(deployed: Path) -> None:
    resolved = compose(deployed, "config", "--format", "json", POSTGRES_PASSWORD_FILE="pw").stdout  # noqa: S106
    services = json.loads(resolved)["services"]
    waits = {
        name: {other: edge["condition"] for other, edge in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits == {
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "app": {"migrate": "service_completed_successfully"},
    }
    assert services["migrate"]["command"] == ["alembic", "upgrade", "head"]
    for name in ("migrate", "app"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert "volumes" not in services[name]
    for service in services.values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}


# --- Kubernetes ---


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_the_manifests_are_valid_by_the_schemas_of_kubernetes(manifests: dict[str, Any], version: str) -> None:
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_longest_slug_makes_names_that_kubernetes_takes(bake: Any) -> None:
    slug = "-".join(["a" * 24, "b" * 25])
    for path in (bake(project_slug=slug, deployment="kubernetes") / "deploy").glob("*.yaml"):
        for document in load(path):
            name = document["metadata"]["name"]
            assert len(name) <= (52 if document["kind"] == "CronJob" else 63)
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


def test_every_pod_is_restricted(manifests: dict[str, Any]) -> None:
    """By the profile that Kubernetes calls restricted, and with a root file system that cannot be written to."""
    for pod in pods(manifests).values():
        spec = pod["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert [volume.keys() for volume in spec["volumes"]] == [{"name", "secret"}]
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container(pod)["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container(pod)["resources"]["limits"].keys() == {"memory"}


def test_migration_and_cleanup_run_the_image_and_the_settings_of_the_service(manifests: dict[str, Any]) -> None:
    ours = [container(pod) for pod in pods(manifests).values()]
    for key in ("image", "env", "envFrom", "volumeMounts"):
        assert [each[key] for each in ours] == [ours[0][key]] * 3
    volumes = [pod["spec"]["volumes"] for pod in pods(manifests).values()]
    assert volumes == [volumes[0]] * 3
    assert [each.get("command") for each in ours] == [
        None,
        ["alembic", "upgrade", "head"],
        ["python", "-m", "app.scripts.cleanup"],
    ]
    assert ours[0]["envFrom"] == [{"configMapRef": {"name": manifests["ConfigMap"]["metadata"]["name"]}}]


def test_cleanups_never_overlap_and_one_that_hangs_ends(manifests: dict[str, Any]) -> None:
    spec = manifests["CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600


def test_a_copy_has_left_the_rotation_before_its_signal_and_has_time_to_end(
    deployed: Path, manifests: dict[str, Any]
) -> None:
    pod = pods(manifests)["Deployment"]
    pause = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
    command = re.search(r"^CMD (\[.*\])$", (deployed / "Dockerfile").read_text(), re.MULTILINE)
    assert command is not None
    arguments = json.loads(command[1])
    graceful = int(arguments[arguments.index("--timeout-graceful-shutdown") + 1])
    assert pause >= 5
    assert pause + graceful < pod["spec"]["terminationGracePeriodSeconds"]
    resolved = compose(deployed, "config", "--format", "json", POSTGRES_PASSWORD_FILE="pw").stdout  # noqa: S106
    assert json.loads(resolved)["services"]["app"]["stop_grace_period"] == "35s"
    assert graceful < 35


def test_a_rollout_takes_no_copy_away_before_another_is_ready(manifests: dict[str, Any]) -> None:
    deployment = manifests["Deployment"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["replicas"] >= 2
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_only_copies_of_the_service_are_selected(manifests: dict[str, Any]) -> None:
    selectors = [
        manifests["Service"]["spec"]["selector"],
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        pods(manifests)["Deployment"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        chosen = [
            kind for kind, pod in pods(manifests).items() if selector.items() <= pod["metadata"]["labels"].items()
        ]
        assert chosen == ["Deployment"]


def test_the_connections_of_a_rollout_fit_into_an_ordinary_postgresql(manifests: dict[str, Any]) -> None:
    settings, deployment = manifests["ConfigMap"]["data"], manifests["Deployment"]["spec"]
    pool = int(settings["DATABASE_POOL_SIZE"])
    assert "DATABASE_MAX_OVERFLOW" not in settings  # whose default is none
    assert deployment["strategy"]["rollingUpdate"]["maxSurge"] <= deployment["replicas"]
    # One that ends is counted no more, and keeps its connections until it has ended: each has its successor by then.
    most = 2 * deployment["replicas"] * (pool + 1)
    assert most + 10 < 97  # three are kept for superusers
    assert f"({pool} + 1) = {most}" in " ".join(GUIDE.read_text().split())


def test_every_probe_asks_a_route_that_exists(project: Path, deployed: Path, manifests: dict[str, Any]) -> None:
    ours = container(pods(manifests)["Deployment"])
    asked = {probe: ours[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    assert {get["port"] for get in asked.values()} == {ours["ports"][0]["name"]}
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == ours["ports"][0]["name"]
    script = "from app.main import app; print(*app.openapi()['paths'])"
    routes = run(program(project, "python"), "-c", script, cwd=project).stdout.split()
    written = {path for get in asked.values() for path in [get["path"]]}
    written |= set(re.findall(r"/health/\w+", (deployed / "Dockerfile").read_text()))
    assert written == {"/health/live", "/health/ready"}
    assert written <= set(routes)


# --- secrets ---


def test_no_file_holds_a_secret(deployed: Path, manifests: dict[str, Any]) -> None:
    assert "Secret" not in manifests
    assert urlsplit(manifests["ConfigMap"]["data"]["DATABASE_URL"]).password is None
    for pod in pods(manifests).values():
        (variable,) = container(pod)["env"]
        (mount,), (volume,) = container(pod)["volumeMounts"], pod["spec"]["volumes"]
        (item,) = volume["secret"]["items"]
        assert mount == {"name": volume["name"], "mountPath": mount["mountPath"], "readOnly": True}  # no subPath
        assert (volume["secret"]["secretName"], item["key"]) == (SLUG, "DATABASE_PASSWORD")
        assert variable == {"name": "DATABASE_PASSWORD_FILE", "value": f"{mount['mountPath']}/{item['path']}"}
    (unresolved,) = load(deployed / "compose.yaml")
    for service in unresolved["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value == "/run/secrets/postgres_password"
            assert "://" not in value or urlsplit(value).password is None
