"""The sensor `health`: what it tells of tables that nobody runs, and how seldom it tells it."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest

from defender_adx_pipeline.defs import health as module
from defender_adx_pipeline.defs.checks import DEAD_LETTERS, WATERMARK_LAG
from defender_adx_pipeline.defs.health import health
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.slices import DeadLetter, Slice
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

pytestmark = pytest.mark.long

EVENTS, IDLE, SNAPSHOT = "AlertInfo", "UrlClickEvents", "DeviceTvmInfoGathering"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def shared_defs_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, (EVENTS, IDLE, SNAPSHOT)) as world:
        yield world


def told(dagster: Dagster) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """One evaluation of the sensor, its results stored as the daemon does: by table and check."""
    with dg.build_sensor_context(instance=dagster.instance, resources=dagster.definitions.resources) as context:
        data = health.evaluate_tick(context)
    assert not data.run_requests
    found = {}
    for event in data.asset_events:
        assert isinstance(event, dg.AssetCheckEvaluation)
        dagster.instance.report_runless_asset_event(event)
        found[event.asset_key.path[-1].removesuffix("Raw"), event.check_name] = event
    return found


def keep_out(world: World, table: str) -> None:
    known = world.catalogue[table]
    item = Slice("0" * 32, table, known.raw_table, world.last(2), 1, "Planned", 1, 1)
    letter = DeadLetter(item, {"AlertId": "a"}, 2_000_000, "too large")
    world.migration().state.append_dead_letters([letter], now=utc_now())


def test_it_tells_what_changed_and_what_is_a_day_old_and_starts_nothing(
    world: World, dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_state(world.tenant.source, SNAPSHOT, 5)
    world.sync(EVENTS)
    first = told(dagster)
    assert set(first) == {(name, check) for name in (EVENTS, IDLE, SNAPSHOT) for check in (WATERMARK_LAG, DEAD_LETTERS)}
    lag = {name: first[name, WATERMARK_LAG] for name in (EVENTS, IDLE, SNAPSHOT)}
    assert [lag[name].passed for name in lag] == [True, False, False]
    assert 0 < float(str(lag[EVENTS].metadata["lag_seconds"].value)) < 3600
    assert all(first[name, DEAD_LETTERS].passed for name in lag)

    assert told(dagster) == {}

    keep_out(world, EVENTS)
    world.migration().sync(Asked(SNAPSHOT, RunIdentity("run", "today"), None))
    second = told(dagster)
    assert {key: one.passed for key, one in second.items()} == {
        (EVENTS, DEAD_LETTERS): False,
        (SNAPSHOT, WATERMARK_LAG): True,
    }
    later = utc_now() + 2 * HOUR
    monkeypatch.setattr(module, "utc_now", lambda: later)
    assert {key: one.passed for key, one in told(dagster).items()} == {(EVENTS, WATERMARK_LAG): False}
    later = utc_now() + timedelta(days=2)
    again = told(dagster)
    assert len(again) == 6
    assert "so it is late" in str(again[SNAPSHOT, WATERMARK_LAG].description)

    world.configure(IDLE, IsActive=False)
    monkeypatch.setattr(module, "TOLD_AGAIN", timedelta(0))
    assert {name for name, _ in told(dagster)} == {EVENTS, SNAPSHOT}


def test_it_asks_a_few_queries_for_all_tables_and_defender_nothing(world: World, dagster: Dagster) -> None:
    since = len(world.tenant.log.entries())
    told(dagster)
    entries = world.tenant.log.entries()[since:]
    assert [one for one in entries if one.service == "hunting"] == []
    statements = [one.statement for one in entries if one.service == "engine" and one.statement]
    assert sum("MigrationDeadLetter" in one for one in statements) == 1
    assert sum("VwLatestMigrationLedger" in one for one in statements) == 1
    assert len(statements) <= 6


def test_a_result_that_a_run_has_announced_is_waited_for_while_that_goes_on(world: World, dagster: Dagster) -> None:
    told(dagster)
    known = world.catalogue[EVENTS]
    run = dagster.instance.create_run_for_job(
        dagster.definitions.resolve_job_def("event_tables"),
        asset_selection=frozenset({raw_key(known)}),
        tags={"dagster/partition": world.now.date().isoformat()},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert (EVENTS, WATERMARK_LAG) not in told(dagster)
    dagster.instance.report_run_failed(run)
    assert (EVENTS, WATERMARK_LAG) in told(dagster)


def test_a_row_that_cannot_be_followed_hides_no_other_table(world: World, dagster: Dagster) -> None:
    world.configure(IDLE, LoadType="sometimes")
    assert {name for name, _ in told(dagster)} == {EVENTS, SNAPSHOT}
    world.configure(IDLE, LoadType="Incr", LastRefreshedTime=to_text(world.now))
