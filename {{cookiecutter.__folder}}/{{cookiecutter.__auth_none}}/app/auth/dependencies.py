"""Where to add authentication: without it, the routes are open to anyone who can reach them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.auth.options import AuthOptions

__all__ = ["open_auth", "requires"]


def requires(*scopes: str) -> list[Any]:
    """Return the ``dependencies=`` of a route or a router that requires scopes: an empty list, since it is open.

    Parameters
    ----------
    scopes
        Scopes that a caller would need. To check them in all routes, return ``[Security(check, scopes=scopes)]``.
    """
    return []


@asynccontextmanager
async def open_auth(options: AuthOptions) -> AsyncIterator[None]:
    """Run while the service runs: the place to open and close what verifies callers."""
    yield
