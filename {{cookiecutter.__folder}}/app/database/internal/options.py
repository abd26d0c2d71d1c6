"""Options of the engine. Each is also a setting of the service: ``DATABASE_`` and its name in capitals."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = ["CONNECTION_CHECK", "IDLE_IN_TRANSACTION", "EngineOptions", "IsolationLevel"]

IDLE_IN_TRANSACTION: Final = "60s"
"""Time after which the server ends an idle transaction: its locks would block others."""

CONNECTION_CHECK: Final = "1s"
"""How often the server checks, while a statement runs, whether its client is still connected. Without it, the statement
of a killed worker would run to its end."""

IsolationLevel = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def _isolation_level(value: Any) -> Any:
    level = value.upper().replace("_", " ") if isinstance(value, str) else value
    if level == "AUTOCOMMIT":
        raise ValueError("AUTOCOMMIT is refused: a request that fails would keep part of what it wrote")
    return level


def _schema_name(value: str) -> str:
    # PostgreSQL truncates longer names without an error: two services could share one by accident.
    if len(value.encode()) > 63 or "\0" in value:
        raise ValueError("must be at most 63 bytes long, without NUL (PostgreSQL's limit for a name)")
    if value.startswith("pg_") or value in ("information_schema", "$user"):
        raise ValueError("is a name that PostgreSQL reserves")
    return value


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Keyword options of `app.database.engine.create_database_engine`. Times are in seconds.

    The constraints are checked when the options are read as settings.
    """

    schema: Annotated[str, AfterValidator(_schema_name)] | None = None
    """PostgreSQL schema of all tables without a schema; None: the server's default, usually ``public``. It is written
    into each statement: that costs no round trip, and works behind a transaction pooler, where a ``search_path`` would
    leak between clients."""

    isolation_level: Annotated[IsolationLevel | None, BeforeValidator(_isolation_level)] = None
    """Isolation level of each transaction; None: the server's default, READ COMMITTED unless someone changed it."""

    connect_timeout: Annotated[float, Field(gt=0)] = 5
    """Time limit of one connection attempt. The URL's ``connect_timeout`` takes precedence."""

    statement_timeout: Annotated[float, Field(ge=0, le=2_000_000)] = 30
    """Time limit of one statement; 0: none. The server enforces it, and a second later the driver, in case the server
    is silent. Unless it is 0, the server also ends transactions that are idle for a minute."""

    pooler: Literal["none", "pgbouncer", "pgbouncer-prepared"] = "none"
    """``pgbouncer`` if PgBouncer, in transaction mode, is between the service and PostgreSQL. It accepts no time limits
    when a connection starts, so set them for the role. With ``pgbouncer-prepared`` statements are prepared as without
    it: for PgBouncer 1.21 or later, whose ``max_prepared_statements`` is not 0."""

    pool_size: Annotated[int, Field(ge=1)] = 15
    """Connections each worker keeps open. Workers x (size + overflow) must stay below ``max_connections``."""

    max_overflow: Annotated[int, Field(ge=0)] = 0
    """Additional connections under load. Each is closed when it is returned, and a new one opened for the next request:
    that costs a busy service a third of its throughput. Increase ``pool_size`` instead."""

    pool_timeout: Annotated[float, Field(gt=0)] = 0.5
    """How long a request waits for a free connection before it gets a 503; twice as long if a queue has just begun. If
    it would wait in vain, it gets the 503 at once. A longer limit makes an overload worse: requests wait until their
    clients have gone, and none is answered in time."""

    pool_recycle: Annotated[int, Field(ge=-1)] = -1
    """Age at which a connection is replaced when it is next checked out; -1: never."""

    pool_pre_ping: bool = False
    """Test each connection at checkout: one round trip per request. A connection that the server has closed is detected
    without it; only a network that drops idle connections silently needs it."""
