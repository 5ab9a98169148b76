"""Typed assets: materialized with the raw ones by one step, their checks, and what happens where there is no table."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defs.assets import SCOPE_TAG, TICK
from defender_adx_pipeline.defs.reporting import typed_rows_query
from defender_adx_pipeline.defs.typed_results import SAME_ROWS, SCHEMA_DRIFT
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline.quoting import kql_name
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
EVENTS = ("DeviceLogonEvents", "DeviceInfo", "EmailUrlInfo", "UrlClickEvents", "AADSignInEventsBeta", "CloudAppEvents")
SNAPSHOT = "DeviceTvmSoftwareInventory"
BOTH = ("raw", "typed")


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
    """The metadata of what was materialized, by the last part of the key and the partition."""
    return {
        (event.asset_key.path[-1], event.partition): values(event.step_materialization_data.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {seen.check_name: seen for seen in result.get_asset_check_evaluations()}


def test_one_step_loads_the_raw_rows_and_materializes_the_typed_ones_with_the_same_count(
    world: World, dagster: Dagster, table: str
) -> None:
    noon = bin_floor(world.now, DAY) - 2 * DAY + 12 * HOUR
    world.rows(table, 30, ago=world.now - noon)
    partition = day(world, world.now - noon)
    result = dagster.materialize(table, partition, only=BOTH)
    assert result.success
    assert list(result.get_step_success_events()[0].step_key for _ in "1") == [f"adx__{table}Raw"]
    found = materialized(result)
    assert list(found) == [(f"{table}Raw", partition), (table, partition)]
    typed = found[table, partition]
    assert typed["typed_rows"] == typed["dagster/partition_row_count"] == 30
    assert typed["dagster/table_name"] == f"defender.{table}"
    assert typed["window"] == found[f"{table}Raw", partition]["window"]
    same, drift = (checks(result)[name] for name in (SAME_ROWS, SCHEMA_DRIFT))
    assert (same.passed, same.partition, same.asset_key) == (True, partition, dg.AssetKey(["adx", table]))
    assert values(same.metadata)["raw_rows"] == values(same.metadata)["typed_rows"] == 30
    assert drift.passed
    assert [seen.partition for seen in dagster.observations(table)] == [partition]


def test_the_columns_of_the_run_are_compared_without_a_further_hunting_call(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    partition = day(world, 30 * HOUR)
    calls = []
    for only in (("raw",), BOTH):
        since = len(world.tenant.log.entries(service="hunting"))
        assert dagster.materialize(table, partition, only=only).success
        calls.append(world.hunting_calls(since))
    assert calls == [4, 2] or calls[1] <= calls[0]
