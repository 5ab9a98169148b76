"""The assets: every Defender table as an external source and as a raw table in ADX. One factory.

Here: specs and the asset body: window, plan, value. Not here: loading (`io_manager`), the engine (`migration`), and the
check of a snapshot (`drop_guard`).
"""

from collections.abc import Iterator

import dagster as dg

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.abandoned import end_with_run, sign_run
from defender_adx_pipeline.defs.drop_guard import drop_check_spec, drop_result, skipped_result
from defender_adx_pipeline.defs.partitions import daily, window_of
from defender_adx_pipeline.defs.reporting import observation
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import known_tables, raw_key, source_key
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import AuditRow, Tally, audit_id
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.ledger import RunIdentity

SCOPE_TAG = "defender_adx/scope"
TICK = "tick"
"""Value of `SCOPE_TAG` on runs of the tick: from the watermark on, not whole partitions."""
SWEEP = "sweep"
"""Value of `SCOPE_TAG` on runs of the sweep: every day that Defender keeps."""

OWNERS = ["team:security-data"]

_EVENTS = (
    "Records of {name} as JSON in one dynamic column, every row once. A run compares the partition's counts in Defender"
    " and ADX and loads what is missing, so running a partition again is safe."
)
_SNAPSHOT = (
    "The state of {name} on each day, as JSON in one dynamic column. Only today's partition can be taken: Defender has"
    " the state of now and keeps no other. A snapshot is seen whole or not at all, and of a day that was taken twice,"
    " the later one. Vw{name}Latest() and Vw{name}At(day) give the rows, Vw{name}Changes(from, to) what is new, fixed"
    " or changed, Vw{name}History() since when."
)


def column_schema(table: DefenderTable) -> dg.TableSchema:
    """The documented columns."""
    return dg.TableSchema(columns=[dg.TableColumn(name=column.name, type=column.type) for column in table.columns])


def source_spec(*, table: DefenderTable) -> dg.AssetSpec:
    """The table at Microsoft, which this pipeline reads and does not make."""
    notes = [f"Advanced Hunting table {table.name} ({table.category})."]
    if table.preview:
        notes.append("In preview.")
    if table.deprecated:
        notes.append(f"Deprecated: {table.deprecated}.")
    if table.note:
        notes.append(f"Note: {table.note}.")
    identity = ", ".join(table.identity) or "the whole row"
    read_by = "The state of now, without a past" if table.kind == "snapshot" else f"Time column: {table.time_column}"
    notes.append(f"{read_by}. One row is told by: {identity}.")
    return dg.AssetSpec(
        key=source_key(table),
        group_name=table.group,
        description="\n\n".join(notes),
        kinds={"microsoft", "defender"},
        owners=OWNERS,
        metadata={"dagster/column_schema": column_schema(table), "dagster/table_name": table.name},
    )


def raw_asset(*, table: DefenderTable) -> dg.AssetsDefinition:
    """The table's records in ADX, one day a partition."""
    is_snapshot = table.kind == "snapshot"

    @dg.asset(
        key=raw_key(table),
        deps=[source_key(table)],
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        pool=f"adx_{table.raw_table}",
        group_name=table.group,
        description=_SNAPSHOT.format(name=table.name) if is_snapshot else _EVENTS.format(name=table.name),
        check_specs=[drop_check_spec(raw_key(table))] if is_snapshot else None,
        kinds={"azure", "kusto"},
        owners=OWNERS,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=[dg.TableColumn(name="Records", type="dynamic")]),
            "dagster/table_name": table.raw_table,
        },
        io_manager_key="adx_io_manager",
        output_required=False,
    )
    def raw(
        context: dg.AssetExecutionContext, defender: DefenderResource, adx: AdxResource
    ) -> Iterator[dg.Output[Extraction] | dg.AssetCheckResult]:
        end_with_run()
        sign_run(context.instance, context.run)
        keys = list(context.partition_keys)
        asked = Asked(
            source_table=table.name,
            run=RunIdentity(context.run.run_id, keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"),
            window=None if context.run.tags.get(SCOPE_TAG) == TICK else window_of(context.partition_time_window),
        )

        def observe(row: AuditRow, tally: Tally) -> None:
            partition = keys[0] if len(keys) == 1 else None
            context.log_event(observation(context.asset_key, row, tally, partition))
            if row.status == "Skipped":
                context.log.warning("%s is skipped: %s", row.table_name, row.failure_reason)

        name = audit_id(context.run.run_id, table.name, context.retry_number + 1)
        extraction = adx.migration(defender.client, observe, name).extract(asked)
        if extraction is not None:
            # Loaded by the IO manager before this goes on.
            yield dg.Output(extraction)
        if is_snapshot:
            yield (
                skipped_result(raw_key(table))
                if extraction is None
                else drop_result(raw_key(table), table.name, extraction.tally, adx.migration_state())
            )

    return raw


@dg.definitions
def defs() -> dg.Definitions:
    """Two assets for every table of the catalogue."""
    tables = known_tables().values()
    sources = [source_spec(table=table) for table in tables]
    raws = [raw_asset(table=table) for table in tables]
    return dg.Definitions(assets=[*sources, *raws])
