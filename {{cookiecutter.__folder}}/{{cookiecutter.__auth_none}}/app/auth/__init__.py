"""No authentication. Routes already name the scopes that they would require."""
