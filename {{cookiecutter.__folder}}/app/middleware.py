"""The outermost layer of a request: its id and its log line, headers, body size limit, and the 500 of last resort."""

import asyncio
import re
import time
from collections.abc import Callable
from random import getrandbits
from typing import Final

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database.internal.transaction import watch_sessions
from app.overload import ProcessorQueue, refuse
from app.problems import problem

__all__ = ["RequestMiddleware"]

_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
_NO_STORE: Final = (b"cache-control", b"no-store")
_REVALIDATE: Final = (b"cache-control", b"private, no-cache")
_BODY_SECONDS: Final = 20
_BODY_RATE: Final = 16 * 1024
"""A body may take these seconds, and one more for each 16 KiB of it, as with Apache's RequestReadTimeout."""

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Plain ASGI: Starlette's ``BaseHTTPMiddleware`` costs a task for each request and hides client disconnects.

    Parameters
    ----------
    app
        Application to wrap.
    max_body_bytes
        Size limit of a request body, in bytes; a longer one gets a 413. See also `app.dependencies.max_body_bytes`.
    processor
        Queue that refuses requests under overload, with a 503.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, processor: ProcessorQueue) -> None:
        self._app = app
        self._processor = processor
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        request_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        if not _SANE_ID.fullmatch(request_id):  # it goes into logs and headers, where a line break would do harm
            request_id = f"{getrandbits(128):032x}"
        if scope["type"] == "http" and not self._processor.admit(scope):
            await refuse(send, scope["path"], request_id)
            return
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        with watch_sessions(scope) as refuse_open_session:
            if scope["type"] == "http":
                await self._answer(scope, receive, send, refuse_open_session)
                return

            async def send_committed(message: Message) -> None:
                if message["type"] == "websocket.send":
                    refuse_open_session()
                await send(message)

            await self._app(scope, receive, send_committed)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, refuse_open_session: Callable[[], None]
    ) -> None:
        start = time.perf_counter()
        request_id: str = scope["state"]["request_id"]
        status: int | None = None
        held: Message | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, held
            if message["type"] == "http.response.start":
                refuse_open_session()
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode()), _NO_SNIFFING]
                names = {name for name, _ in headers}
                if b"cache-control" not in names:
                    # Without it, caches may keep even a 404. What has an ETag can be kept, and is checked each time.
                    headers.append(_REVALIDATE if b"etag" in names else _NO_STORE)
                message["headers"] = headers
                held = message  # until the first part of the body is there: an error in a stream before it is a 500
                return
            if held is not None:
                first, held = held, None
                self._processor.leave(first["status"])
                status = first["status"]
                await send(first)
            await send(message)

        try:
            await self._app(scope, self._limited(scope, receive), send_with_id)
        except Exception:
            _log.exception("unhandled error")
            if status is not None:
                raise  # part of the response is sent: closing the connection tells the client that it is incomplete
            answer = problem(Request(scope), 500, "The service failed. Quote the request id when you report it.")
            await answer(scope, receive, send_with_id)
        finally:
            if status is None:
                self._processor.leave(None)
            _log.info(
                "request",
                method=scope["method"],
                route=getattr(scope.get("route"), "path", None),
                status=status,
                client=(scope.get("client") or (None,))[0],
                duration_ms=round((time.perf_counter() - start) * 1000, 2),
            )

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        received = 0
        complete = False
        start = asyncio.get_running_loop().time()

        async def receive_in_time() -> Message:
            try:
                async with asyncio.timeout_at(start + _BODY_SECONDS + received / _BODY_RATE):
                    return await receive()
            except TimeoutError:
                raise HTTPException(408, "The body did not arrive in time.", {"Connection": "close"}) from None

        async def receive_within_limit() -> Message:
            nonlocal received, complete
            if complete:  # what comes is a disconnect, at any time
                return await receive()
            message = await receive_in_time()
            complete = not message.get("more_body")
            received += len(message.get("body", b""))
            limit = getattr(scope.get("endpoint"), "max_body_bytes", self._max_body_bytes)  # the route is known by now
            if received > limit:
                # Discard the rest, up to a limit: most clients send the whole body before they read the response.
                while message.get("more_body") and received < 16 * limit:
                    message = await receive_in_time()
                    received += len(message.get("body", b""))
                raise HTTPException(413, f"The body is longer than {limit} bytes.")
            return message

        return receive_within_limit
