"""The pool's queue: requests get connections in the order in which they came, and none waits longer than is useful.

SQLAlchemy's queue lets a new request overtake the waiting ones: under load most requests are quick, and some never end.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_
from sqlalchemy.util.queue import Empty, Full, QueueCommon

__all__ = ["Pool"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_SMOOTHING: Final = 0.125
"""Weight of the newest interval between two connections in their average, as in TCP's estimate of a round trip."""


class _Queue(QueueCommon[T]):
    """Connections that are idle, or requests that wait for one.

    A request waits at most for the timeout. In the first moments of a queue it may wait up to twice as long, since a
    burst passes by itself. A request that would wait in vain is refused at once: connections are returned at a known
    rate, and it knows how many requests are before it.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._items: deque[T] = deque()
        self._waiting: OrderedDict[asyncio.Future[T | None], None] = OrderedDict()
        self._began = 0.0  # when the first of the waiting requests came, on the clock of the loop
        self._returned = 0.0  # when the last connection was returned
        self._interval = 0.0  # average time between two of these

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        if self._items:
            return self._items.pop() if self.use_lifo else self._items.popleft()
        if not block or timeout is None:
            raise Empty
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._began = self._returned = loop.time()
        if self.is_hopeless(timeout):
            raise Empty
        waiter: asyncio.Future[T | None] = loop.create_future()
        self._waiting[waiter] = None
        timer = loop.call_at(self._deadline(timeout), _answer, waiter, None)
        try:
            item = await_(waiter)
        except BaseException:  # the request is cancelled, perhaps just after it has got a connection
            if waiter.done() and not waiter.cancelled() and (item := waiter.result()) is not None:
                self.put(item)
            raise
        finally:
            timer.cancel()
            self._waiting.pop(waiter, None)
        if item is None:
            raise Empty
        return item

    def _deadline(self, timeout: float) -> float:
        return max(asyncio.get_running_loop().time() + timeout, self._began + 2 * timeout)

    def is_hopeless(self, timeout: float) -> bool:
        """Return whether a new request would wait in vain."""
        if not self._waiting:
            return False
        return asyncio.get_running_loop().time() + len(self._waiting) * self._interval > self._deadline(timeout)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        if self._waiting:
            now = asyncio.get_running_loop().time()
            self._interval += (now - self._returned - self._interval) * _SMOOTHING
            self._returned = now
        while self._waiting:
            if _answer(self._waiting.popitem(last=False)[0], item):
                return
        if len(self._items) >= self.maxsize:
            raise Full
        self._items.append(item)

    def qsize(self) -> int:
        return len(self._items)


def _answer(waiter: asyncio.Future[T | None], item: T | None) -> bool:
    if waiter.done():  # it is cancelled, or its time is over
        return False
    waiter.set_result(item)
    return True


class Pool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, with a fair queue."""

    __module__ = AsyncAdaptedQueuePool.__module__  # SQLAlchemy names its logger after this
    # Private names of SQLAlchemy. If they are gone, its own queue is used.
    _queue_class: type[QueueCommon[Any]] = _Queue

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        queue = getattr(self, "_pool", None)
        self._queue = queue if isinstance(queue, _Queue) else None
        if self._queue is None:
            _log.warning("this version of SQLAlchemy is not supported: requests may overtake each other in its pool")

    def refuse_in_vain(self) -> None:
        """Raise SQLAlchemy's TimeoutError if a new request would wait in vain: before a session, this costs half."""
        if self._queue is not None and self._queue.is_hopeless(self.timeout()):
            raise PoolTimeoutError("no connection will be free in time: too many requests wait for one")
