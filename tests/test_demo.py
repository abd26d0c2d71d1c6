"""The first command that anyone types: `make demo`, in a fresh clone."""

import os
from pathlib import Path

import httpx2
from commands import TEMPLATE, environment, free_port, processes_of, serving


def test_make_demo_serves_every_route_of_the_tour_and_leaves_no_process(clone: Path) -> None:
    port = free_port()
    without_uv = [path for path in environment()["PATH"].split(os.pathsep) if not Path(path).is_relative_to(TEMPLATE)]
    env = {"PATH": os.pathsep.join(without_uv)}
    with (
        serving(["make", "demo", f"PORT={port}"], cwd=clone, port=port, timeout=300, **env),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert client.get("/health/live").json() == {"status": "ok"}
        assert client.get("/docs").status_code == 200
        created = client.post("/users", json={"email": "Ada@example.com", "name": "Ada"})
        assert created.status_code == 201
        address = created.headers["Location"]
        assert client.post("/users", json={"email": "ADA@example.com", "name": "Ada"}).status_code == 409
        assert client.get(address).json()["email"] == "Ada@example.com"
        assert client.patch(address, json={"name": "Countess"}).json()["name"] == "Countess"
        assert [user["name"] for user in client.get("/users").json()["items"]] == ["Countess"]
        assert client.delete(address).status_code == 204
        assert client.get(address).status_code == 404
    assert processes_of(clone) == []
