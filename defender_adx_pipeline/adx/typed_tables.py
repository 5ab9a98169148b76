"""Typed tables: Defender's columns and types in ADX, filled from the raw tables as these are loaded.

Here: the columns of a typed table, and the commands that make it, its expand function and its update policy. Not here:
the functions over typed snapshots (`typed_snapshots`), what is said of a column (`typed_docstrings`), retention and
access (`typed_policies`), values that do not fit (`typed_checks`), and the files in which all of it stands
(`typed_scripts`).

An event table `T` has its rows in the typed table `T`. A snapshot table `T` has all rows of all snapshots in
`TSnapshots`, the unfinished ones too; the functions `T` and `THistory` serve what is published.
Kusto compares the result of an update policy's query with the target by name, type and order ("Update policy
overview"), and `.create-merge` adds columns at the end: the expand function follows the order that a table has.
A column whose type changed in the tenant gets a `twin`: `ErrorCode_string` beside `ErrorCode`, filled from the same
field. The columns that a table has are the only record of what was added to it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

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

Existing = Mapping[str, Sequence[Column]]
"""Columns that typed tables have already, by Defender table; what is not in it has no typed table yet."""

NO_TABLES: Existing = MappingProxyType({})

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


def twin(name: str, kind: str) -> Column:
    """The column beside one whose type changed in the tenant; it has the values that came since."""
    return Column(f"{name}_{kind}", kind)


def record_field(table: DefenderTable, column: Column, columns: Sequence[Column]) -> str:
    """The field of a record that a column is filled from: of its own name, but of a `twin` that of its base.

    A column is a twin when the catalogue does not have it, its name ends in its own type (`ErrorCode_string`), and what
    comes before that is another column of the table with another type.

    Args:
        table: the Defender table.
        column: one of `columns`.
        columns: all that the typed table has.
    """
    base = column.name.removesuffix(f"_{column.type}")
    if base == column.name or any(known.name == column.name for known in typed_columns(table)):
        return column.name
    is_twin = any(one.name == base and one.type != column.type for one in columns)
    return base if is_twin else column.name


def create_tables(tables: Iterable[DefenderTable], properties: str, existing: Existing = NO_TABLES) -> str:
    """The command that makes typed tables, or adds the columns that they lack at their end.

    A column of `existing` keeps its type, since a command that names it with another one fails.
    """
    made = ",\n".join(
        f"    {plain(typed_table_name(table))} ({_schema(typed_columns(table, existing.get(table.name, ())))})"
        for table in tables
    )
    return f".create-merge tables\n{made}\nwith ({properties})\n"


def widening(table: DefenderTable, existing: Sequence[Column], wanted: Sequence[Column] = ()) -> tuple[str, ...]:
    """The commands that give a typed table the columns that it lacks, none when it lacks nothing: table, then function.

    Between the two a load of this table fails as a whole (`one_command` says why that is no loss).

    Args:
        table: the Defender table.
        existing: the columns that its typed table has.
        wanted: columns to add beside those of the catalogue.

    Raises:
        InvalidNameError: the name of the table or of a column may not stand in a statement.
    """
    columns = typed_columns(table, (*existing, *wanted))
    added = columns[len(existing) :]
    if not added:
        return ()
    return (
        f".create-merge table {plain(typed_table_name(table))} ({_schema(added)})\n",
        expand_function(table, columns),
    )


SCRIPT = ".execute database script with (ThrowOnErrors=true) <|"


def one_command(statements: Iterable[str]) -> str:
    """Several commands as one database script, which stops with an error at the first that fails.

    A script is no transaction (".execute database script command" in the Kusto docs), but its commands follow each
    other without a round trip, so that hardly a load falls between them. One that does fails as a whole, raw and typed,
    since the update policy is transactional; its slice stays Queued in the ledger, and the next run sends it again.
    Takes Database Admin. The commands have no blank lines between them, so that the whole can stand in a script file.
    """
    return "\n".join((SCRIPT, *(text.strip() for text in statements)))


def expand_function(table: DefenderTable, existing: Sequence[Column] = ()) -> str:
    """The command that makes the expand function; `existing` as in `typed_columns`.

    Raises:
        InvalidNameError: the name of the table or of a column may not stand in a statement.
    """
    columns = typed_columns(table, existing)
    fields = ",\n        ".join(
        f"{plain(column.name)} = {converted(column, record_field(table, column, columns))}" for column in columns
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


def converted(column: Column, source: str | None = None) -> str:
    """A field of a record as a value of its column's type; null (of a string: empty) where it is none or does not fit.

    A string that holds JSON or a date stays the string that it is, as Defender has it.

    Args:
        column: name and type of the column.
        source: the name of the field, where it is not the column's.
    """
    return _CONVERSIONS[column.type].format(f"{RECORDS}[{kql_string(source or column.name)}]")


def plain(name: str) -> str:
    """A name, quoted where KQL could take it for something else."""
    quoted = kql_name(name)
    return name if _PLAIN.fullmatch(name) else quoted


def _schema(columns: Iterable[Column]) -> str:
    return ", ".join(f"{plain(column.name)}: {column.type}" for column in columns)
