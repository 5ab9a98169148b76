"""Tests of `defender_adx_pipeline.defender`."""
