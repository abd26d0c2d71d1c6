"""Callers for the tests, without authentication."""

from typing import Any

from app.auth.options import AuthOptions

__all__ = ["environment", "headers", "options"]


def options() -> AuthOptions:
    """Return the options of the service."""
    return AuthOptions()


def environment() -> dict[str, str]:
    """Return the same as environment variables."""
    return {}


def headers(*scopes: str, **claims: Any) -> dict[str, str]:
    """Return the headers of a caller with these scopes."""
    return {}
