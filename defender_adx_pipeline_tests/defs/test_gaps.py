"""The gap finder: which partitions it asks for, in which order it goes over the tables, and when it begins again."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from defender_adx_pipeline.defs import gaps
from defender_adx_pipeline.defs.gaps import ROUND, Round, gap_finder
from defender_adx_pipeline.defs.readable import EvaluationError
from defender_adx_pipeline.defs.requests import BACKFILL_TAG, HISTORY_TAG, PRIORITY_TAG
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.destination import Destination
from defender_adx_pipeline.migration.gaps import find_gaps
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window, bin_floor
from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def look(world: World, dagster: Dagster, cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=dagster.instance,
        cursor=cursor,
        resources=dagster.definitions.resources,
        definitions=dagster.definitions,
    ) as context:
        made = gap_finder(context)
    assert isinstance(made, dg.SensorResult), made
    return made


def round_of(world: World, dagster: Dagster) -> list[dg.RunRequest]:
    """What all looks of one round ask for."""
    requests: list[dg.RunRequest] = []
    cursor, over = None, False
    while not over:
        made = look(world, dagster, cursor)
        requests += made.run_requests or []
        cursor = made.cursor
        over = Round.of(cursor, world.now).over
    return requests


def asked(requests: list[dg.RunRequest], table: str) -> set[str | None]:
    key = dg.AssetKey(["adx", f"{table}Raw"])
    return {request.partition_key for request in requests if key in (request.asset_selection or ())}


@pytest.fixture
def moved(world: World, table: str) -> str:
    """A table whose last 20 days are complete, with rows in ten of them."""
    for days in range(1, 20, 2):
        world.rows(table, 6, ago=days * DAY)
    assert world.sync(table, Window(bin_floor(readable_since(world.now), DAY), world.now)) is not None
    return table


def test_the_days_that_lack_rows_are_asked_for_and_no_others(world: World, dagster: Dagster, moved: str) -> None:
    assert asked(round_of(world, dagster), moved) == set()
    late = [9 * DAY + HOUR, 15 * DAY]
    for ago in late:
        world.rows(moved, 2, ago=ago, step=timedelta(milliseconds=1))
    requests = round_of(world, dagster)
    assert asked(requests, moved) == {(world.now - ago).date().isoformat() for ago in late}
    (one, _) = [request for request in requests if asked([request], moved)]
    assert (one.tags[PRIORITY_TAG], one.tags[HISTORY_TAG]) == ("0", "gap")
    for day in sorted(filter(None, asked(requests, moved))):
        assert dagster.materialize(moved, day).success
    assert world.difference(moved) == (0, 0)
    assert asked(round_of(world, dagster), moved) == set()


def test_rows_that_somebody_deleted_in_adx_are_found(world: World, dagster: Dagster, moved: str) -> None:
    world.adx.command(f".clear table {moved}Raw data", idempotent=True)
    world.adx.command(f".clear table {moved} data", idempotent=True)
    every = {(world.now - days * DAY).date().isoformat() for days in range(1, 20, 2)}
    assert asked(round_of(world, dagster), moved) == every


def test_rows_beyond_those_of_defender_are_told_and_nothing_is_asked_for(
    world: World, dagster: Dagster, moved: str
) -> None:
    with world.tenant.source.writing() as cursor:
        cursor.execute(f"DELETE FROM {world.tenant.source.stored(moved)}")
    assert asked(round_of(world, dagster), moved) == set()


def test_a_table_that_the_tenant_does_not_have_is_told_and_not_taken_for_an_empty_one(world: World, moved: str) -> None:
    world.rows(moved, 2, ago=9 * DAY + HOUR)
    item = world.migration().state.configuration(moved)
    gone = replace(item, table=replace(item.table, name="NoSuchTable"))
    window = Window(bin_floor(world.now - 20 * DAY, HOUR), bin_floor(world.now, HOUR))
    compared = find_gaps(world.hunting, Destination(world.adx), {item: window, gone: window})
    assert [(gap.item, gap.missing) for gap in compared.gaps] == [(item, 2)]
    assert compared.not_there == (gone,)
    # One that has no rows there is known to have none.
    with world.tenant.source.writing() as cursor:
        cursor.execute(f"DELETE FROM {world.tenant.source.stored(moved)}")
    emptied = find_gaps(world.hunting, Destination(world.adx), {item: window})
    assert emptied.not_there == ()
    assert sum(gap.surplus for gap in emptied.gaps) == 60


def test_a_table_with_a_run_under_way_is_left_to_the_next_round(world: World, dagster: Dagster, moved: str) -> None:
    world.rows(moved, 2, ago=9 * DAY + HOUR)
    job = dagster.definitions.resolve_job_def("event_tables")
    dagster.instance.create_run_for_job(
        job,
        asset_selection=frozenset({dg.AssetKey(["adx", f"{moved}Raw"])}),
        status=dg.DagsterRunStatus.STARTED,
        tags={BACKFILL_TAG: "abc", "dagster/partition": world.now.date().isoformat()},
    )
    assert asked(round_of(world, dagster), moved) == set()


def test_a_look_ends_when_its_time_is_up_and_the_next_goes_on_behind_it(
    world: World, dagster: Dagster, table: str, unused_tables: Iterator[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted([table, *(next(unused_tables) for _ in range(2))])
    for name in names:
        world.rows(name, 2, ago=3 * DAY)
        world.sync(name, Window(bin_floor(readable_since(world.now), DAY), world.now))
        world.rows(name, 1, ago=3 * DAY - HOUR)
    monkeypatch.setattr(gaps, "TABLES_AT_ONCE", 1)
    monkeypatch.setattr(gaps, "BUDGET", 0.0)
    before = len(world.tenant.log.entries(service="hunting"))
    first = look(world, dagster)
    assert world.hunting_calls(before) == 1
    (counted,) = world.adx.query("MigrationLedger | where RunId startswith 'gap_finder' | top 1 by RecordedAt desc")
    assert (counted["Kind"], counted["SourceTable"], counted["Calls"]) == ("Calls", "*", 1)
    done = Round.of(first.cursor, world.now).done
    second = look(world, dagster, first.cursor)
    assert Round.of(second.cursor, world.now).done > done
    monkeypatch.setattr(gaps, "BUDGET", 60.0)
    third = look(world, dagster, second.cursor)
    requests = [request for made in (first, second, third) for request in made.run_requests or ()]
    day = (world.now - 3 * DAY + HOUR).date().isoformat()
    assert [asked(requests, name) for name in names] == [{day}] * 3
    assert len({request.run_key for request in requests}) == len(requests)


def test_a_round_that_is_over_begins_again_after_its_time_and_not_before(world: World, dagster: Dagster) -> None:
    began = world.now - ROUND / 2
    with dg.build_sensor_context(
        instance=dagster.instance,
        cursor=Round(began, "Zzz", over=True).cursor(),
        resources=dagster.definitions.resources,
        definitions=dagster.definitions,
    ) as context:
        skipped = gap_finder(context)
    assert isinstance(skipped, dg.SkipReason)
    assert to_text(began + ROUND) in str(skipped.skip_message)
    old = Round(world.now - ROUND - HOUR, "Zzz", over=True).cursor()
    assert Round.of(look(world, dagster, old).cursor, world.now).began > began


def test_where_defender_does_not_answer_the_look_fails_and_the_cursor_stays(
    world: World, dagster: Dagster, moved: str
) -> None:
    world.tenant.faults.add("hunting", "unavailable", times=None)
    with pytest.raises(EvaluationError, match="HTTP 503"):
        look(world, dagster)


def test_a_cursor_survives_being_written_and_read() -> None:
    current = Round(datetime(2026, 11, 24, 6, 30, tzinfo=UTC), "DeviceEvents")
    assert Round.of(current.cursor(), current.began + HOUR) == current
    assert Round.of(None, current.began) == Round(current.began)
