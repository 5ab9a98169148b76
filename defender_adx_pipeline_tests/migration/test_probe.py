"""One call tells the tables that need a run from the quiet ones; what is unknown gets a run."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.agenda import due_since
from defender_adx_pipeline.migration.ledger import RunIdentity, window_row
from defender_adx_pipeline.migration.probe import Due, Probed, probe
from defender_adx_pipeline.migration.windows import Window, merge
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world

LOGONS, FILES, NETWORK, IMAGES, CLOUD, ALERTS, SIGNINS = (
    "DeviceLogonEvents",
    "DeviceFileEvents",
    "DeviceNetworkEvents",
    "DeviceImageLoadEvents",
    "CloudAppEvents",
    "AlertInfo",
    "IdentityLogonEvents",
)
TABLES = (LOGONS, FILES, NETWORK, IMAGES, CLOUD, ALERTS, SIGNINS)
OVERLAP, HOUR, MINUTE = timedelta(hours=4), timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


def due(world: World, table: str) -> Due:
    """The table and the window of its tick."""
    state = world.migration().state
    item = state.configuration(table)
    return Due(item, Window(due_since(state, [item], now=world.now, overlap=OVERLAP)[item], world.now))


def probed(world: World, *tables: Due | str) -> Probed:
    asked = [one if isinstance(one, Due) else due(world, one) for one in tables]
    state = world.migration().state
    return probe(world.hunting, world.adx, state, asked, run_id="tick", now=world.now)


def names(found: tuple[Due, ...]) -> set[str]:
    return {one.item.table.name for one in found}


def loaded(world: World, table: str, rows: int = 10) -> None:
    world.rows(table, rows, ago=2 * HOUR)
    world.sync(table)


def windows(world: World) -> set[tuple[str, str]]:
    return {(row["SliceId"], row["RecordedAt"]) for row in world.ledger(LOGONS, "Window")}


def test_one_call_tells_the_quiet_tables_from_those_with_something_new(world: World) -> None:
    for table in (LOGONS, FILES, NETWORK):
        loaded(world, table)
    world.rows(FILES, 3, ago=HOUR)
    calls = len(world.tenant.log.entries(service="hunting"))
    found = probed(world, LOGONS, FILES, NETWORK)
    assert (names(found.quiet), names(found.busy)) == ({LOGONS, NETWORK}, {FILES})
    assert world.hunting_calls(calls) == 1


def test_a_quiet_window_is_recorded_as_a_run_would_and_the_next_tick_goes_on_from_there(world: World) -> None:
    loaded(world, IMAGES)
    before = due(world, IMAGES).window
    later = Due(due(world, IMAGES).item, Window(before.start, world.now + HOUR))
    assert names(probed(world, later).quiet) == {IMAGES}
    (row,) = [row for row in world.ledger(IMAGES, "Window") if row["RunId"] == "tick"]
    assert (row["ExpectedRows"], row["QueryableRows"], row["State"]) == (10, 10, "Confirmed")
    state = world.migration().state
    item = state.configuration(IMAGES)
    assert due_since(state, [item], now=world.now + 2 * HOUR, overlap=OVERLAP)[item] == world.now + HOUR - OVERLAP


def test_as_many_rows_but_other_ones_are_something_new(world: World) -> None:
    loaded(world, CLOUD)
    # One that Defender has taken back, and one that came late, in the same window.
    second = (world.now - 2 * HOUR + timedelta(seconds=3)).replace(tzinfo=None).isoformat()
    with world.tenant.source.writing() as cursor:
        cursor.execute(f"DELETE FROM {world.tenant.source.stored(CLOUD)} WHERE Timestamp < TIMESTAMP '{second}'")
    assert sum(world.truth(CLOUD).values()) == 9
    world.rows(CLOUD, 1, ago=1.5 * HOUR)
    assert names(probed(world, CLOUD).busy) == {CLOUD}


def test_a_table_that_the_tenant_or_adx_does_not_have_gets_a_run_which_says_so(world: World) -> None:
    loaded(world, LOGONS)
    item = due(world, LOGONS)
    gone = replace(item.item.table, name="NoSuchTable")
    elsewhere = Due(replace(item.item, table=gone, destination_table="NoSuchTableRaw"), item.window)
    assert names(probed(world, item, elsewhere).busy) == {"NoSuchTable"}
    world.adx.command(f".drop table {NETWORK}", idempotent=True)
    assert names(probed(world, item, NETWORK).busy) == {NETWORK}


def test_what_equal_counts_say_nothing_of_gets_a_run_without_being_asked(world: World) -> None:
    never = due(world, ALERTS)
    assert not never.item.loaded_before
    full = Due(replace(due(world, LOGONS).item, load_type="Full"), due(world, LOGONS).window)
    other = Due(replace(due(world, FILES).item, destination_table="ElsewhereRaw"), due(world, FILES).window)
    calls = len(world.tenant.log.entries(service="hunting"))
    assert names(probed(world, never, full, other).busy) == {ALERTS, LOGONS, FILES}
    assert world.hunting_calls(calls) == 0


def test_a_probe_that_is_refused_records_nothing(world: World) -> None:
    loaded(world, LOGONS)
    before = windows(world)
    world.tenant.faults.add("hunting", "forbidden", times=None)
    with pytest.raises(HuntingError):
        probed(world, LOGONS)
    assert windows(world) == before


def test_one_question_about_all_tables_has_the_answers_of_a_question_about_each(world: World) -> None:
    for table in (LOGONS, FILES):
        loaded(world, table)
    state = world.migration().state
    since = world.now - timedelta(days=30)
    # Somebody sets one back: what was recorded before no longer counts for it, and still does for the others.
    back = to_text(world.now - timedelta(days=3))
    world.configure(FILES, LastRefreshedTime=back, LastRefreshedTimeInString=back)
    items = [state.configuration(table) for table in (LOGONS, FILES, ALERTS)]
    together = state.coverage_of(items, since)
    assert {item: merge(windows) for item, windows in together.items()} == {
        item: merge(state.coverage(item, since)) for item in items
    }
    assert [bool(together[item]) for item in items] == [True, False, False]
    assert state.coverage_of([], since) == {}


def test_what_many_windows_cover_is_told_by_few_and_no_hole_is_covered(world: World) -> None:
    state = world.migration().state
    item, since = state.configuration(SIGNINS), world.now - timedelta(days=20)
    dice = random.Random(7)
    minutes = [(dice.randrange(20 * 1440), dice.choice([1, 7, 59, 60, 61, 239, 240, 241, 250])) for _ in range(150)]
    ticks = [(5 * 1440 + 15 * number, 250) for number in range(200)]
    windows = [Window(since + MINUTE * start, since + MINUTE * (start + long)) for start, long in (*minutes, *ticks)]
    state.append_ledger(
        [
            window_row(
                RunIdentity("test", ""),
                source_table=SIGNINS,
                destination_table=f"{SIGNINS}Raw",
                window=window,
                source_rows=0,
                received_rows=0,
                destination_rows=0,
                now=world.now,
            )
            for window in windows
        ]
    )
    (few,) = state.coverage_of([item], since).values()
    every = state.coverage(item, since)
    assert merge(few) == merge(every)
    assert len(merge(every)) > 10
    assert len(few) < len(every) - 150
