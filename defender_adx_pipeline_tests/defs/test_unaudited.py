"""Attempts that ended without a word get their audit row and observation, once. Real kills are in `test_kills`."""

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import dagster as dg
import pytest
from dagster._core.events import AssetObservationData

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs import unaudited
from defender_adx_pipeline.defs.abandoned import Worker
from defender_adx_pipeline.defs.checks import SAME_ROWS
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline.defs.reporting import observation
from defender_adx_pipeline.defs.sensors import runs_without_a_word
from defender_adx_pipeline.defs.tables import raw_key, typed_key
from defender_adx_pipeline.defs.unaudited import settle_ended_runs
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.audit import AuditRow, Tally, audit_id
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_row
from defender_adx_pipeline.migration.slices import Slice
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
GONE = replace(Worker.here(), pid=2**22 + 1)
"""No process has such a number: Linux ends at 2**22."""


def killed_run(
    dagster: Dagster,
    table: DefenderTable,
    *,
    worker: Worker = GONE,
    tags: dict[str, str] | None = None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    assets: Iterable[dg.AssetKey] | None = None,
) -> dg.DagsterRun:
    """A run as a kill leaves it: its step has begun, and nothing else happened."""
    run = dagster.instance.create_run_for_job(
        dagster.definitions.resolve_job_def("snapshot_tables" if table.kind == "snapshot" else "event_tables"),
        asset_selection=frozenset({raw_key(table)} if assets is None else assets),
        tags={**worker.tags(), **(tags or {"dagster/partition": "2026-11-20"})},
        status=status,
    )
    step = raw_key(table).to_python_identifier()
    event = dg.DagsterEvent(dg.DagsterEventType.STEP_START.value, run.job_name, step_key=step)
    dagster.instance.report_dagster_event(event, run.run_id)
    return run


def test_a_killed_run_that_was_to_load_nothing_gets_no_audit_row(world: World, dagster: Dagster, table: str) -> None:
    known, other = world.catalogue[table], world.catalogue["DeviceTvmInfoGathering"]
    killed_run(dagster, known, assets=[typed_key(known)])
    killed_run(dagster, known, assets=[typed_key(known), raw_key(other)])
    checks = frozenset({dg.AssetCheckKey(typed_key(known), SAME_ROWS)})
    assert not unaudited._loads(dg.DagsterRun(job_name="of checks alone", asset_check_selection=checks), known)
    assert settle(world, dagster) == []
    assert world.audits(table) == dagster.observations(table) == []
    both = killed_run(dagster, known, assets=[raw_key(known), typed_key(known)])
    assert settle(world, dagster) == [both.run_id]
    assert world.statuses(table) == ["Failed"]


def settle(world: World, dagster: Dagster) -> list[str]:
    state = world.migration().state
    return [run.run_id for run in settle_ended_runs(dagster.instance, state, world.catalogue)]


def slices(world: World, table: DefenderTable, run_id: str, states: list[str]) -> Window:
    """Slices of ten rows in the ledger, each with every state up to its own."""
    run, start = RunIdentity(run_id, "2026-11-20"), world.now - 2 * DAY
    order = ["Planned", "Queued", "Confirmed"]
    rows = []
    for number, last in enumerate(states):
        window = Window(start + number * DAY / 24, start + (number + 1) * DAY / 24)
        item = Slice(f"{number:032x}", table.name, table.raw_table, window, 10, "Planned", 10, 1000)
        rows += [slice_row(item, run, state=state, now=world.now) for state in order[: order.index(last) + 1]]
    world.migration().state.append_ledger(rows)
    return Window(start, start + len(states) * DAY / 24)


def test_a_killed_run_is_ended_and_gets_its_audit_row_with_what_the_ledger_has(
    world: World, dagster: Dagster, table: str
) -> None:
    known = world.catalogue[table]
    run = killed_run(dagster, known)
    window = slices(world, known, run.run_id, ["Confirmed", "Confirmed", "Queued", "Planned"])
    slices(world, known, "another run", ["Confirmed"])
    assert settle(world, dagster) == [run.run_id]
    (row,) = world.audits(table)
    assert (row["Status"], row["RecordCount"]) == ("Failed", 20)
    for part in (
        run.run_id,
        "2026-11-20",
        str(window),
        "Of its 4 slices",
        "2 are confirmed",
        "goes on from the ledger",
    ):
        assert part in row["FailureReason"]
    (seen,) = dagster.observations(table)
    assert seen.partition == "2026-11-20"
    assert seen.metadata["FailureReason"].value == row["FailureReason"]
    assert seen.metadata["run_id"].value == run.run_id
    ended = dagster.instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.FAILURE


def test_a_killed_run_over_a_snapshot_table_gets_a_row_that_says_what_becomes_of_the_day(
    world: World, dagster: Dagster
) -> None:
    known, today = world.catalogue["DeviceTvmInfoGathering"], world.now.date().isoformat()
    add_state(world.tenant.source, known.name, 30)
    run = killed_run(dagster, known, tags={"dagster/partition": today})
    # As far as the asset comes before its rows are read.
    begun = world.migration().extract(Asked(known.name, RunIdentity(run.run_id, today), None))
    assert begun is not None
    assert settle(world, dagster) == [run.run_id]
    row = world.audits(known.name)[-1]
    assert (row["Status"], row["RecordCount"]) == ("Failed", 0)
    for part in (run.run_id, today, "Of its 1 slices", "not published", "The next run of the same day goes on with it"):
        assert part in row["FailureReason"]
    assert dagster.observations(known.name)[-1].partition == today
    # Not published either: other tests ask what is due today.
    goes_on = world.migration().extract(Asked(known.name, RunIdentity("the next", today), None))
    assert goes_on is not None
    assert goes_on.plan.resumed == {item.slice_id for item in begun.plan.slices} != set()


def test_an_attempt_that_could_not_write_its_audit_row_gets_it_from_its_observation(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=timedelta(hours=30))
    match = ".append ['MigrationAuditLog']"
    world.tenant.faults.add("engine", "status", match=match, times=None, status=400)
    result = dagster.materialize(table, (world.now - timedelta(hours=30)).date().isoformat())
    assert not result.success
    (observation,) = dagster.observations(table)
    assert world.audits(table) == []
    world.tenant.faults.clear()
    assert settle(world, dagster) == [result.run_id]
    assert settle(world, dagster) == []
    (row,) = world.audits(table)
    for field in ("TableName", "Status", "FailureReason", "RecordCount"):
        assert row[field] == observation.metadata[field].value
    assert len(dagster.observations(table)) == 1


def test_asked_again_nothing_is_written_a_second_time(world: World, dagster: Dagster, table: str) -> None:
    run = killed_run(dagster, world.catalogue[table])
    assert settle(world, dagster) == [run.run_id]
    assert settle(world, dagster) == []
    # Killed between its own writing and the mark that it has written.
    dagster.instance.add_run_tags(run.run_id, {"defender_adx/audited": "no"})
    assert settle(world, dagster) == []
    assert len(world.audits(table)) == len(dagster.observations(table)) == 1


def test_an_attempt_that_was_killed_after_its_audit_row_is_observed_with_that_row(
    world: World, dagster: Dagster, table: str
) -> None:
    run = killed_run(dagster, world.catalogue[table])
    said = AuditRow(table, datetime.now(tz=world.now.tzinfo), "Success", "", 7)
    world.migration().state.append_audit(said, once=audit_id(run.run_id, table))
    settle(world, dagster)
    (row,) = world.audits(table)
    (seen,) = dagster.observations(table)
    assert (row["Status"], row["RecordCount"]) == ("Success", 7)
    assert (seen.metadata["Status"].value, seen.metadata["RecordCount"].value) == ("Success", 7)


def test_an_observation_that_a_kill_kept_from_the_asset_is_made_up_for(
    world: World, dagster: Dagster, table: str
) -> None:
    # The SQLite storage writes an asset's event into the log of the run first, and then into that of all assets.
    known = world.catalogue[table]
    run = killed_run(dagster, known)
    said = AuditRow(table, datetime.now(tz=world.now.tzinfo), "Success", "", 7)
    world.migration().state.append_audit(said, once=audit_id(run.run_id, table))
    data = AssetObservationData(observation(raw_key(known), said, Tally(), None))
    kind = dg.DagsterEventType.ASSET_OBSERVATION.value
    event = dg.DagsterEvent(
        kind, run.job_name, step_key=raw_key(known).to_python_identifier(), event_specific_data=data
    )
    entry = dg.EventLogEntry(None, "debug", "", run.run_id, said.timestamp.timestamp(), dagster_event=event)
    storage = dagster.instance.event_log_storage
    with storage.run_connection(run.run_id) as connection:
        connection.execute(storage.prepare_insert_event(entry))
    assert dagster.observations(table) == []
    settle(world, dagster)
    (seen,) = dagster.observations(table)
    assert (seen.metadata["Status"].value, world.statuses(table)) == ("Success", ["Success"])


def test_an_audit_row_of_the_attempt_that_comes_after_the_one_written_for_it_is_not_taken(
    world: World, dagster: Dagster, table: str
) -> None:
    run = killed_run(dagster, world.catalogue[table])
    settle(world, dagster)
    late = AuditRow(table, world.now, "Success", "", 7)
    world.migration().state.append_audit(late, once=audit_id(run.run_id, table))
    assert world.statuses(table) == ["Failed"]


def test_a_row_of_another_attempt_in_the_same_minutes_is_not_taken_for_the_missing_one(
    world: World, dagster: Dagster, table: str
) -> None:
    killed_run(dagster, world.catalogue[table])
    world.migration().state.append_audit(AuditRow(table, datetime.now(tz=world.now.tzinfo), "Success", "", 7))
    settle(world, dagster)
    assert sorted(world.statuses(table)) == ["Failed", "Success"]


def test_a_run_that_failed_with_its_own_word_is_left_as_it_is(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * DAY / 24)
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=400, body="{}")
    assert not dagster.materialize(table, (world.now - DAY).date().isoformat()).success
    world.tenant.faults.clear()
    assert settle(world, dagster) == []
    assert len(world.audits(table)) == len(dagster.observations(table)) == 1


def test_a_step_that_failed_before_it_had_settings_gets_the_row_that_says_why(
    world: World, dagster: Dagster, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DEFENDER_SETTLE", "soon")
        assert not dagster.materialize(table, (world.now - DAY).date().isoformat()).success
    assert world.audits(table) == []
    settle(world, dagster)
    (row,) = world.audits(table)
    assert row["Status"] == "Failed"
    assert "DEFENDER_SETTLE" in row["FailureReason"]
    assert "It had planned nothing yet" in row["FailureReason"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on another machine"])
def test_a_cancelled_run_whose_process_may_still_work_is_looked_at_when_that_has_ended(
    world: World, dagster: Dagster, table: str, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    # Marked as cancelled by force, which ends no process.
    works = replace(GONE, host="another machine") if elsewhere else Worker.process(os.getppid())
    run = killed_run(dagster, world.catalogue[table], worker=works)
    dagster.instance.report_run_canceled(run)
    assert settle(world, dagster) == []
    assert world.audits(table) == []
    if elsewhere:
        monkeypatch.setattr(unaudited, "ELSEWHERE", timedelta(0))
    else:
        dagster.instance.add_run_tags(run.run_id, GONE.tags())
    assert settle(world, dagster) == [run.run_id]
    assert "CANCELED" in world.audits(table)[0]["FailureReason"]


def test_a_run_that_is_started_once_more_has_a_row_of_its_own(world: World, dagster: Dagster, table: str) -> None:
    first = killed_run(dagster, world.catalogue[table])
    settle(world, dagster)
    marked = dagster.instance.get_run_by_id(first.run_id)
    assert marked is not None
    inherited = {name: text for name, text in marked.tags.items() if name.startswith("defender_adx/")}
    second = killed_run(dagster, world.catalogue[table], tags=inherited)
    assert settle(world, dagster) == [second.run_id]
    assert world.statuses(table) == ["Failed", "Failed"]


def test_a_run_of_a_range_names_its_first_and_last_partition_and_is_observed_without_one(
    world: World, dagster: Dagster, table: str
) -> None:
    killed_run(dagster, world.catalogue[table], tags={RANGE_START: "2026-11-01", RANGE_END: "2026-11-20"})
    settle(world, dagster)
    assert "2026-11-01...2026-11-20" in world.audits(table)[0]["FailureReason"]
    (seen,) = dagster.observations(table)
    assert seen.partition is None


def test_runs_of_other_assets_are_left_alone(world: World, dagster: Dagster) -> None:
    @dg.asset
    def somebody_elses() -> None:
        raise RuntimeError("no")

    assert not dg.materialize([somebody_elses], instance=dagster.instance, raise_on_error=False).success
    assert settle(world, dagster) == []


def test_a_row_that_cannot_be_written_stays_due(world: World, dagster: Dagster, table: str) -> None:
    run = killed_run(dagster, world.catalogue[table])
    world.tenant.faults.add("engine", "status", match="MigrationAuditLog", times=None, status=400, body="{}")
    with pytest.raises(AdxError):
        settle(world, dagster)
    world.tenant.faults.clear()
    assert settle(world, dagster) == [run.run_id]
    assert world.statuses(table) == ["Failed"]


def test_the_sensor_does_so_and_starts_nothing(world: World, dagster: Dagster, table: str) -> None:
    run = killed_run(dagster, world.catalogue[table])
    resources = dagster.definitions.resources
    with dg.build_sensor_context(instance=dagster.instance, resources=resources) as context:
        data = runs_without_a_word.evaluate_tick(context)
    assert not data.run_requests
    assert run.run_id in str(data.skip_message)
    assert world.statuses(table) == ["Failed"]
