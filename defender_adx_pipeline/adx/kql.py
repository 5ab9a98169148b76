"""The statements sent to Azure Data Explorer, built from `quoting` and nothing else. Pure functions.

Here: queries over raw tables and data commands. Not here: queries over the state tables (`state_kql`), schema commands
(`schema` and the scripts of `kql/`), and sending anything (`client`). Names go through `kql_name`, values through a
literal; no caller passes KQL.

Raw tables have one dynamic column, `Records`; a row's time is the text in it. Kusto compares that text as datetime to
100 ns; `latest_times` returns texts, so that the seventh digit is never rounded.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import orjson

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.instants import parse_instant, sort_key
from defender_adx_pipeline.quoting import kql_bool, kql_datetime, kql_long, kql_name, kql_string, kql_timespan

RECORDS = "Records"
MAPPING = "DynamicJsonMap"
STATEMENT_BYTES = 1_000_000
"""Size that a statement stays below, in UTF-8; the documented limit of a request is larger, but not by much."""

IDS_PER_STATEMENT = 500
_DIGITS = 12
"""Room for the numbers of the statements of one append, which stand twice in each."""

Columns = Sequence[tuple[str, str]]

SLICE_ID = re.compile(r"[0-9a-f]{32}")
_TAG = re.compile(r"\bingest-by:([0-9a-f]{32})\b")


class RowError(AdxError, ValueError):
    """A row that does not fit the table it is meant for; nothing was sent."""


def time_counts(
    table: str,
    time_column: str,
    start: datetime,
    end: datetime,
    grain: timedelta,
    *,
    ingested_since: datetime | None = None,
) -> str:
    """Rows per time bin of a raw table: columns `Bin` (datetime, the bin's start) and `Rows`; empty bins are absent.

    Args:
        table: a raw table.
        time_column: the field of the record that holds the row's time.
        start: first instant of the window.
        end: first instant after it.
        grain: the bin size.
        ingested_since: a bound on the ingestion time, so that older extents are not read. Rows without one, ingested
            while the table's ingestion time policy was off, are in.
    """
    rows = _window(table, time_column, start, end, ingested_since)
    return f"{rows}\n| summarize Rows = count() by Bin = bin(Bin, {kql_timespan(grain)})"


def row_count(
    table: str, time_column: str, start: datetime, end: datetime, *, ingested_since: datetime | None = None
) -> str:
    """Rows of a window of a raw table: one row with the column `Rows`."""
    return f"{_window(table, time_column, start, end, ingested_since)}\n| summarize Rows = count()"


def records_in_window(
    table: str,
    time_column: str,
    start: datetime,
    end: datetime,
    *,
    ingested_since: datetime | None = None,
    bucket: tuple[int, int] | None = None,
) -> str:
    """The records of a window of a raw table: one column, `Record`, JSON text; in no order.

    With `bucket`, number and count, only those whose text falls into that bucket. A record in ADX never changes, so the
    buckets share all records of the window out between them, in whatever order they are read.
    """
    rows = _window(table, time_column, start, end, ingested_since)
    if bucket is not None:
        number, buckets = bucket
        rows += f"\n| where hash_xxhash64(tostring({RECORDS}), {buckets:d}) == {number:d}"
    return f"{rows}\n| project Record = tostring({RECORDS})"


def latest_times(
    table: str, time_column: str, start: datetime, end: datetime, *, ingested_since: datetime | None = None
) -> str:
    """The texts that spell the greatest time in a window: column `Text`, no row when the window is empty.

    Usually one row. The same instant may be spelled in more ways (trailing zeros), so the caller takes the greatest by
    `instants.sort_key`.
    """
    window = _window(table, time_column, start, end, ingested_since)
    text = f"tostring({RECORDS}[{kql_string(time_column)}])"
    return (
        f"let Latest = toscalar({window}\n| summarize max(Bin));\n"
        f"{window}\n| where Bin >= Latest\n| project Text = {text}\n| distinct Text"
    )


def table_columns(table: str) -> str:
    """The columns of a table or view in their order: `ColumnName` and `ColumnType`."""
    return f"{kql_name(table)} | getschema | project ColumnName, ColumnType"


def landed_slices(table: str, slice_ids: Sequence[str]) -> Iterator[str]:
    """Commands whose `Tags` name those of the slices that are in the table; read them with `slices_in_tags`.

    The tag of a slice survives merges of extents, since a merged extent carries all tags of its parts.
    """
    for first in range(0, len(slice_ids), IDS_PER_STATEMENT):
        ids = ", ".join(kql_string(_checked(slice_id)) for slice_id in slice_ids[first : first + IDS_PER_STATEMENT])
        yield f".show table {kql_name(table)} extents | where Tags has_any (dynamic([{ids}])) | project Tags"


def slices_in_tags(tags: str) -> set[str]:
    """The slice ids in the `Tags` of one extent, however the tags are set apart."""
    return set(_TAG.findall(tags))


def ingestion_failures(database: str, table: str, since: datetime) -> str:
    """A command for what could not be ingested into a table since an instant."""
    return (
        f".show ingestion failures | where Database == {kql_string(database)} and Table == {kql_string(table)}"
        f" and FailedOn >= {kql_datetime(since)}"
        " | project FailedOn, IngestionSourcePath, Details, FailureKind, ErrorCode"
    )


def table_schema(table: str) -> str:
    """A command for the columns of a table, not of a view: `Schema`, as `Name:type,Name:type`."""
    return f".show table {kql_name(table)} cslschema"


def json_mappings(table: str) -> str:
    """A command for the JSON mappings of a table: `Name` and `Mapping`."""
    return f".show table {kql_name(table)} ingestion json mappings"


def append_rows(
    table: str,
    columns: Columns,
    rows: Sequence[Mapping[str, Any]],
    *,
    limit: int = STATEMENT_BYTES,
    once: str | None = None,
) -> Iterator[str]:
    """Commands that append rows by column name, as many as their size asks for.

    `.append` matches columns by position, and an older database may have them in another order; the columns are
    therefore the table's own, as `table_columns` gives them.

    Args:
        table: the table.
        columns: all its columns, name and KQL type, in its order.
        rows: values by column name; a column that is left out becomes null (an empty string for type string).
        limit: bytes that one command may have.
        once: an id of this write, 32 hexadecimal digits. The commands then carry tags by which Kusto carries out each
            of them once, however often it is sent ("Extent tags": `ingestIfNotExists`).

    Raises:
        RowError: a row has a value for a column that the table has not, a value does not fit its column, or a row
            alone is larger than a command may be. Nothing was sent.
    """
    try:
        body, tail = _append_frame(columns)
    except RowError as error:
        raise RowError(f"{table}: {error}") from error
    heads = (_append_head(table, once, number) + body for number in count())
    head = next(heads)
    room = limit - len((head + tail).encode()) - _DIGITS
    parts: list[str] = []
    size = 0
    for part in [_row(table, columns, row) for row in rows]:
        length = len(part.encode()) + 2
        if length > room:
            raise RowError(f"{table}: a row of {length} bytes is larger than a statement may be ({limit} bytes)")
        if size + length > room:
            yield head + ",\n".join(parts) + tail
            head = next(heads)
            parts, size = [], 0
        parts.append(part)
        size += length
    if parts:
        yield head + ",\n".join(parts) + tail


def literal(value: Any, kind: str) -> str:
    """A value as a literal of a column type, in the form that `datatable` takes; None is the type's null.

    A dynamic value becomes a string literal of its JSON, since `datatable` takes no function call.

    Raises:
        RowError: the value is not of that type, or the type is not one of those that are written.
    """
    try:
        return _null(kind) if value is None else _LITERALS[kind](value)
    except KeyError:
        raise RowError(f"a value of type {kind} cannot be written") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RowError(f"{value!r} is not a value of type {kind}: {error}") from error


def _window(table: str, time_column: str, start: datetime, end: datetime, since: datetime | None) -> str:
    """The rows of a window, with their time as the column `Bin`."""
    lines = [kql_name(table)]
    if since is not None:
        # Null where the policy was off: such rows would count as missing and be loaded again.
        lines.append(f"where isnull(ingestion_time()) or ingestion_time() >= {kql_datetime(since)}")
    lines.append(f"extend Bin = todatetime({RECORDS}[{kql_string(time_column)}])")
    lines.append(f"where Bin >= {kql_datetime(start)} and Bin < {kql_datetime(end)}")
    return "\n| ".join(lines)


def _append_head(table: str, once: str | None, number: int) -> str:
    """The beginning of the append with this number among those of one write."""
    if once is None:
        return f".append {kql_name(table)} <|\n"
    tag = f"{_checked(once)}.{number}"
    return f""".append {kql_name(table)} with (tags='["ingest-by:{tag}"]', ingestIfNotExists='["{tag}"]') <|\n"""


def _append_frame(columns: Columns) -> tuple[str, str]:
    """What stands around the rows of an append."""
    declared = ", ".join(f"{kql_name(name)}: {_declared(kind)}" for name, kind in columns)
    projected = ", ".join(
        f"{kql_name(name)} = parse_json({kql_name(name)})" if kind == "dynamic" else kql_name(name)
        for name, kind in columns
    )
    return f"datatable({declared})[\n", f"\n]\n| project {projected}"


def _declared(kind: str) -> str:
    if kind not in _LITERALS:
        raise RowError(f"a column of type {kind} cannot be written")
    return "string" if kind == "dynamic" else kind


def _row(table: str, columns: Columns, row: Mapping[str, Any]) -> str:
    strangers = row.keys() - {name for name, _ in columns}
    if strangers:
        raise RowError(f"{table} has no column {', '.join(sorted(strangers))}. Run `defender-adx bootstrap`.")
    try:
        return ", ".join(literal(row.get(name), kind) for name, kind in columns)
    except RowError as error:
        raise RowError(f"{table}: {error}") from error


def _null(kind: str) -> str:
    # Kusto's strings have no null; JSON has its own.
    return {"string": '""', "dynamic": '"null"'}.get(kind) or f"{kind}(null)"


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    value.encode()  # a lone surrogate cannot be sent
    return kql_string(value)


def _datetime(value: Any) -> str:
    if isinstance(value, datetime):
        return kql_datetime(value)
    parse_instant(value)
    return f"datetime({sort_key(value)})"


def _integer(kind: str, bits: int) -> Any:
    def written(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("not a whole number")
        if not -(2 ** (bits - 1)) < value < 2 ** (bits - 1):
            raise ValueError(f"outside {bits} bits")
        return kql_long(value) if kind == "long" else f"{kind}({value:d})"

    return written


def _bool(value: Any) -> str:
    if not isinstance(value, bool):
        raise TypeError("not a bool")
    return kql_bool(value)


def _dynamic(value: Any) -> str:
    return kql_string(orjson.dumps(value).decode())


def _real(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return f"real({float(value)!r})"


_LITERALS: Mapping[str, Any] = {
    "string": _string,
    "datetime": _datetime,
    "long": _integer("long", 64),
    "int": _integer("int", 32),
    "real": _real,
    "bool": _bool,
    "dynamic": _dynamic,
}


def _checked(slice_id: str) -> str:
    if not SLICE_ID.fullmatch(slice_id):
        raise ValueError(f"{slice_id!r} is not a slice id: 32 lower-case hexadecimal digits")
    return slice_id
