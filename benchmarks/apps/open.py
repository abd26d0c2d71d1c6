"""The service of a project with ``auth: oidc``, but with open routes, as with ``auth: none``."""

import app.auth.dependencies

app.auth.dependencies.requires = lambda *scopes: []

from app.main import app  # noqa: E402  # it imports the routes, which call requires

__all__ = ["app"]
