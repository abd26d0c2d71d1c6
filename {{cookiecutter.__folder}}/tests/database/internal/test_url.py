"""The grammar of DATABASE_URL."""

import ssl
from urllib.parse import quote

import pytest

from app.database.internal.url import DatabaseUrlError, parse_database_url

HERE = quote(__file__)
"""A file that exists, as it is written in a URL."""


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgres://db/orders", "db/orders"),
        ("postgresql://ada@db:5433/orders", "db:5433/orders"),
        ("postgresql+asyncpg://ada:pw@db/orders", "db/orders"),
        ("postgresql://ada@[::1]:5432/orders", "[::1]:5432/orders"),
        ("postgresql://ada@a:1,b:2/orders?target_session_attrs=primary", "a:1,b:2/orders"),
        ("postgresql://ada:pw@/orders?host=/var/run/postgresql", "/var/run/postgresql/orders"),
        ("postgresql:///orders?host=/var/run/postgresql&port=5433", "/var/run/postgresql/orders"),
        ("postgresql://%2Fvar%2Frun/orders", "%2Fvar%2Frun/orders"),
        ("postgresql://[fe80::1%25eth0]/orders", "[fe80::1%25eth0]/orders"),
        ("postgresql:///orders", "the default address/orders"),
        (" postgresql://db/orders\n", "db/orders"),
        (f"postgresql:///orders?host=/{'long' * 20}", f"/{'long' * 20}/orders"),
    ],
)
def test_every_form_of_url_is_read(url: str, address: str) -> None:
    target = parse_database_url(url)
    assert target.address == address
    assert "pw" not in f"{target!r} {target.dsns}"
    assert target.password == ("pw" if "pw" in url else None)


def test_a_password_in_the_url_is_percent_decoded_and_one_apart_is_taken_as_it_is() -> None:
    assert parse_database_url("postgresql://ada:p%40%2Fs@db/orders").password == "p@/s"
    assert parse_database_url("postgresql://ada@db/orders", "p%40/s").password == "p%40/s"


def test_libpqs_common_parameters_go_where_they_work() -> None:
    target = parse_database_url(
        "postgresql://db/orders?sslmode=require&application_name=me&connect_timeout=7&options=-c%20jit%3Doff"
    )
    assert target.dsns == ("postgresql://db/orders?sslmode=require",)
    assert target.server_settings == {"application_name": "me", "options": "-c jit=off"}
    assert target.connect_timeout == 7


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with postgresql://"),
        ("orders", "must begin with postgresql://"),
        ("mysql://db/orders", "must begin with postgresql://"),
        ("postgresql://db/orders?sslmode=on", "sslmode must be one of"),
        ("postgresql://db/orders?target_session_attrs=boss", "target_session_attrs must be one of"),
        ("postgresql://db/orders?connect_timeout=soon", "connect_timeout must be"),
        ("postgresql://db/orders?connect_timeout=²", "connect_timeout must be"),
        ("postgresql://db/orders?connect_timeout=3601", "connect_timeout must be"),
        ("postgresql://db/orders?Channel=1", "the parameter in it is not supported"),
        ("postgresql://db/orders?host=a&host=b", "names host twice"),
        ("postgresql://db/orders?sslmode", "name=value"),
        ("postgresql://db:port/orders", "a host or a port"),
        ("postgresql://db:70000/orders", "a host or a port"),
        ("postgresql://db:0/orders", "a host or a port"),
        ("postgresql://db:٣/orders", "a host or a port"),
        ("postgresql://[::1/orders", "is not a URL"),
        ("postgresql://a:1,b:2,/orders", "a host or a port"),
        ("postgresql://a..b/orders", "a host or a port"),
        ("postgresql://a%00b/orders", "control character"),
        ("postgresql:///orders?host=/tmp&port=abc", "port must be"),
        ("postgresql:///orders?host=/tmp&port=99999", "port must be"),
        ("postgresql:///orders?host=a..b", "a host or a port"),
        ("postgresql:///orders?host=a,b&port=1,2,3", "port must be"),
        ("postgresql://a/orders?host=/tmp", "names the host both"),
        ("postgresql://a/orders?port=5433", "names the host both"),
        ("postgresql://a/orders?sslrootcert=/nowhere", "sslrootcert: there is no such file"),
        ("postgresql://a/orders?sslcert=system", "sslcert: there is no such file"),
        ("postgresql://a/orders?sslrootcert=system&sslmode=require", "system needs sslmode=verify-full"),
        ("postgresql://a/orders?sslmode=verify-ca&sslrootcert=system", "system needs sslmode=verify-full"),
        (f"postgresql://a/orders?sslrootcert=system&sslcert={HERE}", "without sslcert"),
        ("postgresql://a/orders?keepalives_idle=30s", "keepalives_idle must be a whole number"),
        ("postgresql://a/orders?tcp_user_timeout=-1", "tcp_user_timeout must be a whole number"),
    ],
)
def test_what_cannot_work_is_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(DatabaseUrlError, match=says):
        parse_database_url(url)


USER = "ada:hunter2"
"""A user and a password, which no message shows."""


@pytest.mark.parametrize(
    ("url", "address"),
    [
        # Neon, without what the driver cannot do.
        (
            f"postgresql://{USER}@ep-cool-name-a1b2.eu-central-1.aws.neon.tech/neondb?sslmode=require",
            "ep-cool-name-a1b2.eu-central-1.aws.neon.tech/neondb",
        ),
        (f"postgresql://{USER}@ep.neon.tech/neondb?options=endpoint%3Dep-cool-name", "ep.neon.tech/neondb"),
        # Supabase
        (
            "postgresql://ada.abcdefgh:hunter2@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
            "aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
        ),
        # Heroku
        (
            f"postgres://{USER}@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
            "ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1",
        ),
        # Render
        (f"postgresql://{USER}@dpg-a1b2-a/orders", "dpg-a1b2-a/orders"),
        # Fly
        (f"postgres://{USER}@orders-db.flycast:5432/orders?sslmode=disable", "orders-db.flycast:5432/orders"),
        # Amazon RDS
        (
            f"postgresql://{USER}@db.a1b2.rds.amazonaws.com:5432/orders?sslmode=verify-full&sslrootcert={HERE}",
            "db.a1b2.rds.amazonaws.com:5432/orders",
        ),
        # Cloud SQL, through its proxy's socket
        (
            f"postgresql://{USER}@/orders?host=/cloudsql/project:europe-west3:db",
            "/cloudsql/project:europe-west3:db/orders",
        ),
        # Azure
        (
            "postgresql://ada%40example.com:hunter2@db.postgres.database.azure.com:5432/orders?sslmode=require",
            "db.postgres.database.azure.com:5432/orders",
        ),
        # What the driver does anyway
        (f"postgresql://{USER}@db/orders?channel_binding=prefer&gssencmode=disable", "db/orders"),
    ],
)
def test_the_url_of_a_platform_is_read(url: str, address: str) -> None:
    target = parse_database_url(url)
    assert (target.address, target.password) == (address, "hunter2")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f'"postgresql://{USER}@db/orders"', "has quotes around it: remove them"),
        (f" 'postgresql://{USER}@db/orders'", "has quotes around it: remove them"),
        (f"DATABASE_URL=postgresql://{USER}@db/orders", "begins with the name of the variable: remove that"),
        (f"psql 'postgresql://{USER}@db/orders'", "begins with the command psql: keep only the URL"),
        ("jdbc:postgresql://db/orders?user=ada&password=hunter2", "for Java: write postgresql://USER@"),
        (f"postgresql+psycopg2://{USER}@db/orders", "another driver: it must begin with postgresql://"),
        (f"postgres+asyncpg://{USER}@db/orders", "another driver: it must begin with postgresql://"),
        ("host=db user=ada password=hunter2 dbname=orders", "form name=value: write postgresql://USER@"),
        ("?channel_binding=require", "'channel_binding' .*remove it.*sslmode=verify-full&sslrootcert=system"),
        ("?ssl=true", "'ssl' .*write sslmode=require"),
        ("?sslmode=no-verify", "'sslmode=no-verify' .*write sslmode=require"),
        ("?pgbouncer=true", "'pgbouncer' .*DATABASE_POOLER=pgbouncer"),
        ("?schema=hunter2", "'schema' .*set DATABASE_SCHEMA"),
        ("?currentSchema=hunter2", "'currentSchema' .*set DATABASE_SCHEMA"),
        ("?connection_limit=5", "'connection_limit' .*set DATABASE_POOL_SIZE"),
        ("?pool_timeout=5", "'pool_timeout' .*set DATABASE_POOL_TIMEOUT"),
        ("?statement_timeout=5", "'statement_timeout' .*set DATABASE_STATEMENT_TIMEOUT"),
        ("?password=hunter2", "'password' .*put the password in DATABASE_PASSWORD"),
        ("?dbname=orders", "'dbname' .*write it after the host"),
    ],
)
def test_what_is_pasted_from_elsewhere_is_refused_with_what_to_write_instead(url: str, says: str) -> None:
    with pytest.raises(DatabaseUrlError, match=says) as raised:
        parse_database_url(f"postgresql://{USER}@db/orders{url}" if url.startswith("?") else url)
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("given", "limit"), [("0", 0), ("-1", 0), ("5", 5)])
def test_a_connect_timeout_that_is_not_positive_is_none(given: str, limit: float) -> None:
    """As in libpq."""
    assert parse_database_url(f"postgresql://db/orders?connect_timeout={given}").connect_timeout == limit


@pytest.mark.parametrize("url", ["?sslrootcert=system", "?sslmode=verify-full&sslrootcert=system"])
def test_the_certificates_of_the_system_are_trusted_for_the_name_of_the_host_only(url: str) -> None:
    target = parse_database_url(f"postgresql://db/orders{url}")
    assert target.ssl is not None
    assert (target.ssl.check_hostname, target.ssl.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert target.dsns == ("postgresql://db/orders",)


@pytest.mark.parametrize(
    "password",
    [
        "hunter2/x",
        "12/hunter2",
        "p@s/hunter2",
        "hunter2#x",
        "hunter2?x",
        "hunter2?x=y",
        # Read as a port, these would lead to a host that is called ada.
        "12#hunter2",
        "12?application_name=hunter2",
        "hunter2[x",
        "hunter2 x",
        "hunter2\n",
    ],
)
def test_a_password_that_breaks_the_url_is_not_quoted(password: str) -> None:
    with pytest.raises(DatabaseUrlError) as raised:
        parse_database_url(f"postgresql://ada:{password}@db/orders")
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_each_of_several_hosts_is_tried_by_itself() -> None:
    in_netloc = parse_database_url("postgresql://ada:pw@a:1,b:2/orders?target_session_attrs=primary")
    assert in_netloc.dsns == (
        "postgresql://ada@a:1/orders?target_session_attrs=primary",
        "postgresql://ada@b:2/orders?target_session_attrs=primary",
    )
    one_port = parse_database_url("postgresql:///orders?host=a,b&port=5433")
    assert one_port.dsns == ("postgresql:///orders?host=a&port=5433", "postgresql:///orders?host=b&port=5433")
    as_parameters = parse_database_url("postgresql://ada@/orders?host=/a,/b&port=1,2")
    assert parse_database_url("postgresql:///orders?port=5433").dsns == ("postgresql:///orders?port=5433",)
    assert as_parameters.dsns == ("postgresql://ada@/orders?host=/a&port=1", "postgresql://ada@/orders?host=/b&port=2")


def test_a_plus_is_a_plus() -> None:
    assert (
        parse_database_url("postgresql://db/orders?application_name=a+b").server_settings["application_name"] == "a+b"
    )
