"""Programs that run outside of any request."""
