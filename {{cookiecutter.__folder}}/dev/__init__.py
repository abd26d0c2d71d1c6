"""Tools for development and tests; the service never imports them."""
