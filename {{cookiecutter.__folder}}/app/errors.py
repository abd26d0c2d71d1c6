"""Errors of the domain. They know nothing of HTTP: `app.problems` turns them into responses."""

__all__ = ["Conflict", "DomainError", "NotFound"]


class DomainError(Exception):
    """Base class. The message is written for the client, and is sent to it."""


class NotFound(DomainError):
    """The requested resource does not exist."""


class Conflict(DomainError):
    """The request conflicts with what is stored."""
