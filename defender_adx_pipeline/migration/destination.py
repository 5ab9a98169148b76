"""How many rows ADX has: counted in the typed table where there is one, in the raw table where it decides what to load.

A raw table is counted by reading the JSON of every record; its typed table has the time as a column. The two are filled
in one transaction, so that equal rows of both are the rule. What follows from a count of the typed table is that
nothing is to be loaded; where it says otherwise, the raw table is counted, too, and is believed. So a typed table that
was made later, or that somebody has emptied, costs time and neither loses nor doubles a row.

Not here: counting in Defender (`planner`, `snapshot_planner`), and what follows from counts (`planning`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from defender_adx_pipeline.adx import kql, snapshot_kql, typed_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.counts import compare
from defender_adx_pipeline.migration.plan import Counts
from defender_adx_pipeline.migration.windows import Window, bin_floor

CLOCK_SKEW = timedelta(hours=1)
"""How far ADX's clock may be behind those that stamped the rows: none is ingested longer before its own time."""


class Destination:
    """Counts of one database. Asks once for each table whether it has a typed one."""

    def __init__(self, adx: AdxClient) -> None:
        self._adx = adx
        self._is_typed: dict[str, bool] = {}

    def rows(self, configuration: TableConfiguration, window: Window, grain: timedelta) -> dict[datetime, int]:
        """Rows of the raw table per bin.

        Raises:
            AdxError: ADX could not be asked.
        """
        query = kql.time_counts(
            configuration.destination_table,
            configuration.table.time_column or "",
            window.start,
            window.end,
            grain,
            ingested_since=window.start - CLOCK_SKEW,
        )
        return self._by_bin(query)

    def compared(
        self, configuration: TableConfiguration, window: Window, grain: timedelta, source: Mapping[datetime, int]
    ) -> Counts:
        """Rows per bin on both sides.

        Args:
            configuration: the table.
            window: the window.
            grain: the bin size.
            source: rows per bin in Defender.

        Raises:
            AdxError: ADX could not be asked.
        """
        since = window.start - CLOCK_SKEW
        if not self._can_count_typed(configuration, since):
            return Counts(window, grain, compare(window, grain, source, self.rows(configuration, window, grain)))
        query = typed_kql.time_counts(configuration.table, window.start, window.end, grain, ingested_since=since)
        typed = self._by_bin(query)
        counts = Counts(window, grain, compare(window, grain, source, typed))
        differing = [item.window for item in counts.bins if item.missing or item.surplus]
        if not differing:
            return counts
        # One query over all that lies between: as a rule it is the newest part of the window.
        hull = Window(differing[0].start, differing[-1].end)
        first = bin_floor(hull.start, grain)
        outside = {start: rows for start, rows in typed.items() if not first <= start < hull.end}
        return Counts(window, grain, compare(window, grain, source, outside | self.rows(configuration, hull, grain)))

    def snapshot_rows(self, configuration: TableConfiguration, taken_at: datetime, expected: int) -> int:
        """Rows of one snapshot that can be queried; counted in the raw table unless the typed one has `expected`.

        Raises:
            AdxError: ADX could not be asked.
        """
        if self._can_count_typed(configuration, taken_at - snapshot_kql.CLOCKS_APART):
            (row,) = self._adx.query(typed_kql.rows_of_snapshot(configuration.table, taken_at))
            if int(row["Rows"] or 0) == expected:
                return expected
        (row,) = self._adx.query(snapshot_kql.rows_of_snapshot(configuration.destination_table, taken_at))
        return int(row["Rows"] or 0)

    def _can_count_typed(self, configuration: TableConfiguration, since: datetime) -> bool:
        """Whether there is a typed table that is fed from the destination and has as many rows."""
        table = configuration.table
        if configuration.destination_table != table.raw_table or not self._has_typed_table(table):
            return False
        (row,) = self._adx.query(typed_kql.totals(table, since))
        return bool(row["RawRows"] == row["TypedRows"])

    def _has_typed_table(self, table: DefenderTable) -> bool:
        if table.name not in self._is_typed:
            found = self._adx.command(typed_kql.existing_table(table), idempotent=True)
            self._is_typed[table.name] = bool(found)
        return self._is_typed[table.name]

    def _by_bin(self, query: str) -> dict[datetime, int]:
        return {parse_instant(row["Bin"]): int(row["Rows"]) for row in self._adx.query(query)}
