"""Reading the catalogue: the shipped `tables.json` and a user's file laid over it. Not here: what a record means."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from defender_adx_pipeline.catalogue.model import CatalogueError, Column, DefenderTable

_FIELDS = {
    "name",
    "category",
    "kind",
    "time_column",
    "identity",
    "identity_source",
    "mutable_columns",
    "paging",
    "preview",
    "deprecated",
    "mde_api",
    "graph_api",
    "streaming",
    "page",
    "note",
    "max_lag",
    "columns",
    "undocumented_columns",
}
_TUPLES = ("identity", "mutable_columns")
_COLUMN_MAPS = ("columns", "undocumented_columns")
_DURATION = TypeAdapter(timedelta)


class UnknownTableError(KeyError):
    """A table that is neither in the shipped catalogue nor in `DEFENDER_TABLES_FILE`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name!r} is not a Defender table that this catalogue knows (names are case-sensitive)."
            " Nothing was read or loaded for it. Correct the name, or describe the table in DEFENDER_TABLES_FILE."
        )


class Catalogue(Mapping[str, DefenderTable]):
    """Tables by name, in the order of their names."""

    def __init__(self, tables: Mapping[str, DefenderTable]) -> None:
        self._tables = dict(sorted(tables.items()))

    def __getitem__(self, name: str) -> DefenderTable:
        """One table.

        Raises:
            UnknownTableError: no such table.
        """
        try:
            return self._tables[name]
        except KeyError:
            raise UnknownTableError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def events(self) -> tuple[DefenderTable, ...]:
        """Tables that are read by time window."""
        return tuple(table for table in self._tables.values() if table.kind == "event")

    def snapshots(self) -> tuple[DefenderTable, ...]:
        """Tables whose whole state is taken once a day."""
        return tuple(table for table in self._tables.values() if table.kind == "snapshot")


def load_catalogue(tables_file: Path | None = None) -> Catalogue:
    """The shipped tables, with those of `tables_file` added or put in their place.

    A record of the file that names a shipped table may give only the fields that differ.

    Args:
        tables_file: JSON, a list of records shaped like those of `tables.json`.

    Raises:
        CatalogueError: the file is missing, is not JSON, or a record is not valid; the message names file and table.
    """
    tables = dict(_shipped())
    if tables_file is not None:
        for name, record in _read_file(tables_file).items():
            base = _shipped_records().get(name, {})
            try:
                tables[name] = table_from_record({**base, **record})
            except CatalogueError as error:
                raise CatalogueError(f"{tables_file}: {error}") from error
    return Catalogue(tables)


def table_from_record(record: Mapping[str, Any]) -> DefenderTable:
    """One record of `tables.json` as a table.

    Raises:
        CatalogueError: a field is unknown, missing or of the wrong shape.
    """
    name = record.get("name", "(no name)")
    unknown = set(record) - _FIELDS
    if unknown:
        raise CatalogueError(f"table {name}: unknown fields {', '.join(sorted(unknown))}")
    values: dict[str, Any] = dict(record)
    for key in _TUPLES:
        values[key] = tuple(values.get(key) or ())
    for key in _COLUMN_MAPS:
        columns = values.get(key) or {}
        if not isinstance(columns, dict):
            raise CatalogueError(f"table {name}: {key} is a mapping from column name to type")
        values[key] = tuple(Column(column, kind) for column, kind in columns.items())
    if values.get("max_lag") is not None:
        values["max_lag"] = _duration(name, values["max_lag"])
    try:
        return DefenderTable(**values)
    except TypeError as error:
        raise CatalogueError(f"table {name}: {error}") from error


def _duration(table: str, value: object) -> timedelta:
    try:
        # A number would be taken for seconds, which nothing in the file says.
        return _DURATION.validate_strings(value if isinstance(value, str) and value.startswith("P") else "")
    except ValidationError:
        raise CatalogueError(f"table {table}: max_lag {value!r} is not an ISO 8601 duration such as PT1H") from None


@cache
def _shipped_records() -> Mapping[str, Mapping[str, Any]]:
    text = files("defender_adx_pipeline.catalogue").joinpath("tables.json").read_bytes()
    return {record["name"]: record for record in orjson.loads(text)}


@cache
def _shipped() -> Mapping[str, DefenderTable]:
    return {name: table_from_record(record) for name, record in _shipped_records().items()}


def _read_file(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        records = orjson.loads(path.read_bytes())
    except OSError as error:
        raise CatalogueError(f"DEFENDER_TABLES_FILE {path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise CatalogueError(f"DEFENDER_TABLES_FILE {path} is not JSON: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "name" in record for record in records):
        raise CatalogueError(f"DEFENDER_TABLES_FILE {path}: expected a list of records, each with a name")
    return {record["name"]: record for record in records}
