"""Options of authentication. Each would also be a setting of the service: ``AUTH_`` and its name in capitals."""

from dataclasses import dataclass

__all__ = ["AuthOptions"]


@dataclass(frozen=True, kw_only=True)
class AuthOptions:
    """None: the routes are open."""
