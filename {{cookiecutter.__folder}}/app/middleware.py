"""The outermost layer of a request: its id, its access line, the limit of its body, and the last-resort 500."""

import re
import time
from random import getrandbits
from typing import Final

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem

__all__ = ["RequestMiddleware"]

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Plain ASGI, since Starlette's ``BaseHTTPMiddleware`` costs a task a request and hides client disconnects.

    Parameters
    ----------
    app
        The application.
    max_body_bytes
        A longer body is answered with 413.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        start = time.perf_counter()
        request_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        if not _SANE_ID.fullmatch(request_id):  # it goes into logs and headers: take no line breaks from a stranger
            request_id = f"{getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, self._limited(receive), send_with_id)
        except Exception:
            _log.exception("unhandled error")
            if status is not None:
                raise  # part of the answer is out: the server must cut the connection, or the client takes it for whole
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
                # Read on and throw away, up to a point: most clients send all before they read the answer.
                while message.get("more_body") and received < 16 * self._max_body_bytes:
                    message = await receive()
                    received += len(message.get("body", b""))
                raise HTTPException(413, f"The body is longer than {self._max_body_bytes} bytes.")
            return message

        return receive_within_limit
