"""Seeded, plausible data for every table: about 60 devices and 80 users, 30 days of events and the state now.

Here: how many rows a table gets (`volumes`), who and what the tenant consists of (`people`), what a column holds
(`values`, `states`), and how rows come about in SQL: events (`generate`), and a state that moves on (`snapshots`). Not
here: storage (`source`) and real records (`samples`).
"""

from defender_adx_pipeline.local.data.generate import add_rows, fill
from defender_adx_pipeline.local.data.snapshots import Moved, add_state, evolve, evolve_at
from defender_adx_pipeline.local.data.volumes import rows_of

__all__ = ["Moved", "add_rows", "add_state", "evolve", "evolve_at", "fill", "rows_of"]
