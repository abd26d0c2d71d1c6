"""Faults on a PostgreSQL cluster with the service under load: ``make drill``."""
