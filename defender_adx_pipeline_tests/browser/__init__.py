"""Tests that need a whole Dagster: `make ui` as a person starts it, looked at with headless Chromium."""

SETTINGS = "settings.json"
"""File in DAGSTER_HOME with settings that a test changes: `Site.change_settings` writes it, `location` reads it."""

TICK = "event_tables_tick"
"""The schedule that `location` has come every minute."""
