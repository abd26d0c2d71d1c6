"""Settings of the service, read from the environment and ``.env`` by `load_settings`, never at import."""

from pathlib import Path
from typing import Annotated, Any, Literal, overload

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.auth.options import AuthOptions
from app.database.internal.options import EngineOptions
from app.database.internal.url import parse_database_url
from app.database.password import read_password_file

__all__ = ["ServiceSettings", "Settings", "SettingsError", "load_settings"]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _usable_url(url: SecretStr) -> SecretStr:
    parse_database_url(url.get_secret_value())
    return url


def _password_for_the_url(password: SecretStr, info: ValidationInfo) -> SecretStr:
    if "database_url" in info.data:
        parse_database_url(info.data["database_url"].get_secret_value(), password.get_secret_value())
    return password


def _usable_password_file(file: Path, info: ValidationInfo) -> Path:
    if info.data.get("database_password") is not None:
        raise ValueError("DATABASE_PASSWORD is set too: keep one of the two")
    _password_for_the_url(SecretStr(read_password_file(file)), info)
    return file


_DatabaseUrl = Annotated[SecretStr, AfterValidator(_usable_url)]


class Settings(BaseSettings):
    """Settings of all programs. Each field is an environment variable with the same name in capitals.

    Times are in seconds.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        # Compose and CI files set a variable to nothing to mean "not set".
        env_ignore_empty=True,
        # .env also holds what compose and other tools read.
        extra="ignore",
        # DATABASE_POOL_SIZE is `pool_size` of `database`.
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: _DatabaseUrl
    """``postgresql://user@host:5432/name?sslmode=require``. Secret, since it may contain the password."""

    database_password: Annotated[SecretStr, AfterValidator(_password_for_the_url)] | None = None
    """Password, if it is kept apart from the URL; any characters."""

    database_password_file: Annotated[Path, AfterValidator(_usable_password_file)] | None = None
    """File with the password. It is read again for each new connection: a password that changes needs no restart."""

    database_replica_url: _DatabaseUrl | None = None
    """URL of the read replicas, like DATABASE_URL. Its password is DATABASE_PASSWORD, unless it has its own."""

    database: EngineOptions = EngineOptions()
    """Options of the engine: DATABASE_SCHEMA, DATABASE_POOL_SIZE and so on."""

    database_probe_tries: int = Field(default=5, ge=1)
    """Attempts of the start-up probe to reach the database."""

    database_probe_pause: float = Field(default=2, ge=0)
    """Pause between two attempts."""

    database_migration_lock_wait: float = Field(default=240, ge=0)
    """How long a migration tries to get its locks on a busy table."""

    log_level: Annotated[LogLevel, BeforeValidator(lambda level: str(level).upper())] = "INFO"
    """Lowest level that is logged."""

    log_format: Literal["json", "console"] | None = None
    """Format of the log; None: ``console`` on a terminal, otherwise ``json``."""

    @classmethod
    def settings_customise_sources(cls, *arguments: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ignore a variable named just DATABASE or AUTH, which would be read as all options at once."""
        groups = {"database", "auth"}
        for source in sources.values():
            if isinstance(source, EnvSettingsSource):
                source.env_vars = {name: value for name, value in source.env_vars.items() if name not in groups}
        return super().settings_customise_sources(*arguments, **sources)


class ServiceSettings(Settings):
    """Settings of the HTTP service, with some that scripts and migrations do not need."""

    auth: AuthOptions = Field(default_factory=dict, validate_default=True)
    """Options of authentication: AUTH_ISSUER and so on, if there are any."""

    processor_timeout: float = Field(default=0.2, ge=0)
    """How long a new request may expect to wait for the processor; if longer, it gets a 503 at once. 0: no limit."""


class SettingsError(Exception):
    """Settings are missing or invalid. One line for each, with the variable's name but not its value."""

    exit_code = 78  # EX_CONFIG of sysexits.h


@overload
def load_settings(**overrides: Any) -> Settings: ...


@overload
def load_settings(kind: type[ServiceSettings], **overrides: Any) -> ServiceSettings: ...


def load_settings(kind: type[Settings] = Settings, **overrides: Any) -> Settings:
    """Read the settings, or raise SettingsError. Overrides take precedence over the environment and ``.env``."""
    try:
        return kind(**overrides)
    except UnicodeDecodeError:
        raise SettingsError(".env: is not UTF-8 text; save it as UTF-8") from None
    except ValidationError as error:
        lines = [_line(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = "_".join(map(str, location)).upper() or "settings"
    if kind == "missing":
        return f"{name}: is not set; set it in the environment or in .env, or run `make db` to start a database here"
    return f"{name}: {message.removeprefix('Value error, ')}"
