"""Errors of the domain. They know nothing of HTTP: `app.problems` turns them into responses."""

__all__ = ["Busy", "Conflict", "DomainError", "NotFound", "PreconditionFailed", "RefersToNothing", "Unprocessable"]


class DomainError(Exception):
    """Base class. The message is sent to the client."""


class NotFound(DomainError):
    """The requested resource does not exist."""


class Conflict(DomainError):
    """The request conflicts with what is stored."""


class Busy(Conflict):
    """The request conflicts with one that is still running: it may succeed if it is repeated shortly."""


class PreconditionFailed(DomainError):
    """The resource has changed since the caller read it."""


class Unprocessable(DomainError):
    """The request is valid in itself, but contradicts an earlier one."""


class RefersToNothing(Unprocessable):
    """A field of the body refers to a row that does not exist."""

    def __init__(self, field: str) -> None:
        super().__init__("The request refers to a row that does not exist; see errors.")
        self.field = field
