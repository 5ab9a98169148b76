"""What follows when something changes: a table was switched on in MigrationConfiguration, a run has ended.

Not here: the clock (`schedules`).
"""

import dagster as dg
import orjson

from defender_adx_pipeline.defs.jobs import event_tables_job
from defender_adx_pipeline.defs.partitions import keys_between
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.schedules import partition_run
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.scope import readable_since


@dg.sensor(
    job=event_tables_job,
    minimum_interval_seconds=60,
    description="Starts the first load of a table whose configuration row turned active: all days that Defender keeps.",
)
def table_activated(context: dg.SensorEvaluationContext, adx: AdxResource) -> dg.SensorResult:
    """One run for each table that is active now and was not when the sensor last looked.

    On its first look, tables that already have a watermark count as moving.
    """
    now = utc_now()
    agenda = read_agenda(adx.migration_state(), adx.catalogue)
    for problem in agenda.problems.values():
        context.log.error(problem)
    known = set(orjson.loads(context.cursor)) if context.cursor else None
    requests = []
    for item in agenda.active():
        is_new = item.table.name not in known if known is not None else not item.loaded_before
        if not is_new:
            continue
        keys = keys_between(readable_since(now), now)
        context.log.info("%s was switched on: loading %s to %s", item.table.name, keys[0], keys[-1])
        requests.append(
            partition_run(
                keys[0],
                keys[-1],
                [item.table],
                run_key=f"activated/{item.table.name}/{item.watermark}/{now.isoformat(timespec='minutes')}",
                tags={"defender_adx/activated": item.table.name},
            )
        )
    cursor = orjson.dumps(sorted(item.table.name for item in agenda.active())).decode()
    return dg.SensorResult(run_requests=requests, cursor=cursor)


@dg.sensor(
    minimum_interval_seconds=30,
    description=(
        "Ends runs whose process is gone, and writes the audit row of every attempt that was killed, or failed, without"
        " having written one."
    ),
)
def runs_without_a_word(context: dg.SensorEvaluationContext, adx: AdxResource) -> dg.SkipReason:
    """Starts nothing."""
    settled = settle_ended_runs(context.instance, adx.migration_state(), adx.catalogue)
    if not settled:
        return dg.SkipReason("every run that has ended has told so in MigrationAuditLog")
    return dg.SkipReason(f"accounted for {', '.join(run.run_id for run in settled)}")
