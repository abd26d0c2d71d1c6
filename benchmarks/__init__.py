"""Measures what each layer of a service costs: ``make bench``."""
