"""What `status` tells of each table.

Here: reading the state and judging it. Not here: the state's own rules (`migration`), what the monitoring functions say
(`figures`), and showing it (`status_table`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from defender_adx_pipeline.adx import snapshot_kql, state_kql
from defender_adx_pipeline.catalogue import TableKind
from defender_adx_pipeline.cli.figures import Figures
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
    lag_state: str | None = None
    """ok, late, very late, never complete or inactive; None, as all below, without the monitoring functions."""
    complete_until: str | None = None
    """Up to when every row is in ADX, or the latest snapshot; None where nothing is complete."""
    behind_seconds: float | None = None
    """Between that and now."""
    failures: int | None = None
    """Failed attempts of the last seven days."""
    rows_today: int | None = None
    bytes_today: int | None = None
    rows_per_day: list[int] | None = None
    """Rows that came in on each day, UTC, today last."""

    @property
    def ok(self) -> bool:
        """Whether nothing about the table needs a person."""
        return not self.reason or self.audit_status in ("Success", "Skipped")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def table_states(database: Database, figures: Figures | None = None) -> list[TableState]:
    """Every table of the configuration, in the order of names; with its figures, where there are any."""
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
    states.sort(key=lambda state: state.table)
    return states if figures is None else [_with_figures(state, figures) for state in states]


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


def _with_figures(state: TableState, figures: Figures) -> TableState:
    lag, today = figures.lag.get(state.table, {}), figures.today(state.table)
    minutes = lag.get("LagMinutes")
    return replace(
        state,
        lag_state=str(lag["State"]) if lag else None,
        complete_until=str(lag["CompleteUntil"]) if lag.get("CompleteUntil") else None,
        behind_seconds=None if minutes is None else round(float(minutes) * 60, 1),
        failures=figures.failures.get(state.table, 0),
        rows_today=today.rows,
        bytes_today=today.bytes,
        rows_per_day=figures.rows_per_day(state.table),
    )


def _problem(name: str, reason: str) -> TableState:
    return TableState(name, "", True, "", None, "", "", 0, "", "", None, reason)  # noqa: FBT003 - a whole row
