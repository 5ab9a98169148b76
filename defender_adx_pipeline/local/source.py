"""What the tenant's Defender has: one DuckDB table per Advanced Hunting table, and when each row became visible.

Here: storage, the arrival time that hunting never shows, the 30 days that Defender keeps, and the truth that
acceptance compares with. Not here: what rows are made of (`data`, `samples`) and how answers look (`wire`, `hunting`).

A datetime is held to the nanosecond, so all seven digits stay; it reads back without trailing zeros, which is how
Advanced Hunting writes it (0 to 7 fractional digits).
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import orjson

from defender_adx_pipeline.catalogue import Catalogue, Column, DefenderTable
from defender_adx_pipeline.local.kql import Schema, datetime_sql, read_schema
from defender_adx_pipeline.local.scans import ScanCounter

ARRIVAL = "__arrival"
"""Field of an inserted record, and hidden column: when the row becomes visible to hunting."""

RETENTION = timedelta(days=30)
"""How long Defender keeps a row, by its event time ("Advanced hunting quotas" in the Defender docs)."""

DUCKDB_TYPES: Mapping[str, str] = {
    "string": "VARCHAR",
    "datetime": "TIMESTAMP_NS",
    "dynamic": "JSON",
    "long": "BIGINT",
    "int": "INTEGER",
    "bool": "BOOLEAN",
    "guid": "UUID",
    "real": "DOUBLE",
    "decimal": "DECIMAL(38, 9)",
    "timespan": "INTERVAL",
}
_EVER = datetime(1700, 1, 1, tzinfo=UTC)
_FOREVER = datetime(2200, 1, 1, tzinfo=UTC)  # TIMESTAMP_NS ends in 2262
_INSERT_BATCH = 5_000
_READ_BATCH = 5_000


class SourceError(ValueError):
    """Rows that do not fit their table; the message names the table. Nothing of the call was stored."""


def utc_now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class SourceStore:
    """The Defender side of the local tenant. Safe for several threads: every call works on a cursor of its own.

    Args:
        path: the DuckDB file, or `:memory:`.
        catalogue: the tables that this tenant has; a table left out of it does not resolve in a query.
        clock: what time it is for arrivals and retention.
    """

    def __init__(self, path: Path | str, catalogue: Catalogue, clock: Callable[[], datetime] = utc_now) -> None:
        self.catalogue = catalogue
        self.clock = clock
        self._writing = threading.Lock()
        self._schema: Schema | None = None
        self._hooks: tuple[Callable[[str], None], ...] = ()
        self.scans = ScanCounter()
        self._connection = duckdb.connect(str(path))
        self._connection.execute("SET TimeZone='UTC'")
        self._connection.execute("CREATE SCHEMA IF NOT EXISTS stored")
        self._connection.execute("CREATE TABLE IF NOT EXISTS stored.__marks (name VARCHAR PRIMARY KEY, value VARCHAR)")
        for table in catalogue.values():
            self._create(table)

    def close(self) -> None:
        """Close the database; the file keeps everything."""
        self._connection.close()

    def hunting_cursor(
        self, start: datetime | None = None, end: datetime | None = None, *, oldest: datetime | None = None
    ) -> duckdb.DuckDBPyConnection:
        """A cursor whose tables are what a query may see now, optionally narrowed to a timespan [start, end].

        Args:
            start: hides rows of every table with a time column that are older.
            end: hides those that are younger.
            oldest: of events; what Defender keeps unless given. A row of a snapshot table says with its time when it
                was assessed, and is there as long as the state is.
        """
        now = self.clock()
        oldest = oldest or now - RETENTION
        cursor = self._connection.cursor()
        cursor.execute("SET TimeZone='UTC'")
        for name, moment in (
            ("hunting_now", now),
            ("hunting_oldest", oldest),
            ("hunting_from", start or _EVER),
            ("hunting_to", end or _FOREVER),
        ):
            cursor.execute(f"SET VARIABLE {name} = {timestamp(moment)}")
        return cursor

    def schema(self) -> Schema:
        """The columns of every table as hunting sees them, remembered until a column is added or renamed."""
        with self._writing:
            if self._schema is None:
                with self._connection.cursor() as cursor:
                    self._schema = read_schema(cursor)
            return self._schema

    def columns(self, table: str) -> list[Column]:
        """The columns of a table as stored, with those that samples added, in order."""
        with self._connection.cursor() as cursor:
            return _columns(cursor, self.catalogue[table])

    def mark(self, name: str) -> str | None:
        """A note kept with the data, such as which samples were stored."""
        with self._connection.cursor() as cursor:
            found = cursor.execute("SELECT value FROM stored.__marks WHERE name = ?", [name]).fetchone()
        return found[0] if found else None

    def set_mark(self, name: str, value: str) -> None:
        """Keep a note with the data."""
        with self._writing, self._connection.cursor() as cursor:
            cursor.execute("INSERT OR REPLACE INTO stored.__marks VALUES (?, ?)", [name, value])

    def insert_select(self, table: str, columns: Sequence[str], select: str) -> int:
        """Store what a SELECT yields: `columns` in order, then the arrival. For generated rows."""
        names = ", ".join(quoted(name) for name in (*columns, ARRIVAL))
        with self._writing, self._connection.cursor() as cursor:
            done = cursor.execute(f"INSERT INTO {self.stored(table)} ({names}) {select}").fetchone()
        return int(done[0]) if done else 0

    def insert_rows(self, table: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Store records of hunting column names; datetimes as ISO text, dynamic values as JSON values.

        A missing string is empty, since KQL has no null string; any other missing value is null. The field
        `__arrival` (ISO text) says when the row becomes visible, else it is visible at once.

        Raises:
            SourceError: a column that the table lacks, or a value that does not fit its column.
        """
        kinds = {column.name: column.type for column in self.columns(table)}
        now = self.clock().isoformat()
        total = 0
        with self.writing() as cursor:
            for batch in _batches(records):
                _insert(cursor, table, kinds, batch, now)
                total += len(batch)
        return total

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor inside one transaction, alone in writing: a query sees all of it or nothing."""
        with self._writing, self._connection.cursor() as cursor:
            cursor.execute("SET TimeZone='UTC'")
            cursor.execute("BEGIN")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    def before_queries(self, hook: Callable[[str], None]) -> Callable[[], None]:
        """Call `hook` with the text of every hunting query from now on, just before it runs; returns how to end that.

        For a state that moves between two calls. What the hook raises becomes the call's failure.
        """
        self._hooks = (*self._hooks, hook)

        def forget() -> None:
            self._hooks = tuple(known for known in self._hooks if known is not hook)

        return forget

    def query_comes(self, query: str) -> None:
        """Tell the hooks that a hunting query is about to run."""
        for hook in self._hooks:
            hook(query)

    def add_columns(self, table: str, columns: Iterable[Column]) -> None:
        """Give a table further columns, as tenants have that the documentation does not list."""
        with self._writing, self._connection.cursor() as cursor:
            have = {column.name.casefold() for column in _columns(cursor, self.catalogue[table])}
            for column in columns:
                if column.name.casefold() not in have:
                    cursor.execute(f"ALTER TABLE {self.stored(table)} ADD COLUMN {column_definition(column)}")
                    have.add(column.name.casefold())
            self.publish(cursor, table)

    def rename_column(self, table: str, old: str, new: str) -> None:
        """Give a column another spelling, as tenants differ from the documentation (`Isp`, `ISP`)."""
        with self._writing, self._connection.cursor() as cursor:
            cursor.execute(f"DROP VIEW {quoted(self.catalogue[table].name)}")
            cursor.execute(f"ALTER TABLE {self.stored(table)} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
            self.publish(cursor, table)

    def rows(self, table: str, start: datetime | None = None, end: datetime | None = None) -> Iterator[bytes]:
        """The stored truth: one JSON object a line, whatever its arrival, event time in [start, end).

        Hunting column names, true/false, numbers exact, datetimes as stored, dynamic values as JSON, nulls left out.
        """
        meta = self.catalogue[table]
        time = meta.time_column
        conditions = ["true"]
        if time and start:
            conditions.append(f"{quoted(time)} >= {timestamp(start)}")
        if time and end:
            conditions.append(f"{quoted(time)} < {timestamp(end)}")
        with self._connection.cursor() as cursor:
            record = record_sql(_columns(cursor, meta))
            cursor.execute(f"SELECT {record} FROM {self.stored(table)} WHERE {' AND '.join(conditions)}")  # noqa: S608
            while batch := cursor.fetchmany(_READ_BATCH):
                for (line,) in batch:
                    yield line.encode()

    def tables(self) -> list[dict[str, Any]]:
        """Every table with the number of rows that hunting sees now: `{"table": name, "rows": n}`."""
        with self.hunting_cursor() as cursor:
            return [{"table": name, "rows": _count(cursor, quoted(name))} for name in self.catalogue]

    def clear(self, table: str) -> None:
        """Forget every row of a table, visible or not."""
        with self._writing, self._connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self.stored(table)}")  # noqa: S608 - a name of the catalogue, quoted

    def count_stored(self, table: str) -> int:
        """Number of rows stored, visible or not."""
        with self._connection.cursor() as cursor:
            return _count(cursor, self.stored(table))

    def stored(self, table: str) -> str:
        """The SQL name of the stored table behind the one that hunting sees."""
        return f"stored.{quoted(self.catalogue[table].name)}"

    def _create(self, table: DefenderTable) -> None:
        columns = ", ".join(column_definition(column) for column in distinct_columns(table))
        self._connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.stored(table.name)} ({columns}, {quoted(ARRIVAL)} TIMESTAMP NOT NULL)"
        )
        self.publish(self._connection, table.name)

    def publish(self, cursor: duckdb.DuckDBPyConnection, name: str) -> None:
        """(Re)make the view that hunting reads of a table, after a change of its columns."""
        table = self.catalogue[name]
        names = ", ".join(quoted(column.name) for column in _columns(cursor, table))
        visible = f"{quoted(ARRIVAL)} <= getvariable('hunting_now')"
        if table.time_column:
            time = quoted(table.time_column)
            visible += f" AND {time} >= getvariable('hunting_from') AND {time} <= getvariable('hunting_to')"
            if table.kind == "event":
                visible += f" AND {time} >= getvariable('hunting_oldest')"
        self._schema = None
        cursor.execute(
            f"CREATE OR REPLACE VIEW {quoted(table.name)} AS"  # noqa: S608 - names of the catalogue, quoted
            f" SELECT {names} FROM {self.stored(table.name)} WHERE {visible}"
        )


def distinct_columns(table: DefenderTable) -> list[Column]:
    """The documented columns without a second spelling of the same name.

    DeviceProcessEvents documents both LogonId and LogonID; DuckDB holds one column for the two.
    """
    found: dict[str, Column] = {}
    for column in table.columns:
        found.setdefault(column.name.casefold(), column)
    return list(found.values())


def quoted(name: str) -> str:
    """A name as SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text as SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def json_sql(expression: str, kind: str) -> str:
    """SQL for the JSON text of a non-null value: numbers exact, dynamic values as they were stored."""
    if kind == "datetime":
        return f"('\"' || {datetime_sql(expression)} || '\"')"
    if kind == "string":
        return f"CAST(to_json({expression}) AS VARCHAR)"
    if kind == "real":
        return f"CASE WHEN isfinite({expression}) THEN CAST({expression} AS VARCHAR) ELSE 'null' END"
    if kind in ("guid", "timespan", "decimal"):
        return f"('\"' || CAST({expression} AS VARCHAR) || '\"')"
    return f"CAST({expression} AS VARCHAR)"


def record_sql(columns: Iterable[Column]) -> str:
    """SQL for a whole row as one JSON object, nulls left out."""
    fields = [
        f"{quoted_text(f',{orjson.dumps(column.name).decode()}:')} || {json_sql(quoted(column.name), column.type)}"
        for column in columns
    ]
    # concat() skips the nulls that || makes of a null column.
    return f"'{{' || substr(concat({', '.join(fields)}), 2) || '}}'"


def column_definition(column: Column) -> str:
    """A column of a stored table."""
    # KQL has no null string: a string that nobody gave is empty.
    default = " DEFAULT ''" if column.type == "string" else ""
    return f"{quoted(column.name)} {DUCKDB_TYPES[column.type]}{default}"


def _columns(cursor: duckdb.DuckDBPyConnection, table: DefenderTable) -> list[Column]:
    rows = cursor.execute(
        "SELECT column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = current_database() AND schema_name = 'stored' AND table_name = ?"
        " ORDER BY column_index",
        [table.name],
    ).fetchall()
    kinds = {duck.replace(" ", ""): kql for kql, duck in DUCKDB_TYPES.items()}
    return [Column(name, kinds[duck.replace(" ", "")]) for name, duck in rows if name != ARRIVAL]


def _insert(
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    kinds: Mapping[str, str],
    records: Sequence[Mapping[str, Any]],
    now: str,
) -> None:
    names = list(dict.fromkeys(name for record in records for name in record if name != ARRIVAL))
    unknown = [name for name in names if name not in kinds]
    if unknown:
        raise SourceError(f"{table} has no column {', '.join(unknown)}; none of these rows were stored.")
    targets, values, parameters = [], [], []
    for name in names:
        kind = kinds[name]
        targets.append(quoted(name))
        values.append(f"CAST(unnest(?::VARCHAR[]) AS {DUCKDB_TYPES[kind]})")
        parameters.append([stored_text(table, name, kind, record.get(name)) for record in records])
    parameters.append([str(record.get(ARRIVAL) or now) for record in records])
    sql = (
        f"INSERT INTO stored.{quoted(table)} ({', '.join([*targets, quoted(ARRIVAL)])})"
        f" SELECT {', '.join([*values, 'CAST(CAST(unnest(?::VARCHAR[]) AS TIMESTAMPTZ) AS TIMESTAMP)'])}"
    )
    try:
        cursor.execute(sql, parameters)
    except duckdb.ConversionException as error:
        reason = str(error).splitlines()[0]
        raise SourceError(
            f"{table}: a value does not fit its column ({reason}); none of these rows were stored."
        ) from error


def stored_text(table: str, name: str, kind: str, value: Any) -> str | None:
    """A JSON value as the text that DuckDB casts to its column's type.

    Raises:
        SourceError: it is of another type.
    """
    if value is None:
        return "" if kind == "string" else None
    if kind == "dynamic":
        return orjson.dumps(value).decode()
    if kind == "bool" and isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bool | dict | list) or (kind in ("string", "datetime") and not isinstance(value, str)):
        raise SourceError(
            f"{table}.{name} is {kind}, {orjson.dumps(value).decode()[:80]} is not; none of these rows were stored."
        )
    return str(value)


def _batches(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(records)
    while batch := list(islice(iterator, _INSERT_BATCH)):
        yield batch


def _count(cursor: duckdb.DuckDBPyConnection, name: str) -> int:
    found = cursor.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608 - quoted by the caller
    return int(found[0]) if found else 0


def timestamp(moment: datetime) -> str:
    """An instant as SQL literal."""
    return f"TIMESTAMP_NS '{moment.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f')}'"
