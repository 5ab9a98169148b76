"""Queries over typed tables: how many rows they have, for which no JSON has to be read, and the rows. Pure functions.

Here: what `sync` and the demo ask of a typed table beside its raw one. Not here: the same questions to raw tables
(`kql`, `snapshot_kql`), and values that do not fit (`typed_checks`).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from defender_adx_pipeline.adx.snapshot_kql import CLOCKS_APART
from defender_adx_pipeline.adx.typed_tables import plain, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, DefenderTable
from defender_adx_pipeline.quoting import kql_datetime, kql_string, kql_timespan

_KEY_COLUMNS = 16
"""Of a table without a key, as many columns place a row in its bucket: enough to tell most rows apart."""


def existing_table(table: DefenderTable) -> str:
    """A command whose answer has one row, with the column `TableName`, if the typed table is there, and else none."""
    return f".show tables | where TableName == {kql_string(typed_table_name(table))} | project TableName"


def totals(table: DefenderTable, ingested_since: datetime) -> str:
    """Rows of both tables that were ingested since an instant: one row, `RawRows` and `TypedRows`.

    ADX answers it from what it knows of each extent; records are not read. Rows without an ingestion time are in.
    """
    raw, typed = (
        f"toscalar({plain(name)} | where {_ingested(ingested_since)} | count)"
        for name in (table.raw_table, typed_table_name(table))
    )
    return f"print RawRows = {raw}, TypedRows = {typed}"


def time_counts(
    table: DefenderTable, start: datetime, end: datetime, grain: timedelta, *, ingested_since: datetime
) -> str:
    """Rows per time bin, as `kql.time_counts` has them of the raw table: `Bin` and `Rows`.

    Raises:
        ValueError: the table has no time column.
    """
    column = _time_column(table)
    return (
        f"{plain(typed_table_name(table))}\n| where {_ingested(ingested_since)}"
        f"\n| where {column} >= {kql_datetime(start)} and {column} < {kql_datetime(end)}"
        f"\n| summarize Rows = count() by Bin = bin({column}, {kql_timespan(grain)})"
    )


def several_windows(asked: Sequence[tuple[DefenderTable, datetime, datetime]]) -> str:
    """What is in windows of several typed tables, in one query: as `hunting.several_windows` has it of Defender.

    A typed table that is not there has no row in the answer, and is no error.

    Args:
        asked: an event table, first instant and first instant after it.

    Raises:
        ValueError: a table has no time column.
    """
    return f"union isfuzzy=true {', '.join(f'({_window(*one)})' for one in asked)}"


def _window(table: DefenderTable, start: datetime, end: datetime) -> str:
    column = _time_column(table)
    return (
        f"{plain(typed_table_name(table))} | where {_ingested(start - CLOCKS_APART)}"
        f" | where {column} >= {kql_datetime(start)} and {column} < {kql_datetime(end)}"
        f' | summarize Rows = count(), Seconds = sum(datetime_diff("second", {column}, {kql_datetime(start)}))'
        f" | extend SourceTable = {kql_string(table.name)}"
    )


def rows_of_snapshot(table: DefenderTable, taken_at: datetime) -> str:
    """Rows of one snapshot, as `snapshot_kql.rows_of_snapshot` has them of the raw table: one row, `Rows`."""
    return (
        f"{plain(typed_table_name(table))}\n| where {_ingested(taken_at - CLOCKS_APART)}"
        f"\n| where {SNAPSHOT_TIME} == {kql_datetime(taken_at)}\n| summarize Rows = count()"
    )


def rows_in_window(
    table: DefenderTable, start: datetime, end: datetime, *, bucket: tuple[int, int] | None = None
) -> str:
    """The typed rows of a window, all columns; of a snapshot table the window is one of SnapshotTime.

    With `bucket`, number and count, only those whose key falls into that bucket: the buckets share all rows of the
    window out between them.
    """
    column = plain(SNAPSHOT_TIME if table.kind == "snapshot" else table.time_column or "")
    rows = (
        f"{plain(typed_table_name(table))}"
        f"\n| where {column} >= {kql_datetime(start)} and {column} < {kql_datetime(end)}"
    )
    if bucket is not None:
        number, buckets = bucket
        key = table.identity or tuple(column.name for column in table.columns)
        texts = ", ".join(f"tostring({plain(name)})" for name in key[:_KEY_COLUMNS])
        rows += f"\n| where hash_xxhash64(strcat({texts}), {buckets:d}) == {number:d}"
    return rows


def _time_column(table: DefenderTable) -> str:
    if table.time_column is None:
        raise ValueError(f"{table.name} has no time column to count it by")
    return plain(table.time_column)


def _ingested(since: datetime) -> str:
    return f"isnull(ingestion_time()) or ingestion_time() >= {kql_datetime(since)}"
