"""Settings of authentication: which are refused, in a line each."""

import pytest

from app.auth.options import AuthOptions, is_trusted_url
from app.config import ServiceSettings, SettingsError, load_settings
from tests.commands import run

URL = "postgresql://ada@db.example:5432/orders"


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("AUTH_ISSUER", "https://login.example.com/")
    monkeypatch.setenv("AUTH_AUDIENCE", "orders")


def test_issuer_and_audience_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    options = load_settings(ServiceSettings).auth
    assert options == AuthOptions(issuer="https://login.example.com/", audience="orders")
    monkeypatch.setenv("AUTH_ALGORITHMS", "PS256, ES384")
    monkeypatch.setenv("AUTH_LEEWAY", "0")
    monkeypatch.setenv("AUTH", "of another program")
    options = load_settings(ServiceSettings).auth
    assert (options.algorithms, options.leeway) == (("PS256", "ES384"), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_ISSUER", ""),
        ("AUTH_ISSUER", "login.example.com"),
        ("AUTH_ISSUER", "http://login.example.com"),
        ("AUTH_ISSUER", "file:///etc/passwd"),
        ("AUTH_ISSUER", "https://ada:hunter2@login.example.com"),
        ("AUTH_ISSUER", "https://login.example.com/?a=b"),
        ("AUTH_ISSUER", "https://login.example.com:x"),
        ("AUTH_AUDIENCE", ""),
        ("AUTH_ALGORITHMS", "HS256"),
        ("AUTH_ALGORITHMS", "ES256,none"),
        ("AUTH_ALGORITHMS", ","),
        ("AUTH_LEEWAY", "-1"),
        ("AUTH_LEEWAY", "86400"),
        ("AUTH_LEEWAY", "nan"),
    ],
)
def test_a_setting_that_would_accept_what_it_must_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as raised:
        load_settings(ServiceSettings)
    assert len(str(raised.value).splitlines()) == 1
    assert "hunter2" not in str(raised.value)


def test_half_of_the_settings_end_the_service_with_a_line(database_url: str) -> None:
    ended = run("uvicorn", "app.main:app", "--port", "0", database_url=database_url, AUTH_AUDIENCE="", AUTH_ISSUER="x")
    assert ended.returncode == 3
    assert "AUTH_ISSUER: must be the provider's issuer" in ended.stderr
    assert "\nAUTH_AUDIENCE: is not set" in ended.stderr.replace("\\n", "\n")
    assert "Traceback" not in ended.stderr


def test_scripts_and_migrations_need_no_provider(database_url: str) -> None:
    for command in (["alembic", "current"], ["python", "-m", "app.scripts.cleanup"]):
        run(*command, database_url=database_url, AUTH_ISSUER="", AUTH_AUDIENCE="").check_returncode()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_plain_http_is_for_this_machine_alone(host: str) -> None:
    assert is_trusted_url(f"http://{host}:8080/realms/a")
    assert not is_trusted_url(f"http://{host}.example.com/realms/a")
