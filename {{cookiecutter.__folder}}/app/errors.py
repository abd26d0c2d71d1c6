"""Errors of the domain. They know nothing of HTTP: ``problems`` turns the two kinds into answers."""

__all__ = ["Conflict", "DomainError", "NotFound"]


class DomainError(Exception):
    """Base class. The message is written for the client and is sent to it."""


class NotFound(DomainError):
    """What was asked for does not exist."""


class Conflict(DomainError):
    """The request contradicts what is stored."""
