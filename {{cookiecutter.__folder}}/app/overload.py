"""Refuses requests that would wait too long for the processor, before anything is spent on them.

What waits for the processor is invisible: asyncio runs everything that is ready in turn, so under overload each request
makes all others slower, until none is answered in time.
"""

import asyncio
import json
import time
from math import inf
from typing import Final

import structlog
from starlette.types import Scope, Send

from app.instruments import LOOP_DELAY, UNAVAILABLE

__all__ = ["ProcessorQueue", "refuse"]

_FEW: Final = 8
"""Requests that are always admitted: so few do no harm, and an idle service is not observed."""

_PERIOD: Final = 0.01
"""Seconds between two observations of the event loop."""

_IDLE: Final = 0.00025
"""Seconds that a round of the event loop takes if nothing else is ready; usually a tenth of it."""

_BUSY: Final = 3
_BUSY_FOR: Final = 0.1
"""Observations in a row without an idle round, and their seconds, after which the processor counts as the limit."""

_WINDOW: Final = 1.0
"""Seconds over which the rate of responses is averaged."""

_REPORT: Final = 10.0
"""Seconds between two log lines about refused requests."""

_PROBLEM: Final = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The service is over capacity and has '
    b'not begun this request; try again shortly.","instance":%s,"request_id":"%s"}'
)

_log = structlog.get_logger(__name__)


class ProcessorQueue:
    """Counts the requests without a response, and refuses new ones if these cannot be answered in time.

    Requests that wait for something else, and open streams, do no harm: as long as the event loop has idle rounds,
    nothing is refused. If it has none for a while, a new request can expect to wait for as long as the ones before it
    take, at the present rate of responses (Little's law).
    """

    def __init__(self) -> None:
        self.timeout = 0.0
        """Longest expected wait in seconds; 0: no limit."""
        self._waiting = 0
        self._room = inf
        self._answered = 0
        self._rate = 0.0
        self._busy = 0
        self._busy_since = self._observed = 0.0
        self._observing = False
        self._refused = 0
        self._reported = -inf

    def admit(self, scope: Scope) -> bool:
        """Count a new request, unless it has to be refused."""
        if self._waiting >= self._room and not scope["path"].removeprefix(scope["root_path"]).startswith("/health/"):
            self._refused += 1
            return False
        self._waiting += 1
        if self._waiting > _FEW and not self._observing:
            self._observing = True
            self._answered = self._busy = 0  # what was before says nothing about the rate under load
            self._observed = self._busy_since = time.perf_counter()
            self._observe_later()
        return True

    def leave(self, status: int | None) -> None:
        """Count the beginning of a response, or the end of a request without one."""
        self._waiting -= 1
        self._answered += status != 503  # it is no use to refuse requests late instead of early

    def _observe_later(self) -> None:
        loop = asyncio.get_running_loop()
        # Two steps, so that what is measured is a whole round, with everything that was ready.
        loop.call_later(_PERIOD, loop.call_soon, self._start_round)

    def _start_round(self) -> None:
        asyncio.get_running_loop().call_soon(self._end_round, time.perf_counter())

    def _end_round(self, started: float) -> None:
        now = time.perf_counter()
        delay = now - started
        LOOP_DELAY.record(delay)
        if delay < _IDLE or self._waiting <= _FEW:
            self._busy, self._busy_since = 0, now
            self._room = inf if self._waiting <= _FEW else 2 * self._room
        else:
            self._busy += 1
            elapsed = now - self._observed
            rate = self._answered / elapsed
            self._rate += (rate - self._rate) * elapsed / max(elapsed, min(now - self._busy_since, _WINDOW))
            if self._busy >= _BUSY and now - self._busy_since > _BUSY_FOR and self.timeout:
                self._room = max(_FEW, self._rate * self.timeout)
        self._answered, self._observed = 0, now
        if self._refused and now > self._reported + _REPORT:
            _log.warning("requests are refused: the processor is the limit", refused=self._refused)
            self._refused, self._reported = 0, now
        self._observing = self._waiting > _FEW
        if self._observing:
            self._observe_later()


async def refuse(send: Send, path: str, request_id: str) -> None:
    """Send the response to a refused request: a problem, as those of `app.problems`, in a tenth of the time."""
    UNAVAILABLE.add(1, {"reason": "processor"})
    body = _PROBLEM % (json.dumps(path).encode(), request_id.encode())
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
