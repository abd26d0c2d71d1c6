"""The service of a project with ``auth: oidc``, its routes open, as they are with ``auth: none``."""

import app.auth.dependencies

app.auth.dependencies.requires = lambda *scopes: []

from app.main import app

__all__ = ["app"]
