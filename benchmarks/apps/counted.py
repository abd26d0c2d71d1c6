"""The service in one process, for valgrind: it writes its counts before and after the requests of each kind."""

import json
import os
import subprocess
import sys

import uvloop
from added import app
from starlette.types import Message

_WARM_UP = 10


async def request(method: str, path: str, body: dict[str, str] | None = None) -> bytes:
    """Send a request as a server does, and return the body of the response."""
    sent: list[Message] = []
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": target,
        "raw_path": target.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"service"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode() if body else b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] < 300, sent
    return bytes(sent[-1].get("body", b""))


class Requests:
    """One request of each kind, on users of its own."""

    def __init__(self) -> None:
        self._number = 0
        self._ids: list[str] = []

    def _new(self) -> dict[str, str]:
        self._number += 1
        return {"email": f"{os.getpid()}-{self._number}@example.com", "name": "Ada Lovelace"}

    async def prepare(self, number: int) -> None:
        """Create users for the requests that need one."""
        self._ids = [json.loads(await request("POST", "/users", self._new()))["id"] for _ in range(number)]

    async def send(self, kind: str) -> None:
        """Send one request."""
        match kind:
            case "get":
                await request("GET", f"/users/{self._ids[0]}")
            case "page":
                await request("GET", "/users?limit=50")
            case "create" | "added":
                await request("POST", "/added" if kind == "added" else "/users", self._new())
            case "patch":
                await request("PATCH", f"/users/{self._ids[0]}", {"name": f"Ada {self._new()['email']}"})
            case "delete":
                await request("DELETE", f"/users/{self._ids.pop()}")


async def main(number: int, kinds: list[str]) -> None:
    """Send requests of each kind."""
    requests = Requests()
    dump = ["callgrind_control", "--dump", str(os.getpid())]
    async with app.router.lifespan_context(app):
        for kind in kinds:
            await requests.prepare(50 + number + _WARM_UP)
            for part in (_WARM_UP, number):
                for _ in range(part):
                    await requests.send(kind)
                subprocess.run(dump, stdout=subprocess.DEVNULL, check=True)


uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
