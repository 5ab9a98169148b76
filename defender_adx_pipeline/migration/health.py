"""How all active tables stand: up to where each is complete, and how many of its records were kept out.

Here: the questions to ADX, a few for all tables together, and their answers as values. Not here: which tables are
active (`agenda`), what a lag is held against (`catalogue`), and what is made of it (`defs.health`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.adx import health_kql, snapshot_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.agenda import complete_until
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.scope import KEPT
from defender_adx_pipeline.migration.state import StateStore


@dataclass(frozen=True, slots=True)
class TableHealth:
    """How one table stands."""

    item: TableConfiguration
    complete_until: datetime | None
    """Up to where it is complete; of a snapshot table the SnapshotTime of the latest that is published. None where it
    is complete up to nowhere: nothing was loaded, or nothing that reaches back as far as Defender keeps."""
    dead_letters: int
    """Records that were kept out within the last 30 days."""


def read_health(
    adx: AdxClient, state: StateStore, items: Sequence[TableConfiguration], *, now: datetime
) -> tuple[TableHealth, ...]:
    """How some tables of either kind stand: one query about windows, one about snapshots, one about dead letters.

    Raises:
        AdxError: ADX could not be asked.
    """
    events = [item for item in items if item.table.kind == "event"]
    complete = complete_until(state, events, now=now)
    if len(events) < len(items):
        taken = {row["SourceTable"]: row["SnapshotTime"] for row in adx.query(snapshot_kql.latest_days())}
        for item in items:
            if item.table.kind == "snapshot":
                moment = taken.get(item.table.name)
                complete[item] = None if moment is None else parse_instant(str(moment))
    kept_out = _dead_letters(adx, health_kql.dead_letters_since(now - KEPT)) if items else {}
    return tuple(TableHealth(item, complete[item], kept_out.get(item.table.name, 0)) for item in items)


def count_dead_letters(adx: AdxClient, source_table: str, *, now: datetime) -> int:
    """Records of one table that were kept out within the last 30 days.

    Raises:
        AdxError: ADX could not be asked.
    """
    return _dead_letters(adx, health_kql.dead_letters_since(now - KEPT, source_table)).get(source_table, 0)


def lag_of(complete: datetime | None, now: datetime) -> timedelta | None:
    """How far behind now a table is; never negative, since clocks differ."""
    return None if complete is None else max(now - complete, timedelta(0))


def _dead_letters(adx: AdxClient, query: str) -> dict[str, int]:
    return {str(row["SourceTable"]): int(row["Records"]) for row in adx.query(query)}
