"""Statements that expand raw rows anew into the typed table. Pure functions.

Here: counting the rows of both tables part by part, and the command that replaces the typed rows of a part. Not here:
which parts, in what order, and what a count that differs means (`migration.backfill`); the conversion (`typed_tables`).

A row is in a part by its time **as the expand function converts it**, on both sides, so that the raw and the typed row
of one record are always in the same part: a time that does not fit is null on both. Rows of one microsecond, such as a
snapshot, are told apart by a hash over columns that Defender never changes.

That time lies inside the raw record, and Kusto leaves extents unread by columns and by ingestion time alone. So the
raw rows of a part are looked for among those that were ingested when its rows were (`Ingested`). The condition stands
behind the expand function, which is a projection of the raw table. Where the ingestion time does not come through it,
or a row has none (`Untimed` of `time_bins`), a part has no such condition and reads the whole table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from defender_adx_pipeline.adx.typed_tables import expand_name, plain, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.instants import MICROSECOND
from defender_adx_pipeline.quoting import kql_datetime, kql_joined, kql_timespan

_KEY_TYPES = frozenset({"string", "long", "int", "datetime", "guid", "bool"})
"""Types whose values have one text each."""

_KEY_COLUMNS = 16
"""Enough to tell rows apart; the docs of `strcat_delim` allow 64."""

_HASHES = 1_000_000_007
"""Values of a row's hash: as many as an int can hold (to its half), so that sums stay far below a long's end."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """When the raw rows of a part were ingested: others need not be read to find them."""

    first: datetime
    last: datetime
    """Of the rows that were counted, to the microsecond below."""
    since: datetime
    """Rows that were ingested from here on may have come after the count, with whatever time: all of them are read."""

    def and_(self, other: "Ingested") -> "Ingested":
        """Both of one count."""
        return Ingested(min(self.first, other.first), max(self.last, other.last), min(self.since, other.since))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one command replaces: those of a window, or one bucket of them.

    `timeless`: the rows whose time is null, instead of a window. `end` None: no bound. `ingested` None: it is not known
    when its raw rows were ingested, so that every row of the raw table is read to find them.
    """

    start: datetime | None = None
    end: datetime | None = None
    timeless: bool = False
    bucket: int = 0
    buckets: int = 1
    ingested: Ingested | None = None

    def __str__(self) -> str:
        text = "the rows without a time" if self.timeless else f"[{_text(self.start)}, {_text(self.end)})"
        return text if self.buckets == 1 else f"{text}, bucket {self.bucket} of {self.buckets}"


def time_of(table: DefenderTable) -> str:
    """The column of the typed table that says when a row is of.

    Raises:
        ValueError: an event table without a time column.
    """
    if table.kind == "snapshot":
        return SNAPSHOT_TIME
    if table.time_column is None:
        raise ValueError(f"{table.name} has no time column to go by")
    return table.time_column


def key_of(table: DefenderTable, columns: Sequence[Column]) -> tuple[str, ...]:
    """The columns whose values tell the rows of a table apart as well as any: its time and its identity.

    Args:
        table: the Defender table.
        columns: the columns that its typed table has.
    """
    kinds = {column.name: column.type for column in columns}
    steady = (name for name in (time_of(table), *table.identity_columns) if kinds.get(name) in _KEY_TYPES)
    return tuple(dict.fromkeys(steady))[:_KEY_COLUMNS]


def update_policies(table: DefenderTable) -> str:
    """A command for what fills the typed table by itself: one row with the column `Policy`, JSON or null."""
    return f".show table {plain(typed_table_name(table))} policy update"


def time_bins(table: DefenderTable, part: Part | None, grain: timedelta) -> str:
    """Query for the rows of a part in both tables by their time, one row for each bin that has some, in order.

    `Bin` is its start, null for rows without a time; `RawRows`, `TypedRows`; `First` and `Last`, when the raw ones were
    ingested, null where there are none; `Untimed`, how many of them have no ingestion time.

    Args:
        table: the Defender table.
        part: what is counted; None is every row, also without a time.
        grain: the bin size.
    """
    rows = f"\n| where {_within(table, part)}" if part else ""
    bins = f"by Bin = bin({plain(time_of(table))}, {kql_timespan(grain)})"
    raw = (
        f"{_expanded(table, part)}{rows}\n| extend Ingested = ingestion_time()\n| summarize RawRows = count(),"
        f" First = min(Ingested), Last = max(Ingested), Untimed = countif(isnull(Ingested)) {bins}"
        "\n| project Bin, RawRows, TypedRows = 0, First, Last, Untimed"
    )
    typed = (
        f"{_typed(table)}{rows}\n| summarize TypedRows = count() {bins}"
        "\n| project Bin, RawRows = 0, TypedRows, First = datetime(null), Last = datetime(null), Untimed = 0"
    )
    return (
        f"let Raw = {raw};\nlet Typed = {typed};\n"
        "Raw\n| union Typed\n| summarize RawRows = sum(RawRows), TypedRows = sum(TypedRows), First = min(First),"
        " Last = max(Last), Untimed = sum(Untimed) by Bin\n| order by Bin asc"
    )


def part_counts(table: DefenderTable, part: Part, key: Sequence[str]) -> str:
    """Query for the rows of a part in both tables: one row, `RawRows`, `RawKeys`, `TypedRows`, `TypedKeys`.

    Keys are the sum of a hash of each row's `key`: as many rows but others, one lost and another doubled, differ in it.
    """
    where = _where(table, part, key)
    summed = f"\n| summarize Rows = count(), Keys = sum({_hash(key, _HASHES)})"
    return (
        f"let Raw = {_expanded(table, part)}{where}{summed};\nlet Typed = {_typed(table)}{where}{summed};\n"
        "print RawRows = toscalar(Raw | project Rows), RawKeys = toscalar(Raw | project Keys),"
        " TypedRows = toscalar(Typed | project Rows), TypedKeys = toscalar(Typed | project Keys)"
    )


def expand_anew(table: DefenderTable, part: Part, key: Sequence[str]) -> str:
    """The command that replaces the typed rows of a part by what the expand function makes of its raw rows.

    One transaction; at most 5,000,000 rows are deleted and 1 GB should be appended (".update table command" in the
    Kusto docs). It takes Table Admin. New rows have a new ingestion time, and their extent neither the tags nor the
    creation time of the old one: the command has no property for either.
    """
    where = _where(table, part, key)
    return (
        f".update table {_typed(table)} delete Old append New <|\n"
        f"let Old = {_typed(table)}{where};\n"
        f"let New = {_expanded(table, part)}{where};\n"
    )


def _expanded(table: DefenderTable, part: Part | None) -> str:
    """The raw rows among which those of a part are, expanded."""
    function, when = f"{expand_name(table)}()", part.ingested if part else None
    if when is None:
        return function
    # The lower bound is a condition by itself, so that it is used also by an engine that makes nothing of `or`.
    bounds = f"ingestion_time() >= {kql_datetime(min(when.first, when.since))}"
    if when.last < when.since:
        after = kql_datetime(when.last + MICROSECOND)
        bounds += f" and (ingestion_time() < {after} or ingestion_time() >= {kql_datetime(when.since)})"
    return f"{function}\n| where {bounds}"


def _typed(table: DefenderTable) -> str:
    return plain(typed_table_name(table))


def _where(table: DefenderTable, part: Part, key: Sequence[str]) -> str:
    rows = f"\n| where {_within(table, part)}"
    return rows if part.buckets == 1 else f"{rows}\n| where {_hash(key, part.buckets)} == {part.bucket:d}"


def _within(table: DefenderTable, part: Part) -> str:
    time = plain(time_of(table))
    if part.timeless:
        return f"isnull({time})"
    bounds = []
    if part.start is not None:
        bounds.append(f"{time} >= {kql_datetime(part.start)}")
    if part.end is not None:
        bounds.append(f"{time} < {kql_datetime(part.end)}")
    return " and ".join(bounds) or f"isnotnull({time})"


def _hash(key: Sequence[str], values: int) -> str:
    return f"hash_xxhash64({kql_joined([f'tostring({plain(name)})' for name in key])}, {values:d})"


def _text(moment: datetime | None) -> str:
    return "unbounded" if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
