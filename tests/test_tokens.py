"""Hostile access tokens over real sockets, with real signatures; and a rotation of keys under load."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest
import web
from commands import TEMPLATE, run
from cryptography.hazmat.primitives.asymmetric import ec
from hostile_tokens import HOSTILE
from services import new_database, program, service
from sql import rows
from tokens import Provider

ADA = {"email": "ada@example.com", "name": "Ada"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def database(guarded: Path) -> str:
    """URL of a migrated database of this module."""
    url = new_database(guarded)
    run(program(guarded, "alembic"), "upgrade", "head", cwd=guarded, DATABASE_URL=url)
    return url


@pytest.fixture(scope="module")
def address(guarded: Path, provider: Provider, database: str) -> Iterator[str]:
    """A service that trusts the provider."""
    with service(guarded, database, **provider.environment()) as (address, process):
        yield address
    assert "unhandled error" not in process.output


@pytest.fixture(scope="module")
def answers(address: str, provider: Provider) -> dict[str, httpx2.Response]:
    """What the service answers to each hostile token. They are sent at once: an unknown key may take seconds."""
    tokens = {kind: make(provider) for kind, (_, make) in HOSTILE.items()}

    def post(token: str) -> httpx2.Response:
        authorization = b"Bearer " + token.encode()
        return web.post(f"{address}/users", json=ADA, headers=[(b"Authorization", authorization)], timeout=60)

    with ThreadPoolExecutor(len(tokens)) as pool:
        return dict(zip(tokens, pool.map(post, tokens.values()), strict=True))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_token_opens_nothing(kind: str, answers: dict[str, httpx2.Response], database: str) -> None:
    response, status = answers[kind], HOSTILE[kind][0]
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    assert response.headers["WWW-Authenticate"] == (
        'Bearer error="insufficient_scope", scope="users:write"' if status == 403 else 'Bearer error="invalid_token"'
    )
    assert set(response.json()) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert rows(database, "SELECT count(*) FROM users") == [(0,)]


def test_no_address_that_a_token_names_is_asked(provider: Provider, answers: dict[str, httpx2.Response]) -> None:
    assert set(provider.requests) == {"/.well-known/openid-configuration", "/keys"}


@pytest.mark.parametrize("where", ["query", "body", "cookie", "another scheme", "two headers"])
def test_a_good_token_elsewhere_than_in_its_header_is_none(
    provider: Provider, address: str, database: str, where: str
) -> None:
    token = provider.token()
    given: dict[str, Any] = {
        "query": {"params": {"access_token": token}, "json": ADA},
        "body": {"data": {"access_token": token}},
        "cookie": {"cookies": {"access_token": token}, "json": ADA},
        "another scheme": {"headers": {"Authorization": f"DPoP {token}"}, "json": ADA},
        "two headers": {"headers": [("Authorization", f"Bearer {token}")] * 2, "json": ADA},
    }[where]
    with web.Client(base_url=address, cookies=given.pop("cookies", None)) as client:
        assert client.post("/users", **given).status_code == 401
    assert rows(database, "SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize("key_id", ["ec", "rsa", "ed"])
def test_a_good_token_of_each_kind_is_accepted(provider: Provider, address: str, key_id: str) -> None:
    """Else all the refusals would prove nothing."""
    headers = {"Authorization": f"Bearer {provider.token(key_id, scope='users:read')}"}
    assert web.get(f"{address}/users", headers=headers).status_code == 200


def test_the_table_of_hostile_tokens_is_complete() -> None:
    section = (TEMPLATE / "docs" / "reliability.md").read_text().split("\n## Hostile access tokens\n")[1]
    listed = re.findall(r"^\| (.+?) \| (\d+) \|$", section.split("\n## ")[0], re.MULTILINE)
    assert listed == [(kind, str(status)) for kind, (status, _) in HOSTILE.items()]


def test_a_rotation_under_load_gives_no_wrong_401(guarded: Path, database: str) -> None:
    """Old tokens and new ones, from before the first fetch until after the second one."""
    with Provider() as provider, service(guarded, database, **provider.environment()) as (address, _):
        statuses: Counter[int] = Counter()
        rotated, enough = Event(), Event()

        def client(number: int) -> None:
            after = 0
            with web.Client(base_url=address, timeout=30) as session:
                while after < 50:
                    key_id = "new" if rotated.is_set() and number % 2 else "ec"
                    token = provider.token(key_id, scope="users:read", jti=f"{number} {time.perf_counter_ns()}")
                    answer = session.get("/users?limit=1", headers={"Authorization": f"Bearer {token}"})
                    statuses[answer.status_code] += 1
                    after += rotated.is_set()
                    if statuses[200] > 200:
                        enough.set()

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            enough.wait(60)
            provider.keys["new"] = ("ES256", ec.generate_private_key(ec.SECP256R1()))
            rotated.set()
            for done in clients:
                done.result()
    assert set(statuses) == {200}
    assert provider.requests.count("/keys") == 2
