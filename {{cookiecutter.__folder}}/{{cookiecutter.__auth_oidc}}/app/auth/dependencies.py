"""Dependencies of routes: a caller with a valid access token, and scopes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Annotated, Any

import structlog
from fastapi import HTTPException, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.auth.keys import KeysUnavailable
from app.auth.options import AuthOptions
from app.auth.tokens import AccessToken, InvalidToken, TokenVerifier
from app.instruments import UNAVAILABLE

__all__ = ["Caller", "open_auth", "requires"]


class _BearerToken(SecurityBase):
    """Dependency that reads the caller from the header ``Authorization: Bearer …`` (RFC 6750)."""

    def __init__(self) -> None:
        self.scheme_name = "access_token"
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of the service's OpenID provider.")
        self.verifier: TokenVerifier | None = None

    async def __call__(self, connection: HTTPConnection, required: SecurityScopes) -> AccessToken:
        """Verify the token. The response to an invalid one does not give the reason; the log does."""
        if self.verifier is None:
            raise RuntimeError("tokens can only be verified inside `async with open_auth(...)`")
        scheme, _, token = ", ".join(connection.headers.getlist("Authorization")).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refusal(401, "An access token is required.")
        try:
            caller = await self.verifier.verify(token.strip(" "))
        except InvalidToken as error:
            structlog.contextvars.bind_contextvars(token_refused=str(error))
            raise _refusal(401, "The access token is not valid.", error="invalid_token") from None
        except KeysUnavailable as error:
            headers = {"Retry-After": str(ceil(error.retry_after))}
            UNAVAILABLE.add(1, {"reason": "signing keys"})
            raise HTTPException(503, "The access token cannot be verified now; try again.", headers) from None
        # For log lines, and for other code that has the request, such as `once`.
        structlog.contextvars.bind_contextvars(subject=caller.subject)
        connection.state.subject = caller.subject
        if not caller.scopes.issuperset(required.scopes):
            detail = "The access token does not allow this."
            raise _refusal(403, detail, error="insufficient_scope", scope=required.scope_str)
        return caller


def _refusal(status: int, detail: str, **parameters: str) -> HTTPException:
    challenge = ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    return HTTPException(status, detail, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()})


_bearer_token = _BearerToken()

Caller = Annotated[AccessToken, Security(_bearer_token)]
"""The caller of the request: its access token, with ``subject``, ``scopes`` and ``claims``."""


def requires(*scopes: str) -> list[Any]:
    """Return the ``dependencies=`` of a route or a router that requires a valid access token.

    Parameters
    ----------
    scopes
        Scopes that the token must have, all of them; none: any valid token is accepted.
    """
    return [Security(_bearer_token, scopes=scopes)]


@asynccontextmanager
async def open_auth(options: AuthOptions) -> AsyncIterator[None]:
    """Verify tokens with these options until the end of the block. A provider that is away does not stop the start."""
    verifier = _bearer_token.verifier = TokenVerifier(options)
    verifier.keys.refresh()
    try:
        yield
    finally:
        _bearer_token.verifier = None
        await verifier.keys.aclose()
