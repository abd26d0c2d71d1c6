"""Stores idempotency keys and the answers to their requests, in the transaction of the request."""

from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import BigInteger, LargeBinary, Row, Text, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.errors import is_conflict
from app.database.reader import Reader
from app.database.statements import fetch
from app.errors import Busy, Unprocessable
from app.idempotency.models import IdempotencyKey
from app.metadata import NAME

__all__ = ["AnswerRow", "CallersKey", "KeyInUse", "KeyReused", "claim", "count_purgeable", "keep", "purge_keys"]

_KEPT_FOR: Final = timedelta(days=1)
"""Minimum time for which a key is kept. Clients stop repeating a request long before."""

CallersKey = tuple[str, str]
"""Caller that sent a key (empty without authentication), and the key."""

AnswerRow = Row[bytes, int | None, dict[str, str] | None, bytes | None]
"""Columns of a row: fingerprint, status, headers, body."""

_table = IdempotencyKey.__table__
_id = (IdempotencyKey.caller, IdempotencyKey.key)
_caller, _key = bindparam("this_caller", type_=Text), bindparam("this_key", type_=Text)
_this = (IdempotencyKey.caller == _caller, IdempotencyKey.key == _key)
_expired = IdempotencyKey.created_at < func.now() - _KEPT_FOR

# An INSERT would wait for a concurrent one with the same key. So only the transaction with the lock inserts.
_CLAIM = (
    insert(_table)
    .from_select(
        ["caller", "key", "fingerprint"],
        select(_caller, _key, bindparam("new_fingerprint", type_=LargeBinary)).where(
            func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))
        ),
    )
    .on_conflict_do_nothing(index_elements=_id)
    .returning(IdempotencyKey.key)
)
# The row lock makes COMMIT wait for the synchronous standby, if there is one: the first request may have timed out
# while it waited for that, and its answer must not be sent before the standby has it.
_FIND = (
    select(IdempotencyKey.fingerprint, IdempotencyKey.status, IdempotencyKey.headers, IdempotencyKey.body)
    .where(*_this)
    .with_for_update(read=True)
)
_KEEP = update(_table).where(*_this).returning(IdempotencyKey.key)


class KeyInUse(Busy):
    """The first request with this key is still being handled."""

    def __init__(self) -> None:
        super().__init__("The first request with this Idempotency-Key is still being handled; repeat it shortly.")


class KeyReused(Unprocessable):
    """The key belongs to a different request."""


def _bound(key: CallersKey) -> dict[str, Any]:
    return {"this_caller": key[0], "this_key": key[1]}


def _lock(key: CallersKey) -> int:
    # Advisory locks are shared by the whole database, and so with other services in it.
    digest = blake2b("\0".join((NAME, *key)).encode(), digest_size=8, person=b"idempotency-keys")
    return int.from_bytes(digest.digest(), "big", signed=True)


async def claim(session: AsyncSession, key: CallersKey, *, fingerprint: bytes) -> AnswerRow | None:
    """Claim a key for the transaction of a session, or return the stored answer. Never waits for another transaction.

    After None the request, whose hash is ``fingerprint``, is to be handled in this session. A rollback frees the key.
    Raise KeyInUse if another transaction has claimed the key and not ended yet, or KeyReused if the stored answer is
    that of a different request.
    """
    try:
        if await fetch(session, _CLAIM, **_bound(key), new_fingerprint=fingerprint, lock=_lock(key)):
            return None
    except DBAPIError as error:
        if is_conflict(error):  # from REPEATABLE READ on: the key was committed after this snapshot was taken
            raise KeyInUse from error
        raise
    rows = await fetch(session, _FIND, **_bound(key))
    if not rows:
        raise KeyInUse
    if rows[0].fingerprint != fingerprint:
        raise KeyReused("This Idempotency-Key was sent with a different request; send a new key with a new request.")
    return rows[0]


async def keep(session: AsyncSession, key: CallersKey, status: int, headers: dict[str, str], body: bytes) -> None:
    """Store the answer to the request that has claimed a key in this session."""
    await fetch(session, _KEEP, **_bound(key), status=status, headers=headers, body=body)


async def count_purgeable(reader: Reader) -> int:
    """Count the keys that are older than a day."""
    return await reader.scalar(select(func.count()).select_from(IdempotencyKey).where(_expired)) or 0


async def purge_keys(session: AsyncSession, *, limit: int) -> int:
    """Delete up to ``limit`` keys that are older than a day; return how many. Rows that are locked are skipped."""
    batch = (
        select(*_id).where(_expired).order_by(IdempotencyKey.created_at).limit(limit).with_for_update(skip_locked=True)
    )
    purged = await session.scalars(delete(IdempotencyKey).where(tuple_(*_id).in_(batch)).returning(IdempotencyKey.key))
    return len(purged.all())
