"""Settings: where they come from, and what is said of wrong ones."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings, SettingsError, load_settings
from app.database.internal.options import EngineOptions
from tests.commands import environment

URL = "postgresql://ada@db.example:5432/orders"


def test_a_missing_url_is_named_with_a_way_to_fix_it() -> None:
    with pytest.raises(SettingsError, match="^DATABASE_URL: is not set; .*make db"):
        load_settings()


def test_each_problem_has_a_line_and_no_value_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://ada:hunter2@db/orders")
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")  # it is compared with a URL that is valid, only
    monkeypatch.setenv("DATABASE_REPLICA_URL", "postgresql://ada:hunter2@db/orders?sslmode=hunter2")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "hunter2")
    monkeypatch.setenv("LOG_LEVEL", "hunter2")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "DATABASE_URL",
        "DATABASE_REPLICA_URL",
        "DATABASE_POOL_SIZE",
        "LOG_LEVEL",
    ]
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "autocommit"])
def test_autocommit_is_refused_for_it_would_void_the_promise(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("DATABASE_ISOLATION_LEVEL", level)
    with pytest.raises(SettingsError, match="^DATABASE_ISOLATION_LEVEL: AUTOCOMMIT is refused"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "says"), [(URL.replace("ada", "ada:pw"), "keep one"), (URL.replace("ada@", ""), "no user")]
)
def test_a_password_apart_needs_a_url_with_a_user_and_no_password(
    monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    with pytest.raises(SettingsError, match=f"^DATABASE_PASSWORD: .*{says}"):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DATABASE_PASSWORD": "hunter2"}, "DATABASE_PASSWORD is set too"),
        ({"DATABASE_URL": URL.replace("ada", "ada:pw")}, "keep one"),
        ({"DATABASE_URL": URL.replace("ada@", "")}, "no user"),
        ({"DATABASE_PASSWORD_FILE": "/nowhere"}, "the file /nowhere cannot be read: No such file or directory"),
    ],
)
def test_a_password_in_a_file_is_the_only_one_and_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    (tmp_path / "password").write_text("hunter2")
    for name, value in (
        {"DATABASE_URL": URL, "DATABASE_PASSWORD_FILE": str(tmp_path / "password")} | variables
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^DATABASE_PASSWORD_FILE: .*{says}") as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


def test_nothing_shows_a_secret() -> None:
    replica = URL.replace("@", ":hunter2@")
    settings = load_settings(database_url=URL, database_password="hunter2", database_replica_url=replica)
    assert "hunter2" not in f"{settings!r} {settings.model_dump()}"
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"database_url": "mysql://ada:hunter2@db/orders"})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["x" * 64, "ü" * 32, "a\0b", "pg_mine", "information_schema", "$user"])
def test_a_schema_that_postgresql_would_cut_or_refuse_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="^DATABASE_SCHEMA: "):
        load_settings(database_url=URL, database={"schema": name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONNECT_TIMEOUT", 0),
        ("STATEMENT_TIMEOUT", -1),
        ("STATEMENT_TIMEOUT", 2_000_001),
        ("POOL_SIZE", 0),
        ("MAX_OVERFLOW", -1),
        ("POOL_TIMEOUT", 0),
        ("POOL_RECYCLE", -2),
        ("PROBE_TRIES", 0),
        ("PROBE_PAUSE", -1),
    ],
)
def test_a_number_outside_of_its_limits_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(f"DATABASE_{name}", str(value))
    with pytest.raises(SettingsError, match=f"^DATABASE_{name}: "):
        load_settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings(database_url=URL).log_level = "DEBUG"  # type: ignore[misc]  # mypy knows it, too


def test_a_program_reads_the_env_file_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={URL}\n")
    show = "from app.config import load_settings; print(load_settings().database_url.get_secret_value())"
    printed = subprocess.check_output([sys.executable, "-c", show], cwd=tmp_path, env=environment(), text=True)
    assert printed == f"{URL}\n"


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("DATABASE_PASSWORD", "")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "")
    assert load_settings() == Settings.model_validate({"database_url": URL})


def test_each_option_of_the_engine_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    given: dict[str, Any] = {field.name: 1 for field in fields(EngineOptions)}
    given |= {"schema": "mine", "isolation_level": "repeatable_read", "pooler": "pgbouncer"}
    for name, value in given.items():
        monkeypatch.setenv(f"DATABASE_{name.upper()}", str(value))
    assert vars(load_settings().database) == given | {"isolation_level": "REPEATABLE READ", "pool_pre_ping": True}


def test_a_variable_that_is_called_just_database_is_someone_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("DATABASE", "orders")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "3")
    assert load_settings().database.pool_size == 3


def test_the_environment_wins_over_env_file_whose_other_keys_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={URL}\nLOG_LEVEL=ERROR\nPOSTGRES_USER=for-compose\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    settings = load_settings()
    assert (settings.database_url.get_secret_value(), settings.log_level) == (URL, "DEBUG")


def test_an_env_file_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DATABASE_URL=\xff")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    with pytest.raises(SettingsError, match=r"^\.env: "):
        load_settings()
