"""The source: Microsoft Defender Advanced Hunting.

Here: signing in, the hunting client, its wire format, errors and quota, and the hunting queries. Not here: anything
that knows Azure Data Explorer, windows to read or Dagster.
"""
