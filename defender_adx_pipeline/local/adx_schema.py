"""Tables, columns and extents of the ADX database as values, and how DuckDB holds a column. Not here: the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from defender_adx_pipeline.local.frames import KustoFault

DUCKDB_TYPES = {
    "string": "VARCHAR",
    "datetime": "TIMESTAMP_NS",
    "dynamic": "JSON",
    "long": "BIGINT",
    "int": "INTEGER",
    "bool": "BOOLEAN",
    "guid": "UUID",
    "real": "DOUBLE",
    "decimal": "DECIMAL(38, 18)",
    "timespan": "INTERVAL",
}
"""Storage type per KQL scalar type. TIMESTAMP_NS keeps the seventh digit and spans 1677 to 2262."""

INGESTION_TIME, EXTENT_ID, EXTENT_TAGS = "__ingestion_time", "__extent_id", "__extent_tags"
HIDDEN = (INGESTION_TIME, EXTENT_ID, EXTENT_TAGS)

Level = Literal["plain", "timed", "tagged", "delta"]
"""Which hidden columns a cursor sees: none, ingestion time and extent, or the extent's tags as well. `delta` is `timed`
with one table narrowed to one extent, by the session variables delta_table and delta_extent, for update policies."""
LEVELS: dict[Level, tuple[str, ...]] = {"plain": (), "timed": HIDDEN[:2], "tagged": HIDDEN, "delta": HIDDEN[:2]}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table's schema as the database keeps it."""

    name: str
    columns: tuple[tuple[str, str], ...]
    """(name, KQL type) in the order in which they were added."""
    folder: str = ""
    docstring: str = ""

    @property
    def held(self) -> tuple[tuple[str, str], ...]:
        """The columns that DuckDB holds: of names that differ in case alone the first."""
        found: dict[str, tuple[str, str]] = {}
        for name, kind in self.columns:
            found.setdefault(name.casefold(), (name, kind))
        return tuple(found.values())

    @property
    def cslschema(self) -> str:
        """`A:string,B:long`, as `.show table T cslschema` prints it."""
        return ",".join(f"{name}:{kind}" for name, kind in self.columns)


@dataclass(frozen=True, slots=True)
class Extent:
    """One data shard: what one ingestion wrote."""

    table: str
    extent_id: str
    created: datetime
    tags: tuple[str, ...]
    rows: int
    original_size: int


class AlreadyIngestedError(Exception):
    """`ingestIfNotExists`: the table has an extent with one of these `ingest-by:` tags, nothing was written."""

    def __init__(self, table: str, values: Sequence[str]) -> None:
        super().__init__(f"{table} already has an extent tagged ingest-by: {', '.join(values)}")


def quoted(name: str) -> str:
    """A DuckDB identifier; nothing in a name can end it."""
    return '"' + name.replace('"', '""') + '"'


def definition(column: str, kind: str) -> str:
    """A column of a DuckDB table; a string is empty rather than null, also in rows that are older than its column."""
    return f"{quoted(column)} {DUCKDB_TYPES[kind]}" + (" DEFAULT ''" if kind == "string" else "")


def check_columns(columns: Sequence[tuple[str, str]]) -> None:
    """Refuse columns that have the same name. Case tells names apart, though DuckDB holds one column for both.

    Raises:
        KustoFault: BadRequest_DuplicateColumns.
    """
    names = [name for name, _ in columns]
    if len(set(names)) != len(names):
        raise KustoFault(
            "Duplicate column names are not allowed in a table schema.", code="BadRequest_DuplicateColumns"
        )


def missing_columns(old: StoredTable, columns: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The wanted columns that a table lacks.

    Raises:
        KustoFault: a column exists with another type.
    """
    existing = dict(old.columns)
    for name, kind in columns:
        if name in existing and existing[name] != kind:
            raise KustoFault(
                f"Column '{name}' of table '{old.name}' exists with type '{existing[name]}', not '{kind}';"
                " a column's type cannot be changed by create-merge.",
                code="BadRequest_ColumnTypeMismatch",
            )
    return tuple((name, kind) for name, kind in columns if name not in existing)
