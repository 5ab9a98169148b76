"""Typed rows against the raw records that they were made of. The other half of the demo's proof.

Here: how many rows both tables have, and for some days of each table every field of every row. What a field must be is
worked out here from the record, not by ADX. Not here: raw records against Defender (`comparing`).
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from defender_adx_pipeline.adx import typed_kql
from defender_adx_pipeline.adx.typed_tables import typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.instants import EPOCH_1900, InvalidInstantError, parse_instant, sort_key
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.readback import records
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.quoting import kql_name

_GRAIN = timedelta(days=1)
_SAMPLED_ROWS = 400
_SAMPLED_DAYS = 31

_WHOLE_NUMBERS: Mapping[str, int] = {"int": 32, "long": 64}


@dataclass(frozen=True, slots=True)
class TypedResult:
    """One typed table beside its raw one."""

    rows: int
    """Rows that it has, of all times."""
    raw_rows: int
    compared: int
    """Rows whose fields were compared, one by one."""
    differing: int
    """Those of them that have no counterpart, on either side."""

    @property
    def exact(self) -> bool:
        """Whether it has as many rows, and the compared ones have the same values."""
        return self.rows == self.raw_rows and not self.differing


def compare_typed(database: Database, table: DefenderTable, window: Window, seed: int = 7) -> TypedResult:
    """A typed table against its raw one.

    Args:
        database: the database.
        table: the Defender table; its records are in its own raw table.
        window: of an event table the rows to choose days from; of a snapshot table the moment of the snapshot.
        seed: which days of an event table are chosen.

    Raises:
        AdxError: ADX could not be asked, or has no typed table.
    """
    shown = _held(table)
    parts = [window] if table.kind == "snapshot" else _some_days(database, table, window, seed)
    compared = differing = 0
    for part in parts:
        column = SNAPSHOT_TIME if table.kind == "snapshot" else table.time_column or ""
        typed = database.adx.query(typed_kql.rows_in_window(table, part.start, part.end))
        here = _counted(typed, shown)
        wanted = _counted(
            (_expected(record, shown) for record in records(database.adx, table.raw_table, column, part)), shown
        )
        compared += sum(wanted.values())
        differing += sum((wanted - here).values()) + sum((here - wanted).values())
    names = (kql_name(table.raw_table), kql_name(typed_table_name(table)))
    raw, rows = (int(database.adx.query(f"{name} | summarize Rows = count()")[0]["Rows"]) for name in names)
    return TypedResult(rows=rows, raw_rows=raw, compared=compared, differing=differing)


def _held(table: DefenderTable) -> list[Column]:
    """The columns that are compared: of names that differ in case alone the first, which the local tenant holds."""
    found: dict[str, Column] = {}
    for column in typed_columns(table):
        found.setdefault(column.name.casefold(), column)
    return list(found.values())


def _some_days(database: Database, table: DefenderTable, window: Window, seed: int) -> list[Window]:
    """Days that have rows, by lot, until there are enough rows."""
    query = typed_kql.time_counts(table, window.start, window.end, _GRAIN, ingested_since=EPOCH_1900)
    counted = {parse_instant(row["Bin"]): int(row["Rows"]) for row in database.adx.query(query)}
    days = sorted(counted)
    random.Random(seed).shuffle(days)  # noqa: S311 - no secret
    chosen: list[Window] = []
    rows = 0
    for start in days[:_SAMPLED_DAYS]:
        if rows >= _SAMPLED_ROWS:
            break
        chosen.append(Window(start, start + _GRAIN))
        rows += counted[start]
    return chosen


def _expected(record: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    return {column.name: expected_value(record.get(column.name), column.type) for column in columns}


def expected_value(value: Any, kind: str) -> Any:
    """What a typed column must have of a field of a record, as an answer of ADX gives it."""
    if kind == "dynamic":
        return value
    if kind == "string":
        return "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
    if value in (None, "", {}):
        return None
    if kind in _WHOLE_NUMBERS:
        return _whole(value, _WHOLE_NUMBERS[kind])
    return value


def _whole(value: Any, bits: int) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None


def _counted(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> Counter[bytes]:
    kinds = {column.name: column.type for column in columns}
    return Counter(
        orjson.dumps(
            {name: _comparable(row.get(name), kind) for name, kind in kinds.items()}, option=orjson.OPT_SORT_KEYS
        )
        for row in rows
    )


def _comparable(value: Any, kind: str) -> Any:
    """A value without what ADX's answers spell otherwise: trailing zeros of a time, upper case of a GUID."""
    if value is None or kind not in {"datetime", "guid", "real"}:
        return value
    if kind == "datetime":
        try:
            return sort_key(str(value))
        except InvalidInstantError:
            return None
    return float(value) if kind == "real" else str(value).lower()
