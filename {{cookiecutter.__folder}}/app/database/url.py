"""The grammar of DATABASE_URL: libpq's connection URL, checked before anything connects.

asyncpg reads such a URL whole (several hosts, sockets, TLS modes), SQLAlchemy's dialect does not: so the URL goes to
asyncpg as it is. What asyncpg would pass on to the server unread is taken out here, or refused by name.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

__all__ = ["DatabaseUrl", "DatabaseUrlError", "parse_database_url"]

_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_READ_BY_ASYNCPG = ("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs")
_SERVER_SETTINGS = ("application_name", "options")
_PARAMETERS = (*_READ_BY_ASYNCPG, *_SERVER_SETTINGS, "connect_timeout")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/]*)(?::(?P<port>\d{1,5}))?")
_ENCODE = "percent-encode its special characters, or put the password in DATABASE_PASSWORD"


class DatabaseUrlError(ValueError):
    """The URL, or the password beside it, cannot be used. The message says why and never quotes a secret."""


@dataclass(frozen=True)
class DatabaseUrl:
    """A checked URL, in the form that ``asyncpg.connect`` takes."""

    dsn: str
    """The URL without its password and without the parameters below."""

    password: str | None
    """The password, from the URL or given apart."""

    address: str
    """Hosts and database, for people: messages and logs."""

    server_settings: dict[str, str]
    """Parameters that the server reads: ``application_name``, ``options``."""

    connect_timeout: float | None
    """Seconds, where the URL names it."""

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.address!r})"

    @property
    def connect_args(self) -> dict[str, Any]:
        """What identifies the server and the user."""
        arguments: dict[str, Any] = {"dsn": self.dsn}
        if self.password is not None:
            arguments["password"] = self.password
        return arguments


def parse_database_url(url: str, password: str | None = None) -> DatabaseUrl:
    """Check a connection URL.

    Parameters
    ----------
    url
        ``postgresql://user:password@host:port/database?parameters``; also the schemes ``postgres`` and
        ``postgresql+asyncpg``, several hosts parted by commas, IPv6 in brackets, and ``?host=/directory`` for a
        Unix socket. See "Connection URIs" in the chapter "libpq" of PostgreSQL's manual.
    password
        The password apart from the URL, any characters.

    Raises
    ------
    DatabaseUrlError
        Where anything in it would be refused later, or silently not be heeded.
    """
    parts = _split(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, colon, url_password = userinfo.partition(":")
    if password is not None and not user:
        raise DatabaseUrlError("a password is given but the URL names no user: postgresql://USER@host/database")
    if password is not None and colon:
        raise DatabaseUrlError("a password is given both in the URL and apart: keep one of the two")

    parameters = _parameters(parts.query)
    for host in hosts.split(","):
        _check_host(host)
    timeout = parameters.pop("connect_timeout", None)
    if timeout is not None and not (timeout.isascii() and timeout.isdigit() and int(timeout) > 0):
        raise DatabaseUrlError("connect_timeout must be a whole number of seconds, 1 or more")
    server_settings = {name: parameters.pop(name) for name in _SERVER_SETTINGS if name in parameters}

    netloc = f"{user}@{hosts}" if user else hosts
    query = f"?{urlencode(parameters)}" if parameters else ""
    where = parameters.get("host") or hosts or "the default address"
    return DatabaseUrl(
        dsn=f"postgresql://{netloc}{parts.path}{query}",
        password=password if password is not None else (unquote(url_password) if colon else None),
        address=f"{where}{parts.path}",
        server_settings=server_settings,
        connect_timeout=float(timeout) if timeout else None,
    )


def _split(url: str) -> SplitResult:
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise DatabaseUrlError("must begin with postgresql:// (or postgres://, postgresql+asyncpg://)")
    if "#" in rest or any(ord(character) <= 32 for character in rest):
        raise DatabaseUrlError(f"has a '#', a space or a control character in it: {_ENCODE}")
    try:
        return urlsplit(f"postgresql://{rest}")
    except ValueError:  # urllib quotes the URL, and so the password, in its message
        raise DatabaseUrlError(f"is not a URL: {_ENCODE}") from None


def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None or not 0 < int(match["port"] or 5432) < 65536:
        raise DatabaseUrlError(f"has a host or a port that cannot be read: {_ENCODE}")


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise DatabaseUrlError(f"has parameters that are not name=value pairs: {_ENCODE}") from None
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in _PARAMETERS:
            shown = f"{name!r}" if re.fullmatch(r"[a-z_]{1,40}", name) else "in it"
            raise DatabaseUrlError(f"the parameter {shown} is not supported; these are: {', '.join(_PARAMETERS)}")
        if name in parameters:
            raise DatabaseUrlError(f"names {name} twice; write several hosts as host1:5432,host2:5432")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise DatabaseUrlError(f"{name} must be one of: {', '.join(_CHOICES[name])}")
        parameters[name] = value
    return parameters
