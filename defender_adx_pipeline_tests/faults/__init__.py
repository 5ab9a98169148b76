"""Faults of every kind, each through a whole run: nothing missing, nothing doubled, or a run that says so."""
