"""Tests that need a whole Dagster: `make ui` as a person starts it, looked at with headless Chromium."""
