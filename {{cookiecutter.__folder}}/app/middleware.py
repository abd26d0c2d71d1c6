"""The outermost layer of a request: its id and its log line, headers, body size limit, and the 500 of last resort."""

import asyncio
import re
import time
from random import getrandbits
from typing import Any, Final

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database.internal.transaction import SessionsOfRequest
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

    A body of more than ``max_body_bytes`` gets a 413; see also `app.dependencies.max_body_bytes`. A request that the
    ``processor`` does not admit gets a 503.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, processor: ProcessorQueue) -> None:
        self._app = app
        self._processor = processor
        self._max_body_bytes = max_body_bytes
        self._log: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        if not _SANE_ID.fullmatch(request_id):  # it goes into logs and headers, where a line break would do harm
            request_id = f"{getrandbits(128):032x}"
        if scope["type"] == "http" and not self._processor.admit(scope):
            await refuse(send, scope["path"], request_id)
            return
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        with SessionsOfRequest(scope) as sessions:
            if scope["type"] == "http":
                await self._answer(scope, receive, send, sessions)
                return

            async def send_committed(message: Message) -> None:
                if message["type"] == "websocket.send":
                    sessions.refuse_open()
                await send(message)

            await self._app(scope, receive, send_committed)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, sessions: SessionsOfRequest) -> None:
        start = time.perf_counter()
        request_id: str = scope["state"]["request_id"]
        status: int | None = None
        held: Message | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, held
            if message["type"] == "http.response.start":
                sessions.refuse_open()
                headers = dict(given := message.get("headers", ()))
                added = [(b"x-request-id", request_id.encode()), _NO_SNIFFING]
                if b"cache-control" not in headers:
                    # Without it, caches may keep even a 404. What has an ETag can be kept, and is checked each time.
                    added.append(_REVALIDATE if b"etag" in headers else _NO_STORE)
                message["headers"] = [*given, *added]
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
            # Bound when logging is configured, and once, not anew for each line.
            self._log = self._log or _log.bind()
            write = self._log.info if status is not None and status < 500 else self._log.warning
            write(
                "request",
                method=scope["method"],
                route=getattr(scope.get("route"), "path", None),
                status=status,
                client=(scope.get("client") or (None,))[0],
                duration_ms=round((time.perf_counter() - start) * 1000, 2),
            )
            if sessions.after_response:
                await sessions.close_abandoned()

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        received = 0
        complete = False
        start = 0.0

        async def receive_in_time() -> Message:
            # What asyncio.timeout_at does, in half of its time: it would take 2 % of a write.
            nonlocal start
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            start = start or loop.time()
            is_late = False

            def expire() -> None:
                nonlocal is_late
                is_late = task.cancel()

            timer = loop.call_at(start + _BODY_SECONDS + received / _BODY_RATE, expire)
            try:
                return await receive()
            except asyncio.CancelledError:
                if not is_late or task.uncancel() > 0:
                    raise
                raise HTTPException(408, "The body did not arrive in time.", {"Connection": "close"}) from None
            finally:
                timer.cancel()

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
