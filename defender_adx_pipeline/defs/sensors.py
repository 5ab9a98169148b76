"""What follows when something changes: a table was switched on in MigrationConfiguration, a run has ended.

Not here: the clock (`schedules`).
"""

from datetime import datetime

import dagster as dg
import orjson

from defender_adx_pipeline.defs.jobs import event_tables_job, snapshot_tables_job
from defender_adx_pipeline.defs.partitions import keys_between
from defender_adx_pipeline.defs.readable import readable
from defender_adx_pipeline.defs.requests import (
    ACTIVATED_PRIORITY,
    HISTORY_TAG,
    SNAPSHOT_PRIORITY,
    partition_run,
    sensor_status,
)
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import due_snapshots, read_agenda
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.scope import readable_since


@dg.sensor(
    jobs=[event_tables_job, snapshot_tables_job],
    minimum_interval_seconds=60,
    default_status=sensor_status(),
    description=(
        "Starts the first load of a table whose configuration row turned active: all days that Defender keeps, or"
        " today's snapshot."
    ),
)
@readable
def table_activated(context: dg.SensorEvaluationContext, adx: AdxResource) -> dg.SensorResult:
    """One run for each table that is active now and was not when the sensor last looked.

    On its first look, tables that already have a watermark count as moving, and snapshot tables do if today's is
    published. Later, too, a snapshot table that was switched off and on again has nothing to do where it is.
    """
    now, state = utc_now(), adx.migration_state()
    events, snapshots = (read_agenda(state, adx.catalogue, kind) for kind in ("event", "snapshot"))
    for problem in {**events.problems, **snapshots.problems}.values():
        context.log.error(problem)
    known = set(orjson.loads(context.cursor)) if context.cursor else None
    requests = [
        _first_run(context, item, now)
        for item in events.active()
        if (item.table.name not in known if known is not None else not item.loaded_before)
    ]
    new = [item for item in snapshots.active() if known is None or item.table.name not in known]
    if new:
        due = due_snapshots(state, snapshots, now)
        requests += [_first_run(context, item, now) for item in new if item in due]
    names = [item.table.name for item in (*events.active(), *snapshots.active())]
    return dg.SensorResult(run_requests=requests, cursor=orjson.dumps(sorted(names)).decode())


def _first_run(context: dg.SensorEvaluationContext, item: TableConfiguration, now: datetime) -> dg.RunRequest:
    """All days that Defender keeps, or the state of today."""
    is_snapshot = item.table.kind == "snapshot"
    keys = keys_between(now if is_snapshot else readable_since(now), now)
    context.log.info("%s was switched on: loading %s to %s", item.table.name, keys[0], keys[-1])
    return partition_run(
        keys[0],
        keys[-1],
        [item.table],
        run_key=f"activated/{item.table.name}/{item.watermark}/{now.isoformat(timespec='minutes')}",
        priority=SNAPSHOT_PRIORITY if is_snapshot else ACTIVATED_PRIORITY,
        tags={"defender_adx/activated": item.table.name, **({} if is_snapshot else {HISTORY_TAG: item.table.name})},
        job=(snapshot_tables_job if is_snapshot else event_tables_job).name,
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=sensor_status(),
    description=(
        "Ends runs whose process is gone, and writes the audit row of every attempt that was killed, or failed, without"
        " having written one."
    ),
)
@readable
def runs_without_a_word(context: dg.SensorEvaluationContext, adx: AdxResource) -> dg.SkipReason:
    """Starts nothing."""
    settled = settle_ended_runs(context.instance, adx.migration_state(), adx.catalogue)
    if not settled:
        return dg.SkipReason("every run that has ended has told so in MigrationAuditLog")
    return dg.SkipReason(f"accounted for {', '.join(run.run_id for run in settled)}")
