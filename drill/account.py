"""Compares what clients were told with what is stored at the end."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2

from drill.cluster import Cluster
from drill.faults import Run
from drill.load import Load, Write

__all__ = ["Account", "Balance", "settle"]


@dataclass(frozen=True)
class Balance:
    """The writes of one fault, counted."""

    acknowledged: int
    """Writes that were acknowledged."""
    gone: int
    """Acknowledged writes that are not stored."""
    doubtful: int
    """Writes of which at least one request failed, so that the client repeated it."""
    wrong: int
    """Doubtful writes that are not stored exactly once under the id that the client has."""


@dataclass(frozen=True)
class Account:
    """What is stored at the end."""

    ids: dict[str, list[str]]
    """Ids of the stored users, by e-mail."""
    repeated: dict[str, str | None]
    """Id in the response when each doubtful write was sent once more, by key; None: no 201."""
    direct_gone: int
    """Number of the direct writer's acknowledged rows that are not stored."""

    def balance(self, writes: Iterable[Write]) -> Balance:
        """Count some writes."""
        counts = Counter[str]()
        for write in writes:
            stored = self.ids.get(write.body["email"], [])
            counts["acknowledged"] += write.id is not None
            counts["gone"] += write.id is not None and write.id not in stored
            if write.is_doubtful:
                counts["doubtful"] += 1
                counts["wrong"] += not (stored == [write.id] == [self.repeated[write.key]])
        return Balance(counts["acknowledged"], counts["gone"], counts["doubtful"], counts["wrong"])


def settle(cluster: Cluster, load: Load, address: str) -> Account:
    """Send each doubtful write once more, then read all users through the service."""
    cluster.wait_until_healthy()
    with httpx2.Client(base_url=address, timeout=30) as client:
        repeated = {write.key: _repeat(client, write) for write in load.writes if write.is_doubtful}
        cluster.wait_until_healthy()  # so that no replica lags: the pages come from one
        ids: dict[str, list[str]] = {}
        for user in _users(client):
            ids.setdefault(user["email"], []).append(user["id"])
    stored = set(cluster.sql(cluster.primary(), "SELECT number FROM drill").split())
    return Account(ids, repeated, sum(str(number) not in stored for number in load.direct))


def writes_of(run: Run, load: Load) -> list[Write]:
    """Return the writes that were begun or acknowledged during a fault."""
    return [write for write in load.writes if write.begun_at <= run.end and run.start <= write.ended_at]


def _repeat(client: httpx2.Client, write: Write) -> str | None:
    answer = client.post("/users", json=write.body, headers=write.headers)
    return str(answer.json()["id"]) if answer.status_code == 201 else None


def _users(client: httpx2.Client) -> Iterable[dict[str, str]]:
    parameters: dict[str, str] = {"limit": "200"}
    while True:
        page = client.get("/users", params=parameters).raise_for_status().json()
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        parameters["cursor"] = page["next_cursor"]
