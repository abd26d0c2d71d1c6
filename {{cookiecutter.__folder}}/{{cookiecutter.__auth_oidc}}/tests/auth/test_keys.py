"""The provider's keys: when they are fetched, and what a provider changes that is away, slow or wrong."""

import asyncio
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.auth.dependencies import Caller
from app.auth.keys import Keys, KeysUnavailable
from app.auth.options import AuthOptions
from app.auth.tokens import InvalidToken, TokenVerifier
from app.config import ServiceSettings
from dev.issuer import Issuer

ALGORITHMS = ("RS256", "ES256", "EdDSA")
DISCOVERY = "/.well-known/openid-configuration"
ONE_FETCH = [DISCOVERY, "/keys"]


@pytest.fixture
def provider() -> Iterator[Issuer]:
    """A provider of the test's own, to rotate, to break and to stop."""
    provider = Issuer(audience="tests")
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def verifier(provider: Issuer) -> TokenVerifier:
    """A verifier that may ask that provider at any time."""
    options = AuthOptions(issuer=provider.url, audience="tests")
    return TokenVerifier(options, Keys(provider.url, ALGORITHMS, pause=0))


async def test_many_requests_wait_for_one_fetch(provider: Issuer) -> None:
    keys = Keys(provider.url, ALGORITHMS)
    answers = await asyncio.gather(*(keys.find(provider.key_id, "ES256") for _ in range(100)))
    assert None not in answers
    assert provider.requests == ONE_FETCH


async def test_a_rotation_needs_no_restart(verifier: TokenVerifier, provider: Issuer) -> None:
    old = provider.token()
    await verifier.verify(old)
    provider.rotate()
    await verifier.verify(provider.token())
    # A withdrawn key takes along what it had signed, although that was verified before.
    with pytest.raises(InvalidToken, match="UnknownKey"):
        await verifier.verify(old)


async def test_tokens_with_unknown_keys_make_us_ask_once_in_a_while_and_hold_nobody_up(provider: Issuer) -> None:
    keys = Keys(provider.url, ALGORITHMS, pause=3600)
    unknown = [asyncio.create_task(keys.find(str(number), "ES256")) for number in range(1000)]
    assert await keys.find(provider.key_id, "ES256") is not None
    async with asyncio.timeout(60):
        assert set(await asyncio.gather(*unknown)) == {None}
        later = [asyncio.create_task(keys.find(f"later {number}", "ES256")) for number in range(1000)]
        answered, waiting = set[asyncio.Task[object]](), set(later)
        while len(answered) < 990:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answered |= done
        assert await keys.find(provider.key_id, "ES256") is not None
        assert {task.result() for task in answered} == {None}
    for task in waiting:
        task.cancel()
    assert provider.requests == ONE_FETCH


async def test_a_key_that_appears_right_after_a_fetch_is_found(provider: Issuer) -> None:
    keys = Keys(provider.url, ALGORITHMS, pause=0.2)
    assert await keys.find("unknown", "ES256") is None
    provider.rotate()
    found = await asyncio.gather(*(keys.find(provider.key_id, "ES256") for _ in range(3)))
    assert None not in found
    assert provider.requests == ONE_FETCH * 2


async def test_while_the_provider_is_away_an_unknown_key_is_no_401(provider: Issuer) -> None:
    keys = Keys(provider.url, ALGORITHMS, pause=3600)
    provider.stop()
    for _ in range(2):  # the second one does not ask again
        with pytest.raises(KeysUnavailable):
            await keys.find(provider.key_id, "ES256")


async def test_a_withdrawn_key_is_noticed_although_no_token_names_another_one(provider: Issuer) -> None:
    keys = Keys(provider.url, ALGORITHMS, pause=0, max_age=0)
    old = provider.key_id
    assert await keys.find(old, "ES256") is not None
    provider.rotate()
    while await keys.find(old, "ES256") is not None:  # noqa: ASYNC110  # it is fetched in the background
        await asyncio.sleep(0)


async def test_a_provider_that_is_away_stops_no_token_whose_key_is_known(
    verifier: TokenVerifier, provider: Issuer
) -> None:
    await verifier.verify(provider.token())
    known = provider.token(sub="ada")
    provider.stop()
    assert (await verifier.verify(known)).subject == "ada"
    provider.rotate()
    with pytest.raises(KeysUnavailable):
        await verifier.verify(provider.token())


class TestWithoutAProvider:
    """A service that starts while its provider is away."""

    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        """Settings that name a provider that does not answer."""
        auth = AuthOptions(issuer="http://127.0.0.1:1", audience="tests")
        return settings.model_copy(update={"auth": auth})

    @pytest.fixture
    def app(self, app: FastAPI) -> FastAPI:
        """The service, with a route that asks who calls."""

        @app.get("/me")
        async def me(who: Caller) -> str:
            return who.subject

        return app

    async def test_it_serves_what_is_open_and_answers_503_to_tokens(self, client: httpx2.AsyncClient) -> None:
        """A 401 would be a lie: nobody has looked at the token."""
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/me", headers={"Authorization": ""})).status_code == 401
        response = await client.get("/me")
        assert response.status_code == 503
        assert 0 < int(response.headers["Retry-After"]) <= 5
        assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (DISCOVERY, None),
        (DISCOVERY, ["x"]),
        (DISCOVERY, {"jwks_uri": "URL/keys"}),
        (DISCOVERY, {"issuer": "https://another.example.com", "jwks_uri": "URL/keys"}),
        (DISCOVERY, {"issuer": "URL"}),
        (DISCOVERY, {"issuer": "URL", "jwks_uri": "file:///etc/passwd"}),
        (DISCOVERY, {"issuer": "URL", "jwks_uri": "http://keys.example.com/"}),
        ("/keys", {"keys": []}),
        ("/keys", {"keys": "x"}),
        ("/keys", {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}]}),
        ("/keys", {"keys": [{"kty": "EC", "kid": "a"}]}),
    ],
)
async def test_a_provider_that_answers_nonsense_changes_nothing(provider: Issuer, path: str, document: Any) -> None:
    keys = Keys(provider.url, ALGORITHMS, pause=0)
    known = await keys.find(provider.key_id, "ES256")
    if isinstance(document, dict):
        named = {key: value.replace("URL", provider.url) for key, value in document.items() if isinstance(value, str)}
        document |= named
    provider.documents[path] = document
    with pytest.raises(KeysUnavailable):
        await keys.find("another", "ES256")
    assert await keys.find(provider.key_id, "ES256") is known


async def test_an_answer_without_end_is_cut(provider: Issuer) -> None:
    provider.documents["/keys"]["padding"] = "x" * 300_000
    with pytest.raises(KeysUnavailable):
        await Keys(provider.url, ALGORITHMS).find(provider.key_id, "ES256")


async def test_keys_are_read_from_no_file(provider: Issuer, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(json.dumps(provider.documents["/keys"]))
    provider.documents[DISCOVERY]["jwks_uri"] = (tmp_path / "keys").as_uri()
    with pytest.raises(KeysUnavailable):
        await Keys(provider.url, ALGORITHMS).find(provider.key_id, "ES256")


async def test_a_redirect_is_not_followed(provider: Issuer) -> None:
    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{provider.url}{self.path}")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(KeysUnavailable):
            await Keys(f"http://127.0.0.1:{server.server_port}", ALGORITHMS).find("a", "ES256")
    assert provider.requests == []


async def test_a_provider_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(KeysUnavailable):
        issuer = f"http://127.0.0.1:{silent.getsockname()[1]}"
        await Keys(issuer, ALGORITHMS, timeout=0.2).find("a", "ES256")


async def test_a_key_serves_its_own_use_and_algorithm_alone(provider: Issuer) -> None:
    (jwk,) = provider.documents["/keys"]["keys"]
    provider.documents["/keys"]["keys"] += [{**jwk, "kid": "enc", "use": "enc"}, {**jwk, "kid": "384", "alg": "ES384"}]
    keys = Keys(provider.url, ALGORITHMS, pause=0)
    assert await keys.find(provider.key_id, "ES256") is not None
    for key_id, algorithm in (("enc", "ES256"), ("384", "ES256"), (provider.key_id, "RS256")):
        assert await keys.find(key_id, algorithm) is None
