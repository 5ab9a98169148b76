"""What a run says of a typed table: its materialization, and the checks `same_rows_as_raw` and `schema_drift`.

Nothing is loaded here: the rows came with those of the raw table, through the update policy. Not here: specs (`typed`,
`checks`), the counts (`typed_counts`), what drift is (`migration.drift`), and values that do not fit (`values_fit`).

A load does not depend on any of it: what cannot be found out is a failed check with its reason, and no failed run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.typed_tables import typed_table_name
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.defs.checks import SAME_ROWS, SCHEMA_DRIFT
from defender_adx_pipeline.defs.partitions import whole_days, window_of
from defender_adx_pipeline.defs.reporting import COLUMNS, typed_rows_query, web_ui_link
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import typed_key
from defender_adx_pipeline.defs.typed import typed_schema
from defender_adx_pipeline.defs.typed_counts import RowCounts, count_events, count_snapshots
from defender_adx_pipeline.defs.verdicts import ERROR, WARN, Verdict
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.drift import Drift, drift_of, read_drift
from defender_adx_pipeline.migration.errors import SnapshotNotPublishedError
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.windows import Window, bin_floor

TypedEvent = dg.MaterializeResult[None] | dg.AssetCheckResult

_DAY = timedelta(days=1)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TypedRun:
    """One step's look at one typed table.

    Args:
        context: the step's.
        table: the Defender table.
        defender: asked for the table's columns only where nothing was loaded.
        adx: counts and columns.
        loaded: what the step has loaded into the raw table; None when it was not asked to.
    """

    context: dg.AssetExecutionContext
    table: DefenderTable
    defender: DefenderResource
    adx: AdxResource
    loaded: Extraction | None

    def events(self) -> Iterator[TypedEvent]:
        """The materialization and the results of checks, as far as the run was asked for them.

        Raises:
            ConfigurationError: nothing was loaded, and the table's configuration row cannot be followed.
            AdxError: nothing was loaded, and the row could not be read.
        """
        state = self.adx.migration_state()
        configuration = self.loaded.plan.configuration if self.loaded else state.configuration(self.table.name)
        if not configuration.is_active:
            self.context.log.warning("%s is skipped: IsActive is false", self.table.name)
            return
        drift = self._compared_columns() if self._wants(SCHEMA_DRIFT) else None
        if self._wants(SAME_ROWS) or typed_key(self.table) in self.context.selected_asset_keys:
            yield from self._rows(configuration, drift.typed_columns if isinstance(drift, Drift) else None)
        if drift is not None:
            yield self._drift(drift)

    def _wants(self, check: str) -> bool:
        return dg.AssetCheckKey(typed_key(self.table), check) in self.context.selected_asset_check_keys

    def _rows(self, configuration: TableConfiguration, columns: Sequence[Column] | None) -> Iterator[TypedEvent]:
        obstacle, counts, window = elsewhere(configuration), None, None
        severity = WARN
        if not obstacle:
            try:
                window, counts = self._counted(configuration)
                obstacle = "" if counts is not None else absent(self.table)
            except SnapshotNotPublishedError as error:
                obstacle = str(error)
            except AdxError as error:
                severity = ERROR
                obstacle = f"The rows of the two tables could not be compared: {error}"
        if counts is None or window is None:
            self.context.log.warning("%s is not materialized: %s", typed_key(self.table).to_user_string(), obstacle)
            if self._wants(SAME_ROWS):
                yield self._result(SAME_ROWS, passed=False, severity=severity, said=obstacle)
            return
        if typed_key(self.table) in self.context.selected_asset_keys:
            yield self._materialization(counts, window, columns or ())
        if self._wants(SAME_ROWS):
            yield self._comparison(counts, window)

    def _counted(self, configuration: TableConfiguration) -> tuple[Window, RowCounts | None]:
        asked = self._asked()
        if self.table.kind == "event":
            return asked, count_events(self.adx.client, self.table, asked)
        if self.loaded is not None:
            moments = {asked.start.date().isoformat(): asked.start}
        else:
            state = self.adx.migration_state()
            taken = [state.published_on(configuration, day) for day in asked.bins(_DAY)]
            moments = {moment.start.date().isoformat(): moment.start for moment in taken}
            asked = Window(taken[0].start, taken[-1].end)
        return asked, count_snapshots(self.adx.client, self.table, moments)

    def _asked(self) -> Window:
        """The window that was loaded, or the partitions of the run. A run of checks alone has none: today."""
        if self.loaded is not None and self.loaded.tally.window is not None:
            return self.loaded.tally.window
        if self.context.has_partition_key or self.context.has_partition_key_range:
            return window_of(self.context.partition_time_window)
        today = bin_floor(utc_now(), _DAY)
        return Window(today, today + _DAY)

    def _materialization(
        self, counts: RowCounts, window: Window, columns: Sequence[Column]
    ) -> dg.MaterializeResult[None]:
        key, settings, keys = typed_key(self.table), self.adx.settings, list(self.context.partition_keys)
        link = web_ui_link(str(settings.adx_cluster_uri), settings.adx_database, typed_rows_query(self.table, window))
        for day in keys if self.table.kind == "snapshot" else whole_days(keys, window):
            rows = dg.MetadataValue.int(counts.typed_by_day.get(day, 0))
            self.context.add_asset_metadata({"dagster/partition_row_count": rows}, key, day)
        # On one partition of the run alone, or a run over thirty days would repeat it as often in the event log.
        schema = {COLUMNS: typed_schema(self.table, columns)}
        self.context.add_asset_metadata(schema, key, keys[-1])
        return dg.MaterializeResult(
            asset_key=key,
            metadata={
                "typed_rows": sum(counts.typed_by_day.values()),
                "window": str(window),
                "dagster/table_name": f"{settings.adx_database}.{typed_table_name(self.table)}",
                **({} if link is None else {"adx_web_ui": dg.MetadataValue.url(link)}),
                "run_partitions": len(keys),
            },
        )

    def _comparison(self, counts: RowCounts, window: Window) -> dg.AssetCheckResult:
        typed = typed_table_name(self.table)
        said = f"{self.table.raw_table} has {counts.raw} rows, {typed} has {counts.typed}: {counts.counted}."
        if not counts.are_equal:
            shown = [f"{day}: {raw} and {made}" for day, (raw, made) in counts.differing.items()]
            more = f"; and {len(shown) - _SHOWN} more days" if len(shown) > _SHOWN else ""
            said += (
                f" They differ (raw and typed: {'; '.join(shown[:_SHOWN])}{more}). The raw rows are whole. Rows from"
                f" before the update policy are expanded by `defender-adx schema backfill {self.table.name}`; typed"
                " rows that somebody deleted or added, too."
            )
        metadata = {
            "raw_rows": counts.raw,
            "typed_rows": counts.typed,
            "counted": counts.counted,
            "window": str(window),
        }
        return self._result(SAME_ROWS, passed=counts.are_equal, said=said, metadata=metadata)

    def _drift(self, drift: Drift | AdxError | HuntingError) -> dg.AssetCheckResult:
        if not isinstance(drift, Drift):
            said = f"The columns of the two tables could not be compared: {drift}"
            return self._result(SCHEMA_DRIFT, passed=False, severity=WARN, said=said)
        if not drift.has_typed_table:
            return self._result(SCHEMA_DRIFT, passed=False, severity=WARN, said=absent(self.table))
        if not drift.is_in_tenant:
            said = "The tenant does not have the table, so that there is nothing to compare."
            return self._result(SCHEMA_DRIFT, passed=True, severity=WARN, said=said)
        found = drift.differences
        said = " ".join(map(str, found[:_SHOWN])) or "The tenant's columns are those of the typed table."
        if len(found) > _SHOWN:
            said += f" And {len(found) - _SHOWN} more: `defender-adx schema diff {self.table.name}`."
        metadata = {"differences": len(found), **{one.column: f"{one.kind}: {one}" for one in found}}
        return self._result(SCHEMA_DRIFT, passed=not found, severity=WARN, said=said, metadata=metadata)

    def _compared_columns(self) -> Drift | AdxError | HuntingError:
        """The columns of both, or why they could not be had."""
        try:
            if self.loaded is not None:
                return drift_of(self.table, self.loaded.plan.columns, self.adx.client)
            return read_drift(self.defender.client, self.adx.client, self.table)
        except (AdxError, HuntingError) as error:
            return error

    def _result(
        self,
        check: str,
        *,
        passed: bool,
        said: str,
        severity: dg.AssetCheckSeverity = ERROR,
        metadata: Mapping[str, Any] | None = None,
    ) -> dg.AssetCheckResult:
        return Verdict(typed_key(self.table), check, passed, said, severity, metadata or {}).result()


def absent(table: DefenderTable) -> str:
    """What is said where the typed table is not there."""
    return (
        f"The database has no table {typed_table_name(table)}. The raw rows are loaded all the same. Run `defender-adx"
        f" bootstrap`, which makes it and what fills it, and then `defender-adx schema backfill {table.name}` for the"
        " rows that are in the raw table already."
    )


def elsewhere(configuration: TableConfiguration) -> str:
    """What is said where the rows go to a table that feeds no typed one; empty where they go to the own raw table."""
    table = configuration.table
    if configuration.destination_table == table.raw_table:
        return ""
    return (
        f"The DestinationTable of {table.name} is {configuration.destination_table}, and {typed_table_name(table)} is"
        f" filled from {table.raw_table} alone. The raw rows are loaded all the same. For typed rows append a"
        f" configuration row with DestinationTable {table.raw_table}."
    )
