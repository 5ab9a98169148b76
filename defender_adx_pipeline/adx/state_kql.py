"""Statements over the migration's own tables: configuration, ledger, audit. Pure functions.

Here: what is asked of `MigrationConfiguration`, `MigrationLedger` and their views. Not here: statements over raw tables
(`kql`), and what the rows mean (`migration`).
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from defender_adx_pipeline.adx.kql import Columns, literal
from defender_adx_pipeline.instants import EPOCH_1900
from defender_adx_pipeline.quoting import kql_datetime, kql_name, kql_string

CONFIGURATION = "MigrationConfiguration"
CONFIGURATION_VIEW = "VwLatestMigrationConfiguration"
LEDGER = "MigrationLedger"
LEDGER_VIEW = "VwLatestMigrationLedger"
LEDGER_COSTS = ("Calls", "QuotaWaitSeconds")
"""Columns of the ledger that one from before them lacks until bootstrap: what is written until then has none."""
SNAPSHOTS_VIEW = "VwPublishedSnapshots"
AUDIT = "MigrationAuditLog"
DEAD_LETTERS = "MigrationDeadLetter"


def latest_configuration() -> str:
    """The newest configuration row of every source table, in either shape of the view."""
    return CONFIGURATION_VIEW


def ledger_slices(source_table: str, start: datetime, end: datetime) -> str:
    """The row in force of every slice of a table that overlaps a window.

    As in the view, but run by run first: `Failed` says that its run has taken the slice back. Another run may have
    planned the same one, under the same id, and be at work on it; then it is under way, in whatever order the two
    wrote.
    """
    return (
        f"{LEDGER}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Slice'"
        f" and WindowStart < {kql_datetime(end)} and WindowEnd > {kql_datetime(start)}"
        "\n| extend Tries = coalesce(Attempt, int(0)) * 10"
        "\n| extend Step = case(State == 'Confirmed', 1000000000, State == 'Failed', 2, State == 'Queued', 1, 0)"
        "\n| extend Progress = Tries + Step"
        "\n| summarize arg_max(RecordedAt, *) by SliceId, RunId, Progress"
        "\n| summarize arg_max(Progress, *) by SliceId, RunId"
        "\n| extend Claim = Progress + iff(State == 'Failed', 0, 500000000)"
        "\n| summarize arg_max(Claim, *) by SliceId\n| order by WindowStart asc"
    )


def present() -> str:
    """The present by ADX's clock: `Now`."""
    return "print Now = now()"


def ledger_windows(source_table: str, destination_table: str, since: datetime, watermark: str) -> str:
    """The confirmed windows of a table that end after an instant: `WindowStart`, `WindowEnd`.

    Where somebody set the watermark back, windows that were recorded before then no longer count: a configuration row
    with a watermark after the one in force is older than the row that set it back.

    Args:
        source_table: the Defender table.
        destination_table: where its rows go.
        since: the instant.
        watermark: the one in force, with seven digits.
    """
    return (
        f"let SetBack = toscalar({CONFIGURATION}\n| where SourceTable == {kql_string(source_table)}"
        f" and LastRefreshedTime > {literal(watermark, 'datetime')}\n| summarize max(ingestion_time()));\n"
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Window'"
        f" and State == 'Confirmed' and DestinationTable == {kql_string(destination_table)}"
        f" and WindowEnd > {kql_datetime(since)}"
        "\n| where isnull(SetBack) or RecordedAt > SetBack\n| distinct WindowStart, WindowEnd"
    )


def ledger_windows_of(asked: Sequence[tuple[str, str, str]], since: datetime) -> str:
    """What the windows of `ledger_windows` cover, of several tables: `SourceTable`, `WindowStart`, `WindowEnd`.

    Ticks of a quiet table leave a window every quarter of an hour, each hours long: of windows that begin within an
    hour and are an hour long, or within four and four long, one stands for all. Any two of these overlap, so that the
    one from the first start to the last end covers what they cover and no more.

    Args:
        asked: source table, destination table, and the watermark in force with seven digits.
        since: windows that end after this instant.
    """
    rows = ", ".join(
        f"{kql_string(source)}, {kql_string(destination)}, {literal(watermark, 'datetime')}"
        for source, destination, watermark in asked
    )
    return (
        f"let Asked = datatable(SourceTable: string, DestinationTable: string, Watermark: datetime)[{rows}];\n"
        f"let SetBack = {CONFIGURATION}\n| extend WrittenAt = ingestion_time()\n| join kind=inner Asked on SourceTable"
        "\n| where LastRefreshedTime > Watermark\n| summarize SetBackAt = max(WrittenAt) by SourceTable;\n"
        f"{LEDGER_VIEW}\n| where Kind == 'Window' and State == 'Confirmed' and WindowEnd > {kql_datetime(since)}"
        "\n| join kind=inner Asked on SourceTable, DestinationTable"
        "\n| join kind=leftouter SetBack on SourceTable\n| where isnull(SetBackAt) or RecordedAt > SetBackAt"
        "\n| extend Hours = case(WindowEnd - WindowStart >= 4h, 4, WindowEnd - WindowStart >= 1h, 1, 0)"
        "\n| extend Begins = case(Hours == 4, bin(WindowStart, 4h), Hours == 1, bin(WindowStart, 1h), WindowStart)"
        "\n| summarize WindowStart = min(WindowStart), WindowEnd = max(WindowEnd) by SourceTable, Hours, Begins"
        "\n| project SourceTable, WindowStart, WindowEnd"
    )


def ledger_row_size(source_table: str) -> str:
    """Rows and bytes of a table's ten latest slices with rows: one row, `Rows` and `Bytes`."""
    return (
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Slice' and ReceivedRows > 0"
        "\n| top 10 by RecordedAt desc\n| summarize Rows = sum(ReceivedRows), Bytes = sum(Bytes)"
    )


def latest_audits() -> str:
    """The newest audit row of every table."""
    return f"{AUDIT} | summarize arg_max(Timestamp, *) by TableName"


def audits_between(source_table: str, start: datetime, end: datetime) -> str:
    """The audit rows of a table with a time between two instants, both included; the newest first."""
    return (
        f"{AUDIT}\n| where TableName == {kql_string(source_table)} and Timestamp >= {kql_datetime(start)}"
        f" and Timestamp <= {kql_datetime(end)}\n| order by Timestamp desc"
    )


def run_slices(source_table: str, run_id: str) -> str:
    """What a run recorded of its slices of a table: one row with `Slices`, `Confirmed`, `Rows`, `Start` and `End`.

    Each slice counts once, however often a state of it was written; `Rows` are those of the confirmed ones.
    """
    return (
        f"{LEDGER}\n| where RunId == {kql_string(run_id)} and SourceTable == {kql_string(source_table)}"
        " and Kind == 'Slice'"
        "\n| extend Here = iff(State == 'Confirmed', 1, 0), There = iff(State == 'Confirmed', ReceivedRows, 0)"
        "\n| summarize Here = max(Here), There = max(There), From = min(WindowStart), To = max(WindowEnd) by SliceId"
        "\n| summarize Slices = count(), Confirmed = sum(Here), Rows = sum(There), Start = min(From), End = max(To)"
    )


def ledger_summary() -> str:
    """Per source table: what is open, and the confirmed windows' outer bounds.

    Slices of a snapshot have its bounds. Once it is published, given up, or of a day that is over, nobody goes on with
    those that are left.
    """
    return (
        f"{LEDGER_VIEW}\n| extend From = iff(Kind == 'Window', WindowStart, datetime(null)),"
        " To = iff(Kind == 'Window', WindowEnd, datetime(null))"
        "\n| summarize Open = countif(Kind == 'Slice' and State in ('Planned', 'Queued')),"
        " Ended = countif(Kind == 'Snapshot' and (State != 'Planned' or WindowStart < startofday(now()))),"
        " From = min(From), To = max(To) by SourceTable, WindowStart, WindowEnd"
        "\n| summarize OpenSlices = sum(iff(Ended == 0, Open, 0)), CoveredFrom = min(From), CoveredTo = max(To)"
        " by SourceTable"
    )


def advance_watermark(
    source_table: str, watermark: str, *, seen: datetime, columns: Columns, view_columns: Collection[str]
) -> str:
    """A command that appends a configuration row with a later watermark, all else copied from the newest row.

    It does nothing when the newest row has that watermark already, or one that was set back after it was read.

    Args:
        source_table: whose row.
        watermark: the new value, a UTC instant with seven digits.
        seen: the watermark that the new one follows from.
        columns: the columns of `MigrationConfiguration` in its order.
        view_columns: what the view has of them: one of the older script lacks `LastRefreshedTimeInString`.
    """
    values = {
        "LastRefreshedTime": literal(watermark, "datetime"),
        "LastRefreshedTimeInString": literal(watermark, "string"),
    }
    projected = []
    for name, kind in columns:
        if name in values:
            projected.append(f"{kql_name(name)} = {values[name]}")
        elif name in view_columns:
            projected.append(kql_name(name))
        else:
            projected.append(f"{kql_name(name)} = {literal(None, kind)}")
    stored = f"coalesce(LastRefreshedTime, {kql_datetime(EPOCH_1900)})"
    return (
        f".append {CONFIGURATION} <|\n{CONFIGURATION_VIEW}\n| where SourceTable == {kql_string(source_table)}"
        f"\n| where {stored} >= {kql_datetime(seen)} and {stored} < {literal(watermark, 'datetime')}"
        f"\n| project {', '.join(projected)}"
    )
