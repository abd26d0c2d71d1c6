"""Who calls: access tokens of an OpenID provider, and the scopes that a route asks for."""
