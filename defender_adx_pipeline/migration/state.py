"""The state of the migration in ADX: configuration, ledger and audit log, read and written.

Here: the only place where the engine talks to those tables. Not here: what the rows mean (`configuration`, `ledger`,
`audit`, `watermark`) and the text of the statements (`adx.kql`).

Rows are written by column name: a `MigrationConfiguration` that the older script made has its columns in another order.
Each write is one `.append`, there as a whole or not at all; only one above Kusto's statement size is several.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from defender_adx_pipeline.adx import kql, snapshot_kql, state_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.state_kql import (
    AUDIT,
    CONFIGURATION,
    CONFIGURATION_VIEW,
    DEAD_LETTERS,
    LEDGER,
    LEDGER_COSTS,
)
from defender_adx_pipeline.catalogue import Catalogue
from defender_adx_pipeline.instants import parse_instant, sort_key, to_text
from defender_adx_pipeline.migration.audit import AuditRow, RunSlices, audit_from_row
from defender_adx_pipeline.migration.configuration import (
    TableConfiguration,
    check_own_destination,
    check_watermark_column,
    configuration_from_row,
)
from defender_adx_pipeline.migration.errors import ConfigurationError, SnapshotNotPublishedError
from defender_adx_pipeline.migration.ledger import window_of_row
from defender_adx_pipeline.migration.slices import DeadLetter
from defender_adx_pipeline.migration.windows import Window


class StateStore:
    """Reads and writes the migration's own tables. Column orders are read once per store."""

    def __init__(self, adx: AdxClient, catalogue: Catalogue) -> None:
        self._adx = adx
        self._catalogue = catalogue
        self._columns: dict[str, tuple[tuple[str, str], ...]] = {}

    def configuration_rows(self) -> list[dict[str, Any]]:
        """The newest configuration row of every source table, times as text."""
        return self._adx.query(state_kql.latest_configuration())

    def configuration(self, source_table: str) -> TableConfiguration:
        """The configuration of one table.

        Raises:
            ConfigurationError: it has no row, or one that cannot be followed.
            UnknownTableError: the catalogue does not know the table.
        """
        table = self._catalogue[source_table]
        every = self.configuration_rows()
        rows = [row for row in every if row.get("SourceTable") == table.name]
        if not rows:
            raise ConfigurationError(
                f"{CONFIGURATION_VIEW} has no row for {table.name}. Nothing was read. Run `defender-adx bootstrap`,"
                " which adds a row for every table that has none, or append one yourself. (A view of the older"
                " script leaves out inactive tables: there, set IsActive.)"
            )
        check_watermark_column(rows[0], table)
        check_own_destination(rows[0], every, self._catalogue)
        return configuration_from_row(rows[0], self._catalogue)

    def ledger_slices(self, source_table: str, window: Window) -> list[dict[str, Any]]:
        """The latest row of every slice that overlaps the window."""
        return self._adx.query(state_kql.ledger_slices(source_table, window.start, window.end))

    def present(self) -> datetime:
        """The present by ADX's clock."""
        (row,) = self._adx.query(state_kql.present())
        return parse_instant(row["Now"])

    def coverage(self, item: TableConfiguration, since: datetime) -> tuple[Window, ...]:
        """The confirmed windows of a table that end after `since`."""
        query = state_kql.ledger_windows(item.table.name, item.destination_table, since, item.watermark)
        rows = self._adx.query(query)
        return tuple(window_of_row(row) for row in rows)

    def coverage_of(
        self, items: Sequence[TableConfiguration], since: datetime
    ) -> dict[TableConfiguration, tuple[Window, ...]]:
        """What the windows of `coverage` cover, of several tables, in one query; in fewer windows."""
        windows: dict[str, list[Window]] = {item.table.name: [] for item in items}
        if items:
            asked = [(item.table.name, item.destination_table, item.watermark) for item in items]
            for row in self._adx.query(state_kql.ledger_windows_of(asked, since)):
                windows[row["SourceTable"]].append(window_of_row(row))
        return {item: tuple(windows[item.table.name]) for item in items}

    def bytes_per_row(self, source_table: str) -> float | None:
        """What a row of the table needed in recent slices, or None without one."""
        rows = self._adx.query(state_kql.ledger_row_size(source_table))
        total = rows[0] if rows else {}
        return total["Bytes"] / total["Rows"] if total.get("Rows") else None

    def snapshots_of_day(self, source_table: str, day: datetime) -> list[dict[str, Any]]:
        """The row in force of every snapshot that was begun on a day, the latest first."""
        return self._adx.query(snapshot_kql.snapshots_of_day(source_table, day))

    def open_snapshots(self, source_table: str) -> list[dict[str, Any]]:
        """The row in force of every snapshot, of any day, that is neither published nor given up."""
        return self._adx.query(snapshot_kql.open_snapshots(source_table))

    def snapshot_slices(self, source_table: str, taken_at: datetime) -> list[dict[str, Any]]:
        """The row in force of every slice of a snapshot."""
        return self._adx.query(snapshot_kql.snapshot_slices(source_table, taken_at))

    def published_before(self, source_table: str, moment: datetime) -> dict[str, Any] | None:
        """The ledger row of the snapshot that was published last before an instant, or None."""
        rows = self._adx.query(snapshot_kql.last_published_before(source_table, moment))
        return rows[0] if rows else None

    def published_on(self, item: TableConfiguration, day: Window) -> Window:
        """The moment of the snapshot that is served of a day.

        Raises:
            SnapshotNotPublishedError: there is none.
        """
        row = self.published_before(item.table.name, day.end)
        if row is None or row["DestinationTable"] != item.destination_table or window_of_row(row).start < day.start:
            raise SnapshotNotPublishedError(
                f"{item.table.name} {day.start.date().isoformat()}: no snapshot of this day is published in"
                f" {item.destination_table}, so there are no rows of it to give. Days with one:"
                f" VwPublishedSnapshots | where SourceTable == '{item.table.name}'."
            )
        return window_of_row(row)

    def published_days(self) -> dict[str, str]:
        """The latest day, as YYYY-MM-DD, of which a snapshot is published, by source table."""
        rows = self._adx.query(snapshot_kql.latest_days())
        return {row["SourceTable"]: parse_instant(row["SnapshotDay"]).date().isoformat() for row in rows}

    def append_ledger(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record states of slices and windows. A ledger from before its columns for costs is written without them."""
        known = {name for name, _ in self._columns_of(LEDGER)}
        absent = [name for name in LEDGER_COSTS if name not in known]
        self._append(LEDGER, [_without(row, absent) for row in rows] if absent else rows)

    def append_audit(self, row: AuditRow, *, once: str | None = None) -> None:
        """Record one attempt, once, also when a reply gets lost.

        Args:
            row: the row.
            once: the `audit_id` of the attempt: a second row under it is not written, whoever sends it.
        """
        self._append(AUDIT, [row.columns()], once=once or uuid.uuid4().hex)

    def has_audit(self, audit_id: str) -> bool:
        """Whether the attempt of this id has its audit row: by the tag that the row's extent carries."""
        return any(
            audit_id in kql.slices_in_tags(str(row["Tags"]))
            for command in kql.landed_slices(AUDIT, [audit_id])
            for row in self._adx.command(command, idempotent=True)
        )

    def audits_between(self, source_table: str, start: datetime, end: datetime) -> list[AuditRow]:
        """The audit rows of a table with a time between two instants, the newest first."""
        return [audit_from_row(row) for row in self._adx.query(state_kql.audits_between(source_table, start, end))]

    def run_slices(self, source_table: str, run_id: str) -> RunSlices:
        """What the ledger has of the slices that a run worked on."""
        (row,) = self._adx.query(state_kql.run_slices(source_table, run_id))
        slices = int(row["Slices"] or 0)
        window = Window(parse_instant(row["Start"]), parse_instant(row["End"])) if slices else None
        return RunSlices(slices, int(row["Confirmed"] or 0), int(row["Rows"] or 0), window)

    def append_dead_letters(self, dead_letters: Sequence[DeadLetter], *, now: datetime) -> None:
        """Record the records that ADX cannot hold, by their identity."""
        self._append(
            DEAD_LETTERS,
            [
                {
                    "SourceTable": letter.slice.source_table,
                    "DestinationTable": letter.slice.destination_table,
                    "SliceId": letter.slice.slice_id,
                    "Identity": dict(letter.identity),
                    "Size": letter.size,
                    "Reason": letter.reason,
                    "RecordedAt": to_text(now),
                }
                for letter in dead_letters
            ],
            once=uuid.uuid4().hex,
        )

    def advance_watermark(self, item: TableConfiguration, watermark: str) -> None:
        """Append a configuration row with a later watermark, everything else as the newest row has it.

        The row is copied inside ADX at the moment of writing, so a change that somebody makes meanwhile (IsActive, say)
        is kept; and it is written only if the stored watermark is earlier, and has not been set back since `item` was
        read.
        """
        columns = self._columns_of(CONFIGURATION)
        view = {name for name, _ in self._columns_of(CONFIGURATION_VIEW)}
        self._adx.command(
            state_kql.advance_watermark(
                item.table.name,
                sort_key(watermark),
                seen=item.watermark_instant,
                columns=columns,
                view_columns=view,
            ),
            idempotent=True,
        )

    def _append(self, table: str, rows: Sequence[Mapping[str, Any]], *, once: str | None = None) -> None:
        """Append rows; without `once`, a reply that gets lost may double them, which the ledger's view undoes."""
        for statement in kql.append_rows(table, self._columns_of(table), rows, once=once):
            self._adx.command(statement, idempotent=True)

    def _columns_of(self, table: str) -> tuple[tuple[str, str], ...]:
        if table not in self._columns:
            rows = self._adx.query(kql.table_columns(table))
            self._columns[table] = tuple((row["ColumnName"], row["ColumnType"]) for row in rows)
        return self._columns[table]


def _without(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
