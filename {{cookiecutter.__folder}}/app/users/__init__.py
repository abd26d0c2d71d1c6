"""The example resource: users."""
