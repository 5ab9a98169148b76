"""The checks of every table: their names, on which asset each stands, and what is said of it. One factory.

Here: names and specs. Not here: results (`raw_results`, `typed_results`, `drop_guard`, `values_fit`, `no_duplicates`).

Where Dagster would give a check's results to partitions, a run over several days would have none: but for
`row_count_drop`, of which there is one day at a time, the checks have no partitions, and their results name the window.
"""

from datetime import timedelta
from typing import Final

import dagster as dg

from defender_adx_pipeline.adx.typed_tables import typed_table_name
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.partitions import daily
from defender_adx_pipeline.defs.tables import raw_key, source_key, typed_key

COMPLETENESS: Final = "completeness"
WATERMARK_LAG: Final = "watermark_lag"
DEAD_LETTERS: Final = "dead_letters"
ROW_COUNT_DROP: Final = "row_count_drop"
SAME_ROWS: Final = "same_rows_as_raw"
SCHEMA_DRIFT: Final = "schema_drift"
VALUES_FIT: Final = "values_fit"
NO_DUPLICATES: Final = "no_duplicates"

LARGEST_FALL: Final = 0.8
"""Part of a snapshot's rows that may be gone since the snapshot before."""

LOOKS_BACK: Final = timedelta(hours=25)
"""The daily checks look at rows ingested since then: an hour more than between two runs, so that a late one leaves
nothing out."""


def raw_check_specs(table: DefenderTable) -> list[dg.AssetCheckSpec]:
    """The checks that come with a load of the raw asset."""
    key, name = raw_key(table), table.name
    specs = [
        dg.AssetCheckSpec(
            COMPLETENESS,
            asset=key,
            blocking=True,
            description=(
                f"Fails when a load could not show that {table.raw_table} has what Defender counted for its window, or"
                " did not get that far; its result then says why, what was kept, and what to do. It keeps what comes"
                " after in the same run from going on. The window of the last result is that of the last run: whether"
                " other days are there, the partitions show."
            ),
        ),
        dg.AssetCheckSpec(
            WATERMARK_LAG,
            asset=key,
            description=_lag_text(table),
        ),
        dg.AssetCheckSpec(
            DEAD_LETTERS,
            asset=key,
            description=(
                f"Warns when records of {name} were kept out of ADX within the last 30 days, since its dynamic column"
                " does not hold them. They are listed in MigrationDeadLetter, and stay in Defender until they are 30"
                " days old."
            ),
        ),
    ]
    if table.kind == "snapshot":
        specs.append(
            dg.AssetCheckSpec(
                ROW_COUNT_DROP,
                asset=key,
                partitions_def=daily,
                description=(
                    f"Fails when the table fell to zero rows, or by more than {LARGEST_FALL:.0%}, against the snapshot"
                    " of the day before it. The snapshot is published all the same."
                ),
            )
        )
    return specs


def typed_check_specs(table: DefenderTable) -> list[dg.AssetCheckSpec]:
    """The checks that come with a run of the typed asset."""
    return [
        dg.AssetCheckSpec(
            SAME_ROWS,
            asset=typed_key(table),
            description=(
                f"Fails when {typed_table_name(table)} and {table.raw_table} do not have the same rows of the window"
                " that the run looked at. Rows from before the update policy are in the raw table alone: `defender-adx"
                f" schema backfill {table.name}` expands them. Without the typed table it warns: run `defender-adx"
                " bootstrap`."
            ),
        ),
        dg.AssetCheckSpec(
            SCHEMA_DRIFT,
            asset=typed_key(table),
            description=(
                f"Warns when {table.name} has other columns in the tenant than the typed table in ADX. No row is lost,"
                f" since the raw records have every field: `defender-adx schema diff {table.name}` shows the"
                f" differences, `defender-adx schema apply {table.name}` mends them."
            ),
        ),
    ]


def values_fit_spec(table: DefenderTable) -> dg.AssetCheckSpec:
    """The daily check of values, on Defender's table (see `values_fit`)."""
    return dg.AssetCheckSpec(
        VALUES_FIT,
        asset=source_key(table),
        description=(
            f"Warns when records that came within the last {hours(LOOKS_BACK)} hours have values"
            f" that do not fit their column of {table.name}: null in the typed table, whole in {table.raw_table}. The"
            " result has their number for each column and a query that shows them. Where the type of a column changed"
            f" in Defender, `defender-adx schema diff {table.name}` says so, and `defender-adx schema apply"
            f" {table.name}` gives the new values a column."
        ),
    )


def no_duplicates_spec(table: DefenderTable) -> dg.AssetCheckSpec:
    """The daily check of doubled rows, on Defender's table (see `no_duplicates`)."""
    told_by = f"the same {', '.join(table.identity)}" if table.identity else "all columns alike"
    return dg.AssetCheckSpec(
        NO_DUPLICATES,
        asset=source_key(table),
        description=(
            f"Warns when rows of {table.name} that came within the last {hours(LOOKS_BACK)} hours are in ADX more often"
            f" than in Defender. Rows are taken for the same that have {told_by}. Defender repeats some rows itself:"
            " where rows are doubled in ADX, Defender is asked how often it has them, and the result tells the two"
            " apart."
        ),
    )


def hours(span: timedelta) -> str:
    """A span as a number of hours."""
    return f"{span / timedelta(hours=1):g}"


def _lag_text(table: DefenderTable) -> str:
    allowed = hours(table.allowed_lag)
    if table.kind == "snapshot":
        return (
            f"Fails when the last published snapshot of {table.name} is older than {allowed} hours (`max_lag` in"
            " DEFENDER_TABLES_FILE). It is reported by each run, and by the sensor `health` between runs."
        )
    return (
        f"Fails when {table.name} is complete only up to an instant more than {allowed} hours ago (`max_lag` in"
        " DEFENDER_TABLES_FILE): by confirmed windows, those without a row among them, and not by the age of the newest"
        " row. DEFENDER_SETTLE is part of the lag. It is reported by each run, and by the sensor `health` between runs."
    )
