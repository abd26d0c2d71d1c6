"""The provider's public keys: found by discovery, cached, and fetched again if a token names an unknown key."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from math import inf
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from app.auth.options import is_trusted_url

__all__ = ["Keys", "KeysUnavailable"]

_MAX_BYTES: Final = 256 * 1024
"""Size limit of one answer of the provider, in bytes. Twenty keys with certificates have about 50 KiB."""

_PATIENT: Final = 8
"""Requests that may wait for the end of the pause. More are a flood of invented keys, and are answered at once."""

_log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The token's key is unknown, and the provider cannot be asked at present, so the token cannot be verified.

    Parameters
    ----------
    retry_after
        Seconds until the provider is asked again.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("the token's key is unknown, and the provider's keys cannot be fetched now")
        self.retry_after = retry_after


class Keys:
    """Public keys of one provider, fetched in a thread, once for all waiting requests.

    Parameters
    ----------
    issuer
        URL of the provider.
    algorithms
        Signature algorithms that are accepted.
    pause
        Minimum seconds between the starts of two fetches, so that invalid tokens cannot cause many.
    max_age
        Seconds after which keys are fetched again even if all are known, to notice withdrawn ones.
    timeout
        Time limit of one answer of the provider, in seconds.
    """

    def __init__(
        self, issuer: str, algorithms: Sequence[str], *, pause: float = 5, max_age: float = 600, timeout: float = 5
    ) -> None:
        self._issuer = issuer
        self._algorithms = algorithms
        self._pause = pause
        self._max_age = max_age
        self._timeout = timeout
        self._keys: dict[tuple[str, str], PyJWK] = {}
        self._running: asyncio.Task[None] | None = None
        self._failed = False
        self._patient = 0
        self._started = -inf  # on the clock of time.monotonic
        self.generation = 0
        """Number of successful fetches. Tokens that were verified before the newest one must be verified again."""

    async def find(self, key_id: str, algorithm: str) -> PyJWK | None:
        """Return a key; None if the provider has none with this id for this algorithm.

        A key that appeared within the pause is found at its end, unless too many requests wait for that already: tokens
        with invented keys keep few requests open, and none with a known key.

        Raises
        ------
        KeysUnavailable
            If the key is not known, and the provider does not answer.
        """
        name = key_id, algorithm
        age = time.monotonic() - self._started
        if name in self._keys:
            if age > self._max_age:
                self.refresh()
            return self._keys[name]
        if self._running is None and age < self._pause:
            if self._failed:
                raise KeysUnavailable(self._pause - age)
            if self._patient == _PATIENT:
                return None
            generation = self.generation
            self._patient += 1
            try:
                await asyncio.sleep(self._pause - age)
            finally:
                self._patient -= 1
            if self.generation != generation:  # another one that waited was quicker
                return self._keys.get(name)
        await asyncio.shield(self._running or self.refresh())
        return self._keys.get(name)

    def refresh(self) -> asyncio.Task[None]:
        """Fetch the keys in the background, and return the task that does it."""
        if self._running is None:
            self._started = time.monotonic()
            self._failed = True  # until it has succeeded
            self._running = asyncio.create_task(self._fetch())
            # Retrieve the exception even if no request waits for it any more: asyncio would log it.
            self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._running

    async def aclose(self) -> None:
        """Cancel a running fetch."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _fetch(self) -> None:
        try:
            keys = await asyncio.to_thread(self._load)
        except (OSError, HTTPException, ValueError, TypeError, AttributeError) as error:
            _log.warning("cannot fetch the keys of AUTH_ISSUER", issuer=self._issuer, reason=str(error))
            raise KeysUnavailable(self._pause) from None
        else:
            self._keys = keys
            self._failed = False
            self.generation += 1
        finally:
            self._running = None

    def _load(self) -> dict[tuple[str, str], PyJWK]:
        about = self._get_json(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != self._issuer:
            raise ValueError(f"the provider calls itself {about.get('issuer')!r}: set AUTH_ISSUER to that")
        keys: dict[tuple[str, str], PyJWK] = {}
        for jwk in self._get_json(str(about.get("jwks_uri"))).get("keys") or ():
            for algorithm in self._algorithms:
                if jwk.get("use", "sig") == "sig" and jwk.get("alg", algorithm) == algorithm:
                    with suppress(PyJWTError, KeyError):  # a key of another kind, or one without an id
                        keys[jwk["kid"], algorithm] = PyJWK(jwk, algorithm)
        if not keys:
            raise ValueError(f"the provider has no key for {', '.join(self._algorithms)}: set AUTH_ALGORITHMS")
        return keys

    def _get_json(self, url: str) -> dict[str, Any]:
        if not is_trusted_url(url):
            raise ValueError(f"{url!r} is not an https:// URL")
        # A proxy from the environment cannot reach this machine.
        proxy = ProxyHandler({}) if urlsplit(url).scheme == "http" else ProxyHandler()
        deadline = time.monotonic() + self._timeout
        body = b""
        with build_opener(proxy, _NoRedirects()).open(url, timeout=self._timeout) as response:
            # The socket's timeout applies to each packet, not to the whole answer.
            while chunk := response.read1(65536):
                body += chunk
                if len(body) > _MAX_BYTES or time.monotonic() > deadline:
                    raise ValueError(
                        f"{url} answers more than {_MAX_BYTES} bytes, or for more than {self._timeout:g} s"
                    )
        return dict(json.loads(body))


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse redirects: they could lead to plain http, or into our own network."""
