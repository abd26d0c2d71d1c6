"""Options of authentication. Each field is also a setting of the service: ``AUTH_`` and its name in capitals."""

from dataclasses import dataclass

__all__ = ["AuthOptions"]


@dataclass(frozen=True, kw_only=True)
class AuthOptions:
    """No options: the routes are open."""
