"""Callers for the tests: access tokens with real signatures, of an issuer that this process runs on a real socket."""

from functools import cache
from typing import Any

from app.auth.options import AuthOptions
from app.main import create_app
from dev.issuer import Issuer

__all__ = ["environment", "headers", "issuer", "options"]


@cache
def issuer() -> Issuer:
    """Return the issuer of this process."""
    started = Issuer(audience="tests")
    started.start()
    return started


def options() -> AuthOptions:
    """Return the options of a service that trusts it."""
    return AuthOptions(issuer=issuer().url, audience=issuer().audience)


def environment() -> dict[str, str]:
    """Return the same as environment variables."""
    return {"AUTH_ISSUER": issuer().url, "AUTH_AUDIENCE": issuer().audience}


def headers(*scopes: str, **claims: Any) -> dict[str, str]:
    """Return the headers of a caller with these scopes; with none, with each that any route asks for."""
    token = issuer().token(**{"scope": " ".join(scopes or _all_scopes()), **claims})
    return {"Authorization": f"Bearer {token}"}


@cache
def _all_scopes() -> tuple[str, ...]:
    paths = create_app().openapi()["paths"].values()
    securities = [security for path in paths for route in path.values() for security in route.get("security", [])]
    return tuple(sorted({scope for security in securities for scopes in security.values() for scope in scopes}))
