"""Options of authentication. Each is also a setting of the service: ``AUTH_`` and its name in capitals."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

__all__ = ["AuthOptions", "is_trusted_url"]

_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def is_trusted_url(url: str) -> bool:
    """Return whether nobody on the network can change the answer of a URL: it has https, or is on this machine."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises an error for an invalid port
    except ValueError:
        return False
    local = parts.scheme == "http" and re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", parts.netloc)
    return bool(local or (parts.scheme == "https" and parts.hostname and "@" not in parts.netloc))


def _issuer(value: str) -> str:
    if not is_trusted_url(value) or re.search(r"[?#\s]", value):
        raise ValueError("must be the provider's issuer, an https:// URL; http:// is only accepted for this machine")
    return value


def _names(value: Any) -> Any:
    return tuple(filter(None, re.split(r"[\s,]+", value))) if isinstance(value, str) else value


def _algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not set(value) <= set(_ALGORITHMS):
        raise ValueError(f"must be some of {', '.join(_ALGORITHMS)}; shared secrets (HS256) and none are refused")
    return value


@dataclass(frozen=True, kw_only=True)
class AuthOptions:
    """Which access tokens are accepted. The constraints are checked when the options are read as settings."""

    issuer: Annotated[str, AfterValidator(_issuer)]
    """The provider's issuer, exactly as in ``iss`` of its tokens. Its keys are found by discovery."""

    audience: Annotated[str, Field(min_length=1)]
    """Name of this service at the provider: a token for another service, with another ``aud``, is refused."""

    algorithms: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_algorithms)] = (
        "RS256",
        "ES256",
        "EdDSA",
    )
    """Signature algorithms, separated by commas. Symmetric ones are refused: anyone who can verify could also sign."""

    leeway: Annotated[float, Field(ge=0, le=300)] = 30
    """Seconds by which the provider's clock and ours may differ."""
