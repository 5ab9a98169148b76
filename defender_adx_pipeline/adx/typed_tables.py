"""Typed tables: Defender's columns and types in ADX, filled from the raw tables as these are loaded.

Here: the columns of a typed table, and the commands that make it, its expand function and its update policy. Not here:
the functions over typed snapshots (`typed_snapshots`), what is said of a column (`typed_docstrings`), retention and
access (`typed_policies`), values that do not fit (`typed_checks`), and the files in which all of it stands
(`typed_scripts`).

An event table `T` has its rows in the typed table `T`. A snapshot table `T` has all rows of all snapshots in
`TSnapshots`, the unfinished ones too; the functions `T` and `THistory` serve what is published.
Kusto compares the result of an update policy's query with the target by name, type and order ("Update policy
overview"), and `.create-merge` adds columns at the end: the expand function follows the order that a table has.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import orjson

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.quoting import kql_name, kql_string

OVERRIDES: Mapping[tuple[str, str], str] = {
    # The page says string; answers of Graph say Double, and Log Analytics has real.
    ("DeviceTvmSoftwareVulnerabilitiesKB", "CvssScore"): "real",
    # The page says long, which cannot hold the GUID of a tenant; Log Analytics has string.
    ("CloudStorageAggregatedEvents", "AccountTenantId"): "string",
}
"""Types by (table, column) where what was seen shows that the documented one cannot be right."""

# Every KQL keyword begins with a lower-case letter and KQL is case-sensitive, so these names need no quotes.
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9_]*")

# By way of the text: the conversion of a number to a smaller type cuts it without a word, that of a text gives null,
# which `typed_checks` counts.
_CONVERSIONS = {
    "string": "tostring({})",
    "datetime": "todatetime({})",
    "long": "tolong(tostring({}))",
    "int": "toint(tostring({}))",
    "real": "toreal({})",
    "decimal": "todecimal(tostring({}))",
    "timespan": "totimespan(tostring({}))",
    "bool": "tobool({})",
    "guid": "toguid({})",
    # It is dynamic already. Parsed again, a text that looks like a number would become one.
    "dynamic": "{}",
}


def typed_columns(table: DefenderTable, existing: Sequence[Column] = ()) -> tuple[Column, ...]:
    """The columns of a typed table, in their order.

    Args:
        table: the Defender table.
        existing: the columns that the table in ADX has already. They stay first, in their order and with their types;
            what the catalogue has beyond them follows.

    Returns:
        SnapshotTime of a snapshot table, the documented columns, then those that tenants have though no page does.
    """
    first = (Column(SNAPSHOT_TIME, "datetime"),) if table.kind == "snapshot" else ()
    wanted = (
        Column(column.name, OVERRIDES.get((table.name, column.name), column.type))
        for column in (*table.columns, *table.undocumented_columns)
    )
    there = {column.name for column in existing}
    return (*existing, *(column for column in (*first, *wanted) if column.name not in there))


def typed_table_name(table: DefenderTable) -> str:
    """The table in ADX that has the typed rows: of a snapshot table those of all snapshots."""
    return f"{table.name}Snapshots" if table.kind == "snapshot" else table.name


def expand_name(table: DefenderTable) -> str:
    """The function that makes typed rows of raw ones."""
    return f"Expand{table.name}"


def folder(table: DefenderTable) -> str:
    """Where the web UI shows what belongs to a table."""
    return f"Defender/{table.category.capitalize()}"


def create_tables(tables: Iterable[DefenderTable], properties: str) -> str:
    """The command that makes typed tables, or adds the columns that they lack at their end."""
    made = ",\n".join(f"    {plain(typed_table_name(table))} ({_schema(typed_columns(table))})" for table in tables)
    return f".create-merge tables\n{made}\nwith ({properties})\n"


def expand_function(table: DefenderTable, existing: Sequence[Column] = ()) -> str:
    """The command that makes the expand function; `existing` as in `typed_columns`.

    Raises:
        InvalidNameError: the name of the table or of a column may not stand in a statement.
    """
    fields = ",\n        ".join(
        f"{plain(column.name)} = {converted(column)}" for column in typed_columns(table, existing)
    )
    docstring = f"Records of {table.raw_table} with the columns and types of {typed_table_name(table)}."
    properties = f"folder = {kql_string(folder(table) + '/Expand')}, docstring = {kql_string(docstring)}"
    return (
        f".create-or-alter function with ({properties})\n"
        f"{expand_name(table)}() {{\n    {plain(table.raw_table)}\n    | project\n        {fields}\n}}\n"
    )


def update_policy(table: DefenderTable) -> str:
    """The command that lets the raw table fill the typed one, in the same transaction and with the same tags."""
    policy = [
        {
            "IsEnabled": True,
            "Source": table.raw_table,
            "Query": f"{expand_name(table)}()",
            "IsTransactional": True,
            "PropagateIngestionProperties": True,
        }
    ]
    return f".alter table {plain(typed_table_name(table))} policy update ```{orjson.dumps(policy).decode()}```\n"


def converted(column: Column) -> str:
    """A field of a record as a value of its column's type; null (of a string: empty) where it is none or does not fit.

    A string that holds JSON or a date stays the string that it is, as Defender has it.
    """
    return _CONVERSIONS[column.type].format(f"{RECORDS}[{kql_string(column.name)}]")


def plain(name: str) -> str:
    """A name, quoted where KQL could take it for something else."""
    quoted = kql_name(name)
    return name if _PLAIN.fullmatch(name) else quoted


def _schema(columns: Iterable[Column]) -> str:
    return ", ".join(f"{plain(column.name)}: {column.type}" for column in columns)
