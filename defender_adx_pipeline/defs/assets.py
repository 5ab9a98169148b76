"""The assets: every Defender table as an external source, as a raw table in ADX and as a typed one. One factory.

Here: specs and the asset body: window, plan, value. Not here: loading (`io_manager`), the engine (`migration`), the
check of a snapshot (`drop_guard`), and what is said of typed tables (`typed`, `typed_results`).
"""

from collections.abc import Iterator

import dagster as dg

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.abandoned import end_with_run, sign_run
from defender_adx_pipeline.defs.checks import (
    COMPLETENESS,
    DEAD_LETTERS,
    ROW_COUNT_DROP,
    WATERMARK_LAG,
    raw_check_specs,
    typed_check_specs,
)
from defender_adx_pipeline.defs.drop_guard import drop_result, skipped_result
from defender_adx_pipeline.defs.failing import Attempt, dead_letter_verdict
from defender_adx_pipeline.defs.partitions import daily, window_of
from defender_adx_pipeline.defs.raw_results import complete, kept_out, late
from defender_adx_pipeline.defs.reporting import RAW_SCHEMA
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import FRESHNESS, known_database, known_tables, raw_key, source_key, table_tags
from defender_adx_pipeline.defs.typed import typed_spec
from defender_adx_pipeline.defs.typed_results import TypedEvent, TypedRun
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import AuditRow, Tally, audit_id
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.health import read_health
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


def references(table: DefenderTable) -> dict[str, dg.MetadataValue]:
    """Where the assets of a table are made, on this host, and Microsoft's page of the table where it has one."""
    line = table_assets.__code__.co_firstlineno
    here = dg.LocalFileCodeReference(file_path=__file__, line_number=line, label="the factory of these assets")
    found: dict[str, dg.MetadataValue] = {
        "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[here])
    }
    # Not a code reference as well: Dagster's page says "in GitLab" of every address that is not on GitHub.
    if table.page:
        found["documentation"] = dg.MetadataValue.url(f"https://learn.microsoft.com/{table.page.removesuffix('.md')}")
    return found


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
        tags=table_tags(table),
        metadata={
            "dagster/column_schema": column_schema(table),
            "dagster/table_name": table.name,
            **references(table),
        },
    )


def raw_spec(*, table: DefenderTable, database: str) -> dg.AssetSpec:
    """The table's records in ADX, one day a partition."""
    return dg.AssetSpec(
        key=raw_key(table),
        deps=[source_key(table)],
        skippable=True,
        description=(_SNAPSHOT if table.kind == "snapshot" else _EVENTS).format(name=table.name),
        metadata={
            "dagster/column_schema": RAW_SCHEMA,
            "dagster/table_name": f"{database}.{table.raw_table}",
        },
    ).with_io_manager_key("adx_io_manager")


def table_assets(*, table: DefenderTable, database: str) -> dg.AssetsDefinition:
    """The raw and the typed rows of a table: one step, since one load fills both."""
    raw, typed = raw_spec(table=table, database=database), typed_spec(table=table, database=database)

    @dg.multi_asset(
        # What `unaudited` knows the step of a table by.
        name=raw.key.to_python_identifier(),
        specs=[
            spec.replace_attributes(
                kinds={"azure", "kusto"},
                owners=OWNERS,
                tags=table_tags(table),
                freshness_policy=FRESHNESS,
                metadata={**spec.metadata, **references(table)},
            )
            for spec in (raw, typed)
        ],
        check_specs=[*raw_check_specs(table), *typed_check_specs(table)],
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
        # A run of checks alone has no partition.
        partitioned = context.has_partition_key or context.has_partition_key_range
        keys = list(context.partition_keys) if partitioned else []
        attempt = Attempt(context, table, adx, keys, context.run.run_id)
        loading = raw.key in context.selected_asset_keys
        with attempt.readable():
            extraction = extract(context, table, defender, adx, attempt) if loading else None
        if extraction is not None:
            # Loaded by the IO manager before this goes on.
            yield dg.Output(extraction, output_name=raw.key.to_python_identifier())
        with attempt.readable(loading=False):
            yield from raw_results(context, table, extraction, adx) if loading else state_results(context, table, adx)
            if extraction is not None or not loading:
                yield from TypedRun(context, table, defender, adx, extraction).events()

    return load


def extract(
    context: dg.AssetExecutionContext, table: DefenderTable, defender: DefenderResource, adx: AdxResource, told: Attempt
) -> Extraction | None:
    """What a run is to load of a table; None when the table is switched off."""
    asked = Asked(
        source_table=table.name,
        run=RunIdentity(context.run.run_id, told.partitions),
        window=None if context.run.tags.get(SCOPE_TAG) == TICK else window_of(context.partition_time_window),
    )

    def observe(row: AuditRow, tally: Tally) -> None:
        told.observe(row, tally)
        if row.status == "Skipped":
            context.log.warning("%s is skipped: %s", row.table_name, row.failure_reason)

    name = audit_id(context.run.run_id, table.name, context.retry_number + 1)
    return adx.migration(defender.client, observe, name).extract(asked)


def raw_results(
    context: dg.AssetExecutionContext, table: DefenderTable, extraction: Extraction | None, adx: AdxResource
) -> Iterator[dg.AssetCheckResult]:
    """The results of the raw asset's checks after a load that succeeded, as far as the run was asked for them.

    Of a table that is switched off there is one for the check that Dagster would show as due; the others are skipped.
    """
    wanted = {key.name for key in context.selected_asset_check_keys if key.asset_key == raw_key(table)}
    if extraction is None:
        if ROW_COUNT_DROP in wanted:
            yield skipped_result(raw_key(table))
        return
    tally = extraction.tally
    if COMPLETENESS in wanted:
        yield complete(table, tally).result()
    if WATERMARK_LAG in wanted:
        yield late(table, tally.complete_until, now=utc_now()).result()
    if DEAD_LETTERS in wanted:
        yield dead_letter_verdict(table, adx).result()
    if ROW_COUNT_DROP in wanted:
        yield drop_result(raw_key(table), table.name, tally, adx.migration_state())


def state_results(
    context: dg.AssetExecutionContext, table: DefenderTable, adx: AdxResource
) -> Iterator[dg.AssetCheckResult]:
    """The results of the raw asset's checks that can be told without a load, where a run asks for checks alone."""
    wanted = {key.name for key in context.selected_asset_check_keys if key.asset_key == raw_key(table)}
    if not wanted & {WATERMARK_LAG, DEAD_LETTERS}:
        return
    now, state = utc_now(), adx.migration_state()
    (found,) = read_health(adx.client, state, [state.configuration(table.name)], now=now)
    if WATERMARK_LAG in wanted:
        yield late(table, found.complete_until, now=now).result()
    if DEAD_LETTERS in wanted:
        yield kept_out(table, found.dead_letters).result()


@dg.definitions
def defs() -> dg.Definitions:
    """Three assets for every table of the catalogue."""
    tables, database = known_tables().values(), known_database()
    sources = [source_spec(table=table) for table in tables]
    return dg.Definitions(assets=[*sources, *(table_assets(table=table, database=database) for table in tables)])
