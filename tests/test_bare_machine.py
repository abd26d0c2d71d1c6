"""The README's requirements: on a Debian with Python, make and nothing else, its commands work as they stand there."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import copy_template, environment, free_port
from containers import NEEDS, PURGE, Podman, system
from machine import PACKAGES

pytestmark = [
    *(pytest.mark.slow, pytest.mark.timeout(1800)),
    *(pytest.mark.needs(*NEEDS), pytest.mark.xdist_group("containers")),
]

Shell = Callable[..., str]
CLONE = '/root/it\'s a "clone" (ünï)'
READ_USERS = """
import os, signal, subprocess, sys, time, urllib.request

with subprocess.Popen(["make", "demo", f"PORT={sys.argv[1]}"], start_new_session=True) as demo:
    while demo.poll() is None:
        try:
            print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/users").read().decode())
            os.killpg(demo.pid, signal.SIGINT)
            break
        except OSError:
            time.sleep(0.1)
"""
CHOSEN = (
    *("created_on_the_page", "default_answers", "first_resource", "half_sent", "keeps_its_data", "newcomer", "queries"),
    *("role_without", "test_image", "test_machine", "test_updates"),
)
"""Of the template's tests a part in which each program that a machine may lack is missed."""


@pytest.fixture(scope="module")
def shell(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell on the bare machine, in a fresh clone. The machine asks the network as this one does."""
    folder = tmp_path_factory.mktemp("bare")
    system(podman, "bare", f"{PURGE} python3-pip python-is-python3", folder)
    copy_template(folder / "clone")
    cache = Path(environment()["UV_CACHE_DIR"])
    cache.mkdir(exist_ok=True)
    network = [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]
    podman(
        *("run", "--detach", "--name=bare", "--network=host", "--env=LANG=C.UTF-8", "--env=UV_LINK_MODE=copy"),
        *(f"--env={name}" for name in (*network, "PYTEST_XDIST_AUTO_NUM_WORKERS")),
        *(f"--volume={folder / 'clone'}:/clone:ro", f"--volume={cache}:/root/.cache/uv"),
        *("bare", "sleep", "infinity"),
    )
    podman("exec", "bare", "cp", "--recursive", "/clone", CLONE)

    def shell(script: str, folder: str = CLONE) -> str:
        command = ["exec", f"--workdir={folder}", "bare", "sh", "-ec", f"exec 2>&1; {script}"]
        return podman(*command, timeout=1500).stdout

    yield shell
    podman("rm", "--force", "--time=0", "bare")


def test_make_demo_serves_and_what_it_has_baked_passes_its_tests(shell: Shell) -> None:
    served = shell(f"python3 -c {shlex.quote(READ_USERS)} {free_port()}")
    assert '{"items":[]' in served
    assert "Application shutdown complete." in served
    tested = shell("make test", f"{CLONE}/.demo/fastapi-service")
    assert re.search(r"= \d+ passed in ", tested), tested[-6000:]


def test_make_test_skips_what_the_machine_lacks_and_ends_with_a_list_of_it(shell: Shell) -> None:
    tested = shell(f"PYTEST_ADDOPTS={shlex.quote(shlex.join(['-k', ' or '.join(CHOSEN)]))} make test-all")
    _, _, summary = tested.partition("not tested here")
    assert re.search(r"= \d+ passed, \d+ skipped", summary), tested[-6000:]
    assert [name for name in PACKAGES if not re.search(rf"needs .*\b{name}\b", summary)] == []
