"""Typed assets: materialized with the raw ones by one step, their checks, and what happens where there is no table."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defs.assets import SCOPE_TAG, TICK
from defender_adx_pipeline.defs.checks import SAME_ROWS, SCHEMA_DRIFT
from defender_adx_pipeline.instants import sort_key, utc_now
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.local.source_schema import add_column
from defender_adx_pipeline.migration.backfill import backfill
from defender_adx_pipeline.migration.windows import bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
EVENTS = (
    "AADSignInEventsBeta",
    "AlertInfo",
    "BehaviorInfo",
    "CallActivityEvents",
    "CampaignInfo",
    "CloudAuditEvents",
    "CloudDnsEvents",
    "DeviceFileCertificateInfo",
    "DeviceLogonEvents",
    "EmailUrlInfo",
)
SNAPSHOT = "DeviceTvmSoftwareInventory"
BOTH = ("raw", "typed")
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, (*EVENTS, SNAPSHOT)) as world:
        add_state(world.tenant.source, SNAPSHOT, 50)
        yield world


@pytest.fixture(scope="module")
def unused_tables() -> Iterator[str]:
    return iter(EVENTS)


def day(world: World, ago: timedelta) -> str:
    return (world.now - ago).date().isoformat()


def values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def materialized(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The metadata of what was materialized, by the last part of the key and the partition, in order."""
    return {
        (event.asset_key.path[-1], event.partition): values(event.step_materialization_data.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Those of the typed asset."""
    found = [one for one in result.get_asset_check_evaluations() if not one.asset_key.path[-1].endswith("Raw")]
    return {seen.check_name: seen for seen in found}


def downstream(dagster: Dagster, table: str, kind: type, seen: list[Any]) -> dg.AssetsDefinition:
    key = dg.AssetKey(["adx", table])
    loaded = dagster.definitions.resolve_assets_def(key)

    @dg.asset(
        ins={"rows": dg.AssetIn(key=key)},
        partitions_def=loaded.partitions_def,
        backfill_policy=loaded.backfill_policy,
        io_manager_key="memory",
        name=f"{kind.__name__}_rows",
    )
    def rows(rows: kind) -> None:  # type: ignore[valid-type]
        seen.append(rows)

    return rows


# --- loading -----------------------------------------------------------------------------------


def test_one_step_loads_the_raw_rows_and_materializes_the_typed_ones_with_the_same_count(
    world: World, dagster: Dagster, table: str
) -> None:
    noon = bin_floor(world.now, DAY) - 2 * DAY + 12 * HOUR
    world.rows(table, 30, ago=world.now - noon)
    partition = day(world, world.now - noon)
    calls = []
    for only in (BOTH, ("raw",)):
        since = world.hunting_calls(0)
        result = dagster.materialize(table, partition, only=only)
        assert result.success
        calls.append(world.hunting_calls(since))
        if only == ("raw",):
            assert [key for key, _ in materialized(result)] == [f"{table}Raw"]
            assert checks(result) == {}
            continue
        found = materialized(result)
        assert list(found) == [(f"{table}Raw", partition), (table, partition)]
        typed = found[table, partition]
        assert typed["typed_rows"] == typed["dagster/partition_row_count"] == 30
        assert typed["dagster/table_name"] == f"defender.{table}"
        assert typed["window"] == found[f"{table}Raw", partition]["window"]
        same, drift = (checks(result)[name] for name in (SAME_ROWS, SCHEMA_DRIFT))
        assert (same.passed, same.asset_key) == (True, dg.AssetKey(["adx", table]))
        assert values(same.metadata)["raw_rows"] == values(same.metadata)["typed_rows"] == 30
        assert (drift.passed, drift.description) == (True, "The tenant's columns are those of the typed table.")
    # Count, columns, rows; the second run counts and finds nothing to load: the checks have cost no hunting call.
    assert calls == [3, 2]
    assert [seen.partition for seen in dagster.observations(table)] == [partition] * 2


def test_a_range_materializes_every_partition_with_its_own_count_and_alone_loads_nothing(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 4, ago=5 * DAY, step=DAY)
    days = day(world, 6 * DAY), day(world, timedelta(0))
    for only in (BOTH, ("typed",)):
        result = dagster.materialize(table, *days, only=only)
        assert result.success
        found = {part: one for (name, part), one in materialized(result).items() if name == table}
        counts = [one["dagster/partition_row_count"] for one in found.values()]
        assert (len(counts), sum(counts), max(counts)) == (7, 4, 1)
        assert {one["typed_rows"] for one in found.values()} == {4}
        assert checks(result)[SAME_ROWS].passed
    assert [key for key, _ in materialized(result)] == [table] * 7
    assert len(world.audits(table)) == len(dagster.observations(table)) == 1
    seen: list[Any] = []
    both = [downstream(dagster, table, kind, seen) for kind in (pd.DataFrame, pa.Table)]
    assert dagster.materialize(table, *days, only=("typed",), extra=both).success
    frame, arrow = sorted(seen, key=lambda one: isinstance(one, pa.Table))
    time = world.catalogue[table].time_column
    expected = sorted(sort_key(row["T"]) for row in world.adx.query(f"{table} | project T = {time}"))
    assert sorted(map(sort_key, frame[time])) == sorted(map(sort_key, arrow.column(time).to_pylist())) == expected
    for column in world.catalogue[table].columns:
        if column.type in ("long", "int"):
            assert arrow.column(column.name).type == pa.int64()
            assert str(frame[column.name].dtype) == "Int64"


def test_a_tick_that_begins_within_a_day_compares_its_window_and_tells_no_row_count_of_the_day(
    world: World, dagster: Dagster, table: str
) -> None:
    today = day(world, timedelta(0))
    for _ in range(2):
        result = dagster.materialize(table, today, tags={SCOPE_TAG: TICK}, only=BOTH)
        assert result.success
        found = materialized(result)
        assert checks(result)[SAME_ROWS].passed
    raw, typed = found[f"{table}Raw", today], found[table, today]
    assert raw["window"] == typed["window"] == values(checks(result)[SAME_ROWS].metadata)["window"]
    assert ("dagster/partition_row_count" in raw) == ("dagster/partition_row_count" in typed)


@pytest.mark.parametrize("only", [BOTH, ("typed",)])
def test_of_a_switched_off_table_neither_is_materialized(world: World, dagster: Dagster, only: tuple[str, ...]) -> None:
    table = EVENTS[0]
    world.configure(table, IsActive=False)
    result = dagster.materialize(table, day(world, DAY), only=only)
    world.configure(table, IsActive=True)
    assert result.success
    assert (materialized(result), checks(result)) == ({}, {})


def test_of_a_failed_load_neither_is_materialized(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("hunting", "status", match="summarize Rows", times=None, status=400, body="{}")
    result = dagster.materialize(table, day(world, 30 * HOUR), only=BOTH)
    assert not result.success
    assert (materialized(result), checks(result)) == ({}, {})


# --- where the typed rows are not what they should be ------------------------------------------


def test_without_a_typed_table_the_raw_rows_are_loaded_and_the_check_says_what_to_do_until_it_is_done(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 8, ago=30 * HOUR)
    days = day(world, 30 * HOUR), day(world, 29 * HOUR)
    world.adx.command(f".drop table {table}", idempotent=True)
    seen: list[Any] = []
    result = dagster.materialize(table, *days, only=BOTH, extra=[downstream(dagster, table, pd.DataFrame, seen)])
    assert result.success
    assert {key for key, _ in materialized(result)} == {f"{table}Raw"}
    assert seen == []
    for check in checks(result).values():
        assert (check.passed, check.severity) == (False, WARN)
        assert f"no table {table}. The raw rows are loaded all the same. Run `defender-adx bootstrap`" in str(
            check.description
        )
    world.bootstrap([table])
    world.rows(table, 2, ago=29 * HOUR)
    result = dagster.materialize(table, *days, only=BOTH)
    assert result.success
    check = checks(result)[SAME_ROWS]
    assert (check.passed, check.severity) == (False, ERROR)
    numbers = values(check.metadata)
    assert (numbers["raw_rows"], numbers["typed_rows"], numbers["counted"]) == (10, 2, "the rows of the window")
    assert f"defender-adx schema backfill {table}" in str(check.description)
    backfill(world.adx, world.catalogue[table])
    result = dagster.materialize(table, *days, only=("typed",))
    assert checks(result)[SAME_ROWS].passed
    assert {one["typed_rows"] for one in materialized(result).values()} == {10}


def test_rows_that_go_to_another_table_have_no_typed_ones(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.adx.command(".create table Elsewhere (Records: dynamic)", idempotent=True)
    mapping = '[{"column":"Records","path":"$"}]'
    world.adx.command(
        f".create-or-alter table Elsewhere ingestion json mapping \"DynamicJsonMap\" '{mapping}'", idempotent=True
    )
    world.configure(table, DestinationTable="Elsewhere")
    result = dagster.materialize(table, day(world, 30 * HOUR), only=BOTH)
    world.configure(table, DestinationTable=f"{table}Raw")
    assert result.success
    assert {key for key, _ in materialized(result)} == {f"{table}Raw"}
    check = checks(result)[SAME_ROWS]
    assert (check.passed, check.severity) == (False, WARN)
    assert f"DestinationTable of {table} is Elsewhere" in str(check.description)
    assert checks(result)[SCHEMA_DRIFT].passed


def test_what_cannot_be_compared_is_a_failed_check_with_its_reason_and_no_failed_run(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("engine", "status", match="schema as json", times=None, status=400, body="{}")
    result = dagster.materialize(table, day(world, 30 * HOUR), only=BOTH)
    assert result.success
    assert {key for key, _ in materialized(result)} == {f"{table}Raw", table}
    drift = checks(result)[SCHEMA_DRIFT]
    assert (drift.passed, drift.severity) == (False, WARN)
    assert f"could not be compared: command in database defender (.show table {table} schema as json" in str(
        drift.description
    )
    world.tenant.faults.add("engine", "status", match="toscalar", times=None, status=400, body="{}")
    result = dagster.materialize(table, day(world, 30 * HOUR), only=("typed",))
    assert result.success
    assert materialized(result) == {}
    same = checks(result)[SAME_ROWS]
    assert (same.passed, same.severity) == (False, ERROR)
    assert "could not be compared: query in database defender" in str(same.description)


def test_drift_is_a_warning_of_the_run_that_loads_every_row(world: World, dagster: Dagster, table: str) -> None:
    add_column(world.tenant.source, table, Column("Novelty", "long"))
    world.rows(table, 5, ago=30 * HOUR)
    partition = day(world, 30 * HOUR)
    result = dagster.materialize(table, partition, day(world, 29 * HOUR), only=BOTH)
    assert result.success
    assert world.difference(table) == (0, 0)
    drift = checks(result)[SCHEMA_DRIFT]
    assert (drift.passed, drift.severity) == (False, WARN)
    assert f"defender-adx schema apply {table}" in str(drift.description)
    assert values(drift.metadata)["differences"] == 1
    assert values(drift.metadata)["Novelty"].startswith("added: ")
    assert checks(result)[SAME_ROWS].passed


# --- checks alone ------------------------------------------------------------------------------


def test_checks_can_be_run_alone(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    partition = day(world, 30 * HOUR)
    assert dagster.materialize(table, partition, only=("raw",)).success
    key = dg.AssetKey(["adx", table])
    chosen = dg.AssetSelection.checks(dg.AssetCheckKey(key, SAME_ROWS), dg.AssetCheckKey(key, SCHEMA_DRIFT))
    # Dagster gives a run of checks alone no partition: it looks at today.
    result = dg.materialize(
        [dagster.definitions.resolve_assets_def(key)], instance=dagster.instance, selection=chosen, raise_on_error=False
    )
    assert result.success
    assert materialized(result) == {}
    assert {name: seen.passed for name, seen in checks(result).items()} == {SAME_ROWS: True, SCHEMA_DRIFT: True}
    assert values(checks(result)[SAME_ROWS].metadata)["window"].startswith(f"[{day(world, timedelta(0))}T00:00")
    assert len(world.audits(table)) == 1


# --- snapshots ---------------------------------------------------------------------------------


def test_a_snapshot_is_materialized_typed_too_and_one_that_is_not_published_is_not(
    world: World, dagster: Dagster
) -> None:
    today, yesterday = utc_now().date().isoformat(), (utc_now() - DAY).date().isoformat()
    missing = dagster.materialize(SNAPSHOT, today, only=("typed",))
    assert missing.success
    assert materialized(missing) == {}
    assert "no snapshot of this day is published" in str(checks(missing)[SAME_ROWS].description)
    both = dagster.materialize(SNAPSHOT, today, only=BOTH)
    alone = dagster.materialize(SNAPSHOT, today, only=("typed",))
    for result in (both, alone):
        assert result.success
        typed = materialized(result)[SNAPSHOT, today]
        assert typed["typed_rows"] == typed["dagster/partition_row_count"] == 50
        assert typed["dagster/table_name"] == f"defender.{SNAPSHOT}Snapshots"
        numbers = values(checks(result)[SAME_ROWS].metadata)
        assert numbers["raw_rows"] == numbers["typed_rows"] == 50
    assert set(checks(both)) == {SAME_ROWS, SCHEMA_DRIFT}
    assert set(checks(alone)) == {SAME_ROWS, SCHEMA_DRIFT}
    seen: list[Any] = []
    frames = [downstream(dagster, SNAPSHOT, pd.DataFrame, seen)]
    assert dagster.materialize(SNAPSHOT, today, only=("typed",), extra=frames).success
    assert len(seen[0]) == 50
    assert {sort_key(moment) for moment in seen[0]["SnapshotTime"]} == {world.watermark(SNAPSHOT)}
    assert not dagster.materialize(SNAPSHOT, yesterday, only=BOTH).success
