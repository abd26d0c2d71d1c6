"""Spans and metrics of the connection pool and of each statement, by OpenTelemetry's conventions for databases.

SQLAlchemy's engine events do not see the statements that `app.database.internal.compiled` runs. The driver's
connection sees all of them, including BEGIN and COMMIT.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import asyncpg
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Dialect, Engine, event
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from app.database.errors import is_conflict, sqlstate
from app.instruments import TRANSACTIONS

__all__ = ["observe"]

T = TypeVar("T")

_POOL: Final = "db.client.connection.pool.name"
_BOUNDARIES: Final = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
"""In seconds, as the conventions recommend."""

# Text, dollar-quoted text and numbers in SQL written by hand; values from clients are parameters ($1).
_VALUE = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|(?<![\w$.\"])\d[\d.]*", re.DOTALL)
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+([\w.\"]+)", re.IGNORECASE)
_OPERATION = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*([A-Za-z]+)", re.DOTALL)

_tracer = trace.get_tracer(__name__)
_meter = metrics.get_meter(__name__)
_duration = _meter.create_histogram(
    "db.client.operation.duration", "s", "Duration of statements.", explicit_bucket_boundaries_advisory=_BOUNDARIES
)
_wait = _meter.create_histogram(
    "db.client.connection.wait_time",
    "s",
    "Time until the pool gave a connection.",
    explicit_bucket_boundaries_advisory=_BOUNDARIES,
)
_timeouts = _meter.create_counter(
    "db.client.connection.timeouts", "{timeout}", "Requests that got no connection within DATABASE_POOL_TIMEOUT."
)
_pools: WeakValueDictionary[str, QueuePool] = WeakValueDictionary()


def observe(engine: AsyncEngine, *, pool_name: str) -> None:
    """Observe the pool of an engine. Call it once. Statements are observed on all connections that are made later."""
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    connect, labels = pool.connect, {_POOL: pool_name}

    def timed_connect() -> PoolProxiedConnection:
        span = _tracer.start_span("db.client.connection.wait", attributes=labels)
        start = perf_counter()
        try:
            return connect()
        except BaseException as error:
            _fail(span, error)
            if isinstance(error, PoolTimeoutError):
                _timeouts.add(1, labels)
            raise
        finally:
            _wait.record(perf_counter() - start, labels)
            span.end()

    pool.connect = timed_connect  # type: ignore[method-assign]  # SQLAlchemy has no event for the time before a checkout
    _pools[pool_name] = pool


# On all engines, since these listeners run before the engine's own, which connects.
@event.listens_for(Engine, "do_connect")
def _connect_observed(_dialect: Dialect, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
    if "connection_class" in cparams:  # one of `app.database.engine`
        cparams["connection_class"] = type("Connection", (_Observed, cparams["connection_class"]), {})


def _connections(_: CallbackOptions) -> Iterable[Observation]:
    for name, pool in list(_pools.items()):
        yield Observation(pool.checkedout(), {_POOL: name, "db.client.connection.state": "used"})
        yield Observation(pool.checkedin(), {_POOL: name, "db.client.connection.state": "idle"})


def _limits(_: CallbackOptions) -> Iterable[Observation]:
    for name, pool in list(_pools.items()):
        yield Observation(pool.size() + pool._max_overflow, {_POOL: name})  # noqa: SLF001  # nothing public has it


_meter.create_observable_up_down_counter(
    "db.client.connection.count", [_connections], "{connection}", "Connections of the pool, by state."
)
_meter.create_observable_up_down_counter(
    "db.client.connection.max", [_limits], "{connection}", "Maximum number of connections of the pool."
)


@lru_cache(1024)
def _described(query: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return name and attributes of a statement's spans, with its SQL but without values, and its labels in metrics."""
    operation = match[1].upper() if (match := _OPERATION.match(query)) else "OTHER"
    table = match[1].replace('"', "") if (match := _TABLE.search(query)) else ""
    labels = {"db.system.name": "postgresql", "db.operation.name": operation}
    if table:
        labels["db.collection.name"] = table
    name = f"{operation} {table}".rstrip()
    return name, labels | {"db.query.summary": name, "db.query.text": _VALUE.sub("?", query)}, labels


def _fail(span: trace.Span, error: BaseException) -> str:
    """Mark a span as failed. The error's text is left out: PostgreSQL quotes rows and parameters in it."""
    state = sqlstate(error)
    kind = state or type(error).__name__
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
    if state:
        span.set_attribute("db.response.status_code", state)
    return kind


class _Observed(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Reports each statement. It is a base class before the engine's own class of connections."""

    _conflict = False

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        verb = query.removesuffix(";")
        if verb.startswith("BEGIN"):
            self._conflict = False
        try:
            answer: str = await self._timed(query, super().execute(query, *args, **options))
        except BaseException as error:
            if verb == "COMMIT":
                lost = sqlstate(error) is None and not isinstance(error, PendingRollbackError)
                self._ended("unknown" if lost else "rolled_back")
            raise
        if verb in ("COMMIT", "ROLLBACK"):
            self._ended("committed" if verb == "COMMIT" else "rolled_back")
        return answer

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._timed(query, super().fetch(query, *args, **options))

    async def executemany(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._timed(query, super().executemany(query, *args, **options))

    async def prepare(self, query: str, **options: Any) -> "_Prepared":
        statement = await self._timed(f"PREPARE {query}", super().prepare(query, **options))
        return _Prepared(statement, partial(self._timed, query))

    async def _timed(self, query: str, running: Awaitable[T]) -> T:
        name, attributes, labels = _described(query)
        span = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        start = perf_counter()
        try:
            return await running
        except BaseException as error:
            self._conflict = self._conflict or is_conflict(error)
            labels = {**labels, "error.type": _fail(span, error)}
            raise
        finally:
            _duration.record(perf_counter() - start, labels)
            span.end()

    def _ended(self, outcome: str) -> None:
        TRANSACTIONS.add(1, {"outcome": "conflict" if self._conflict and outcome != "committed" else outcome})


class _Prepared:
    """A prepared statement of the driver, which SQLAlchemy uses for the statements that it runs itself."""

    def __init__(self, statement: Any, timed: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:
        self._statement = statement
        self._timed = timed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self._timed(self._statement.fetch(*args, **options))

    async def cursor(self, *args: Any, **options: Any) -> Any:
        return await self._timed(self._statement.cursor(*args, **options))
