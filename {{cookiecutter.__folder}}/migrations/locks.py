"""Looks from another connection at the lock that a migration waits for, and chooses when to try again."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Locks"]

_WAIT: Final = 0.8
"""Seconds that one attempt waits for all its locks together: others wait for those that it already holds."""

_POLL: Final = 0.1
"""Seconds between two looks at the locks."""

_SHORTEST: Final = 0.5
"""Shortest pause in seconds between two attempts, in which traffic flows."""

_LONGEST: Final = 5.0
"""Longest pause."""

_LOG_EVERY: Final = 10.0
"""Seconds between two log lines of a statement that waits for long because it blocks nobody."""

# The migration is found by its application_name, not by its pid, which may change behind a pooler.
_WAITING = text(
    """
    WITH waiting AS (
        SELECT pid, mode, coalesce(relation, (
            -- It waits for a row or the end of a transaction: another lock has the table.
            SELECT relation FROM pg_locks AS own WHERE own.pid = lock.pid AND granted AND relation IS NOT NULL
            ORDER BY locktype = 'tuple' DESC, mode IN ('ShareUpdateExclusiveLock', 'RowExclusiveLock') DESC LIMIT 1
        )) AS relation
        FROM pg_locks AS lock JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND pid <> pg_backend_pid() AND datname = current_database() AND usename = session_user
            AND application_name = current_setting('application_name')
    )
    SELECT waiting.pid AS waiting, mode, relation, relation::regclass::text AS table_name, holder, backend_type,
        application_name, usename, state, extract(epoch FROM clock_timestamp() - xact_start)::float AS age,
        EXISTS (
            SELECT FROM pg_locks AS held WHERE held.pid = holder AND granted AND held.relation = waiting.relation
                AND held.mode = 'ShareUpdateExclusiveLock'
        ) AS is_vacuum
    FROM waiting CROSS JOIN unnest(pg_blocking_pids(waiting.pid)) AS holder
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = holder
    ORDER BY age DESC NULLS LAST
    """
)
_HOLDERS = text(
    """
    SELECT DISTINCT pid, xact_start, extract(epoch FROM clock_timestamp() - xact_start)::float AS age
    FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)  -- a prepared transaction has no session
    WHERE granted AND relation = :relation AND pid IS DISTINCT FROM pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (:mode = 'AccessExclusiveLock' OR mode NOT IN ('AccessShareLock', 'RowShareLock'))
    """
)
# PostgreSQL ends an autovacuum for a session that has waited for `deadlock_timeout`, which is longer than an attempt.
# This statement waits for that long, and neither readers nor writers wait behind it.
_END_AUTOVACUUM = """
    DO $$ BEGIN
        PERFORM set_config('lock_timeout', (setting::int + 500)::text, true)
            FROM pg_settings WHERE name = 'deadlock_timeout';
        LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available OR wrong_object_type OR insufficient_privilege THEN NULL;
    END $$
"""
_CANCEL = text("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE pid = :pid AND NOT granted LIMIT 1")

_log = structlog.get_logger("alembic")


class _Wait(NamedTuple):
    """A lock that the migration waits for."""

    relation: int | None
    mode: str
    description: str
    vacuumed: str | None
    """Name of the table, if a VACUUM holds it."""


class Locks:
    """What a migration waits for.

    Parameters
    ----------
    connection
        Connection of the same role and ``application_name`` as the migration's, in autocommit mode: ``CREATE INDEX
        CONCURRENTLY`` waits for the end of a transaction that has a snapshot when it looks.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._wait: _Wait | None = None
        self._relation: int | None = None
        self._looked_at = 0.0
        self._since: dict[Any, float] = {}
        self._durations: list[float] = []
        self.cancelled = False
        """Whether the last attempt was cancelled, since it had waited long enough."""

    @property
    def description(self) -> str | None:
        """What the last attempt has waited for, and who holds it: no SQL, no values. None if it was not seen."""
        return self._wait and self._wait.description

    @asynccontextmanager
    async def watched(self, longest_wait: Callable[[], float | None], name: Callable[[], str]) -> AsyncIterator[None]:
        """Watch what the migration waits for until the end of the block, and cancel it if it waits for too long.

        Parameters
        ----------
        longest_wait
            Function that returns how many seconds it may wait in all; None: as long as others can bear.
        name
            Function that returns its name, for the log.
        """
        self._wait, self.cancelled = None, False
        ended = asyncio.Event()
        task = asyncio.create_task(self._watch(ended, longest_wait, name))
        try:
            yield
        finally:
            ended.set()
            await task  # not cancelled: that would close the connection

    async def _watch(
        self, ended: asyncio.Event, longest_wait: Callable[[], float | None], name: Callable[[], str]
    ) -> None:
        now = asyncio.get_running_loop().time
        waited, logged, before = 0.0, 0.0, now()
        while not await _is_set_within(_POLL, ended):
            rows = (await self._connection.execute(_WAITING)).all()
            before, elapsed = now(), now() - before
            if not rows:
                continue
            waited += elapsed
            longest = longest_wait()
            table = f"a lock on {rows[0].table_name}" if rows[0].table_name else "a lock"
            holders = ", ".join(dict.fromkeys(map(_describe, rows)))
            vacuumed = next((row.table_name for row in rows if row.is_vacuum), None)
            self._wait = _Wait(rows[0].relation, rows[0].mode, f"{table}, held by {holders}", vacuumed)
            await self._ages_of_holders()
            if waited > (longest or _WAIT):
                self.cancelled = True
                await self._connection.execute(_CANCEL, {"pid": rows[0].waiting})
            elif longest and waited > logged:
                _log.warning(f"{name()}: waiting for {self.description}")
                logged = waited + _LOG_EVERY

    async def pause(self, longest: float) -> None:
        """Let traffic flow until another attempt is likely to succeed.

        Transactions that have waited behind an attempt begin together when it ends. Usually they end together, and the
        next attempt begins shortly before that: so it succeeds although transactions overlap all the time.

        Parameters
        ----------
        longest
            Seconds after which the pause ends, if the usual duration of transactions on the table is unknown.
        """
        if self._wait and self._wait.vacuumed:
            await self._connection.exec_driver_sql(_END_AUTOVACUUM.format(self._wait.vacuumed))
        now = asyncio.get_running_loop().time
        begin = now()
        longest = min(longest, _LONGEST) * random.uniform(0.7, 1.3)  # noqa: S311  # not a secret
        lead = random.uniform(0.3, 0.6)  # noqa: S311
        while (paused := now() - begin) < longest:
            await asyncio.sleep(_POLL)
            ages = await self._ages_of_holders()
            if ages is None:
                continue
            if self._durations:
                usual = max(self._durations[-20:])
                longest = min(usual - lead, _LONGEST)
                if ages and min(ages) < usual - _WAIT + _POLL:
                    continue
            elif ages:
                continue
            if paused > _SHORTEST:
                return

    async def _ages_of_holders(self) -> list[float] | None:
        """Return for how long each transaction has held the lock; None: unknown."""
        if self._wait is None or self._wait.relation is None:
            return None
        if self._wait.relation != self._relation:
            self._relation, self._since, self._durations, self._looked_at = self._wait.relation, {}, [], 0.0
        which = {"relation": self._wait.relation, "mode": self._wait.mode}
        rows = (await self._connection.execute(_HOLDERS, which)).all()
        if any(row.age is None for row in rows):  # prepared, or of another role, whose sessions this one may not see
            return None
        now = asyncio.get_running_loop().time()
        # A transaction that did not hold it at the last look has waited before, perhaps behind the migration.
        since = {(row.pid, row.xact_start): max(now - row.age, self._looked_at) for row in rows}
        since |= {holder: begin for holder, begin in self._since.items() if holder in since}
        self._durations += [now - begin for holder, begin in self._since.items() if holder not in since]
        self._since, self._looked_at = since, now
        return [now - begin for begin in since.values()]


async def _is_set_within(seconds: float, flag: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(flag.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _describe(row: Row[Any]) -> str:
    if not row.holder:
        return "a prepared transaction (pg_prepared_xacts)"
    background = row.backend_type if row.backend_type != "client backend" else None
    parts = [f"application {row.application_name or background or 'unnamed'}"]
    if row.usename:
        parts.append(f"role {row.usename}")
    parts.append(row.state or "state not visible to this role")
    if row.age is not None:
        parts.append(f"transaction open for {row.age:.0f} s")
    return f"pid {row.holder} ({', '.join(parts)})"
