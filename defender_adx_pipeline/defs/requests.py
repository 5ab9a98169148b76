"""What schedules and sensors have in common: runs to ask for, which goes first, what is under way, who is switched on.

Priorities order the runs that wait for a slot and the steps that wait for their table's pool: what cannot be had
tomorrow first, then today, then history. Runs of history bear `HISTORY_TAG` and leave slots (`dagster.yaml`) and a part
of the quota (`resources`) to the others. Not here: when anything is asked for (`schedules`, `sensors`, `gaps`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

import dagster as dg

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.abandoned import UNFINISHED
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline.defs.tables import loaded_keys
from defender_adx_pipeline.settings import SettingsError, load_settings

PRIORITY_TAG: Final = "dagster/priority"
BACKFILL_TAG: Final = "dagster/backfill"
"""On runs of a backfill, which Dagster makes itself. Their priority is what the dialog gives them as a tag, or 0."""

HISTORY_TAG: Final = "defender_adx/history"
"""On runs that are about days before today's: sweeps, first loads, gaps. Backfills have `BACKFILL_TAG` instead."""

SNAPSHOT_PRIORITY: Final = 30
"""A state that nobody took today cannot be had tomorrow."""
TICK_PRIORITY: Final = 20
ACTIVATED_PRIORITY: Final = 5
GAP_PRIORITY: Final = 0
SWEEP_PRIORITY: Final = -10

_ENDS = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SKIPPED}
_PLANNED = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED}


def is_switched_on() -> bool:
    """DEFENDER_AUTOMATION; false where the settings are bad, which every run then says."""
    try:
        return load_settings().defender_automation
    except SettingsError:
        return False


def schedule_status() -> dg.DefaultScheduleStatus:
    """Whether a schedule runs that nobody has switched in the UI."""
    return dg.DefaultScheduleStatus.RUNNING if is_switched_on() else dg.DefaultScheduleStatus.STOPPED


def sensor_status() -> dg.DefaultSensorStatus:
    """Whether a sensor runs that nobody has switched in the UI."""
    return dg.DefaultSensorStatus.RUNNING if is_switched_on() else dg.DefaultSensorStatus.STOPPED


def is_history(tags: Mapping[str, str]) -> bool:
    """Whether a run of these tags is to leave room to those over today."""
    return HISTORY_TAG in tags or BACKFILL_TAG in tags


def partition_run(
    first: str,
    last: str,
    tables: Iterable[DefenderTable],
    *,
    run_key: str,
    priority: int,
    tags: Mapping[str, str] | None = None,
    job: str | None = None,
) -> dg.RunRequest:
    """A run of some tables over one partition, or over a range of them in one go; `job` where there is a choice."""
    selection = loaded_keys(tables)
    every = {PRIORITY_TAG: str(priority), **(tags or {})}
    if first == last:
        return dg.RunRequest(run_key=run_key, job_name=job, partition_key=first, asset_selection=selection, tags=every)
    span = {RANGE_START: first, RANGE_END: last}
    return dg.RunRequest(run_key=run_key, job_name=job, asset_selection=selection, tags={**every, **span})


def tables_under_way(instance: dg.DagsterInstance, *, backfills: bool = True) -> dict[dg.AssetKey, str]:
    """Assets that a run is still to load or loads now, and the run: another one would only wait in their pool.

    Args:
        instance: whose runs.
        backfills: whether those of backfills count. A tick does not wait until a backfill of thirty days has ended: it
            waits in the pool for the step that is at work, and goes before those that wait there.
    """
    busy: dict[dg.AssetKey, str] = {}
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        if not backfills and BACKFILL_TAG in run.tags:
            continue
        entries = instance.all_logs(run.run_id, of_type={*_ENDS, *_PLANNED})
        # A table's step that has ended leaves the table free, whatever else its run still does.
        ended = {entry.step_key for entry in entries if entry.dagster_event_type in _ENDS}
        # A run of a whole job has no selection.
        keys = run.asset_selection or {
            entry.dagster_event.asset_key
            for entry in entries
            if entry.dagster_event and entry.dagster_event_type in _PLANNED and entry.dagster_event.asset_key
        }
        busy |= {key: run.run_id for key in keys if key.to_python_identifier() not in ended}
    return busy
