"""Checks DATABASE_URL, a connection URL as libpq defines it, before anything connects.

asyncpg understands such URLs (Unix sockets, TLS modes, ``target_session_attrs``), SQLAlchemy's dialect does not. So
asyncpg gets the URL, one host at a time. Parameters that it would forward unchecked are extracted or refused.
"""

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

__all__ = ["DatabaseUrl", "DatabaseUrlError", "needs_password", "parse_database_url"]

_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_OTHER_BEGINNINGS = {
    r"[\"'`]": "has quotes around it: remove them",
    r"(export\s+)?DATABASE_\w*URL\s*=": "begins with the name of the variable: remove that",
    r"psql\s": "begins with the command psql: keep only the URL, without quotes",
    r"jdbc:": "is a URL for Java: write postgresql://USER@HOST:PORT/DATABASE",
    r"postgres(ql)?\+": "names another driver: it must begin with postgresql://",
    r"\w+\s*=": "has the form name=value: write postgresql://USER@HOST:PORT/DATABASE?sslmode=require",
    r"": "must begin with postgresql:// (or postgres://, postgresql+asyncpg://)",
}
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey")
_READ_BY_ASYNCPG = ("sslmode", *_FILES, "target_session_attrs")
_SERVER_SETTINGS = ("application_name", "options")
_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_NUMBERS = ("keepalives", *_SOCKET_OPTIONS)
_PARAMETERS = ("host", "port", *_READ_BY_ASYNCPG, *_SERVER_SETTINGS, "connect_timeout", *_NUMBERS)
_DEFAULTS = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
}
"""Values of other parameters that ask for what the driver does anyway."""

_INSTEAD = {
    "remove it, since the driver has no channel binding; to verify the server, write "
    "sslmode=verify-full&sslrootcert=system": "channel_binding",
    "write sslmode=require, or sslmode=verify-full&sslrootcert=system to verify the certificate too": "ssl sslaccept",
    "write sslmode=require, which encrypts and does not verify the certificate": "sslmode=no-verify",
    "write it before the host, as in postgresql://USER@HOST/DATABASE": "user username",
    "put the password in DATABASE_PASSWORD or DATABASE_PASSWORD_FILE": "password passfile",
    "write it after the host, as in postgresql://USER@HOST/DATABASE": "dbname database",
    "write the address as the host": "hostaddr",
    "write connect_timeout, in seconds": "timeout connectTimeout loginTimeout",
    "set DATABASE_STATEMENT_TIMEOUT": "statement_timeout command_timeout socket_timeout socketTimeout query_timeout",
    "set DATABASE_SCHEMA": "schema search_path currentSchema",
    "set DATABASE_POOL_SIZE": "connection_limit pool_size pool_max_conns max_connections",
    "set DATABASE_POOL_TIMEOUT": "pool_timeout",
    "remove it; behind a pooler in transaction mode set DATABASE_POOLER=pgbouncer": (
        "pgbouncer statement_cache_size prepared_statement_cache_size prepareThreshold"
    ),
    "write keepalives=1": "tcpKeepAlive",
    "remove it": "supa workaround uselibpqcompat",
}
_ADVICE = {name: advice for advice, names in _INSTEAD.items() for name in names.split()}
"""What to do about parameters that other tools and platforms put into URLs."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%25\w+)?\]|[\w.%-]+)(:(?P<port>\d{1,5}))?")
_ENCODE = "percent-encode special characters, or put the password in DATABASE_PASSWORD"


class DatabaseUrlError(ValueError):
    """The URL or the password is invalid. The message says why, and never contains a secret."""


@dataclass(frozen=True, repr=False)  # it would show the password
class DatabaseUrl:
    """A checked URL, in the form that ``asyncpg.connect`` accepts."""

    dsns: tuple[str, ...]  # one for each host, without the password and the parameters below
    password: str | None
    address: str  # hosts and database, for messages
    server_settings: dict[str, str]
    connect_timeout: float | None  # in seconds; 0: no limit; None: it is not in the URL
    socket_options: tuple[tuple[int, int, int], ...]  # arguments of setsockopt
    ssl: ssl.SSLContext | None  # for sslrootcert=system, which asyncpg does not know


def parse_database_url(url: str, password: str | None = None) -> DatabaseUrl:
    """Check a connection URL, and the password if it is not in the URL.

    The grammar is that of "Connection URIs" in the chapter "libpq" of PostgreSQL's manual. Raises DatabaseUrlError if
    any part would be rejected later, or silently ignored.
    """
    parts = _split(url)
    if password is not None and not parts.username:
        raise DatabaseUrlError("a password is given but the URL names no user: postgresql://USER@host/database")
    if password is not None and parts.password is not None:
        raise DatabaseUrlError("a password is given both in the URL and separately: keep one of the two")

    hosts = parts.netloc.rpartition("@")[2]
    parameters = _parameters(parts.query)
    if hosts and parameters.keys() & {"host", "port"}:
        raise DatabaseUrlError("names the host both before the database and as a parameter: keep one of them")
    timeout = parameters.get("connect_timeout")
    if timeout is not None and not (re.fullmatch(r"-?[0-9]{1,4}", timeout) and int(timeout) <= 3600):
        raise DatabaseUrlError("connect_timeout must be a whole number of seconds, at most 3600; 0: no limit")
    context = None
    if parameters.get("sslrootcert") == "system":
        if parameters.pop("sslmode", "verify-full") != "verify-full" or parameters.keys() & {"sslcert", "sslkey"}:
            raise DatabaseUrlError("sslrootcert=system needs sslmode=verify-full, without sslcert and sslkey")
        del parameters["sslrootcert"]
        context = ssl.create_default_context()

    kept = {name: value for name, value in parameters.items() if name in _READ_BY_ASYNCPG}
    if hosts:
        addresses = [(_checked_host(host), kept) for host in hosts.split(",")]
    else:
        addresses = [("", kept | address) for address in _addresses(parameters)]
    account = f"{parts.username}@" if parts.username else ""
    dsns = (f"postgresql://{account}{host}{parts.path}?{urlencode(query, safe='/')}" for host, query in addresses)
    return DatabaseUrl(
        dsns=tuple(dsn.removesuffix("?") for dsn in dsns),
        password=unquote(parts.password) if parts.password is not None else password,
        address=f"{hosts or parameters.get('host') or 'the default address'}{parts.path}",
        server_settings={name: parameters[name] for name in _SERVER_SETTINGS if name in parameters},
        connect_timeout=max(0.0, float(timeout)) if timeout else None,
        socket_options=_socket_options(parameters),
        ssl=context,
    )


def needs_password(url: str) -> bool:
    """Return whether a connection URL contains a user and no password."""
    parts = _split(url)
    return bool(parts.username) and parts.password is None


def _split(url: str) -> SplitResult:
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise DatabaseUrlError(next(says for begin, says in _OTHER_BEGINNINGS.items() if re.match(begin, url.strip())))
    if "#" in rest or "%00" in rest or any(ord(character) <= 32 for character in rest):
        raise DatabaseUrlError(f"contains a '#', a space or a control character: {_ENCODE}")
    try:
        parts = urlsplit(f"postgresql://{rest}")
    except ValueError:  # its message contains the URL, and so the password
        raise DatabaseUrlError(f"is not a URL: {_ENCODE}") from None
    if "@" in parts.path or "@" in parts.query:  # the end of a password that contains a '/' or a '?'
        raise DatabaseUrlError(f"has an '@' after the host: {_ENCODE}")
    return parts


def _addresses(parameters: dict[str, str]) -> list[dict[str, str]]:
    """Return the hosts or sockets in the parameters, each with its port; one empty address if there is none."""
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or not all(port == "" or _is_port(port) for port in ports):
        raise DatabaseUrlError("port must be a number from 1 to 65535, or one for each host")
    for host in hosts if "host" in parameters else ():
        _checked_host(quote(host, safe=""))
    return [
        {name: value for name, value in (("host", host), ("port", port)) if value}
        for host, port in zip(hosts, ports, strict=True)
    ]


def _socket_options(parameters: dict[str, str]) -> tuple[tuple[int, int, int], ...]:
    """Return what libpq does with these parameters. It, too, ignores options that the system does not have."""
    numbers = {name: int(parameters[name]) for name in _NUMBERS if name in parameters}
    keepalives = numbers.get("keepalives", 1) != 0
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalives))] if numbers else []
    for name, option in _SOCKET_OPTIONS.items():
        # 0 means the system's default.
        if numbers.get(name) and hasattr(socket, option) and (keepalives or name == "tcp_user_timeout"):
            options.append((socket.IPPROTO_TCP, getattr(socket, option), numbers[name]))
    return tuple(options)


def _checked_host(host: str) -> str:
    match = _HOST.fullmatch(host)
    try:
        if not host.startswith(("%2F", "%2f")):  # directory of a Unix socket
            unquote(host).encode("idna")
    except UnicodeError:  # a part of the name is empty or too long
        match = None
    if match is None or not _is_port(match["port"] or "5432"):
        raise DatabaseUrlError(f"has a host or a port that cannot be read: {_ENCODE}")
    return host


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else []:
        name, equals, encoded = pair.partition("=")
        if not equals:
            raise DatabaseUrlError(f"has parameters that are not name=value pairs: {_ENCODE}")
        value = unquote(encoded)  # '+' stays '+', as in libpq
        if value in _DEFAULTS.get(name, ()):
            continue
        known = name if name in _ADVICE else f"{name}={value}"
        if known in _ADVICE:
            raise DatabaseUrlError(f"the parameter {known!r} is not supported: {_ADVICE[known]}")
        if name not in _PARAMETERS:
            shown = f"{name!r}" if re.fullmatch(r"[a-z_]{1,40}", name) else "in it"
            raise DatabaseUrlError(f"the parameter {shown} is not supported; these are: {', '.join(_PARAMETERS)}")
        if name in parameters:
            raise DatabaseUrlError(f"names {name} twice; write several hosts as host1:5432,host2:5432")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise DatabaseUrlError(f"{name} must be one of: {', '.join(_CHOICES[name])}")
        if name in _NUMBERS and not re.fullmatch(r"[0-9]{1,9}", value):
            raise DatabaseUrlError(f"{name} must be a whole number")
        if name in _FILES and f"{name}={value}" != "sslrootcert=system" and not Path(value).is_file():
            raise DatabaseUrlError(f"{name}: there is no such file")
        parameters[name] = value
    return parameters
