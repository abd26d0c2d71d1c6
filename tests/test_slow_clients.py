"""Clients that send half a request hold up nobody else, behind the proxy that the guide asks for."""

import json
import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
import web
from commands import TEMPLATE, free_port, serving, started
from load import new_user
from machine import where
from services import program

HALVES = [
    b"POST /users HTTP/1.1\r\nHost: service\r\nContent-Ty",
    b"POST /users HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
]


@contextmanager
def behind_haproxy(port: int, folder: Path) -> Iterator[int]:
    """Run HAProxy with the configuration of the guide; yield its port."""
    guide = (TEMPLATE / "docs" / "guides" / "deploying.md").read_text()
    match = re.search(r"^```text\n(defaults\n.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert match
    front = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(match[1].replace(":8080", f"127.0.0.1:{front}").replace(":8000", f":{port}"))
    with started([str(where("haproxy")), "-db", "-f", str(file)], cwd=folder) as process:
        yield front
        process.terminate()


@pytest.mark.needs("haproxy")
def test_four_hundred_half_sent_requests_hold_up_nobody_behind_the_proxy_of_the_guide(
    project: Path, migrated: str, tmp_path: Path
) -> None:
    """The service may open so few files that half as many would be too many for it."""
    port = free_port()
    uvicorn = shlex.join([program(project, "uvicorn"), "app.main:app", "--port", str(port)])
    command = ["sh", "-c", f"ulimit -n 200; exec {uvicorn}"]
    transport = httpx2.HTTPTransport(local_address="127.0.0.2", retries=10)  # until HAProxy listens
    with ExitStack() as stack:
        process = stack.enter_context(serving(command, cwd=project, port=port, DATABASE_URL=migrated))
        with behind_haproxy(port, tmp_path) as front, web.Client(transport=transport) as client, ExitStack() as held:
            assert client.get(f"http://127.0.0.1:{front}/health/live").status_code == 200
            for number in range(400):
                half = held.enter_context(socket.create_connection(("127.0.0.1", front)))
                half.sendall(HALVES[number % 2])
            headers = {"X-Forwarded-For": "203.0.113.9"}  # what a client writes there itself is not believed
            answers = [
                client.post(f"http://127.0.0.1:{front}/users", json=new_user(), headers=headers) for _ in range(200)
            ]
            assert {answer.status_code for answer in answers} == {201}
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    clients = {line["client"] for line in lines if line.get("route") == "/users"}
    assert clients == {"127.0.0.2"}
