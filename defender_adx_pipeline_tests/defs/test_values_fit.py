"""The daily check that values fit their columns: what it counts, what it shows, and what it says where it cannot."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.defs.checks import LOOKS_BACK, VALUES_FIT
from defender_adx_pipeline.defs.jobs import defs as resource_defs
from defender_adx_pipeline.defs.values_fit import typed_values_daily, values_fit
from defender_adx_pipeline.instants import parse_instant, to_text, utc_now
from defender_adx_pipeline.local.source_schema import retype_column
from defender_adx_pipeline.migration.drift import apply_drift, read_drift
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

TABLE, OTHER, ABSENT = "EntraIdSignInEvents", "AlertInfo", "UrlClickEvents"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, (TABLE, OTHER)) as world:
        yield world


def evaluated(dagster: Dagster, *tables: str) -> dict[str, dg.AssetCheckEvaluation]:
    """What the check says of some tables, by table."""
    keys = [dg.AssetCheckKey(dg.AssetKey(["defender", table]), VALUES_FIT) for table in tables]
    result = dg.materialize(
        [values_fit],
        instance=dagster.instance,
        resources=resource_defs().resources,
        selection=dg.AssetSelection.checks(*keys),
    )
    assert result.success
    assert result.get_asset_materialization_events() == []
    return {seen.asset_key.path[-1]: seen for seen in result.get_asset_check_evaluations()}


def values(check: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in check.metadata.items()}


def put(world: World, table: str, count: int, ago: timedelta, **changes: Any) -> None:
    time = world.catalogue[table].time_column or ""
    start = world.now - ago
    rows = [
        {**world.key(table, number, start), time: to_text(start + timedelta(seconds=number)), **changes}
        for number in range(count)
    ]
    world.tenant.source.insert_rows(table, rows)


def test_values_that_do_not_fit_are_counted_by_column_with_a_query_until_they_have_a_column_of_their_own(
    world: World, dagster: Dagster
) -> None:
    put(world, TABLE, 4, 9 * HOUR, ErrorCode=7)
    assert world.sync(TABLE, world.last(10)) is not None
    fits = evaluated(dagster, TABLE)[TABLE]
    assert (fits.passed, values(fits)["records"]) == (True, 4)
    since = parse_instant(values(fits)["ingested_since"])
    assert abs(utc_now() - LOOKS_BACK - since) < HOUR
    retype_column(world.tenant.source, TABLE, "ErrorCode", "string")
    put(world, TABLE, 3, 6 * HOUR, ErrorCode="none at all")
    assert world.sync(TABLE, world.last(7)) is not None
    unfit = evaluated(dagster, TABLE)[TABLE]
    assert (unfit.passed, unfit.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"null in the typed table and whole in {TABLE}Raw" in str(unfit.description)
    shown = values(unfit)
    assert (shown["records"], shown["ErrorCode"]) == (7, 3)
    query = str(shown["ErrorCode (query)"]).removeprefix("```kusto\n").removesuffix("\n```")
    assert [row["Value"] for row in world.adx.query(query)] == ["none at all"] * 3
    world.hunting._schemas.clear()
    assert apply_drift(world.adx, read_drift(world.hunting, world.adx, world.catalogue[TABLE]))
    assert evaluated(dagster, TABLE)[TABLE].passed


def test_what_cannot_be_counted_is_a_failed_check_and_keeps_no_other_back(world: World, dagster: Dagster) -> None:
    seen = evaluated(dagster, OTHER, ABSENT)
    assert seen[OTHER].passed
    assert not seen[ABSENT].passed
    assert "could not be found out" in str(seen[ABSENT].description)
    assert "defender-adx bootstrap" in str(seen[ABSENT].description)
    world.tenant.faults.add("engine", "status", match=".show database", times=None, status=400, body="{}")
    for check in evaluated(dagster, OTHER, ABSENT).values():
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "could not be found out" in str(check.description)


def test_its_job_has_the_check_of_every_table_and_nothing_else_and_runs_once_a_day(dagster: Dagster) -> None:
    job = dagster.definitions.resolve_job_def("typed_values")
    assert job.asset_layer.executable_asset_keys == set()
    expected = {dg.AssetCheckKey(dg.AssetKey(["defender", table]), VALUES_FIT) for table in load_catalogue()}
    assert job.asset_layer.asset_graph.asset_check_keys & expected == expected
    for load in ("event_tables", "snapshot_tables"):
        whole = dagster.definitions.resolve_job_def(load)
        some = whole.get_subset(asset_selection=frozenset(list(whole.asset_layer.executable_asset_keys)[:2]))
        assert VALUES_FIT not in {node.name for node in (*whole.nodes, *some.nodes)}
    assert (typed_values_daily.job_name, typed_values_daily.cron_schedule) == ("typed_values", "20 6 * * *")
