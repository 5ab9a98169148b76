"""Dagster only: resources, IO manager, assets, partitions, schedules and sensors, each in the file of its name.

Not here: anything that runs without Dagster; that is `migration` and below.
"""
