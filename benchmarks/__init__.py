"""What the layers of a service cost: ``make bench``."""
