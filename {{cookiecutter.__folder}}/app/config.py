"""Settings of the service, read from the environment and from ``.env``; never at import."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.database.url import parse_database_url

__all__ = ["IsolationLevel", "LogFormat", "Settings", "SettingsError", "load_settings"]

IsolationLevel = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _upper(value: Any) -> Any:
    return value.upper().replace("_", " ") if isinstance(value, str) else value


def _isolation_level(value: Any) -> Any:
    level = _upper(value)
    if level == "AUTOCOMMIT":
        raise ValueError("AUTOCOMMIT is refused: a request that fails would keep half of what it wrote")
    return level


def _schema_name(value: str) -> str:
    # PostgreSQL cuts longer names off without an error: two services could share one by accident.
    if len(value.encode()) > 63 or "\0" in value:
        raise ValueError("must be at most 63 bytes long, without NUL (PostgreSQL's limit for a name)")
    if value.startswith("pg_") or value in ("information_schema", "$user"):
        raise ValueError("is a name that PostgreSQL keeps for itself")
    return value


class Settings(BaseSettings):
    """Each field is an environment variable of the same name in capitals. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        # Compose and CI files set a variable to nothing to mean "not set".
        env_ignore_empty=True,
        # .env also holds what compose and other tools read.
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr
    """``postgresql://user@host:5432/name?sslmode=require``. Secret, since it may hold the password."""

    database_password: SecretStr | None = None
    """The password, where it is kept apart from the URL; any characters."""

    database_schema: Annotated[str, AfterValidator(_schema_name)] | None = None
    """PostgreSQL schema of the service's tables; none: the server's choice, usually ``public``."""

    database_pool_size: int = Field(default=15, ge=1)
    """Connections each worker keeps open. Workers x (size + overflow) must stay under max_connections."""

    database_max_overflow: int = Field(default=0, ge=0)
    """Connections beyond the pool under load. Each is closed when it is given back and made anew for the next request,
    which costs a busy service a third of its speed: rather let the pool have them."""

    database_pool_timeout: float = Field(default=30, gt=0)
    """How long a request waits for a free connection before it gets a 503."""

    database_pool_recycle: int = Field(default=-1, ge=-1)
    """Replace a connection older than this when it is next asked for; -1: never."""

    database_pool_pre_ping: bool = False
    """Ask the server before each use of a pooled connection. A round trip a request: a connection that the server
    closed is noticed without it; only a network that drops idle connections silently needs it."""

    database_isolation_level: Annotated[IsolationLevel | None, BeforeValidator(_isolation_level)] = None
    """None: the server's default, which is READ COMMITTED unless someone changed it."""

    database_connect_timeout: float = Field(default=5, gt=0)
    """How long one attempt to connect may take."""

    database_statement_timeout: float = Field(default=30, ge=0, le=2_000_000)
    """How long one statement may take; 0: no limit. Held by the server, and by the driver if the server is silent."""

    database_probe_tries: int = Field(default=5, ge=1)
    """How often the start-up probe asks for the database."""

    database_probe_pause: float = Field(default=2, ge=0)
    """The pause between two tries."""

    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = "INFO"
    """The least severe level that is written."""

    log_format: LogFormat | None = None
    """None: ``console`` on a terminal, ``json`` elsewhere."""

    @field_validator("database_url")
    @classmethod
    def _url_is_usable(cls, value: SecretStr) -> SecretStr:
        parse_database_url(value.get_secret_value())
        return value

    @field_validator("database_password")
    @classmethod
    def _password_fits_the_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and "database_url" in info.data:
            parse_database_url(info.data["database_url"].get_secret_value(), value.get_secret_value())
        return value


class SettingsError(Exception):
    """Settings are missing or wrong: one line a problem, each with the variable's name, none with its value."""

    exit_code = 78  # EX_CONFIG of sysexits.h


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Parameters
    ----------
    overrides
        Values that win over the environment and ``.env``.

    Raises
    ------
    SettingsError
        Where any is missing or wrong.
    """
    try:
        return Settings(**overrides)
    except UnicodeDecodeError:
        raise SettingsError(".env: is not UTF-8 text; save it as UTF-8") from None
    except ValidationError as error:
        lines = [_line(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(location[0]).upper() if location else "settings"
    if kind == "missing":
        hint = ", or run `make db` for a PostgreSQL of this project's own" if name == "DATABASE_URL" else ""
        return f"{name}: is not set; set it in the environment or in .env{hint}"
    return f"{name}: {message.removeprefix('Value error, ')}"
