"""Errors of the domain. They know nothing of HTTP: `app.problems` turns them into responses."""

__all__ = ["Busy", "Conflict", "DomainError", "NotFound", "Unprocessable"]


class DomainError(Exception):
    """Base class. The message is written for the client, and is sent to it."""


class NotFound(DomainError):
    """The requested resource does not exist."""


class Conflict(DomainError):
    """The request conflicts with what is stored."""


class Busy(Conflict):
    """The request conflicts with one that has not ended: repeated shortly, it may succeed."""


class Unprocessable(DomainError):
    """The request is valid by itself, but contradicts an earlier one."""
