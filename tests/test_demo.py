"""The first command that anyone types: `make demo`, in a fresh clone."""

from pathlib import Path

import web
from commands import TEMPLATE, free_port, processes_of, serving


def test_make_demo_serves_every_route_of_the_tour_and_leaves_no_process(clone: Path, path_without_uv: str) -> None:
    """In a folder whose path needs quoting, where uv is installed too, and PostgreSQL with the packages."""
    (clone / ".venv").symlink_to(TEMPLATE / ".venv")  # test_bare_machine installs one
    port = free_port()
    with (
        serving(["make", "demo", f"PORT={port}"], cwd=clone, port=port, timeout=300, PATH=path_without_uv),
        web.Client(base_url=f"http://127.0.0.1:{port}") as client,
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
    assert (clone / ".tools" / "bin" / "uv").exists()
    assert processes_of(clone) == []
