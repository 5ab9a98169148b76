"""Snapshot tables in Dagster: assets, the check that rows did not vanish, the daily schedule, and reading them back."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs.checks import ROW_COUNT_DROP
from defender_adx_pipeline.defs.schedules import snapshot_tables_daily
from defender_adx_pipeline.instants import sort_key, utc_now
from defender_adx_pipeline.local.data import add_state, evolve
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.errors import SnapshotNotPublishedError
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
TABLES = (
    "DeviceTvmSoftwareInventory",
    "DeviceTvmCertificateInfo",
    "DeviceTvmBrowserExtensions",
    "DeviceTvmHardwareFirmware",
)
ROWS = 100


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        for table in TABLES:
            add_state(world.tenant.source, table, ROWS)
        yield world


@pytest.fixture(scope="module")
def unused_tables() -> Iterator[str]:
    return iter(TABLES)


def today() -> str:
    return utc_now().date().isoformat()


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = (one for one in result.get_asset_check_evaluations() if one.check_name == ROW_COUNT_DROP)
    return evaluation


def values(metadata: Any) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def test_a_run_takes_todays_snapshot_and_a_fall_by_more_than_four_fifths_fails_its_check(
    world: World, dagster: Dagster, table: str
) -> None:
    yesterday = world.migration(clock=lambda: utc_now() - DAY)
    assert yesterday.sync(Asked(table, RunIdentity("before", "day"), None)) is not None
    evolve(world.tenant.source, table, new=0, gone=79, changed=0)
    kept = dagster.materialize(table, today())
    assert kept.success
    assert check_of(kept).passed
    assert values(check_of(kept).metadata) == {
        "rows": 21,
        "rows_before": ROWS,
        "fraction_gone": 0.79,
        "snapshot_time": world.watermark(table),
        "snapshot_time_before": values(check_of(kept).metadata)["snapshot_time_before"],
    }
    evolve(world.tenant.source, table, new=0, gone=2, changed=0)
    for _ in range(2):
        # Taken again, it is still compared with the day before.
        fallen = dagster.materialize(table, today())
        assert fallen.success
        assert not check_of(fallen).passed
        assert "19 rows, after 100 in the snapshot before" in (check_of(fallen).description or "")
        shows = f"Vw{table}At(datetime({(utc_now() - DAY).date().isoformat()}))"
        assert shows in (check_of(fallen).description or "")
        assert check_of(fallen).partition == today()
    evolve(world.tenant.source, table, new=0, gone=1.0, changed=0)
    assert not check_of(dagster.materialize(table, today())).passed
    (event,) = kept.asset_materializations_for_node(f"adx__{table}Raw")
    shown = values(event.metadata)
    assert (shown["rows_loaded"], shown["rows_queryable"], shown["dagster/partition_row_count"]) == (21, 21, 21)
    assert [values(seen.metadata)["Status"] for seen in dagster.observations(table)] == ["Success"] * 4


def test_another_day_fails_with_a_clear_message_and_an_inactive_table_is_skipped(
    world: World, dagster: Dagster, table: str
) -> None:
    past = dagster.materialize(table, (utc_now() - DAY).date().isoformat())
    assert not past.success
    assert not past.get_asset_check_evaluations()
    (seen,) = dagster.observations(table)
    assert "a snapshot can be taken of today" in str(values(seen.metadata)["FailureReason"])
    world.configure(table, IsActive=False)
    skipped = dagster.materialize(table, today())
    world.configure(table, IsActive=True)
    assert skipped.success
    assert check_of(skipped).passed
    assert not skipped.asset_materializations_for_node(f"adx__{table}Raw")
    first = dagster.materialize(table, today())
    assert check_of(first).passed
    assert "no snapshot before" in (check_of(first).description or "")
    evolve(world.tenant.source, table, new=0, gone=0.9, changed=0)
    again = check_of(dagster.materialize(table, today()))
    assert not again.passed
    assert "of its day it takes the place of the one before" in (again.description or "")


def test_a_downstream_asset_gets_the_published_snapshot_of_the_day_and_no_other(
    world: World, dagster: Dagster, table: str
) -> None:
    raw = dg.AssetKey(["adx", f"{table}Raw"])
    loaded = dagster.definitions.resolve_assets_def(raw)
    frames: list[pd.DataFrame] = []

    @dg.asset(
        ins={"rows": dg.AssetIn(key=raw)},
        partitions_def=loaded.partitions_def,
        backfill_policy=loaded.backfill_policy,
        io_manager_key="memory",
    )
    def taken(rows: pd.DataFrame) -> None:
        frames.append(rows)

    assert dagster.materialize(table, today()).success
    evolve(world.tenant.source, table, new=5, gone=0, changed=0)
    assert dagster.materialize(table, today(), extra=[taken]).success
    (frame,) = frames
    assert len(frame) == ROWS + 5
    assert {sort_key(moment) for moment in frame["SnapshotTime"]} == {world.watermark(table)}
    state, day = world.migration().state, bin_floor(utc_now(), DAY)
    with pytest.raises(SnapshotNotPublishedError, match="no snapshot of this day is published"):
        state.published_on(state.configuration(table), Window(day - DAY, day))


def due(world: World, dagster: Dagster) -> tuple[set[str], str]:
    """The tables that the schedule would run now, and what it says when there are none."""
    with dg.build_schedule_context(
        instance=dagster.instance,
        scheduled_execution_time=world.now,
        resources=dagster.definitions.resources,
        repository_def=dagster.definitions.get_repository_def(),
    ) as context:
        tick = snapshot_tables_daily.evaluate_tick(context)
    requests = tick.run_requests or []
    assert {request.partition_key for request in requests} <= {today()}
    chosen = {key.path[-1].removesuffix("Raw") for request in requests for key in request.asset_selection or ()}
    return chosen, tick.skip_message or ""


def test_the_schedule_takes_what_is_active_and_not_published_today_and_then_nothing(
    world: World, dagster: Dagster
) -> None:
    published, inactive, left = TABLES[0], TABLES[1], TABLES[3]
    for table in TABLES:
        world.configure(table, IsActive=table not in {inactive, TABLES[2]})
    world.sync(published)
    assert due(world, dagster) == ({left}, "")
    world.tenant.faults.add("hunting", "server_error", match="SnapshotTime", times=None)
    assert not dagster.materialize(left, today()).success
    world.tenant.faults.clear()
    # A later hour of the day goes on with what failed.
    assert due(world, dagster) == ({left}, "")
    assert dagster.materialize(left, today()).success
    assert due(world, dagster) == (set(), "the snapshots of today are published")
    for table in (published, left):
        world.configure(table, IsActive=False)
    assert due(world, dagster) == (set(), "no snapshot table in MigrationConfiguration is active")
    for table in TABLES:
        world.configure(table, IsActive=True)


def test_jobs_of_events_and_of_snapshots_share_no_asset() -> None:
    events, snapshots = (
        {key for key in defs().resolve_job_def(name).asset_layer.executable_asset_keys if key.path[0] == "adx"}
        for name in ("event_tables", "snapshot_tables")
    )
    assert (len(events), len(snapshots), events & snapshots) == (96, 34, set())
