"""What a database has of the typed tables: their columns, in their order.

Here: reading it, in one command for all tables, or in a small one for a single table. Not here: what the columns should
be (`typed_tables`), how both differ (`typed_drift`), and what else the database lacks (`schema.inspect`).
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import orjson

from defender_adx_pipeline.adx.errors import AdxError, MissingObjectError
from defender_adx_pipeline.adx.typed_tables import plain, typed_table_name
from defender_adx_pipeline.catalogue import Column, DefenderTable

DATABASE_SCHEMA = ".show database schema as json"
"""Takes Database Viewer. One row with the column `DatabaseSchema`: JSON, with every table and its columns in order."""

_CSL_TYPES = MappingProxyType(
    {
        "System.String": "string",
        "System.DateTime": "datetime",
        "System.Object": "dynamic",
        "System.Int64": "long",
        "System.Int32": "int",
        "System.SByte": "bool",
        "System.Boolean": "bool",
        "System.Guid": "guid",
        "System.Double": "real",
        "System.Data.SqlTypes.SqlDecimal": "decimal",
        "System.TimeSpan": "timespan",
    }
)
"""KQL types by the .NET type of a column, as the docs print it ("Scalar data types" in the Kusto docs)."""


class CommandClient(Protocol):
    """The part of `AdxClient` that is used here."""

    def command(self, text: str, *, idempotent: bool) -> Sequence[Mapping[str, Any]]:
        """The rows that a management command answers."""
        ...


class UnreadableSchemaError(AdxError):
    """The answer to a command for columns has not the documented form; nothing was changed."""


def existing_columns(client: CommandClient, tables: Iterable[DefenderTable]) -> dict[str, tuple[Column, ...]]:
    """The columns of the typed tables that there are, by the Defender table's name. One command, however many tables.

    Args:
        client: the database.
        tables: the Defender tables to look for.

    Raises:
        UnreadableSchemaError: the answer cannot be read.
        AdxError: the database could not be asked.
    """
    there = _tables(client.command(DATABASE_SCHEMA, idempotent=True))
    return {table.name: there[name] for table in tables if (name := typed_table_name(table)) in there}


def columns_of(client: CommandClient, table: DefenderTable) -> tuple[Column, ...] | None:
    """The columns of one typed table; None where it is not there. A small answer, for what is asked with every load.

    Raises:
        UnreadableSchemaError: the answer cannot be read.
        AdxError: the database could not be asked.
    """
    command = f".show table {plain(typed_table_name(table))} schema as json"
    try:
        rows = client.command(command, idempotent=True)
    except MissingObjectError:
        return None
    try:
        (row,) = rows
        return _columns(orjson.loads(row["Schema"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(command, error) from error


def _columns(table: Mapping[str, Any]) -> tuple[Column, ...]:
    return tuple(Column(str(one["Name"]), _type(one)) for one in table["OrderedColumns"])


def _type(column: Mapping[str, Any]) -> str:
    """The KQL type of a column: `CslType`, else by `Type`, which alone stands in the docs' answer for a database.

    Raises:
        ValueError: it has neither, or a type that is not known.
    """
    kind = column.get("CslType") or _CSL_TYPES.get(str(column.get("Type")))
    if not kind:
        raise ValueError(
            f"column {column['Name']} has CslType {column.get('CslType')!r} and Type {column.get('Type')!r}, of which"
            " neither is a known type"
        )
    return str(kind)


def _unreadable(command: str, error: Exception) -> UnreadableSchemaError:
    return UnreadableSchemaError(
        f"`{command}`: the answer is not of the documented form ({type(error).__name__}: {error}), so that the columns"
        " of the typed tables are not known. Nothing was changed. Run it again; if it stays so, report it to the"
        " maintainers with the first lines of the answer."
    )


def _tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Column, ...]]:
    try:
        (row,) = rows
        said = row["DatabaseSchema"]
        # The one database that the command was about, whose name may be written in another case.
        (database,) = (said if isinstance(said, Mapping) else orjson.loads(said))["Databases"].values()
        return {str(name): _columns(table) for name, table in database["Tables"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(DATABASE_SCHEMA, error) from error
