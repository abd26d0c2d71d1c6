"""Engine, sessions, start-up probe and schema check: all access to PostgreSQL, and no HTTP."""
