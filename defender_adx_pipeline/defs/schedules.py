"""When runs start by the clock: a tick every 15 minutes and a daily sweep over event tables, snapshots once a day.

Not here: what a run does. All ask the configuration anew each time, so a table can be switched on or off without a
reload, and end what is left of runs whose process is gone.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime

import dagster as dg

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.catalogue import DefenderTable, TableKind
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.defs.assets import SCOPE_TAG, SWEEP, TICK
from defender_adx_pipeline.defs.jobs import event_tables_job, snapshot_tables_job
from defender_adx_pipeline.defs.partitions import keys_between
from defender_adx_pipeline.defs.readable import readable
from defender_adx_pipeline.defs.requests import (
    HISTORY_TAG,
    SNAPSHOT_PRIORITY,
    SWEEP_PRIORITY,
    TICK_PRIORITY,
    partition_run,
    schedule_status,
    tables_under_way,
)
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import due_since, due_snapshots, read_agenda
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.probe import Due, probe
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window

_NOTHING = "no active event table in MigrationConfiguration is free to run"
_QUIET = "none of {} tables has anything new"
_NO_SNAPSHOTS = "no snapshot table in MigrationConfiguration is active"


@dg.schedule(
    job=event_tables_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=schedule_status(),
    description=(
        "Loads what is new in the active event tables, from the watermark less the overlap up to now. All tables are"
        " asked at once whether there is anything, and those alone get a run that have something."
    ),
)
@readable
def event_tables_tick(
    context: dg.ScheduleEvaluationContext, adx: AdxResource, defender: DefenderResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for all tables that touch the same partitions: mostly one, two around midnight."""
    state = adx.migration_state()
    # Quiet windows are recorded as complete from here, and a clock ahead would complete what is still to come.
    now = min(utc_now(), state.present())
    overlap, settled = adx.settings.defender_overlap, now - adx.settings.defender_settle
    since = due_since(state, list(_free_tables(context, adx)), now=now, overlap=overlap)
    groups: defaultdict[tuple[str, str], list[DefenderTable]] = defaultdict(list)
    for item in _with_something_new(context, adx, defender, since, settled):
        keys = keys_between(since[item], now)
        if keys:
            groups[keys[0], keys[-1]].append(item.table)
    if not groups:
        yield dg.SkipReason(_QUIET.format(len(since)) if since else _NOTHING)
    for (first, last), tables in groups.items():
        stamp = context.scheduled_execution_time.isoformat(timespec="minutes")
        key = f"tick/{stamp}/{first}/{last}"
        yield partition_run(first, last, tables, run_key=key, priority=TICK_PRIORITY, tags={SCOPE_TAG: TICK})


@dg.schedule(
    job=event_tables_job,
    cron_schedule="40 3 * * *",
    execution_timezone="UTC",
    default_status=schedule_status(),
    description=(
        "Compares every active event table with Defender over all days that Defender keeps, and loads what is missing:"
        " rows that came later than the overlap of the tick, and what a failed run of an old partition left open."
    ),
)
@readable
def event_tables_sweep(
    context: dg.ScheduleEvaluationContext, adx: AdxResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each category of tables: a tick leaves a table out until the whole run has ended."""
    now = utc_now()
    keys = keys_between(readable_since(now), now)
    groups: defaultdict[str, list[DefenderTable]] = defaultdict(list)
    for item in _free_tables(context, adx):
        groups[item.table.group].append(item.table)
    if not groups:
        yield dg.SkipReason(_NOTHING)
    for group, tables in groups.items():
        stamp = context.scheduled_execution_time.isoformat(timespec="minutes")
        tags = {SCOPE_TAG: SWEEP, HISTORY_TAG: group}
        key = f"sweep/{stamp}/{group}"
        yield partition_run(keys[0], keys[-1], tables, run_key=key, priority=SWEEP_PRIORITY, tags=tags)


@dg.schedule(
    job=snapshot_tables_job,
    cron_schedule="10 5,9,13,17,21 * * *",
    execution_timezone="UTC",
    default_status=schedule_status(),
    description=(
        "Takes today's snapshot of every active snapshot table, once a day: the later hours are for tables whose"
        " snapshot of the day is not published yet, because a run failed or the table was switched on meanwhile."
    ),
)
@readable
def snapshot_tables_daily(
    context: dg.ScheduleEvaluationContext, adx: AdxResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for all tables that are due: a state that nobody took today cannot be had tomorrow."""
    state, now = adx.migration_state(), utc_now()
    free = {item.table.name for item in _free_tables(context, adx, "snapshot")}
    agenda = read_agenda(state, adx.catalogue, "snapshot")
    due = [item.table for item in due_snapshots(state, agenda, now)]
    tables = [table for table in due if table.name in free]
    if not tables:
        published = "the snapshots of today are published" if agenda.active() else _NO_SNAPSHOTS
        yield dg.SkipReason("runs over what is due are under way" if due else published)
        return
    today, stamp = now.date().isoformat(), context.scheduled_execution_time.isoformat(timespec="minutes")
    key = f"{snapshot_tables_job.name}/{stamp}/{today}"
    yield partition_run(today, today, tables, run_key=key, priority=SNAPSHOT_PRIORITY)


def _with_something_new(
    context: dg.ScheduleEvaluationContext,
    adx: AdxResource,
    defender: DefenderResource,
    since: Mapping[TableConfiguration, datetime],
    settled: datetime,
) -> list[TableConfiguration]:
    """The tables that a tick has to run; all of them where that cannot be found out."""
    # One that is complete up to what has settled has a clock or a watermark that its run complains of.
    due = [Due(item, Window(start, settled)) for item, start in since.items() if start < settled]
    others = [item for item, start in since.items() if start >= settled]
    if not due:
        return others
    run_id = f"tick {context.scheduled_execution_time.isoformat(timespec='minutes')}"
    try:
        with closing(defender.impatient_client()) as client:
            probed = probe(client, adx.client, adx.migration_state(), due, run_id=run_id, now=utc_now())
    except (HuntingError, AdxError) as error:
        context.log.warning(
            "every table gets a run, since it could not be found out which have something new: %s", error
        )
        return list(since)
    context.log.info("%d of %d tables have something new", len(probed.busy) + len(others), len(since))
    return [*others, *(one.item for one in probed.busy)]


def _free_tables(
    context: dg.ScheduleEvaluationContext, adx: AdxResource, kind: TableKind = "event"
) -> Iterator[TableConfiguration]:
    """The active tables of a kind that no run works on; what is wrong with others goes to the log."""
    state = adx.migration_state()
    settle_ended_runs(context.instance, state, adx.catalogue)
    agenda = read_agenda(state, adx.catalogue, kind)
    for problem in agenda.problems.values():
        context.log.error(problem)
    # One writer per table: two readings of a snapshot table would both be published.
    busy = tables_under_way(context.instance, backfills=kind == "snapshot")
    for item in agenda.active():
        run_id = busy.get(raw_key(item.table))
        if run_id is None:
            yield item
            continue
        context.log.warning(
            "%s is left out: run %s over it has not ended. If its process was on another machine and is gone, terminate"
            " the run in the UI, with the option to mark it as cancelled at once; the next tick goes on from the"
            " ledger.",
            item.table.name,
            run_id,
        )
