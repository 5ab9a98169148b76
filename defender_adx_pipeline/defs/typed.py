"""The assets of typed tables, `adx/<Table>`: what Dagster knows of them without running anything.

Here: specs, with columns, what is said of each, and where it comes from. Not here: counting rows (`typed_counts`), what
a run says of a typed table (`typed_results`), and values that do not fit (`values_fit`).

The column lineage stands in the definition: written with every materialization, it would be most of the event log.
"""

from collections.abc import Sequence

import dagster as dg

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.typed_docstrings import column_texts
from defender_adx_pipeline.adx.typed_tables import record_field, typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.defs.tables import raw_key, source_key, typed_key

_EVENTS = (
    "{name} with Defender's column names and types, so that a hunting query written for Defender runs in ADX as it is."
)
_SNAPSHOT = (
    "All snapshots of {name} with Defender's column names and types, in the table {typed}. For queries there are two"
    " functions over it: {name} serves the latest published snapshot, {name}History each day's latest, with"
    " SnapshotTime."
)
_FILLED = (
    "An update policy fills it from {raw}, in the same transaction as that: a run loads the raw table and then compares"
    " the row counts of both. Selected alone it loads nothing, and only compares. Of a database without the typed"
    " tables (`defender-adx bootstrap` makes them) it is not materialized."
)


def typed_spec(*, table: DefenderTable, database: str) -> dg.AssetSpec:
    """The typed rows of a table in ADX."""
    said = _SNAPSHOT if table.kind == "snapshot" else _EVENTS
    typed = typed_table_name(table)
    return dg.AssetSpec(
        key=typed_key(table),
        deps=[raw_key(table)],
        skippable=True,
        description=f"{said.format(name=table.name, typed=typed)}\n\n{_FILLED.format(raw=table.raw_table)}",
        metadata={
            "dagster/column_schema": typed_schema(table),
            "dagster/column_lineage": column_lineage(table),
            "dagster/table_name": f"{database}.{typed}",
        },
        # It stores nothing, since nothing is given to it; a downstream asset reads the rows through it.
    ).with_io_manager_key("adx_io_manager")


def typed_schema(table: DefenderTable, existing: Sequence[Column] = ()) -> dg.TableSchema:
    """The columns of the typed table: what is known of each, and where it comes from.

    The page shows the lineage of columns in Dagster+ alone, and these texts everywhere.

    Args:
        table: the Defender table.
        existing: the columns that its typed table has; those of the catalogue when absent.
    """
    said, columns = column_texts(table), existing or typed_columns(table)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.type,
                description=f"{said.get(column.name, '')} {_comes_from(table, column, columns)}".lstrip(),
            )
            for column in columns
        ]
    )


def _comes_from(table: DefenderTable, column: Column, columns: Sequence[Column]) -> str:
    name = record_field(table, column, columns)
    field = f"From {RECORDS}.{name} of adx/{table.raw_table}"
    # The pipeline writes it; Defender has no such column.
    return f"{field}." if name == SNAPSHOT_TIME else f"{field}, Defender's {table.name}.{name}."


def column_lineage(table: DefenderTable) -> dg.TableColumnLineage:
    """Where each column comes from: `Records` of the raw table, and Defender's column of the same name.

    `Records` itself has no lineage: through it every column would seem to come from all columns of Defender's table.
    """
    records = dg.TableColumnDep(asset_key=raw_key(table), column_name=RECORDS)
    source = source_key(table)
    return dg.TableColumnLineage(
        {
            column.name: [records]
            if column.name == SNAPSHOT_TIME
            else [records, dg.TableColumnDep(asset_key=source, column_name=column.name)]
            for column in typed_columns(table)
        }
    )
