"""Requests that clients can repeat safely: the header ``Idempotency-Key``."""
