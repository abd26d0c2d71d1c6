"""`deploy/observability/`: its files are valid, and name only what the service was seen to emit."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import web
from commands import free_port, run, started
from deployments import compose, load, tool
from load import new_user
from machine import where
from services import new_database, program, service
from sql import execute, rows

PROMTOOL = str(where("promtool"))
needs_promtool = pytest.mark.needs("promtool")
_OURS = re.compile(r"\b(?:http|db|app|process)_\w+")


@pytest.fixture
def folder(bake: Any) -> Path:
    return bake() / "deploy" / "observability"


def queries(folder: Path) -> list[str]:
    """Return all queries of the dashboard and the alerts."""
    dashboard = json.loads((folder / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    (alerts,) = load(folder / "alerts.yaml")
    return shown + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def named(query: str) -> tuple[set[str], set[str]]:
    """Return the metrics and the labels that a query names."""
    grouped = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", query)
    matched = re.findall(r"\{([^}]*)\}", query)
    labels = {label.strip() for group in grouped for label in group.split(",")}
    labels |= {label for group in matched for label in re.findall(r"(\w+)\s*[=!]", group)}
    rest = re.sub(r"\b(?:by|on|without|ignoring) \([^)]*\)|\{[^}]*\}", "", query)
    return set(_OURS.findall(rest)), labels


def as_prometheus(metric: dict[str, Any]) -> set[str]:
    """Return the names that Prometheus gives a metric that it receives by OTLP (its default, with suffixes)."""
    name = re.sub(r"\W", "_", metric["name"])
    unit = {"s": "seconds", "By": "bytes"}.get(metric.get("unit", ""))
    assert unit or metric["unit"].startswith("{"), f"how does Prometheus name this unit? {metric}"
    if unit and not name.endswith(unit):
        name += f"_{unit}"
    if "histogram" in metric:
        return {f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    return {f"{name}_total" if metric.get("sum", {}).get("isMonotonic") else name}


@pytest.fixture(scope="module")
def emitted(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names and labels that Prometheus would have, of all that the service and the script emit: faults included."""
    recorded = tmp_path_factory.mktemp("recorded") / "requests.json"
    port = free_port()
    database = new_database(project)
    run(program(project, "alembic"), "upgrade", "head", cwd=project, DATABASE_URL=database)
    execute(database, *_ALWAYS_A_CONFLICT)
    command = [program(project, "python"), "-m", "dev.collector", "--port", str(port), "--record", str(recorded)]
    with started(command, cwd=project, stdout=subprocess.PIPE) as collector:
        assert collector.stdout is not None
        collector.stdout.readline()  # it listens
        drain = threading.Thread(target=collector.stdout.read)
        drain.start()
        exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        _use(project, database, exported)
        cleanup = [program(project, "python"), "-m", "app.scripts.cleanup", "--older-than-days", "0"]
        run(*cleanup, cwd=project, DATABASE_URL=database, **exported)
        collector.terminate()
        drain.join()
    return _read(recorded)


_PATCH = {"json": {"name": "y"}, "timeout": 30}
_ALWAYS_A_CONFLICT = (
    "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40001'; END $$",
    "CREATE TRIGGER fail BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.name = 'conflict') EXECUTE FUNCTION fail()",
)


@contextmanager
def _locked(database: str, user: str) -> Iterator[None]:
    held, release = threading.Event(), threading.Event()
    statements = ("BEGIN", f"UPDATE users SET name = 'z' WHERE id = '{user}'")
    kept = {"held": held, "release": release}
    locker = threading.Thread(target=execute, args=(database, *statements), kwargs=kept)
    locker.start()
    held.wait(30)
    try:
        yield
    finally:
        release.set()
        locker.join()


def _use(project: Path, database: str, exported: dict[str, str]) -> None:
    """Succeed, conflict, and find the pool busy."""
    one = {"DATABASE_POOL_SIZE": "1", "DATABASE_POOL_TIMEOUT": "1"}
    with service(project, database, **one, **exported) as (address, _), web.Client(base_url=address) as client:
        users = [client.post("/users", json=new_user()).json()["id"] for _ in range(2)]
        client.delete(f"/users/{users[0]}").raise_for_status()
        assert client.patch(f"/users/{users[1]}", json={"name": "conflict"}).status_code == 503
        with _locked(database, users[1]):
            patch = threading.Thread(target=web.patch, args=[f"{address}/users/{users[1]}"], kwargs=_PATCH)
            patch.start()
            while not rows(database, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                pass
            with ThreadPoolExecutor(12) as pool:  # enough for the processor's queue to be observed
                answers = pool.map(web.get, [f"{address}/users/{users[1]}"] * 12)
            assert {answer.status_code for answer in answers} == {503}
        patch.join()
        client.get("/health/ready").raise_for_status()


def _read(recorded: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in recorded.read_text().splitlines():
        for sent in json.loads(line).get("resourceMetrics", ()):
            for metric in (metric for scope in sent["scopeMetrics"] for metric in scope["metrics"]):
                (kind,) = {"sum", "gauge", "histogram"} & metric.keys()
                points = metric[kind]["dataPoints"]
                labels = {re.sub(r"\W", "_", of["key"]) for point in points for of in point.get("attributes", ())}
                for name in as_prometheus(metric):
                    found.setdefault(name, set()).update(labels)
    return found


def test_dashboard_and_alerts_name_only_what_was_emitted(folder: Path, emitted: dict[str, set[str]]) -> None:
    known = {"job", "instance", "le"}.union(*emitted.values())
    for query in queries(folder):
        metrics, labels = named(query)
        assert metrics, query
        assert metrics <= emitted.keys(), query
        assert labels <= known, query


def test_the_dashboard_shows_all_that_is_emitted(folder: Path, emitted: dict[str, set[str]]) -> None:
    """A metric that nobody looks at is cost."""
    shown = set().union(*(named(query)[0] for query in queries(folder)))
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in emitted}
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in shown} == families


def test_the_page_names_all_that_is_emitted_with_its_labels(bake: Any, emitted: dict[str, set[str]]) -> None:
    page = (bake() / "docs" / "metrics.md").read_text()
    documented = {
        family(as_prometheus({"name": name, "unit": unit, "sum": {}}).pop()): {
            label.replace(".", "_") for label in re.findall("`([a-z._]+)`", labels)
        }
        for name, unit, labels in re.findall(r"^\| `([a-z._]+)` \| `(.+?)` \| (.*?)\| ", page, re.MULTILINE)
    }
    sent: dict[str, set[str]] = {}
    for name, labels in emitted.items():
        sent.setdefault(family(name), set()).update(labels)
    assert documented.keys() == sent.keys()
    for name, labels in sent.items():
        assert labels - {"error_type"} == documented[name] - {"error_type"}, name


def family(name: str) -> str:
    """Return the name of a metric without what Prometheus adds for its kind."""
    return re.sub("_(bucket|count|sum|total)$", "", name)


@needs_promtool
def test_the_alerts_are_raised_by_their_faults_and_by_nothing_else(folder: Path) -> None:
    """By the tests that a project has."""
    run(PROMTOOL, "check", "rules", "--lint-fatal", "alerts.yaml", cwd=folder)
    run(PROMTOOL, "test", "rules", "alerts-test.yaml", cwd=folder)


@needs_promtool
def test_prometheus_can_read_all_queries(folder: Path, tmp_path: Path) -> None:
    read = [query.replace("$__rate_interval", "5m").replace("$job", "x") for query in queries(folder)]
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(read)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(PROMTOOL, "check", "rules", "rules.yaml", cwd=tmp_path)


def test_each_alert_says_what_to_do(folder: Path) -> None:
    (alerts,) = load(folder / "alerts.yaml")
    tested = (folder / "alerts-test.yaml").read_text()
    for rule in alerts["groups"][0]["rules"]:
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook"].endswith(".")
        assert f'alertname="{rule["alert"]}"' in tested


def test_the_compose_file_is_valid_and_listens_to_this_machine_alone(folder: Path) -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=folder)
    services = json.loads(compose(folder, "config", "--format", "json").stdout)["services"]
    assert set(services) == {"collector", "prometheus", "jaeger", "grafana"}
    for of in services.values():
        assert {port["host_ip"] for port in of.get("ports", [])} == {"127.0.0.1"}
        for volume in of.get("volumes", []):
            assert Path(volume["source"]).is_file()
