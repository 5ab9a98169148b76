"""The schedule and the sensor: which runs they ask for, from the configuration as it is now."""

from datetime import timedelta

import dagster as dg
import orjson

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defs.assets import SCOPE_TAG
from defender_adx_pipeline.defs.schedules import RANGE_END, RANGE_START, event_tables_tick
from defender_adx_pipeline.defs.sensors import table_activated
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World

HOUR = timedelta(hours=1)


def tick(world: World, dagster: Dagster) -> list[dg.RunRequest]:
    with dg.build_schedule_context(
        instance=dagster.instance,
        scheduled_execution_time=world.now,
        resources=dagster.definitions.resources,
        repository_def=dagster.definitions.get_repository_def(),
    ) as context:
        return list(event_tables_tick.evaluate_tick(context).run_requests or [])


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
    every = [name for request in requests for name in tables(request)]
    assert len(every) == len(set(every))
    assert len({request.run_key for request in requests}) == len(requests)


def test_a_tick_leaves_out_a_table_that_is_switched_off_without_a_reload(
    world: World, dagster: Dagster, table: str
) -> None:
    set_watermark(world, table, HOUR)
    assert any(table in tables(request) for request in tick(world, dagster))
    world.configure(table, IsActive=False)
    assert not any(table in tables(request) for request in tick(world, dagster))


def test_a_tick_leaves_out_a_table_whose_last_run_has_not_ended(world: World, dagster: Dagster, table: str) -> None:
    set_watermark(world, table, HOUR)
    key = dg.AssetKey(["adx", f"{table}Raw"])
    job = dagster.definitions.resolve_job_def("event_tables")
    dagster.instance.create_run_for_job(job, asset_selection=frozenset({key}), status=dg.DagsterRunStatus.STARTED)
    assert not any(table in tables(request) for request in tick(world, dagster))


def sense(world: World, dagster: Dagster, cursor: str | None) -> tuple[list[dg.RunRequest], str]:
    resources = dagster.definitions.resources
    with dg.build_sensor_context(instance=dagster.instance, cursor=cursor, resources=resources) as context:
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


def test_a_bad_row_is_told_and_keeps_nothing_else_back(world: World, dagster: Dagster, table: str) -> None:
    set_watermark(world, table, HOUR)
    state = world.migration().state
    (row,) = [row for row in state.configuration_rows() if row["SourceTable"] == table]
    state._append("MigrationConfiguration", [{**row, "SourceTable": "DeviceTypoEvents"}])
    assert any(table in tables(request) for request in tick(world, dagster))


def test_the_catalogue_has_a_source_and_a_raw_asset_for_every_event_table(dagster: Dagster) -> None:
    specs = {spec.key.to_user_string() for spec in dagster.definitions.resolve_all_asset_specs()}
    for table in load_catalogue().events():
        assert {f"defender/{table.name}", f"adx/{table.raw_table}"} <= specs
