"""Two runs of one table at once, without the pool that keeps them apart in Dagster: every row once all the same."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.attempt import Asked, Migration
from defender_adx_pipeline.migration.errors import ContentionError
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_from_row, slice_row
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.migration.own_world import shared_world, unused_tables
from defender_adx_pipeline_tests.migration.world import World

pytestmark = pytest.mark.long

__all__ = ["shared_world", "unused_tables"]

HOUR = timedelta(hours=1)


def asked(table: str, run: str, window: Window) -> Asked:
    return Asked(table, RunIdentity(run, "none"), window)


def windows(world: World) -> tuple[Window, Window]:
    """Two windows that overlap in the hours with rows. Runs that pack them differently make slices with other ids."""
    end = world.now
    return Window(end - 6 * HOUR, end - timedelta(minutes=20)), Window(end - 5 * HOUR, end - timedelta(minutes=50))


def before_planning(migration: Migration, happens: Callable[[], Any]) -> None:
    """Let something happen once, between a run's counts and its first rows in the ledger."""
    append, pending = migration.state.append_ledger, [happens]

    def appended(rows: Sequence[Mapping[str, Any]]) -> None:
        if pending and rows[0]["State"] == "Planned":
            pending.pop()()
        append(rows)

    migration.state.append_ledger = appended  # type: ignore[method-assign]


@pytest.mark.parametrize("other_loads_first", [True, False])
def test_a_run_that_planned_meanwhile_is_seen_and_the_later_one_steps_back(
    world: World, table: str, other_loads_first: bool
) -> None:
    world.rows(table, 300, ago=4 * HOUR, step=timedelta(seconds=25))
    ours, theirs = windows(world)
    first, second = world.migration(), world.migration(slice_rows=70)
    held: list[Any] = []

    def the_other_run() -> None:
        extraction = second.extract(asked(table, "second", theirs))
        assert extraction is not None
        if other_loads_first:
            second.load(extraction)
        else:
            held.append(extraction)

    before_planning(first, the_other_run)
    extraction = first.extract(asked(table, "first", ours))
    assert extraction is not None
    for other in held:
        second.load(other)
    first.load(extraction)
    world.sync(table)
    assert world.difference(table) == (0, 0)
    assert {row["State"] for row in world.ledger(table)} <= {"Confirmed", "Failed"}


def test_slices_that_were_taken_back_and_planned_again_are_seen(world: World, table: str) -> None:
    world.rows(table, 300, ago=4 * HOUR, step=timedelta(seconds=25))
    ours, theirs = windows(world)
    first, second = world.migration(), world.migration(slice_rows=70)
    configuration = first.state.configuration(table)
    planned = first._planner._plan_once(configuration, ours, RunIdentity("first", "none"))
    assert planned is not None
    plan, _ = planned
    first._planner._withdraw(plan, plan.slices)
    held: list[Any] = []
    before_planning(second, lambda: held.append(first.extract(asked(table, "first", ours))))
    extraction = second.extract(asked(table, "second", theirs))
    assert {item.slice_id for item in held[0].plan.slices} == {item.slice_id for item in plan.slices}
    assert extraction is not None
    second.load(extraction)
    first.load(held[0])
    world.sync(table)
    assert world.difference(table) == (0, 0)


def overlapping(world: World, table: str) -> None:
    """Two runs that have both written slices over the same rows, and not looked yet who else has."""
    world.rows(table, 300, ago=4 * HOUR, step=timedelta(seconds=25))
    ours, theirs = windows(world)
    first, second = world.migration(), world.migration(slice_rows=70)
    configuration = first.state.configuration(table)
    before_planning(first, lambda: second._planner._plan_once(configuration, theirs, RunIdentity("second", "none")))
    first._planner._plan_once(configuration, ours, RunIdentity("first", "none"))


def test_a_third_run_waits_until_two_have_settled_whose_slices_stay(world: World, table: str) -> None:
    overlapping(world, table)
    third = world.migration(slice_rows=90)
    slept: list[float] = []

    def settle(seconds: float) -> None:
        if not slept:
            planner = third._planner
            rows = world.ledger(table)
            ours = [slice_from_row(row) for row in rows if row["RunId"] == "first"]
            run = RunIdentity("first", "none")
            withdrawn = [slice_row(item, run, state="Failed", now=utc_now()) for item in ours]
            planner._state.append_ledger(withdrawn)
        slept.append(seconds)

    third._planner._sleep = settle
    extraction = third.extract(asked(table, "third", windows(world)[0]))
    assert extraction is not None
    assert len(slept) == 1
    third.load(extraction)
    assert world.difference(table) == (0, 0)


def test_overlapping_slices_of_two_runs_that_died_are_loaded_once(world: World, table: str) -> None:
    overlapping(world, table)
    third = world.migration(slice_rows=90)
    third._planner._sleep = lambda seconds: None
    for _ in range(2):
        extraction = third.extract(asked(table, "third", windows(world)[0]))
        assert extraction is not None
        third.load(extraction)
        assert world.difference(table) == (0, 0)
    assert {row["State"] for row in world.ledger(table)} == {"Confirmed"}


def test_a_slice_that_one_run_takes_back_is_under_way_while_another_has_it(world: World, table: str) -> None:
    world.rows(table, 30, ago=4 * HOUR)
    ours, _ = windows(world)
    runs = [RunIdentity(name, "none") for name in ("first", "second")]
    first, second = world.migration(), world.migration()
    configuration = first.state.configuration(table)
    plans: list[Any] = []
    before_planning(second, lambda: plans.append(first._planner._plan_once(configuration, ours, runs[0])))
    plans.append(second._planner._plan_once(configuration, ours, runs[1]))
    (mine, _), (theirs, _) = plans
    assert {item.slice_id for item in mine.slices} == {item.slice_id for item in theirs.slices}
    second._planner._withdraw(theirs, theirs.slices)
    states = [row["State"] for row in first.state.ledger_slices(table, ours)]
    assert states == ["Planned"] * len(mine.slices)
    first._planner._withdraw(mine, mine.slices)
    states = [row["State"] for row in first.state.ledger_slices(table, ours)]
    assert states == ["Failed"] * len(mine.slices)
    world.sync(table)
    assert world.difference(table) == (0, 0)


def test_a_run_that_never_gets_its_turn_says_so_and_loads_nothing(world: World, table: str) -> None:
    world.rows(table, 30, ago=4 * HOUR)
    ours, theirs = windows(world)
    migration = world.migration()
    planner = migration._planner
    planner._sleep = lambda seconds: None
    planned = planner._plan_once(migration.state.configuration(table), theirs, RunIdentity("other", "none"))
    assert planned is not None
    assert not planned[1]
    planner._rivals = lambda plan, known: list(plan.slices)  # type: ignore[method-assign]
    with pytest.raises(ContentionError, match="one writer at a time"):
        migration.extract(asked(table, "first", Window(ours.start, utc_now() - timedelta(minutes=15))))
    assert not world.loaded(table)


def test_four_runs_at_once_load_every_row_once(world: World, table: str) -> None:
    world.rows(table, 400, ago=4 * HOUR, step=timedelta(seconds=20))
    spans = [Window(world.now - n * HOUR, world.now - timedelta(minutes=15 + n)) for n in (5, 6, 7, 8)]

    def run(number: int) -> None:
        world.migration(slice_rows=70 + 10 * number).sync(asked(table, f"run {number}", spans[number]))

    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(run, number) for number in range(4)]:
            outcome.result()
    world.sync(table)
    assert world.difference(table) == (0, 0)
