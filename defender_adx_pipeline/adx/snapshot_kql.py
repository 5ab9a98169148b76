"""Statements about snapshots: which there are, how far each is, and how many of its rows ADX has. Pure functions.

Here: what the pipeline asks of the ledger and of raw tables when it takes a snapshot. Not here: the functions for
analysts (`snapshot_views`), and what the rows mean (`migration`).

In the ledger a snapshot is one row of Kind "Snapshot" for each of its states, with WindowStart its SnapshotTime and
WindowEnd a microsecond later; its buckets are rows of Kind "Slice" with the same bounds.
"""

from datetime import datetime, timedelta

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.state_kql import LEDGER, LEDGER_VIEW, SNAPSHOTS_VIEW
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME
from defender_adx_pipeline.quoting import kql_datetime, kql_name, kql_string

INSTANT = timedelta(microseconds=1)
"""How long the half-open window of a snapshot is, which stands for one instant."""

CLOCKS_APART = timedelta(hours=1)
"""How far ADX's ingestion time may lie before the SnapshotTime of a row: what the clocks may differ."""


def published(source_table: str) -> str:
    """The published snapshots of a table, of each day the latest, the newest first.

    Columns: SourceTable, DestinationTable, SnapshotDay, SnapshotTime, QueryableRows, PublishedAt.
    """
    return f"{SNAPSHOTS_VIEW}\n| where SourceTable == {kql_string(source_table)}\n| order by SnapshotTime desc"


def latest_days() -> str:
    """The latest published snapshot of every table: `SourceTable`, `SnapshotDay`, `SnapshotTime`, `QueryableRows`."""
    return (
        f"{SNAPSHOTS_VIEW}\n| summarize arg_max(SnapshotTime, SnapshotDay, QueryableRows) by SourceTable"
        "\n| project SourceTable, SnapshotDay, SnapshotTime, QueryableRows"
    )


def snapshots_of_day(source_table: str, day: datetime) -> str:
    """The newest ledger row of every snapshot that was begun on a day, in any state; the latest snapshot first.

    Args:
        source_table: the Defender table.
        day: the first instant of the day, UTC.
    """
    return (
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Snapshot'"
        f" and WindowStart >= {kql_datetime(day)} and WindowStart < {kql_datetime(day + timedelta(days=1))}"
        "\n| order by WindowStart desc"
    )


def open_snapshots(source_table: str) -> str:
    """The newest ledger row of every snapshot of a table, of any day, that is neither published nor given up."""
    return (
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Snapshot'"
        " and State == 'Planned'"
    )


def snapshot_slices(source_table: str, taken_at: datetime) -> str:
    """The newest ledger row of every slice of a snapshot, in the order of its buckets.

    A bucket has one slice; more only where it was read anew under another id.

    Args:
        source_table: the Defender table.
        taken_at: the snapshot's SnapshotTime, a whole microsecond.
    """
    return (
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Slice'"
        f" and WindowStart == {kql_datetime(taken_at)} and WindowEnd == {kql_datetime(taken_at + INSTANT)}"
        "\n| order by Bucket asc, RecordedAt asc"
    )


def rows_of_snapshot(destination_table: str, taken_at: datetime) -> str:
    """Rows of a raw table that carry a SnapshotTime: one row with the column `Rows`.

    Extents from before the snapshot are not read. Rows without an ingestion time, ingested while the table's policy was
    off, are in.
    """
    return (
        f"{kql_name(destination_table)}"
        f"\n| where isnull(ingestion_time()) or ingestion_time() >= {kql_datetime(taken_at - CLOCKS_APART)}"
        f"\n| where todatetime({RECORDS}[{kql_string(SNAPSHOT_TIME)}]) == {kql_datetime(taken_at)}"
        "\n| summarize Rows = count()"
    )


def last_published_before(source_table: str, taken_at: datetime) -> str:
    """The ledger row of the snapshot that was published last before an instant: one row, or none where there is none.

    `QueryableRows` is what a new count is compared with, `Bytes` what its rows took in answers. It may be of the same
    day, and in another DestinationTable than the one in force.
    """
    return (
        f"{LEDGER}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Snapshot' and State == 'Published'"
        f" and WindowStart < {kql_datetime(taken_at)}\n| top 1 by WindowStart desc"
    )
