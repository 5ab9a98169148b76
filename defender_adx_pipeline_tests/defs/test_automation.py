"""Schedules and sensors: which runs they ask for, from the configuration as it is now, and what the sweep finds."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import orjson
import pytest

from defender_adx_pipeline.adx.typed_tables import typed_columns
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defs import schedules
from defender_adx_pipeline.defs.abandoned import Worker
from defender_adx_pipeline.defs.assets import SCOPE_TAG, TICK
from defender_adx_pipeline.defs.partitions import RANGE_END, RANGE_START
from defender_adx_pipeline.defs.schedules import event_tables_sweep, event_tables_tick
from defender_adx_pipeline.defs.sensors import table_activated
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)


def tick(world: World, dagster: Dagster, schedule: dg.ScheduleDefinition = event_tables_tick) -> list[dg.RunRequest]:
    with dg.build_schedule_context(
        instance=dagster.instance,
        scheduled_execution_time=world.now,
        resources=dagster.definitions.resources,
        repository_def=dagster.definitions.get_repository_def(),
    ) as context:
        return list(schedule.evaluate_tick(context).run_requests or [])


def tables(request: dg.RunRequest) -> set[str]:
    return {key.path[-1].removesuffix("Raw") for key in request.asset_selection or ()}


def set_watermark(world: World, table: str, ago: timedelta) -> None:
    moment = to_text(world.now - ago)
    world.configure(table, LastRefreshedTime=moment, LastRefreshedTimeInString=moment)


def test_a_tick_asks_for_the_active_tables_by_the_partitions_that_they_touch(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, 50 * HOUR)
    requests = tick(world, dagster)
    (mine,) = [request for request in requests if table in tables(request)]
    assert mine.tags[SCOPE_TAG] == "tick"
    assert mine.tags[RANGE_START] == (world.now - 54 * HOUR).date().isoformat()
    assert mine.tags[RANGE_END] == world.now.date().isoformat()
    assert {dg.AssetKey(["adx", f"{table}Raw"]), dg.AssetKey(["adx", table])} <= set(mine.asset_selection or ())
    every = [name for request in requests for name in tables(request)]
    assert len(every) == len(set(every))
    assert len({request.run_key for request in requests}) == len(requests)


def test_a_run_of_the_typed_asset_alone_keeps_its_table_out_of_no_tick(
    world: World, dagster: Dagster, table: str
) -> None:
    job = dagster.definitions.resolve_job_def("event_tables")
    typed = frozenset({dg.AssetKey(["adx", table])})
    dagster.instance.create_run_for_job(job, asset_selection=typed, status=dg.DagsterRunStatus.STARTED)
    assert any(table in tables(request) for request in tick(world, dagster))


def test_a_tick_leaves_out_a_table_that_is_switched_off_without_a_reload(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, HOUR)
    world.rows(table, 1, ago=HOUR)
    assert any(table in tables(request) for request in tick(world, dagster))
    world.configure(table, IsActive=False)
    assert not any(table in tables(request) for request in tick(world, dagster))


@pytest.mark.parametrize("of_the_whole_job", [False, True])
def test_a_tick_leaves_out_a_table_whose_last_run_has_not_ended(
    world: World, dagster: Dagster, table: str, of_the_whole_job: bool
) -> None:
    set_watermark(world, table, HOUR)
    selection = None if of_the_whole_job else frozenset({dg.AssetKey(["adx", f"{table}Raw"])})
    job = dagster.definitions.resolve_job_def("event_tables")
    tags = {"dagster/partition": world.now.date().isoformat()}
    dagster.instance.create_run_for_job(job, asset_selection=selection, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert not any(table in tables(request) for request in tick(world, dagster))


def test_a_tick_asks_all_tables_in_one_call_and_runs_those_alone_that_have_something_new(
    world: World, dagster: Dagster, table: str, unused_tables: Iterator[str]
) -> None:
    others = [next(unused_tables) for _ in range(2)]
    for name in (table, *others):
        set_watermark(world, name, HOUR)
    world.rows(table, 1, ago=HOUR)
    calls = len(world.tenant.log.entries(service="hunting"))
    requests = tick(world, dagster)
    assert world.hunting_calls(calls) == 1
    asked = {name for request in requests for name in tables(request)}
    assert table in asked
    assert not asked & set(others)
    # What a quiet table has is recorded, so that the next tick begins where this one ended.
    (row,) = [row for row in world.ledger(others[0], "Window") if row["RunId"].startswith("tick ")]
    assert row["State"] == "Confirmed"


def test_a_clock_that_is_ahead_completes_no_window_that_is_still_to_come(
    world: World, dagster: Dagster, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_watermark(world, table, HOUR)
    monkeypatch.setattr(schedules, "utc_now", lambda: utc_now() + 3 * HOUR)
    tick(world, dagster)
    (row,) = [row for row in world.ledger(table, "Window") if row["RunId"].startswith("tick ")]
    assert parse_instant(row["WindowEnd"]) <= utc_now() - world.settings.defender_settle


def test_where_defender_does_not_answer_the_question_every_table_gets_its_run(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, HOUR)
    assert not any(table in tables(request) for request in tick(world, dagster))
    world.tenant.faults.add("hunting", "unavailable", times=None)
    assert any(table in tables(request) for request in tick(world, dagster))


def mine(requests: list[dg.RunRequest], table: str) -> dg.RunRequest:
    (request,) = [request for request in requests if table in tables(request)]
    return request


def run_tick(world: World, dagster: Dagster, table: str) -> dg.ExecuteInProcessResult:
    return dagster.materialize(table, world.now.date().isoformat(), tags={SCOPE_TAG: TICK})


def run_sweep(world: World, dagster: Dagster, table: str) -> dg.ExecuteInProcessResult:
    """The part of a sweep that is about one table."""
    tags = mine(tick(world, dagster, event_tables_sweep), table).tags
    return dagster.materialize(table, tags[RANGE_START], tags[RANGE_END], tags={SCOPE_TAG: tags[SCOPE_TAG]})


def test_a_sweep_asks_once_for_every_active_table_over_all_days_that_defender_keeps(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, HOUR)
    requests = tick(world, dagster, event_tables_sweep)
    request = mine(requests, table)
    assert request.tags[SCOPE_TAG] == "sweep"
    assert request.tags[RANGE_START] == (world.now - timedelta(days=30) + timedelta(minutes=15)).date().isoformat()
    assert request.tags[RANGE_END] == world.now.date().isoformat()
    every = [name for each in requests for name in tables(each)]
    assert len(every) == len(set(every))
    assert len({each.run_key for each in requests}) == len(requests)
    assert len({world.catalogue[name].group for name in tables(request)}) == 1
    world.configure(table, IsActive=False)
    assert not any(table in tables(each) for each in tick(world, dagster, event_tables_sweep))


def test_a_sweep_leaves_out_a_table_whose_last_run_has_not_ended(world: World, dagster: Dagster, table: str) -> None:
    job = dagster.definitions.resolve_job_def("event_tables")
    key = dg.AssetKey(["adx", f"{table}Raw"])
    dagster.instance.create_run_for_job(job, asset_selection=frozenset({key}), status=dg.DagsterRunStatus.STARTED)
    assert not any(table in tables(request) for request in tick(world, dagster, event_tables_sweep))


def test_a_run_whose_process_is_gone_keeps_its_table_out_of_nothing(world: World, dagster: Dagster, table: str) -> None:
    job, key = dagster.definitions.resolve_job_def("event_tables"), dg.AssetKey(["adx", f"{table}Raw"])
    gone = replace(Worker.here(), pid=2**22 + 1)
    run = dagster.instance.create_run_for_job(
        job, asset_selection=frozenset({key}), status=dg.DagsterRunStatus.STARTED, tags=gone.tags()
    )
    assert any(table in tables(request) for request in tick(world, dagster, event_tables_sweep))
    ended = dagster.instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.is_finished


def test_a_row_that_came_a_week_late_is_loaded_by_the_sweep_and_not_by_the_tick(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=HOUR)
    assert run_tick(world, dagster, table).success
    assert world.difference(table) == (0, 0)
    watermark = world.watermark(table)
    world.rows(table, 1, ago=timedelta(days=7))
    assert run_tick(world, dagster, table).success
    assert world.difference(table) == (1, 0)
    assert run_sweep(world, dagster, table).success
    assert world.difference(table) == (0, 0)
    assert world.watermark(table) == watermark
    assert [row["RecordCount"] for row in world.audits(table)] == [5, 0, 1]


def test_a_slice_that_the_failed_run_of_an_old_day_left_open_is_finished_by_the_sweep(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=HOUR)
    assert run_tick(world, dagster, table).success
    world.rows(table, 3, ago=timedelta(days=9))
    # The query after the count: it reads the slice.
    world.tenant.faults.add("hunting", "status", match="datetime(", first=2, times=None, status=400, body="{}")
    old = (world.now - timedelta(days=9)).date().isoformat()
    assert not dagster.materialize(table, old).success
    world.tenant.faults.clear()
    (left,) = [row for row in world.ledger(table) if row["State"] == "Planned"]
    assert run_tick(world, dagster, table).success
    assert world.difference(table) == (3, 0)
    assert run_sweep(world, dagster, table).success
    assert world.difference(table) == (0, 0)
    states = {row["SliceId"]: row["State"] for row in world.ledger(table)}
    assert states[left["SliceId"]] == "Confirmed"
    assert not {"Planned", "Queued"} & set(states.values())


def sense(world: World, dagster: Dagster, cursor: str | None) -> tuple[list[dg.RunRequest], str]:
    with dg.build_sensor_context(
        instance=dagster.instance,
        cursor=cursor,
        resources=dagster.definitions.resources,
        repository_def=dagster.definitions.get_repository_def(),
    ) as context:
        data = table_activated.evaluate_tick(context)
    return list(data.run_requests or []), str(data.cursor)


def test_a_table_that_turns_active_gets_one_run_over_all_days_that_defender_keeps(
    world: World, dagster: Dagster, table: str
) -> None:
    world.configure(table, IsActive=False)
    _, cursor = sense(world, dagster, None)
    assert table not in orjson.loads(cursor)
    world.configure(table, IsActive=True)
    requests, cursor = sense(world, dagster, cursor)
    (mine,) = [request for request in requests if table in tables(request)]
    assert tables(mine) == {table}
    assert mine.tags[RANGE_END] == world.now.date().isoformat()
    again, _ = sense(world, dagster, cursor)
    assert not any(table in tables(request) for request in again)


def test_on_its_first_look_the_sensor_starts_only_what_was_never_loaded(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, HOUR)
    requests, _ = sense(world, dagster, None)
    asked = {name for request in requests for name in tables(request)}
    assert table not in asked
    assert asked


def test_a_snapshot_table_that_turns_active_gets_todays_partition_unless_it_is_published(
    world: World, dagster: Dagster
) -> None:
    table = "DeviceTvmInfoGathering"
    world.configure(table, IsActive=False)
    _, cursor = sense(world, dagster, None)
    world.configure(table, IsActive=True)
    requests, active = sense(world, dagster, cursor)
    request = mine(requests, table)
    assert tables(request) == {table}
    assert (request.job_name, request.partition_key) == ("snapshot_tables", world.now.date().isoformat())
    assert sense(world, dagster, active)[0] == []
    assert world.sync(table) is not None
    for seen in (cursor, None):
        assert not any(table in tables(each) for each in sense(world, dagster, seen)[0])
    assert {each.job_name for each in sense(world, dagster, None)[0]} == {"event_tables"}


def test_a_bad_row_is_told_and_keeps_nothing_else_back(world: World, dagster: Dagster, table: str) -> None:
    set_watermark(world, table, HOUR)
    world.rows(table, 1, ago=HOUR)
    state = world.migration().state
    (row,) = [row for row in state.configuration_rows() if row["SourceTable"] == table]
    state._append("MigrationConfiguration", [{**row, "SourceTable": "DeviceTypoEvents"}])
    assert any(table in tables(request) for request in tick(world, dagster))


def test_the_catalogue_has_a_source_a_raw_and_a_typed_asset_for_every_table(dagster: Dagster) -> None:
    specs = {spec.key.to_user_string(): spec for spec in dagster.definitions.resolve_all_asset_specs()}
    assert len(specs) == 3 * len(load_catalogue())
    for table in load_catalogue().values():
        raw, typed = specs[f"adx/{table.raw_table}"], specs[f"adx/{table.name}"]
        assert [dep.asset_key.to_user_string() for dep in raw.deps] == [f"defender/{table.name}"]
        assert [dep.asset_key.to_user_string() for dep in typed.deps] == [f"adx/{table.raw_table}"]
        assert (raw.group_name, raw.kinds, raw.owners) == (typed.group_name, typed.kinds, typed.owners)
        assert raw.partitions_def == typed.partitions_def
        step = dagster.definitions.resolve_assets_def(typed.key)
        assert (step.op.name, step.op.pool) == (f"adx__{table.raw_table}", f"adx_{table.raw_table}")


def test_a_typed_asset_has_its_columns_with_what_is_said_of_them_and_where_each_comes_from(dagster: Dagster) -> None:
    specs = {spec.key.to_user_string(): spec for spec in dagster.definitions.resolve_all_asset_specs()}
    for table in load_catalogue().values():
        metadata = specs[f"adx/{table.name}"].metadata
        columns = metadata["dagster/column_schema"].columns
        assert [(one.name, one.type) for one in columns] == [(one.name, one.type) for one in typed_columns(table)]
        lineage = metadata["dagster/column_lineage"].deps_by_column
        assert list(lineage) == [column.name for column in columns]
        for column, deps in lineage.items():
            found = [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
            source = [] if column == "SnapshotTime" else [(f"defender/{table.name}", column)]
            assert found == [(f"adx/{table.raw_table}", "Records"), *source]
    named = {one.name: one for one in specs["adx/DeviceLogonEvents"].metadata["dagster/column_schema"].columns}
    assert named["AccountName"].description == (
        "User name of the account. From Records.AccountName of adx/DeviceLogonEventsRaw, Defender's"
        " DeviceLogonEvents.AccountName."
    )
    shown = {key: spec.metadata["dagster/table_name"] for key, spec in specs.items()}
    assert shown["adx/ExposureGraphNodes"] == "defender.ExposureGraphNodesSnapshots"
    # Dagster takes two assets with one table name for the same table.
    assert len(set(shown.values())) == len(shown)
