"""Engine, sessions, start-up probe and schema check: all that touches PostgreSQL, and no HTTP."""
