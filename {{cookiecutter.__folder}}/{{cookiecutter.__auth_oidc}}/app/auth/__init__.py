"""Authentication by access tokens of an OpenID provider, and the scopes that routes require."""
