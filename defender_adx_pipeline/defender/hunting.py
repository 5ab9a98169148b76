"""The hunting queries: the only place where KQL for Defender is built.

Here: query texts. Not here: sending them (`client`), escaping (`quoting`). Windows are half-open and bounds are whole
microseconds; rows come back unsorted, since sorting costs Defender CPU and pages over live data are not stable.

What time cannot split is split by hash: a bucket is the rows with `hash_xxhash64(key, buckets) == number`, where the
key is made of the columns that name a row. A row keeps those for ever, while others may change between two reads
(`EmailEvents.LatestDeliveryLocation`), so no row can move from a bucket that is still to be read into one that was
read, or back. It is `hash_xxhash64()` and not `hash()`, because a bucket may be read again days later by another query,
and the Kusto docs promise the same algorithm for `hash()` within one query only. Both give 0 .. buckets - 1.

A table without a key is read in pages: the rows between two row numbers in the order of all its columns. Rows that are
equal in all of them may change places, which changes no page. A row that comes or goes moves all later ones by a place,
so each page is compared with what it held when all were counted, by the sum of a hash of each row's text.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column
from defender_adx_pipeline.quoting import kql_datetime, kql_joined, kql_name, kql_string, kql_timespan

# Every KQL keyword begins with a lower-case letter and KQL is case-sensitive, so these names need no quotes.
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9_]*")

_HASHES = 2**31 - 1
"""Values of a row's hash: the docs give its modulus the type int, and sums of them stay far below a long's end."""

_SORTED_AS_TEXT = frozenset({"bool", "dynamic", "guid"})
""""sort operator": values by which rows are sorted are numbers, dates, times or text."""

SAMPLED_ROWS = 2_000
"""Rows that the size of a table's rows is guessed from."""


def table_schema(table: str) -> str:
    """Names and KQL types of a table's columns as this tenant has them: `ColumnName`, `ColumnType`."""
    return f"{_name(table)} | getschema | project ColumnName, ColumnType"


def time_counts(table: str, time_column: str, start: datetime, end: datetime, grain: timedelta) -> str:
    """Rows per bin of `grain`: `Bin` (datetime), `Rows` (long). Bins without rows are left out.

    Bins begin at multiples of the grain since year 1, as `bin()` counts them, not at `start`.
    """
    column = _name(time_column)
    return (
        f"{_in_window(table, time_column, start, end)}"
        f" | summarize Rows = count() by Bin = bin({column}, {kql_timespan(grain)})"
    )


def several_windows(asked: Sequence[tuple[str, str, datetime, datetime]]) -> str:
    """What is in windows of several tables, in one call: `SourceTable`, `Rows` and `Seconds` (long), a row for each.

    `Seconds` is the sum over the rows of how long after the window's start they lie: two sides with as many rows, but
    not the same ones, differ in it. A table that the tenant does not have has no row in the answer, and is no error.

    Args:
        asked: table, time column, first instant and first instant after it.
    """
    parts = (
        f"({_in_window(table, column, start, end)} | summarize Rows = count(),"
        f' Seconds = sum(datetime_diff("second", {_name(column)}, {kql_datetime(start)}))'
        f" | extend SourceTable = {kql_string(table)})"
        for table, column, start, end in asked
    )
    return f"union isfuzzy=true {', '.join(parts)}"


def several_time_counts(asked: Sequence[tuple[str, str, datetime, datetime]], grain: timedelta) -> str:
    """Rows per bin of several tables, in one call: `SourceTable`, `Bin` and `Rows`, as `time_counts` has them of one.

    Each table that the tenant has also has one row without a `Bin`: a table without rows is told by it from one that
    the tenant does not have, which is not in the answer, and is no error.

    Args:
        asked: table, time column, first instant and first instant after it.
        grain: the bin size.
    """
    parts = []
    for table, column, start, end in asked:
        named = f"extend SourceTable = {kql_string(table)}"
        parts.append(f"({time_counts(table, column, start, end, grain)} | {named})")
        parts.append(f"({_name(table)} | take 0 | summarize Rows = count() | extend Bin = datetime(null) | {named})")
    return f"union isfuzzy=true {', '.join(parts)}"


def window_rows(
    table: str,
    time_column: str,
    start: datetime,
    end: datetime,
    dynamic_columns: Sequence[str] = (),
    *,
    bucket: tuple[int, int] | None = None,
    key: Sequence[str] = (),
) -> str:
    """All rows of the window, or of one bucket of it; dynamic columns as JSON text, so that no layer alters them.

    Args:
        table: the table.
        time_column: its time column.
        start: first instant of the window.
        end: first instant after it.
        dynamic_columns: its columns of type dynamic.
        bucket: number and count of buckets, to read one of them.
        key: the columns that place a row in its bucket.
    """
    query = _in_window(table, time_column, start, end) + _in_bucket(bucket, key)
    if dynamic_columns:
        query += f" | extend {_as_text(dynamic_columns)}"
    return query


def bucket_counts(
    table: str, time_column: str, start: datetime, end: datetime, *, key: Sequence[str], buckets: int
) -> str:
    """Rows of the window by bucket: `Bucket` (long, 0 .. buckets - 1), `Rows` (long). Empty buckets are left out."""
    window = _in_window(table, time_column, start, end)
    return f"{window} | summarize Rows = count() by Bucket = {bucket_number(key, buckets)}"


def snapshot_rows(
    table: str,
    taken_at: datetime,
    dynamic_columns: Sequence[str] = (),
    *,
    bucket: tuple[int, int] | None = None,
    key: Sequence[str] = (),
) -> str:
    """All rows that the table has now, or one bucket of them, each with `SnapshotTime`; else as `window_rows`."""
    added = [f"{SNAPSHOT_TIME} = {kql_datetime(taken_at)}"]
    if dynamic_columns:
        added.append(_as_text(dynamic_columns))
    return f"{_name(table)}{_in_bucket(bucket, key)} | extend {', '.join(added)}"


def table_count(table: str) -> str:
    """How many rows the table has now: one row, one column `Rows` (long)."""
    return f"{_name(table)} | summarize Rows = count()"


def table_size(table: str, columns: Sequence[str]) -> str:
    """How many rows the table has now, and how long they are: one row, `Rows` (long), `TextLength` (real).

    `TextLength` is the mean over some rows of the length of all values as text, quotation marks counted twice, as JSON
    writes them. Null for a table without rows.
    """
    texts = kql_joined([f"tostring({_name(name)})" for name in columns])
    escaped = f"""replace_string({texts}, '"', '""')"""
    sample = f"{_name(table)} | take {SAMPLED_ROWS} | summarize avg(strlen({escaped}))"
    return f"{table_count(table)} | extend TextLength = toscalar({sample})"


def table_bucket_counts(table: str, *, key: Sequence[str], buckets: int) -> str:
    """Rows that the table has now by bucket: as `bucket_counts`."""
    return f"{_name(table)} | summarize Rows = count() by Bucket = {bucket_number(key, buckets)}"


def page_contents(table: str, columns: Sequence[Column], rows: int) -> str:
    """Pages of so many rows each, the last one of fewer: `After` (long), `Rows` (long), `Content` (long).

    `After` is how many rows come before the page, `Content` the sum of its rows' hashes, as `page_rows` gives them.
    """
    number = _unused("RowNumber", columns)
    return (
        f"{_name(table)}{_numbered(columns, number)}"
        f" | summarize Rows = count(), Content = sum({_row_hash(columns)}) by After = bin({number} - 1, {rows:d})"
    )


def page_rows(table: str, taken_at: datetime, columns: Sequence[Column], first: int, last: int) -> str:
    """The rows with the numbers from `first` to `last`, counted from 1, in the order of all columns.

    Each with `SnapshotTime` and, in the column `row_hash_column` names, the hash of its text; else as `window_rows`.
    """
    number = _unused("RowNumber", columns)
    added = [f"{SNAPSHOT_TIME} = {kql_datetime(taken_at)}", f"{row_hash_column(columns)} = {_row_hash(columns)}"]
    dynamic_columns = [column.name for column in columns if column.type == "dynamic"]
    if dynamic_columns:
        added.append(_as_text(dynamic_columns))
    return (
        f"{_name(table)}{_numbered(columns, number)} | where {number} between ({first:d} .. {last:d})"
        f" | project-away {number} | extend {', '.join(added)}"
    )


def row_hash_column(columns: Sequence[Column]) -> str:
    """What `page_rows` calls the hash of a row: none of the table's own columns."""
    return _unused("RowHash", columns)


def bucket_number(key: Sequence[str], buckets: int) -> str:
    """An expression for the bucket of a row, 0 .. buckets - 1. Equal keys are in one bucket; null counts as empty.

    Raises:
        ValueError: no column to tell rows apart by.
    """
    if not key:
        raise ValueError("rows cannot be put into buckets without a column to tell them apart by")
    return f"hash_xxhash64({kql_joined([f'tostring({_name(name)})' for name in key])}, {buckets:d})"


def row_count(table: str, time_column: str, start: datetime, end: datetime) -> str:
    """How many rows the window has: one row, one column `Count` (long)."""
    return f"{_in_window(table, time_column, start, end)} | count"


def repeated_rows(table: str, key: Sequence[str], window: tuple[str, datetime, datetime] | None = None) -> str:
    """How many rows Defender has more than once, told by some columns: one row, `Keys` and `Extra` (both long).

    `Extra` is how many rows there are beyond one of each key.

    Args:
        table: the Defender table.
        key: the columns that tell rows apart.
        window: time column, first instant and first instant after it; None for all that the table has now.

    Raises:
        ValueError: no column to tell rows apart by.
    """
    if not key:
        raise ValueError(f"{table}: rows cannot be told apart without a column")
    rows = _name(table) if window is None else _in_window(table, *window)
    return (
        f"{rows} | summarize Copies = count() by RowKey = hash_xxhash64("
        f"{kql_joined([f'tostring({_name(name)})' for name in key])}) | where Copies > 1"
        " | summarize Keys = count(), Extra = sum(Copies) - count()"
    )


def _in_window(table: str, time_column: str, start: datetime, end: datetime) -> str:
    if not start < end:
        raise ValueError(f"{table}: the window [{start.isoformat()}, {end.isoformat()}) is empty; there is no query")
    column = _name(time_column)
    return f"{_name(table)} | where {column} >= {kql_datetime(start)} and {column} < {kql_datetime(end)}"


def _in_bucket(bucket: tuple[int, int] | None, key: Sequence[str]) -> str:
    if bucket is None:
        return ""
    number, buckets = bucket
    return f" | where {bucket_number(key, buckets)} == {number:d}"


def _numbered(columns: Sequence[Column], number: str) -> str:
    keys = (
        f"tostring({_name(column.name)}) asc" if column.type in _SORTED_AS_TEXT else f"{_name(column.name)} asc"
        for column in columns
    )
    return f" | order by {', '.join(keys)} | extend {number} = row_number()"


def _row_hash(columns: Sequence[Column]) -> str:
    return f"hash_xxhash64({kql_joined([f'tostring({_name(column.name)})' for column in columns])}, {_HASHES:d})"


def _unused(name: str, columns: Sequence[Column]) -> str:
    """A name that no column has in any casing."""
    taken = {column.name.casefold() for column in columns}
    while name.casefold() in taken:
        name += "_"
    return name


def _as_text(columns: Sequence[str]) -> str:
    return ", ".join(f"{_name(name)} = tostring({_name(name)})" for name in columns)


def _name(name: str) -> str:
    """A name as it may stand in a query; quoted where KQL could take it for something else.

    Raises:
        InvalidNameError: it may not reach KQL at all.
    """
    quoted = kql_name(name)
    return name if _PLAIN.fullmatch(name) else quoted
