"""Microsoft Defender Advanced Hunting tables into Azure Data Explorer, every row once, as Dagster assets."""

__version__ = "0.1.0"
