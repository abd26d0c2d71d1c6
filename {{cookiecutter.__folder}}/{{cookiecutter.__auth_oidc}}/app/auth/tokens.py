"""Verifies access tokens: signature, issuer, audience and times (RFC 7519, 8725 and 9068)."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWTError

from app.auth.keys import Keys
from app.auth.options import AuthOptions

__all__ = ["AccessToken", "InvalidToken", "TokenVerifier"]

_MAX_LENGTH: Final = 16 * 1024
"""Maximum length of a token in characters. Tokens that list all groups of a person may have about 10,000."""

_MAX_VERIFIED: Final = 4096
"""Maximum number of verified tokens to remember, about 3 KiB each."""

_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")
"""Accepted values of the header ``typ``. The same keys sign other kinds of tokens, such as logout tokens."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a valid access token says about the caller."""

    subject: str
    """The provider's id of the caller, a person or a program (``sub``)."""

    scopes: frozenset[str]
    """What the caller may do (``scope`` and ``scp``)."""

    claims: Mapping[str, Any]
    """All claims of the token, unchanged."""


class InvalidToken(Exception):
    """A token is not accepted. The message is for the log, and does not quote the token."""


class TokenVerifier:
    """Verifies tokens of one provider for one audience.

    Parameters
    ----------
    options
        Issuer, audience, algorithms and leeway.
    keys
        Keys of the issuer; None: `Keys` with its defaults.
    """

    def __init__(self, options: AuthOptions, keys: Keys | None = None) -> None:
        self._options = options
        self._verified: dict[bytes, AccessToken] = {}
        self._generation = 0
        self.keys = keys or Keys(options.issuer, options.algorithms)

    async def verify(self, token: str) -> AccessToken:
        """Verify a token, unless it was verified before.

        Raises
        ------
        InvalidToken
            If the token is not accepted.
        KeysUnavailable
            If its key is not known and the provider does not answer.
        """
        if len(token) > _MAX_LENGTH:
            raise InvalidToken("TooLong")
        # Checking a signature costs a third of a read. Only the hash is stored, which nobody can use as a token.
        digest = hashlib.sha256(token.encode()).digest()
        if self._generation != self.keys.generation:
            self._verified.clear()  # its key may have been withdrawn
            self._generation = self.keys.generation
        known = self._verified.get(digest)
        if known and known.claims["exp"] > time.time() - self._options.leeway:
            return known
        try:
            verified = await self._verify(token)
        except PyJWTError as error:
            raise InvalidToken(type(error).__name__) from None
        if len(self._verified) >= _MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = verified
        return verified

    async def _verify(self, token: str) -> AccessToken:
        header = jwt.get_unverified_header(token)
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if algorithm not in self._options.algorithms or "crit" in header or "b64" in header:
            raise InvalidToken("Header")
        if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise InvalidToken("Type")
        # Only by id: keys and URLs of keys in the token itself (jwk, jku, x5c, x5u) are ignored.
        key = await self.keys.find(key_id, algorithm) if key_id else None
        if key is None:
            raise InvalidToken("UnknownKey")
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self._options.issuer,
            audience=self._options.audience,
            leeway=self._options.leeway,
            options={"require": ["iss", "aud", "sub", "exp"], "enforce_minimum_key_length": True},
        )
        # PyJWT also accepts "1" and true as times.
        if any(type(claims.get(name, 0)) not in (int, float) for name in ("exp", "nbf", "iat")):
            raise InvalidToken("Time")
        subject = claims["sub"]
        if not 0 < len(subject) <= 255 or not subject.isprintable():  # it goes into logs, and into columns
            raise InvalidToken("Subject")
        return AccessToken(subject, _scopes(claims), claims)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in ``scope`` (text, RFC 9068) and in ``scp`` (text or list, from some providers)."""
    values = [claims.get("scope"), claims.get("scp")]
    lists = [value.split() if isinstance(value, str) else value for value in values]
    return frozenset(scope for part in lists if isinstance(part, list) for scope in part if isinstance(scope, str))
