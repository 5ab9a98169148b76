"""Rows of MigrationConfiguration: which tables move, where to, and how far they have come.

Here: the value of one row and its validation against the catalogue. Not here: reading and writing rows (`state`), and
what the watermark may become (`watermark`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from defender_adx_pipeline.catalogue import Catalogue, DefenderTable
from defender_adx_pipeline.instants import EPOCH_1900, InvalidInstantError, parse_instant, sort_key
from defender_adx_pipeline.migration.errors import ConfigurationError
from defender_adx_pipeline.quoting import InvalidNameError, kql_name

LoadType = Literal["Incr", "Full"]

NOT_LOADED = "1900-01-01T00:00:00.0000000Z"
"""The watermark of a table without a loaded row: as far back as Defender keeps."""

# The older script wrote these for a table that it read by ingestion_time().
_NO_COLUMN = frozenset({"", "none", "null", "ingestiontime"})


@dataclass(frozen=True, slots=True)
class TableConfiguration:
    """One table that moves, validated: the names are Kusto names and the source table is in the catalogue."""

    table: DefenderTable
    destination_table: str
    watermark: str
    """Greatest time among loaded rows, with seven digits; `NOT_LOADED` before the first."""
    load_type: LoadType
    is_active: bool

    @property
    def loaded_before(self) -> bool:
        """Whether any row was loaded so far."""
        return self.watermark > NOT_LOADED

    @property
    def watermark_instant(self) -> datetime:
        """The watermark rounded down to the microsecond."""
        return parse_instant(self.watermark)


def configuration_from_row(row: Mapping[str, Any], catalogue: Catalogue) -> TableConfiguration:
    """One row of `VwLatestMigrationConfiguration` as a value.

    Both shapes of the table are read: rows of the older script may lack `LastRefreshedTimeInString`.

    Raises:
        UnknownTableError: the source table is not in the catalogue.
        ConfigurationError: a field cannot be followed; nothing was read or loaded for the table.
    """
    source = str(row.get("SourceTable") or "")
    table = catalogue[source]
    destination = str(row.get("DestinationTable") or "")
    try:
        kql_name(destination)
    except InvalidNameError as error:
        raise ConfigurationError(f"MigrationConfiguration, SourceTable {source}: DestinationTable: {error}") from error
    return TableConfiguration(
        table=table,
        destination_table=destination,
        watermark=_watermark(row, source),
        load_type=_load_type(row, source),
        is_active=bool(row.get("IsActive")),
    )


def check_watermark_column(row: Mapping[str, Any], table: DefenderTable) -> None:
    """Check that the row's watermark is kept in the column by which the table is read; a snapshot is read by none.

    Raises:
        ConfigurationError: it names another column, whose values say nothing of which windows are complete.
    """
    column = str(row.get("WatermarkColumn") or "")
    if table.kind == "snapshot":
        return
    if column.lower() in _NO_COLUMN or column == table.time_column:
        return
    raise ConfigurationError(
        f"MigrationConfiguration, SourceTable {table.name}: WatermarkColumn {column!r} is not the time column"
        f" {table.time_column!r} by which this table is read. Nothing was read. Append a row with"
        f" {table.time_column!r}, or describe the table in DEFENDER_TABLES_FILE with {column!r} as its time_column."
    )


def check_own_destination(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], catalogue: Catalogue) -> None:
    """Check that no other table has its rows in this row's DestinationTable, where counts could not tell them apart.

    Raises:
        ConfigurationError: another row has the same DestinationTable, be it active or not.
    """
    source, destination = row.get("SourceTable"), row.get("DestinationTable")
    names = (other.get("SourceTable") for other in rows if other.get("DestinationTable") == destination)
    others = sorted(str(name) for name in names if name != source and name in catalogue)
    if others:
        raise ConfigurationError(
            f"MigrationConfiguration, SourceTable {source}: {', '.join(others)} has the same DestinationTable,"
            f" {destination!r}. Rows of one would be taken for those of the other when they are counted. Nothing was"
            " read. Append a row that gives each table a destination of its own."
        )


def _watermark(row: Mapping[str, Any], source: str) -> str:
    """The finer of the two spellings of the watermark, in seven digits."""
    text, moment = str(row.get("LastRefreshedTimeInString") or ""), row.get("LastRefreshedTime")
    try:
        coarse = sort_key(str(moment)) if moment else NOT_LOADED
        exact = coarse if text.lower() in ("", "none", "null") else sort_key(text)
    except InvalidInstantError as error:
        raise ConfigurationError(
            f"MigrationConfiguration, SourceTable {source}: LastRefreshedTime: {error}. Nothing was read."
            " Append a row with a UTC time."
        ) from error
    if parse_instant(exact) == parse_instant(coarse):
        return exact
    # Somebody moved one of the two by hand. The earlier one reads more and, by counts, loads nothing twice.
    return min(exact, coarse)


def _load_type(row: Mapping[str, Any], source: str) -> LoadType:
    value = str(row.get("LoadType") or "Incr").strip().lower()
    if value in ("incr", "incremental"):
        return "Incr"
    if value == "full":
        return "Full"
    raise ConfigurationError(
        f"MigrationConfiguration, SourceTable {source}: LoadType {row.get('LoadType')!r} is neither 'Incr' nor 'Full'."
        " Nothing was read. Append a row with one of the two."
    )


assert parse_instant(NOT_LOADED) == EPOCH_1900  # noqa: S101 - two spellings of one constant
