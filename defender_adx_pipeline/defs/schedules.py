"""When runs start by the clock: every 15 minutes a tick over the active event tables.

Not here: what a run does. The tick asks the configuration anew each time, so a table can be switched on or off
without a reload.
"""

from collections import defaultdict
from collections.abc import Iterator

import dagster as dg

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.abandoned import UNFINISHED
from defender_adx_pipeline.defs.assets import SCOPE_TAG, TICK, raw_key
from defender_adx_pipeline.defs.jobs import event_tables_job
from defender_adx_pipeline.defs.partitions import keys_between
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import due_since, read_agenda

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


@dg.schedule(
    job=event_tables_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    description="Loads what is new in every active event table, from its watermark less the overlap up to now.",
)
def event_tables_tick(
    context: dg.ScheduleEvaluationContext, adx: AdxResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for all tables that touch the same partitions: mostly one, two around midnight."""
    now = utc_now()
    agenda = read_agenda(adx.migration_state(), adx.catalogue)
    for problem in agenda.problems.values():
        context.log.error(problem)
    busy = tables_under_way(context.instance)
    groups: defaultdict[tuple[str, str], list[DefenderTable]] = defaultdict(list)
    for item in agenda.active():
        run_id = busy.get(raw_key(item.table))
        if run_id is not None:
            context.log.warning(
                "%s is left out: run %s over it has not ended. If its process is gone, terminate the run in the UI,"
                " with the option to mark it as cancelled at once; the next tick goes on from the ledger.",
                item.table.name,
                run_id,
            )
            continue
        since = due_since(adx.migration_state(), item, now=now, overlap=adx.settings.defender_overlap)
        keys = keys_between(since, now)
        if keys:
            groups[keys[0], keys[-1]].append(item.table)
    if not groups:
        yield dg.SkipReason("no active event table in MigrationConfiguration is free to run")
    for (first, last), tables in groups.items():
        stamp = context.scheduled_execution_time.isoformat(timespec="minutes")
        yield partition_run(first, last, tables, run_key=f"tick/{stamp}/{first}/{last}", tags={SCOPE_TAG: TICK})


def partition_run(
    first: str, last: str, tables: list[DefenderTable], *, run_key: str, tags: dict[str, str]
) -> dg.RunRequest:
    """A run of some tables over one partition, or over a range of them in one go."""
    selection = [raw_key(table) for table in tables]
    if first == last:
        return dg.RunRequest(run_key=run_key, partition_key=first, asset_selection=selection, tags=tags)
    span = {RANGE_START: first, RANGE_END: last}
    return dg.RunRequest(run_key=run_key, asset_selection=selection, tags={**tags, **span})


def tables_under_way(instance: dg.DagsterInstance) -> dict[dg.AssetKey, str]:
    """Assets of runs that have not ended, and the run: another run of them would only wait in their pool."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED))
    return {key: run.run_id for run in runs for key in run.asset_selection or ()}
