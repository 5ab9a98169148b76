"""The assets: every Defender table as an external source, as a raw table in ADX and as a typed one. One factory.

Here: specs and the asset body: window, plan, value. Not here: loading (`io_manager`), the engine (`migration`), the
check of a snapshot (`drop_guard`), and what is said of typed tables (`typed`, `typed_results`).
"""

from collections.abc import Iterator

import dagster as dg

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.abandoned import end_with_run, sign_run
from defender_adx_pipeline.defs.drop_guard import NAME as DROP_CHECK
from defender_adx_pipeline.defs.drop_guard import drop_check_spec, drop_result, skipped_result
from defender_adx_pipeline.defs.partitions import daily, window_of
from defender_adx_pipeline.defs.reporting import observation
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import known_database, known_tables, raw_key, source_key
from defender_adx_pipeline.defs.typed import typed_spec
from defender_adx_pipeline.defs.typed_results import TypedEvent, TypedRun, typed_check_specs
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


def raw_spec(*, table: DefenderTable, database: str) -> dg.AssetSpec:
    """The table's records in ADX, one day a partition."""
    return dg.AssetSpec(
        key=raw_key(table),
        deps=[source_key(table)],
        skippable=True,
        description=(_SNAPSHOT if table.kind == "snapshot" else _EVENTS).format(name=table.name),
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=[dg.TableColumn(name="Records", type="dynamic")]),
            "dagster/table_name": f"{database}.{table.raw_table}",
        },
    ).with_io_manager_key("adx_io_manager")


def table_assets(*, table: DefenderTable, database: str) -> dg.AssetsDefinition:
    """The raw and the typed rows of a table: one step, since one load fills both."""
    raw, typed = raw_spec(table=table, database=database), typed_spec(table=table, database=database)
    drop = [drop_check_spec(raw.key)] if table.kind == "snapshot" else []

    @dg.multi_asset(
        # What `unaudited` knows the step of a table by.
        name=raw.key.to_python_identifier(),
        specs=[spec.replace_attributes(kinds={"azure", "kusto"}, owners=OWNERS) for spec in (raw, typed)],
        check_specs=[*drop, *typed_check_specs(table)],
        can_subset=True,
        group_name=table.group,
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        pool=f"adx_{table.raw_table}",
    )
    def load(
        context: dg.AssetExecutionContext, defender: DefenderResource, adx: AdxResource
    ) -> Iterator[dg.Output[Extraction] | TypedEvent]:
        end_with_run()
        sign_run(context.instance, context.run)
        extraction = None
        if raw.key in context.selected_asset_keys:
            extraction = extract(context, table, defender, adx)
            if extraction is not None:
                # Loaded by the IO manager before this goes on.
                yield dg.Output(extraction, output_name=raw.key.to_python_identifier())
            if dg.AssetCheckKey(raw.key, DROP_CHECK) in context.selected_asset_check_keys:
                yield _drop_result(table, extraction, adx)
            if extraction is None:
                return
        yield from TypedRun(context, table, defender, adx, extraction).events()

    return load


def extract(
    context: dg.AssetExecutionContext, table: DefenderTable, defender: DefenderResource, adx: AdxResource
) -> Extraction | None:
    """What a run is to load of a table; None when the table is switched off."""
    keys = list(context.partition_keys)
    asked = Asked(
        source_table=table.name,
        run=RunIdentity(context.run.run_id, keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"),
        window=None if context.run.tags.get(SCOPE_TAG) == TICK else window_of(context.partition_time_window),
    )

    def observe(row: AuditRow, tally: Tally) -> None:
        partition = keys[0] if len(keys) == 1 else None
        context.log_event(observation(raw_key(table), row, tally, partition))
        if row.status == "Skipped":
            context.log.warning("%s is skipped: %s", row.table_name, row.failure_reason)

    name = audit_id(context.run.run_id, table.name, context.retry_number + 1)
    return adx.migration(defender.client, observe, name).extract(asked)


def _drop_result(table: DefenderTable, extraction: Extraction | None, adx: AdxResource) -> dg.AssetCheckResult:
    if extraction is None:
        return skipped_result(raw_key(table))
    return drop_result(raw_key(table), table.name, extraction.tally, adx.migration_state())


@dg.definitions
def defs() -> dg.Definitions:
    """Three assets for every table of the catalogue."""
    tables, database = known_tables().values(), known_database()
    sources = [source_spec(table=table) for table in tables]
    return dg.Definitions(assets=[*sources, *(table_assets(table=table, database=database) for table in tables)])
