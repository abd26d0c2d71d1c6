"""The place of authentication: the routes are open to whoever can reach them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.auth.options import AuthOptions

__all__ = ["open_auth", "requires"]


def requires(*scopes: str) -> list[Any]:
    """Return the ``dependencies=`` of a route or a router that these scopes guard: none, it is open.

    Parameters
    ----------
    scopes
        Scopes that a caller would need. Check them here to guard all routes: ``[Security(check, scopes=scopes)]``.
    """
    return []


@asynccontextmanager
async def open_auth(options: AuthOptions) -> AsyncIterator[None]:
    """Open what verifies callers, for as long as the service runs: nothing."""
    yield
