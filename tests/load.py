"""Clients that write, for tests of faults under load."""

import threading
import time
from collections.abc import Callable
from uuid import uuid4

import httpx2
import web


def new_user() -> dict[str, str]:
    return {"email": f"{uuid4().hex}@example.com", "name": "Ada"}


class Load:
    """Clients that create users until they are stopped, and record the responses."""

    def __init__(self, address: str, clients: int = 8, *, keyed: bool = False) -> None:
        self.statuses: list[int] = []
        self.slowest = 0.0
        self.acknowledged: list[str] = []
        self._address = address
        self._keyed = keyed
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop each client after its current response."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, condition: Callable[[], bool], limit: float = 60) -> None:
        """Wait for a condition while the load continues."""
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, (len(self.acknowledged), set(self.statuses))
            self._stop.wait(0.01)

    def wait_for_more(self, number: int = 200) -> None:
        """Wait until this many more users are acknowledged."""
        goal = len(self.acknowledged) + number
        self.wait_for(lambda: len(self.acknowledged) >= goal)

    def _run(self) -> None:
        with web.Client(base_url=self._address, timeout=30) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    key = {"Idempotency-Key": uuid4().hex} if self._keyed else {}
                    answer = client.post("/users", json=new_user(), headers=key)
                except httpx2.TransportError:
                    continue  # no answer: it may have been stored or not
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.statuses.append(answer.status_code)
                if answer.status_code == 201:
                    self.acknowledged.append(answer.json()["id"])
                if answer.status_code == 503:
                    assert answer.headers["Retry-After"]
