"""What `status` tells of each table.

Here: reading the state and judging it. Not here: the state's own rules (`migration`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from defender_adx_pipeline.adx import snapshot_kql, state_kql
from defender_adx_pipeline.catalogue import TableKind
from defender_adx_pipeline.instants import parse_instant, sort_key, utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.connections import Database

_KINDS: tuple[TableKind, ...] = ("event", "snapshot")


@dataclass(frozen=True, slots=True)
class TableState:
    """One row of the configuration and how it stands, in the fields of `status --json`."""

    table: str
    destination: str
    active: bool
    watermark: str
    lag_seconds: float | None
    """Between the watermark and now; None before the first row."""
    covered_from: str
    covered_to: str
    """Outer bounds of the confirmed windows, or empty."""
    open_slices: int
    audit_status: str
    audit_time: str
    audit_rows: int | None
    reason: str
    """Why the last attempt failed, or why the configuration row cannot be followed."""
    kind: str = ""
    """`event` or `snapshot`; empty where the configuration row cannot be followed."""
    published: str | None = None
    """The SnapshotTime of the latest published snapshot, of a snapshot table that has one."""
    published_rows: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing about the table needs a person."""
        return not self.reason or self.audit_status in ("Success", "Skipped")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def table_states(database: Database) -> list[TableState]:
    """Every table of the configuration, in the order of names."""
    agendas = [read_agenda(database.state, database.catalogue, kind) for kind in _KINDS]
    audits = {row["TableName"]: row for row in database.adx.query(state_kql.latest_audits())}
    ledger = {row["SourceTable"]: row for row in database.adx.query(state_kql.ledger_summary())}
    snapshots = {row["SourceTable"]: row for row in database.adx.query(snapshot_kql.latest_days())}
    now = utc_now()
    states = [
        _state(item, now, *(rows.get(item.table.name, {}) for rows in (audits, ledger, snapshots)))
        for agenda in agendas
        for item in agenda.tables
    ]
    # A row that cannot be read at all is of no kind, and in both.
    problems = {name: reason for agenda in agendas for name, reason in agenda.problems.items()}
    states += [_problem(name, reason) for name, reason in problems.items()]
    return sorted(states, key=lambda state: state.table)


def print_status(states: list[TableState], console: Console) -> None:
    """A line for each table."""
    table = Table(
        Column("Table", no_wrap=True), "Active", "Watermark", "Lag", "Covered to", "Open", "Last run", "Rows", "Reason"
    )
    for state in states:
        colour = {"Success": "green", "Failed": "red"}.get(state.audit_status, "yellow")
        table.add_row(
            state.table,
            "yes" if state.active else "no",
            state.watermark if state.lag_seconds is not None else "nothing loaded yet",
            _lag(state.lag_seconds),
            _covered(state),
            str(state.open_slices),
            f"[{colour}]{state.audit_status or 'never'}[/{colour}]",
            "" if state.audit_rows is None else str(state.audit_rows),
            escape(state.reason),
        )
    console.print(table)


def _state(
    item: TableConfiguration,
    now: datetime,
    audit: Mapping[str, Any],
    ledger: Mapping[str, Any],
    snapshot: Mapping[str, Any],
) -> TableState:
    lag = (now - parse_instant(item.watermark)).total_seconds() if item.loaded_before else None
    return TableState(
        table=item.table.name,
        destination=item.destination_table,
        active=item.is_active,
        watermark=item.watermark,
        lag_seconds=lag,
        covered_from=str(ledger.get("CoveredFrom") or ""),
        covered_to=str(ledger.get("CoveredTo") or ""),
        open_slices=int(ledger.get("OpenSlices") or 0),
        audit_status=str(audit.get("Status") or ""),
        audit_time=str(audit.get("Timestamp") or ""),
        audit_rows=audit.get("RecordCount"),
        reason=str(audit.get("FailureReason") or ""),
        kind=item.table.kind,
        published=sort_key(str(snapshot["SnapshotTime"])) if snapshot else None,
        published_rows=int(snapshot["QueryableRows"] or 0) if snapshot else None,
    )


def _problem(name: str, reason: str) -> TableState:
    return TableState(name, "", True, "", None, "", "", 0, "", "", None, reason)  # noqa: FBT003 - a whole row


def _covered(state: TableState) -> str:
    if state.published is None:
        return state.covered_to
    return f"snapshot of {state.published[:10]}, {state.published_rows:,} rows"


def _lag(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
