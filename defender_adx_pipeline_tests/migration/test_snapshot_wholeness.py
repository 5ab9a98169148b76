"""Whatever happens to a table or to the ledger, what a snapshot shows is all that the table had at some time.

Each test is about a way in which a part of a table, or an older state, could have been published as the state of today.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.data import add_state, evolve
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.planner import bucket_key
from defender_adx_pipeline.migration.snapshots import Snapshot, snapshot_row
from defender_adx_pipeline.migration.windows import bin_floor
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.test_snapshot_attempt import BY_BUCKET, READS, ROWS, seen, snapshots, take
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world, entered

pytestmark = pytest.mark.long

TABLES = (
    "DeviceTvmBrowserExtensions",
    "DeviceTvmCertificateInfo",
    "DeviceTvmHardwareFirmware",
    "DeviceTvmSoftwareInventory",
    "ExposureGraphNodes",
)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


@pytest.fixture(scope="module")
def unused() -> Iterator[str]:
    return iter(TABLES)


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


@pytest.fixture
def table(world: World, unused: Iterator[str]) -> str:
    name = next(unused)
    add_state(world.tenant.source, name, ROWS)
    return name


def emptied(world: World, table: str, *, at: Callable[[str], bool], until: Callable[[str], bool]) -> Callable[[], None]:
    """Take all rows away before a query, as a table that is filled anew, and bring them back before another."""
    source, name = world.tenant.source, world.tenant.source.stored(table)
    state = {"is": "full"}

    def before(query: str) -> None:
        if not query.startswith(table):
            return
        if state["is"] == "full" and at(query):
            with source.writing() as cursor:
                cursor.execute(f"CREATE OR REPLACE TABLE away AS SELECT * FROM {name}")
                cursor.execute(f"DELETE FROM {name}")
            state["is"] = "empty"
        elif state["is"] == "empty" and until(query):
            with source.writing() as cursor:
                cursor.execute(f"INSERT INTO {name} SELECT * FROM away")
            state["is"] = "full again"

    return source.before_queries(before)


def nth(text: str, number: int) -> Callable[[str], bool]:
    """Whether a query is the nth one with a text."""
    calls = iter(range(1, 1_000))
    return lambda query: text in query and next(calls) == number


def test_a_table_that_is_emptied_while_it_is_read_is_no_drift_and_not_published_in_part(
    world: World, table: str
) -> None:
    take(world, table)
    evolve(world.tenant.source, table, new=0, gone=0, changed=50)
    forget = emptied(world, table, at=nth(READS, 3), until=nth(BY_BUCKET, 2))
    tally = take(world, table)
    forget()
    assert seen(world, table) == world.truth(table)
    published, given_up, *_ = snapshots(world, table)
    assert (published["State"], given_up["State"]) == ("Published", "Failed")
    assert f"{ROWS} rows before" in given_up["Reason"]
    assert any("was given up and is taken anew" in note for note in tally.notes)


def test_a_table_that_seems_empty_for_a_moment_is_counted_again_before_it_is_published_as_empty(
    world: World, table: str
) -> None:
    take(world, table)
    forget = emptied(world, table, at=nth(BY_BUCKET, 1), until=nth(BY_BUCKET, 1))
    take(world, table)
    forget()
    assert sum(seen(world, table).values()) == ROWS
    assert seen(world, table) == world.truth(table)


def test_a_ledger_that_lacks_buckets_of_a_snapshot_is_not_taken_for_all_of_it(world: World, table: str) -> None:
    key = bucket_key(world.catalogue[table], world.hunting.schema(table))
    left = Snapshot(table, f"{table}Raw", max(bin_floor(utc_now(), DAY), utc_now() - timedelta(hours=1)), key, 4, ROWS)
    row = snapshot_row(left, RunIdentity("dead", "day"), state="Planned", now=left.taken_at)
    world.migration().state.append_ledger([row])
    take(world, table)
    assert seen(world, table) == world.truth(table)
    assert [row["State"] for row in snapshots(world, table)] == ["Published", "Failed"]


def test_what_is_given_up_leaves_nothing_open_in_the_ledger_also_of_the_day_before(world: World, table: str) -> None:
    world.tenant.faults.add("hunting", "status", status=400, match=READS, first=3, times=1)
    with pytest.raises(HuntingError):
        take(world, table, clock=lambda: utc_now() - DAY)
    assert {row["State"] for row in world.ledger(table)} > {"Planned"}
    take(world, table)
    assert [row["State"] for row in snapshots(world, table)] == ["Published", "Failed"]
    assert {row["State"] for row in world.ledger(table)} == {"Confirmed", "Failed"}


def test_a_machine_whose_clock_is_behind_takes_no_snapshot_before_the_last_one(world: World, table: str) -> None:
    take(world, table)
    evolve(world.tenant.source, table, new=5, gone=0, changed=5)
    behind = (utc_now() - bin_floor(utc_now(), DAY)) / 2
    take(world, table, clock=lambda: utc_now() - min(behind, timedelta(minutes=10)))
    assert seen(world, table) == world.truth(table)
