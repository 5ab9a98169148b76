"""A Defender table that changes while it is in use: columns that come, go, and change their type.

Here: the change itself, in one transaction, so that a query sees the table before it or after it. Not here: columns
that a tenant has from the start (`samples`), rows (`source`), and the routes (`admin_schema`).

What Defender does to rows that are older than a change is documented nowhere. Here they are null in a column that was
added, and keep their value as far as the new type holds it; a text holds every value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb

from defender_adx_pipeline.catalogue import KQL_TYPES, Column
from defender_adx_pipeline.local.kql import value_sql
from defender_adx_pipeline.local.source import (
    DUCKDB_TYPES,
    SourceError,
    SourceStore,
    column_definition,
    quoted,
    stored_text,
    timestamp,
)


def add_column(
    store: SourceStore, table: str, column: Column, *, since: datetime | None = None, value: Any = None
) -> int:
    """Give a table a column, as its last one; rows that come later may have values in it.

    Args:
        store: the Defender side.
        table: its table.
        column: name and KQL type.
        since: rows that are there already with this time or a later one get `value`; the others stay null.
        value: a JSON value of the column's type. Without `since` every row gets it.

    Returns:
        The number of rows that have the value.

    Raises:
        SourceError: no such table or type, the table has the column, or the value does not fit. Nothing was changed.
    """
    _check(store, table, column.type)
    have = {one.name.casefold() for one in store.columns(table)}
    if column.name.casefold() in have:
        raise SourceError(f"{table} has a column {column.name} already (names are one here whatever their case).")
    time = store.catalogue[table].time_column
    if since is not None and time is None:
        raise SourceError(f"{table} has no time column to tell rows since {since} by.")
    with _changing(store, table) as cursor:
        cursor.execute(f"ALTER TABLE {store.stored(table)} ADD COLUMN {column_definition(column)}")
        return 0 if value is None else _fill(store, cursor, table, column, since=since, value=value)


def drop_column(store: SourceStore, table: str, name: str) -> None:
    """Take a column from a table, with its values.

    Raises:
        SourceError: no such table or column, or it is the table's time. Nothing was changed.
    """
    column = _column(store, table, name)
    with _changing(store, table) as cursor:
        cursor.execute(f"ALTER TABLE {store.stored(table)} DROP COLUMN {quoted(column.name)}")


def retype_column(store: SourceStore, table: str, name: str, kind: str) -> None:
    """Give a column another type; rows keep their value where the new type holds it, and are null where not.

    Raises:
        SourceError: no such table, column or type, or it is the table's time. Nothing was changed.
    """
    _check(store, table, kind)
    column = _column(store, table, name)
    changed = f"ALTER TABLE {store.stored(table)} ALTER COLUMN {quoted(name)}"
    with _changing(store, table) as cursor:
        cursor.execute(f"{changed} DROP DEFAULT")
        cursor.execute(f"{changed} TYPE {DUCKDB_TYPES[kind]} USING {_converted(column, kind)}")
        if kind == "string":
            cursor.execute(f"{changed} SET DEFAULT ''")


@contextmanager
def _changing(store: SourceStore, table: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A transaction around a change of columns, at whose end hunting sees the new ones."""
    with store.writing() as cursor:
        cursor.execute(f"DROP VIEW {quoted(table)}")
        yield cursor
        store.publish(cursor, table)


def _fill(
    store: SourceStore,
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    column: Column,
    *,
    since: datetime | None,
    value: Any,
) -> int:
    text = stored_text(table, column.name, column.type, value)
    kind = DUCKDB_TYPES[column.type]
    later = f"{quoted(str(store.catalogue[table].time_column))} >= {timestamp(since)}" if since else "true"
    try:
        done = cursor.execute(
            f"UPDATE {store.stored(table)} SET {quoted(column.name)} = CAST(? AS {kind}) WHERE {later}",  # noqa: S608
            [text],
        ).fetchone()
    except duckdb.ConversionException as error:
        raise SourceError(f"{table}.{column.name}: the value {value!r} does not fit {column.type}.") from error
    return int(done[0]) if done else 0


def _check(store: SourceStore, table: str, kind: str) -> None:
    if table not in store.catalogue:
        raise SourceError(f"the source has no table {table!r}")
    if kind not in KQL_TYPES:
        raise SourceError(f"{kind!r} is no type of a column; one of {', '.join(sorted(KQL_TYPES))} is")


def _column(store: SourceStore, table: str, name: str) -> Column:
    _check(store, table, "string")
    found = next((column for column in store.columns(table) if column.name == name), None)
    if found is None:
        raise SourceError(f"{table} has no column {name}")
    if name == store.catalogue[table].time_column:
        raise SourceError(f"{name} is the time of the rows of {table}: what hunting sees goes by it, so it stays.")
    return found


def _converted(column: Column, kind: str) -> str:
    """SQL for a stored value as one of another type."""
    name = quoted(column.name)
    if kind == "string":
        return f"coalesce(CAST({value_sql(name, column.type)} AS VARCHAR), '')"
    if kind == "dynamic" and column.type == "string":
        return f"CASE WHEN {name} = '' THEN NULL WHEN json_valid({name}) THEN {name} ELSE to_json({name}) END"
    if kind == "dynamic":
        return f"to_json({value_sql(name, column.type)})"
    text = f"CAST({value_sql(name, column.type)} AS VARCHAR)"
    if kind == "datetime":
        text = f"rtrim({text}, 'Z')"
    return f"TRY_CAST({text} AS {DUCKDB_TYPES[kind]})"
