"""Requests that clients can repeat safely, with the header ``Idempotency-Key``."""
