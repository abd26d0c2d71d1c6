"""The image, built on a stand-in base and run for real."""

import json
import re
import shutil
import time
from pathlib import Path

import httpx2
import pytest
import web
from commands import TEMPLATE, free_port
from containers import NEEDS, PURGE, Podman, system
from cookiecutter.main import cookiecutter

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS), pytest.mark.xdist_group("containers")]


@pytest.fixture(scope="module")
def base(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Version of Python of a stand-in for the official image: no registry is asked, it is Debian with its Python."""
    commands = f"{PURGE} make python3-venv && rm /usr/lib/python3*/EXTERNALLY-MANAGED"
    system(podman, "base", commands, tmp_path_factory.mktemp("base"))
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = podman("run", "--rm", "base", "python", "-c", ask).stdout.strip()
    podman("tag", "base", f"python:{version}-slim")
    return version


@pytest.fixture(scope="module")
def built(project: Path, podman: Podman, base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of the image of a baked project, built with a lock file, and before that, in vain, without one."""
    answers = {"python_version": base}
    folder = tmp_path_factory.mktemp("image")
    baked = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder), extra_context=answers))
    # Its answers but for one are those of the installed project, whose lock file fits.
    assert (baked / "pyproject.toml").read_text() == (project / "pyproject.toml").read_text()
    (baked / ".env").write_text("SECRET=1\n")
    (baked / "app" / "main.py").chmod(0o600)
    build = ["build", "--isolation=chroot", "--format=docker", "--network=host", "--pull=never", "--tag=built", "."]
    refused = podman(*build, cwd=baked, timeout=300, check=False)
    assert refused.returncode != 0
    assert "uv.lock is missing: run 'make install' and commit uv.lock" in refused.stderr
    shutil.copy2(project / "uv.lock", baked)
    podman(*build, cwd=baked, timeout=300)
    return "built"


def test_the_image_holds_what_the_service_needs_and_no_more(podman: Podman, built: str) -> None:
    def lines(*command: str) -> list[str]:
        return podman("run", "--rm", "--network=none", built, *command).stdout.split()

    assert set(lines("ls", "-A", "/srv")) == {".venv", "app", "migrations", "pyproject.toml"}
    assert lines("sh", "-c", "command -v uv gcc cc make git || true") == []
    installed = lines("sh", "-c", "cd .venv/lib/python*/site-packages && ls -d *.dist-info")
    assert any(name.startswith("fastapi-") for name in installed)
    assert not [name for name in installed if name.startswith(("pytest", "ruff", "mypy", "pixeltable"))]
    assert lines("sh", "-c", "find /srv -type f ! -perm -a=r") == []
    assert lines("sh", "-c", "ls app/__pycache__ migrations/__pycache__")


def test_the_image_migrates_serves_and_ends_in_good_order_on_a_read_only_file_system(
    podman: Podman, built: str, database: str
) -> None:
    port = free_port()
    restricted = [
        *("--network=host", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
        *("--security-opt=no-new-privileges", f"--env=DATABASE_URL={database}", f"--env=UVICORN_PORT={port}"),
    ]
    unmigrated = podman("run", "--rm", *restricted, built, check=False)
    assert unmigrated.returncode == 3
    assert "alembic upgrade head" in unmigrated.stderr
    podman("run", "--rm", *restricted, built, "alembic", "upgrade", "head")
    podman("run", "--detach", "--name=service", *restricted, built)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
    while True:
        try:
            assert web.get(f"{url}/health/ready").status_code == 200
            break
        except httpx2.TransportError:
            assert time.monotonic() < deadline, podman("logs", "service").stderr
    assert web.post(f"{url}/users", json={"email": "ada@example.com", "name": "Ada"}).status_code == 201

    status = podman("exec", "service", "cat", "/proc/1/status").stdout
    assert "NoNewPrivs:\t1" in status
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert podman("exec", "service", "touch", "/tmp/x", check=False).returncode != 0  # noqa: S108
    check = json.loads(podman("inspect", "service").stdout)[0]["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    for at, healthy in ((port, True), (free_port(), False)):
        command = [argument.replace("8000", str(at)) for argument in check[1:]]
        assert (podman("exec", "service", *command, check=False).returncode == 0) is healthy
    podman("exec", "service", "python", "-m", "app.scripts.cleanup", "--older-than-days", "0")

    podman("stop", "--time=40", "service")  # SIGKILL after that, and another exit code
    ended = json.loads(podman("inspect", "service").stdout)[0]["State"]
    assert ended["ExitCode"] == 0
    logs = podman("logs", "service").stderr
    assert "Application shutdown complete." in logs
    assert "Traceback" not in logs
