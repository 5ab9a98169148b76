"""Seeded, plausible data for every event table: a tenant of about 60 devices and 80 users over 30 days.

Here: how many rows a table gets (`volumes`), who and what the tenant consists of (`people`), what a column holds
(`values`) and how rows come about in SQL (`generate`). Not here: storage (`source`) and real records (`samples`).
"""

from defender_adx_pipeline.local.data.generate import add_rows, fill
from defender_adx_pipeline.local.data.volumes import rows_of

__all__ = ["add_rows", "fill", "rows_of"]
