"""The service: HTTP routes and scripts over one PostgreSQL database."""
