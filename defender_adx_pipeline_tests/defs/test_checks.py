"""Checks of the raw assets: each passes and fails, a failed load is told by them, and nothing comes after it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs.checks import (
    COMPLETENESS,
    DEAD_LETTERS,
    NO_DUPLICATES,
    ROW_COUNT_DROP,
    SAME_ROWS,
    SCHEMA_DRIFT,
    VALUES_FIT,
    WATERMARK_LAG,
)
from defender_adx_pipeline.defs.failing import REPORT
from defender_adx_pipeline.defs.partitions import daily
from defender_adx_pipeline.defs.raw_results import complete, kept_out, late, readable
from defender_adx_pipeline.defs.reporting import COLUMNS
from defender_adx_pipeline.defs.tables import raw_key, source_key, typed_key
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

TABLES = ("CloudAppEvents", "AlertInfo", "UrlClickEvents", "CampaignInfo", "BehaviorInfo", "IdentityInfo")
HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


@pytest.fixture(scope="module")
def unused_tables() -> Iterator[str]:
    return iter(TABLES)


def yesterday(world: World) -> str:
    return (world.now - 30 * HOUR).date().isoformat()


def latest(dagster: Dagster, table: str, check: str) -> Any:
    """The last record of a check of a raw asset."""
    key = dg.AssetCheckKey(raw_key(load_catalogue()[table]), check)
    return dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)


def kusto(markdown: str) -> list[str]:
    """The queries in fences."""
    return re.findall(r"```kusto\n(.*?)\n```", markdown, re.DOTALL)


def columns(made: dg.AssetMaterialization) -> list[str]:
    found = made.metadata.get(COLUMNS)
    return [column.name for column in found.schema.columns] if isinstance(found, dg.TableSchemaMetadataValue) else []


def failure(result: dg.ExecuteInProcessResult) -> Any:
    (event,) = [event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    return event.step_failure_data


@pytest.mark.long
def test_a_load_that_succeeds_passes_its_checks_and_shows_the_numbers_that_plot(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 20, ago=30 * HOUR)
    world.sync(table)
    result = dagster.materialize(table, yesterday(world), only=("raw", "typed"))
    assert result.success
    found = {seen.check_name: seen for seen in result.get_asset_check_evaluations()}
    assert set(found) == {COMPLETENESS, WATERMARK_LAG, DEAD_LETTERS, SAME_ROWS, SCHEMA_DRIFT}
    assert all(seen.passed for seen in found.values())
    numbers = {name: value.value for name, value in found[COMPLETENESS].metadata.items()}
    assert numbers["rows_expected"] == numbers["rows_queryable"] == 20
    assert 0 < float(str(found[WATERMARK_LAG].metadata["lag_seconds"].value)) < 3600
    raw, typed = (
        event.step_materialization_data.materialization for event in result.get_asset_materialization_events()
    )
    for metadata in (raw.metadata, dagster.observations(table)[-1].metadata):
        assert isinstance(metadata["lag_seconds"], dg.FloatMetadataValue)
        assert {"rows_loaded", "bytes", "calls", "quota_wait_seconds"} <= set(metadata)
    assert columns(raw) == ["Records"]
    assert set(columns(typed)) == {column.name for column in world.catalogue[table].columns}


@pytest.mark.long
def test_a_range_of_days_has_the_columns_once_and_the_bytes_of_a_row(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 20, ago=30 * HOUR)
    days = [(world.now - timedelta(days=ago)).date().isoformat() for ago in (2, 0)]
    result = dagster.materialize(table, *days, only=("raw", "typed"))
    assert result.success
    made = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    assert [columns(one) != [] for one in made] == [False, False, True] * 2
    assert all(float(str(one.metadata["bytes_per_row"].value)) > 10 for one in made[:3])


@pytest.mark.long
def test_a_load_that_fails_is_the_last_result_of_completeness_and_keeps_what_comes_after_from_going_on(
    world: World, dagster: Dagster, table: str
) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("hunting", "status", match="datetime(", first=2, times=None, status=400, body="{}")
    raw = raw_key(world.catalogue[table])
    done = []

    @dg.asset(deps=[raw], partitions_def=daily, backfill_policy=dg.BackfillPolicy.multi_run(1))
    def afterwards() -> None:
        done.append(1)

    result = dagster.materialize(table, yesterday(world), only=("raw", "typed"), extra=[afterwards])
    assert not result.success
    assert (result.get_asset_materialization_events(), done) == ([], [])
    record = latest(dagster, table, COMPLETENESS)
    assert (record.status.value, record.run_id) == ("FAILED", result.run_id)
    data = failure(result)
    said = str(data.user_failure_data.description)
    assert said == record.evaluation.description
    assert said in data.error.message
    # One error: nothing wrapped around it, and nothing beneath.
    assert (data.error.cause, data.error.context, data.error.message.count(said)) == (None, None, 1)
    assert "Error occurred while" not in data.error.message
    report = data.user_failure_data.metadata[REPORT].value
    (seen,) = dagster.observations(table)
    assert report == seen.metadata[REPORT].value == record.evaluation.metadata[REPORT].value
    assert "| 5 | 0 | 0 |" in report
    assert f"defender-adx sync {table} --from {yesterday(world)}" in report
    for query in kusto(report):
        if "Raw" in query or "Migration" in query:
            assert world.adx.query(query) is not None
    assert not latest(dagster, table, WATERMARK_LAG).evaluation.passed
    # A load that failed for another reason kept no record out.
    assert latest(dagster, table, DEAD_LETTERS).evaluation.passed
    world.tenant.faults.clear()
    assert dagster.materialize(table, yesterday(world)).success
    assert latest(dagster, table, COMPLETENESS).evaluation.passed


@pytest.mark.long
def test_a_record_that_is_kept_out_fails_completeness_and_warns_until_it_is_thirty_days_old(
    world: World, dagster: Dagster, table: str
) -> None:
    known, start = world.catalogue[table], world.now - 30 * HOUR
    text = next(one.name for one in known.columns if one.type == "string" and one.name not in known.identity)
    large = {**world.key(table, 1, start), known.time_column or "": to_text(start), text: "x" * 1_200_000}
    world.tenant.source.insert_rows(table, [large])
    for _ in range(2):
        # Met again by the next run, and still one record.
        result = dagster.materialize(table, yesterday(world), only=("raw", "typed"))
        assert not result.success
        assert "DeadLetterError" in str(failure(result).user_failure_data.metadata["error"].value)
        assert not latest(dagster, table, COMPLETENESS).evaluation.passed
        warned = latest(dagster, table, DEAD_LETTERS).evaluation
        assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert warned.metadata["dead_letters"].value == 1
    (query,) = kusto(str(warned.metadata["records (query)"].value))
    assert len(world.adx.query(query)) == 1
    # Another day's load has nothing to do with it, and tells of it all the same.
    other = (world.now - timedelta(days=4)).date().isoformat()
    fine = dagster.materialize(table, other, only=("raw", "typed"))
    found = {seen.check_name: seen.passed for seen in fine.get_asset_check_evaluations()}
    assert (found[COMPLETENESS], found[DEAD_LETTERS]) == (True, False)


@pytest.mark.long
def test_an_error_before_anything_is_loaded_is_told_the_same_way(
    world: World, dagster: Dagster, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFENDER_SETTLE", "soon")
    result = dagster.materialize(table, yesterday(world), only=("raw", "typed"))
    data = failure(result)
    assert "DEFENDER_SETTLE" in str(data.user_failure_data.description)
    assert (data.error.cause, data.error.context) == (None, None)
    assert "defender-adx doctor" in data.user_failure_data.metadata[REPORT].value
    record = latest(dagster, table, COMPLETENESS)
    assert (record.status.value, record.run_id) == ("FAILED", result.run_id)
    for check in (WATERMARK_LAG, DEAD_LETTERS):
        unknown = latest(dagster, table, check).evaluation
        assert (unknown.passed, unknown.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "could not be found out: DEFENDER_SETTLE" in unknown.description


@pytest.mark.long
def test_lag_and_dead_letters_can_be_run_alone_and_load_nothing(world: World, dagster: Dagster) -> None:
    table = world.catalogue[TABLES[0]]
    checks = dg.AssetSelection.checks(
        *(dg.AssetCheckKey(raw_key(table), name) for name in (WATERMARK_LAG, DEAD_LETTERS))
    )
    since = len(world.tenant.log.entries(service="hunting"))
    assets = [dagster.definitions.resolve_assets_def(raw_key(table))]
    result = dg.materialize(assets, instance=dagster.instance, selection=checks)
    assert result.success
    assert {seen.check_name for seen in result.get_asset_check_evaluations()} == {WATERMARK_LAG, DEAD_LETTERS}
    assert result.get_asset_materialization_events() == []
    assert world.hunting_calls(since) == 0


@pytest.mark.long
def test_what_cannot_be_asked_is_a_failed_check_and_no_failed_load(world: World, dagster: Dagster, table: str) -> None:
    world.rows(table, 5, ago=30 * HOUR)
    world.tenant.faults.add("engine", "status", match="MigrationDeadLetter", times=None, status=400, body="{}")
    result = dagster.materialize(table, yesterday(world), only=("raw", "typed"))
    assert result.success
    found = {seen.check_name: seen for seen in result.get_asset_check_evaluations()}
    assert (found[COMPLETENESS].passed, found[DEAD_LETTERS].passed) == (True, False)
    assert "could not be found out" in str(found[DEAD_LETTERS].description)


def test_every_table_has_the_checks_of_its_kind_and_completeness_alone_blocks() -> None:
    graph = defs().resolve_asset_graph()
    for table in load_catalogue().values():
        names = {key.name for key in graph.get_check_keys_for_assets({raw_key(table)})}
        drop = {ROW_COUNT_DROP} if table.kind == "snapshot" else set()
        assert names == {COMPLETENESS, WATERMARK_LAG, DEAD_LETTERS, *drop}
        assert {key.name for key in graph.get_check_keys_for_assets({typed_key(table)})} == {SAME_ROWS, SCHEMA_DRIFT}
        assert {key.name for key in graph.get_check_keys_for_assets({source_key(table)})} == {VALUES_FIT, NO_DUPLICATES}
    assert {key.name for key in graph.asset_check_keys if graph.get(key).blocking} == {COMPLETENESS}


def test_every_asset_that_is_loaded_has_a_freshness_policy_tags_and_the_place_where_it_is_made() -> None:
    specs = {spec.key: spec for spec in defs().resolve_all_asset_specs()}
    for table in load_catalogue().values():
        for key in (raw_key(table), typed_key(table)):
            policy = specs[key].freshness_policy
            assert isinstance(policy, TimeWindowFreshnessPolicy)
            assert policy.fail_window.to_timedelta() == timedelta(hours=36)
        assert specs[source_key(table)].freshness_policy is None
        for key in (raw_key(table), typed_key(table), source_key(table)):
            assert specs[key].tags.items() >= {"defender_adx/kind": table.kind}.items()
            (place,) = specs[key].metadata["dagster/code_references"].code_references
            assert Path(place.file_path).name == "assets.py"
            assert specs[key].metadata["documentation"].url.startswith("https://learn.microsoft.com/")


@given(st.timedeltas(timedelta(0), timedelta(days=40)), st.sampled_from(["AlertInfo", "DeviceTvmSoftwareInventory"]))
def test_a_table_is_late_beyond_what_it_may_lag_and_not_before(behind: timedelta, name: str) -> None:
    table = load_catalogue()[name]
    verdict = late(table, NOW - behind, now=NOW)
    assert verdict.passed == (behind <= table.allowed_lag)
    assert verdict.metadata["lag_seconds"].value == round(behind.total_seconds(), 1)
    assert ("late" in verdict.said) != verdict.passed


def test_a_clock_that_is_behind_makes_no_negative_lag() -> None:
    verdict = late(load_catalogue()["AlertInfo"], NOW + HOUR, now=NOW)
    assert (verdict.passed, verdict.metadata["lag_seconds"].value) == (True, 0.0)


def test_a_table_that_is_complete_up_to_nowhere_is_late_and_has_no_number() -> None:
    for name, part in (("AlertInfo", "nothing was loaded yet"), ("DeviceTvmSoftwareInventory", "No snapshot")):
        verdict = late(load_catalogue()[name], None, now=NOW)
        assert not verdict.passed
        assert part in verdict.said
        assert "lag_seconds" not in verdict.metadata


@given(st.integers(0, 10**9))
def test_dead_letters_pass_without_any_and_warn_with_their_number(records: int) -> None:
    verdict = kept_out(load_catalogue()["AlertInfo"], records)
    assert verdict.passed == (records == 0)
    assert verdict.metadata["dead_letters"].value == records
    assert verdict.evaluation().severity == dg.AssetCheckSeverity.WARN


def test_completeness_of_a_snapshot_tells_that_rows_came_and_went() -> None:
    tally = Tally(expected_rows=10, received_rows=11, queryable_rows=11, window=Window(NOW, NOW + HOUR))
    verdict = complete(load_catalogue()["DeviceTvmSoftwareInventory"], tally)
    assert verdict.passed
    assert "came or went" in verdict.said
    assert verdict.result().asset_key == verdict.evaluation().asset_key
    assert verdict.evaluation().blocking


@pytest.mark.parametrize(
    ("span", "text"), [(12 * HOUR / 60, "12 min"), (5.5 * HOUR, "5.5 h"), (76.8 * HOUR, "3.2 days")]
)
def test_a_span_is_told_in_the_unit_that_a_person_would_take(span: timedelta, text: str) -> None:
    assert readable(span) == text
