"""Snapshot tables under Defender's own names: functions over their typed rows.

Here: the functions `T` and `THistory` of a snapshot table. Not here: the typed rows themselves (`typed_tables`), and
the functions over the raw records (`snapshot_views`).

Both read published snapshots only. Which those are is settled once in a query, before its other parts are read: one
that runs while a snapshot is published sees all rows of it or none.
"""

from collections.abc import Mapping

from defender_adx_pipeline.adx.state_kql import SNAPSHOTS_VIEW
from defender_adx_pipeline.adx.typed_tables import folder, plain, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, DefenderTable
from defender_adx_pipeline.quoting import kql_string


def typed_snapshot_functions(table: DefenderTable) -> Mapping[str, str]:
    """The commands that make the functions of a snapshot table, by the functions' names.

    `T()`: Defender's columns, of the latest published snapshot. `THistory()`: the same and SnapshotTime, of each day's
    latest published snapshot. Both may be called without brackets, as a table is.

    Raises:
        InvalidNameError: the name of the table may not stand in a statement.
    """
    return {
        table.name: _function(
            table,
            "",
            f"{table.name} as of the latest published snapshot, with Defender's columns.",
            f"""\
    let Taken = toscalar({_published(table)}
        | summarize max(SnapshotTime));
    {plain(typed_table_name(table))}
    | where {SNAPSHOT_TIME} == Taken
    | project-away {SNAPSHOT_TIME}""",
        ),
        f"{table.name}History": _function(
            table,
            "History",
            f"The published snapshots of {table.name}, of each UTC day the latest; SnapshotTime says which.",
            f"""\
    let Published = {_published(table)}
        | project SnapshotTime;
    {plain(typed_table_name(table))}
    | where {SNAPSHOT_TIME} in (Published)""",
        ),
    }


def _function(table: DefenderTable, suffix: str, docstring: str, body: str) -> str:
    # As a view it is part of `union *` and `search`, like the table whose name it has.
    view = ", view = true" if not suffix else ""
    properties = f"folder = {kql_string(folder(table))}, docstring = {kql_string(docstring)}{view}"
    return f".create-or-alter function with ({properties})\n{plain(table.name + suffix)}() {{\n{body}\n}}\n"


def _published(table: DefenderTable) -> str:
    """The published snapshots of a table whose records went into its own raw table."""
    source, destination = kql_string(table.name), kql_string(table.raw_table)
    return f"{SNAPSHOTS_VIEW}\n        | where SourceTable == {source} and DestinationTable == {destination}"
