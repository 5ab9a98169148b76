"""Runs that ended without a word: each attempt of theirs gets its audit row and its observation.

An attempt that could speak to Dagster and not to ADX has its observation; its audit row is written from that.

Here: which attempts those are, by Dagster's own records. Not here: the row (`migration.killed`) and finding out that a
process is gone (`abandoned`).

A sensor of Dagster's own for the end of runs (`run_status_sensor`) would go on to the next run although ADX could not
be reached for this one; here a run stays due until its rows are written, and is marked then.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from defender_adx_pipeline.catalogue import Catalogue, DefenderTable
from defender_adx_pipeline.defs.abandoned import Worker, end_abandoned_runs
from defender_adx_pipeline.defs.partitions import partitions_of
from defender_adx_pipeline.defs.reporting import audited, observation
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.audit import AuditRow, audit_id
from defender_adx_pipeline.migration.killed import EndedAttempt, account
from defender_adx_pipeline.migration.state import StateStore

AUDITED_TAG = "defender_adx/audited"
"""Its value is the run's id: a run that Dagster starts once more has the tags of the first."""

RUN_ID = "run_id"
"""Metadata of an observation that was made for a run, not by it."""

ELSEWHERE = timedelta(minutes=15)
"""How long a process on another machine, of which nobody here can tell, may go on after its run has ended."""

_LOOK_BACK = timedelta(days=7)
_RUNS = 1000
_ENDS = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SUCCESS}
_BEGINS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_LOG = logging.getLogger(__name__)


def settle_ended_runs(instance: dg.DagsterInstance, state: StateStore, catalogue: Catalogue) -> list[dg.DagsterRun]:
    """End the runs whose process is gone, and account for every attempt that ended without a word of its own.

    Returns:
        The runs for which something was written.

    Raises:
        AdxError: ADX could not be asked or written to; the next look at the runs goes on from here.
    """
    end_abandoned_runs(instance)
    statuses = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    due = dg.RunsFilter(statuses=statuses, updated_after=utc_now() - _LOOK_BACK)
    settled = []
    for record in reversed(instance.get_run_records(filters=due, limit=_RUNS)):
        run = record.dagster_run
        if run.tags.get(AUDITED_TAG) == run.run_id or not _may_be_ours(run, catalogue):
            continue
        attempts = list(_attempts(instance, record, catalogue))
        if any(attempt is None for attempt in attempts):
            continue
        for attempt in filter(None, attempts):
            _account(instance, state, catalogue, attempt)
        written = [name for name, row in _observed(instance, record, catalogue) if _write(state, name, row)]
        settled += [run] if attempts or written else []
        instance.add_run_tags(run.run_id, {AUDITED_TAG: run.run_id})
    return settled


def _may_be_ours(run: dg.DagsterRun, catalogue: Catalogue) -> bool:
    """False for a run that was asked for other assets only."""
    return any(_loads(run, table) for table in catalogue.values())


def _loads(run: dg.DagsterRun, table: DefenderTable) -> bool:
    """Whether the raw asset of a table may be among those of a run; one of a whole job does not say which it has."""
    if run.asset_selection:
        return raw_key(table) in run.asset_selection
    return not run.asset_check_selection


def _attempts(
    instance: dg.DagsterInstance, record: dg.RunRecord, catalogue: Catalogue
) -> Iterator[EndedAttempt | None]:
    """The attempts of a run without an observation; None for one that may still go on."""
    run = record.dagster_run
    # The step of a table of which the run was asked for the typed asset alone has loaded nothing.
    steps = {raw_key(table).to_python_identifier(): table for table in catalogue.values() if _loads(run, table)}
    entries = [entry for entry in instance.all_logs(run.run_id, of_type={*_BEGINS, *_ENDS}) if entry.step_key in steps]
    tries = Counter(str(entry.step_key) for entry in entries if entry.dagster_event_type in _BEGINS)
    began = {str(entry.step_key): entry.timestamp for entry in entries if entry.dagster_event_type in _BEGINS}
    ends = {str(entry.step_key): entry for entry in entries if entry.dagster_event_type in _ENDS}
    goes_on = _may_go_on(record)
    for step, number in tries.items():
        if len(_observations(instance, steps[step], run.run_id, since=record.create_timestamp)) >= number:
            continue
        if step not in ends and goes_on:
            # Marked as cancelled by force, say: the step may yet write its row, or load rows that the row has to count.
            yield None
            continue
        yield EndedAttempt(
            source_table=steps[step].name,
            run_id=run.run_id,
            partitions=partitions_of(run.tags),
            started=_instant(began[step]),
            ended=_ended(record),
            why=_why(run, ends.get(step)),
            tries=number,
            is_snapshot=steps[step].kind == "snapshot",
        )


def _may_go_on(record: dg.RunRecord) -> bool:
    """Whether the run's process may still work, although the run has ended for Dagster."""
    worker = Worker.of(record.dagster_run)
    if worker is None or worker == Worker.here(worker.run_id):
        return False
    return not worker.is_gone() if worker.is_here else _ended(record) > utc_now() - ELSEWHERE


def _ended(record: dg.RunRecord) -> datetime:
    return _instant(record.end_time) if record.end_time else record.update_timestamp


def _why(run: dg.DagsterRun, end: dg.EventLogEntry | None) -> str:
    event = end.dagster_event if end is not None else None
    if event is None or event.event_type != dg.DagsterEventType.STEP_FAILURE:
        return f"Dagster has the run as {run.status.value}, and no end of the step."
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause  # beneath what Dagster has wrapped around it
    return f"the step failed: {error.message.strip()}" if error else "the step failed."


def _account(instance: dg.DagsterInstance, state: StateStore, catalogue: Catalogue, attempt: EndedAttempt) -> None:
    table = catalogue[attempt.source_table]
    row, tally = account(state, attempt)
    partition = None if "..." in attempt.partitions else attempt.partitions or None
    seen = observation(raw_key(table), row, tally, partition)
    instance.report_runless_asset_event(seen.with_metadata({**seen.metadata, RUN_ID: attempt.run_id}))
    _LOG.warning("run %s ended without its own word on %s: %s", attempt.run_id, table.name, row.failure_reason)


def _observed(
    instance: dg.DagsterInstance, record: dg.RunRecord, catalogue: Catalogue
) -> Iterator[tuple[str, AuditRow]]:
    """What attempts of the run told Dagster, with the name that the audit row has."""
    run = record.dagster_run
    for table in catalogue.values():
        if not _loads(run, table):
            continue
        seen = _observations(instance, table, run.run_id, since=record.create_timestamp)
        for tries, one in enumerate(reversed(seen), 1):
            if RUN_ID not in one.metadata:
                yield audit_id(run.run_id, table.name, tries), audited(one)


def _write(state: StateStore, name: str, row: AuditRow) -> bool:
    """Write the audit row that an attempt could not write; whether it was missing."""
    if state.has_audit(name):
        return False
    state.append_audit(row, once=name)
    _LOG.warning("the audit row of an attempt at %s is written now: %s", row.table_name, row.failure_reason)
    return True


def _observations(
    instance: dg.DagsterInstance, table: DefenderTable, run_id: str, *, since: datetime
) -> list[dg.AssetObservation]:
    """The observations of the asset that the run made, or that were made for it, the newest first.

    Asked of the asset and not of the run: the SQLite storage keeps the two apart, and a kill may come between them.
    """
    newest = dg.AssetRecordsFilter(raw_key(table), after_timestamp=since.timestamp())
    found = []
    for record in instance.fetch_observations(newest, limit=_RUNS).records:
        seen = record.asset_observation
        if seen is None:
            continue
        made_for = seen.metadata.get(RUN_ID)
        if record.event_log_entry.run_id == run_id or (made_for is not None and made_for.value == run_id):
            found.append(seen)
    return found


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
