"""The check `values_fit` of every Defender table: counts of values that do not fit their typed column, once a day.

Such a value is null in the typed table and whole in the raw one. Counting them reads the JSON of every record, which is
too much for every tick: the check is a step of its own, over what came since the last day's, and can be run from the UI
at any time. One step for all tables, since each takes a query. Not here: the queries (`adx.typed_checks`).

It is a check of `defender/<Table>`, whose values they are. Dagster runs every check of an asset with the asset,
whatever job or page asks for it: on the typed asset it would be part of every load.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import dagster as dg

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.typed_checks import ROWS, count_names, unfit_counts, unfit_records
from defender_adx_pipeline.adx.typed_schema import existing_columns
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.defs.checks import LOOKS_BACK, VALUES_FIT, values_fit_spec
from defender_adx_pipeline.defs.no_duplicates import no_duplicates
from defender_adx_pipeline.defs.requests import schedule_status
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.tables import known_tables, source_key
from defender_adx_pipeline.defs.verdicts import WARN, Verdict
from defender_adx_pipeline.instants import to_text, utc_now

_KEYS = {source_key(table): table for table in known_tables().values()}


@dg.multi_asset_check(name=VALUES_FIT, specs=[values_fit_spec(table) for table in _KEYS.values()], can_subset=True)
def values_fit(context: dg.AssetCheckExecutionContext, adx: AdxResource) -> Iterator[dg.AssetCheckResult]:
    """A result for each table that is asked for; what cannot be counted is a failed one with its reason."""
    since = utc_now() - LOOKS_BACK
    tables = [_KEYS[key.asset_key] for key in sorted(context.selected_asset_check_keys)]
    try:
        existing = existing_columns(adx.client, tables)
    except AdxError as error:
        for table in tables:
            yield _not_counted(table, error)
        return
    for table in tables:
        try:
            yield fit_result(adx, table, since, existing.get(table.name, ()))
        except AdxError as error:
            yield _not_counted(table, error)


def fit_result(
    adx: AdxResource, table: DefenderTable, since: datetime, existing: Sequence[Column]
) -> dg.AssetCheckResult:
    """Count the values of one table that do not fit.

    Raises:
        AdxError: ADX could not be asked.
    """
    (counts,) = adx.client.query(unfit_counts(table, since, existing=existing))
    unfit = {column.name: int(counts[name]) for name, column in count_names(table, existing).items() if counts[name]}
    metadata: dict[str, dg.MetadataValue] = {
        "records": dg.MetadataValue.int(int(counts[ROWS])),
        "ingested_since": dg.MetadataValue.text(to_text(since)),
    }
    for name, number in unfit.items():
        metadata[name] = dg.MetadataValue.int(number)
        query = unfit_records(table, name, ingested_since=since, existing=existing)
        metadata[f"{name} (query)"] = dg.MetadataValue.md(f"```kusto\n{query}\n```")
    said = f"{counts[ROWS]} records that were ingested since {to_text(since)}: every value fits its column."
    if unfit:
        shown = ", ".join(f"{name} {number}" for name, number in unfit.items())
        said = (
            f"Values do not fit their column in {counts[ROWS]} records that were ingested since {to_text(since)}:"
            f" {shown}. They are null in the typed table and whole in {table.raw_table}; the queries show them. See"
            f" `defender-adx schema diff {table.name}`."
        )
    return Verdict(
        source_key(table), VALUES_FIT, said=said, severity=WARN, passed=not unfit, metadata=metadata
    ).result()


def _not_counted(table: DefenderTable, error: AdxError) -> dg.AssetCheckResult:
    said = f"Whether the values of {table.name} fit could not be found out: {error}"
    return Verdict(source_key(table), VALUES_FIT, said=said, severity=WARN, passed=False).result()


values_fit_job = dg.define_asset_job(
    "typed_values",
    selection=dg.AssetSelection.checks(values_fit, no_duplicates),
    description="Counts the values that do not fit their column of a typed table, and rows that are there twice.",
)

typed_values_daily = dg.ScheduleDefinition(
    name="typed_values_daily",
    job=values_fit_job,
    cron_schedule="20 6 * * *",
    execution_timezone="UTC",
    default_status=schedule_status(),
    description="Looks once a day for values that do not fit their column of a typed table, and for doubled rows.",
)
