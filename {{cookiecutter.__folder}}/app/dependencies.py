"""Dependencies that handlers can ask for."""

import sys
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import solve_dependencies
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.database.internal.transaction import LateCommitError, yields
from app.database.reader import Reader
from app.database.session import DatabaseSessionDependency, db_session_dependency

__all__ = ["DbFallbackReader", "DbReader", "DbReplicaReader", "DbSession", "max_body_bytes", "refuse_late_commits"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_STACK: Final = "fastapi_function_astack"


async def _session(connection: HTTPConnection) -> AsyncSession:
    # The exit stack of Depends(..., scope="function"): FastAPI closes it after the handler has returned and before the
    # response is sent. Using it directly makes a write 8 % faster than a generator dependency.
    stack: AsyncExitStack = connection.scope[_STACK]
    block = db_session_dependency.session()
    # Dependencies that were entered earlier exit before the commit: if one fails, the session is rolled back.
    earlier = stack.pop_all()
    session = await stack.enter_async_context(block)
    stack.push(partial(_raise_swallowed, sys.exception()))
    stack.push_async_exit(earlier)
    return session


def _raise_swallowed(outside: BaseException | None, _kind: object, error: BaseException | None, _tb: object) -> None:
    # sys.exception() is still the handler's error here, even if another dependency has swallowed it.
    current = sys.exception()
    if error is None and current is not None and current is not outside:
        raise current


# The name of the stack is private to FastAPI. If it is gone, a generator dependency does the same.
_is_known = _STACK in solve_dependencies.__code__.co_consts

DbSession = Annotated[
    AsyncSession, Depends(_session) if _is_known else Depends(db_session_dependency, scope="function")
]
"""A session that is one transaction, committed before the response is sent.

Within one request, the handler and its dependencies get the same session.
"""


async def _reader() -> Reader:
    return db_session_dependency.reader


DbReader = Annotated[Reader, Depends(_reader)]
"""A reader, for handlers that only read: selects without a transaction, in a third of a session's time."""


async def _fallback_reader() -> Reader:
    return db_session_dependency.readers.fallback


DbFallbackReader = Annotated[Reader, Depends(_fallback_reader)]
"""A reader of the primary, or of a replica while the primary is away. Without DATABASE_REPLICA_URL: `DbReader`."""


async def _replica_reader() -> Reader:
    return db_session_dependency.readers.replica


DbReplicaReader = Annotated[Reader, Depends(_replica_reader)]
"""A reader of a replica, or of the primary while the replicas are away; for handlers that may return old rows. Without
DATABASE_REPLICA_URL: `DbReader`."""


def max_body_bytes(limit: int) -> Callable[[Handler], Handler]:
    """Give a handler a size limit of its own for the request body, in bytes, such as a larger one for an upload.

    It stands below the route's decorator. A handler with a large limit should read ``request.stream()``: other ways
    keep the whole body in memory.
    """

    def mark(handler: Handler) -> Handler:
        handler.__dict__["max_body_bytes"] = limit
        return handler

    return mark


def refuse_late_commits(app: FastAPI) -> None:
    """Raise LateCommitError if a route commits after its response; the middleware checks what cannot be seen here."""
    lines = list(_late_commits(app.routes))
    if lines:
        raise LateCommitError("\n".join(lines))


def _late_commits(routes: Iterable[Any], prefix: str = "") -> Iterable[str]:
    for route in iter_route_contexts(list(routes)):
        path = f"{prefix}{route.path or ''}"
        dependant = getattr(route, "dependant", None)
        if isinstance(dependant, Dependant):
            if reason := _why_late(dependant, is_websocket=isinstance(route.route, APIWebSocketRoute)):
                yield f"{' '.join([*sorted(route.methods or ()), path])}: {reason}"
        elif mounted := getattr(getattr(route.route, "app", None), "routes", None):
            yield from _late_commits(mounted, path)


def _why_late(dependant: Dependant, *, is_websocket: bool) -> str | None:
    scopes = _session_scopes(dependant)
    if is_websocket and scopes:
        return (
            "a web socket that takes a session (`session: DbSession`) commits after its messages; write `async with "
            "db_session_dependency.session()` around the work of one message, and send the answer after the block"
        )
    if scopes - {"function"}:
        return (
            "gets its session from Depends(db_session_dependency), which commits after the response is sent; "
            "write `session: DbSession` (from app.dependencies)"
        )
    # A dependency without a name, in `dependencies=[...]`, hands nothing to the handler.
    if yields(dependant.call) and any(_session_scopes(inner) for inner in dependant.dependencies if inner.name):
        return (
            "a handler that yields runs while its response is sent, when its session is closed; read with `reader: "
            "DbReader`; to write first and then stream, take the session in a handler that returns a "
            "StreamingResponse; to write in between, `async with db_session_dependency.session(after_response=True)`"
        )
    return None


def _session_scopes(dependant: Dependant) -> set[str | None]:
    scopes = set[str | None]().union(*map(_session_scopes, dependant.dependencies))
    provider = getattr(dependant.call, "__self__", dependant.call)  # the object itself, or its __call__
    if isinstance(provider, DatabaseSessionDependency):
        scopes.add(dependant.scope)
    elif provider is _session:
        scopes.add("function")
    return scopes
