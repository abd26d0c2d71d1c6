"""The outermost layer of a request: request id, access log line, body size limit, and the 500 of last resort."""

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
from app.problems import problem

__all__ = ["RequestMiddleware"]

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Plain ASGI: Starlette's ``BaseHTTPMiddleware`` costs a task for each request and hides client disconnects.

    Parameters
    ----------
    app
        Application to wrap.
    max_body_bytes
        Size limit of a request body, in bytes; a longer one gets a 413.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        request_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        if not _SANE_ID.fullmatch(request_id):  # it goes into logs and headers, where a line break would do harm
            request_id = f"{getrandbits(128):032x}"
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
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                held = message  # until the first part of the body is there: an error in a stream before it is a 500
                return
            if held is not None:
                first, held = held, None
                status = first["status"]
                await send(first)
            await send(message)

        try:
            await self._app(scope, self._limited(receive), send_with_id)
        except Exception:
            _log.exception("unhandled error")
            if status is not None:
                raise  # part of the response is sent: closing the connection tells the client that it is incomplete
            answer = problem(Request(scope), 500, "The service failed. Quote the request id when you report it.")
            await answer(scope, receive, send_with_id)
        finally:
            _log.info(
                "request",
                method=scope["method"],
                route=getattr(scope.get("route"), "path", None),
                status=status,
                duration_ms=round((time.perf_counter() - start) * 1000, 2),
            )

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # Discard the rest, up to a limit: most clients send the whole body before they read the response.
                while message.get("more_body") and received < 16 * self._max_body_bytes:
                    message = await receive()
                    received += len(message.get("body", b""))
                raise HTTPException(413, f"The body is longer than {self._max_body_bytes} bytes.")
            return message

        return receive_within_limit
