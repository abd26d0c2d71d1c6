"""Passwords that change while the service runs: each new connection is opened with the current one."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path

from pydantic import SecretStr

from app.database.errors import PasswordUnavailable, describe

__all__ = ["Password", "PasswordSource", "current_password", "read_password_file"]

PasswordSource = Callable[[], str | Awaitable[str]]
"""Function, plain or async, that returns the password for a new connection. A plain one runs in a thread."""

Password = str | SecretStr | PasswordSource


def read_password_file(path: Path) -> str:
    """Return the password in a file, without a newline at its end.

    Raises ValueError, with a message of one line, if the file cannot be read or is empty.
    """
    try:
        password = path.read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is not UTF-8 text") from None
    if not password:
        raise ValueError(f"the file {path} is empty: write the password to it")
    return password


async def current_password(source: PasswordSource, *, timeout: float | None) -> str:  # noqa: ASYNC109  # a setting
    """Return the password for a new connection. The time limit is in seconds; None: none.

    Raises PasswordUnavailable if the function fails, returns nothing or takes too long.
    """
    try:
        async with asyncio.timeout(timeout):
            answer = source() if iscoroutinefunction(source) else await asyncio.to_thread(source)
            password = await answer if isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001  # whatever it is, the request can be repeated later
        raise PasswordUnavailable(f"there is no password for a new connection: {describe(error)}") from None
    if not password:
        raise PasswordUnavailable("there is no password for a new connection: the function returned none")
    return password
