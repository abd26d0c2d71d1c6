"""Programs that run outside requests."""
