"""How many rows a typed table has, and whether its raw table has as many.

Here: the questions to ADX and their answer as a value. Not here: the statements (`adx.typed_kql`, `adx.kql`), and what
a run makes of the answer (`typed_results`).

Counting a raw table means reading the JSON of every record. So what is compared first is how many rows of each have
been ingested since the window began, which ADX knows without reading any; only where that differs are the rows of the
window counted in both. It may differ although the window is the same in both: rows from before the update policy, or
typed rows that were made anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from defender_adx_pipeline.adx import kql, snapshot_kql, typed_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import MissingObjectError
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.migration.destination import CLOCK_SKEW
from defender_adx_pipeline.migration.windows import Window

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows of the raw and the typed table of one Defender table."""

    raw: int
    typed: int
    counted: str
    """Which rows these are, in words."""
    typed_by_day: Mapping[str, int] = field(default_factory=dict)
    """Rows of the window in the typed table, by UTC day; days without a row are left out."""
    differing: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Raw and typed rows of the days in which the two differ."""

    @property
    def are_equal(self) -> bool:
        """Whether both have the same rows, as far as counts tell, on every day."""
        return self.raw == self.typed and not self.differing


def count_events(adx: AdxClient, table: DefenderTable, window: Window) -> RowCounts | None:
    """The rows of a window of an event table; None when there is no typed table.

    Raises:
        AdxError: ADX could not be asked.
    """
    since = window.start - CLOCK_SKEW
    try:
        (totals,) = adx.query(typed_kql.totals(table, since))
    except MissingObjectError:
        if _is_there(adx, table):
            raise
        return None
    by_time = typed_kql.time_counts(table, window.start, window.end, _DAY, ingested_since=since)
    typed = _by_day(adx, by_time)
    if totals["RawRows"] == totals["TypedRows"]:
        counted = f"all rows that were ingested since {to_text(since)}, an hour before the window"
        return RowCounts(int(totals["RawRows"]), int(totals["TypedRows"]), counted, typed)
    column = table.time_column or ""
    raw = _by_day(adx, kql.time_counts(table.raw_table, column, window.start, window.end, _DAY, ingested_since=since))
    pairs = {day: (raw.get(day, 0), typed.get(day, 0)) for day in sorted({*raw, *typed})}
    differing = {day: pair for day, pair in pairs.items() if pair[0] != pair[1]}
    return RowCounts(sum(raw.values()), sum(typed.values()), "the rows of the window", typed, differing)


def count_snapshots(adx: AdxClient, table: DefenderTable, moments: Mapping[str, datetime]) -> RowCounts | None:
    """The rows of snapshots, by day and SnapshotTime; None when there is no typed table.

    Raises:
        AdxError: ADX could not be asked.
    """
    raw: dict[str, int] = {}
    typed: dict[str, int] = {}
    try:
        for day, taken_at in moments.items():
            typed[day] = _rows(adx.query(typed_kql.rows_of_snapshot(table, taken_at)))
            raw[day] = _rows(adx.query(snapshot_kql.rows_of_snapshot(table.raw_table, taken_at)))
    except MissingObjectError:
        if _is_there(adx, table):
            raise
        return None
    differing = {day: (raw[day], typed[day]) for day in moments if raw[day] != typed[day]}
    counted = "the rows with SnapshotTime " + ", ".join(map(to_text, moments.values()))
    return RowCounts(sum(raw.values()), sum(typed.values()), counted, typed, differing)


def _is_there(adx: AdxClient, table: DefenderTable) -> bool:
    return bool(adx.command(typed_kql.existing_table(table), idempotent=True))


def _by_day(adx: AdxClient, query: str) -> dict[str, int]:
    return {parse_instant(row["Bin"]).date().isoformat(): int(row["Rows"]) for row in adx.query(query)}


def _rows(answer: list[dict[str, Any]]) -> int:
    (row,) = answer
    return int(row["Rows"] or 0)
