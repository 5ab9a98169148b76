"""Many rows at one microsecond, over real sockets: read in buckets, late rows into them, resumed, by two writers.

A tenant of its own, whose answers are small.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.local.limits import HuntingLimits
from defender_adx_pipeline.migration import readback
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.errors import UnsplittableError
from defender_adx_pipeline.migration.identity import RecordKeys
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, entered, settings_of

pytestmark = pytest.mark.long

TABLES = (
    "DeviceProcessEvents",
    "DeviceFileEvents",
    "AlertEvidence",
    "EmailEvents",
    "IdentityInfo",
    "CloudAppEvents",
    "UrlClickEvents",
    "DeviceEvents",
)
AGO = timedelta(hours=3)


@pytest.fixture(scope="module")
def small_world(open_tenant: OpenTenant) -> Iterator[World]:
    limits = HuntingLimits(rows=120)
    with ExitStack() as stack:
        tenant = stack.enter_context(
            open_tenant(scale=0, quota_clock_scale=2000.0, batching_delay=0.05, limits=limits, tables=TABLES)
        )
        with pytest.MonkeyPatch.context() as patch:
            world = World(tenant, settings_of(tenant, patch), stack)
            world.bootstrap(TABLES)
        # The client has to know the cap, as it knows that of the service.
        world.hunting._row_cap = limits.rows
        yield world


@pytest.fixture
def world(small_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(small_world, monkeypatch)


def tie(world: World, table: str, rows: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of one microsecond; the seventh digit differs, below five, since the local tenant rounds to microseconds."""
    column, moment = world.catalogue[table].time_column or "", world.now - AGO
    made = [
        {**world.key(table, number, moment), column: to_text(moment)[:-2] + f"{number % 5}Z"}
        for number in range(first, first + rows)
    ]
    world.tenant.source.insert_rows(table, made)
    return made


def asked(table: str, world: World, run: str = "test") -> Asked:
    return Asked(table, RunIdentity(run, "none"), world.last(5))


def test_a_tie_beyond_the_cap_is_loaded_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "DeviceProcessEvents"
    monkeypatch.setattr(world.tenant.limits, "rows", 60)
    monkeypatch.setattr(world.hunting, "_row_cap", 60)
    tie(world, table, 250)
    world.sync(table, world.last(5))
    assert world.difference(table) == (0, 0)
    assert sorted((row["Bucket"], row["Buckets"]) for row in world.ledger(table)) == [(0, 3), (1, 3), (2, 3)]
    queries = [entry.statement or "" for entry in world.tenant.log.entries(service="hunting")]
    assert any(", 6) == " in query for query in queries)


@pytest.mark.parametrize("table", ["DeviceFileEvents", "AlertEvidence"])
def test_late_rows_into_a_tie_are_told_apart_bucket_by_bucket(world: World, table: str) -> None:
    tie(world, table, 70)
    world.sync(table, world.last(5), slice_rows=40)
    tie(world, table, 5, first=70)
    tally = world.sync(table, world.last(5), slice_rows=40)
    assert tally is not None
    assert tally.loaded_rows == 5
    assert world.difference(table) == (0, 0)
    assert {row["State"] for row in world.ledger(table)} == {"Confirmed"}
    assert {row["Buckets"] for row in world.ledger(table)} == {2}


def test_a_run_that_fails_between_two_buckets_is_resumed_under_the_same_tags(world: World) -> None:
    table = "EmailEvents"
    tie(world, table, 130)
    world.tenant.faults.add("hunting", "status", match=", 3) == 1", first=1, times=None, status=400)
    with pytest.raises(HuntingError):
        world.sync(table, world.last(5), slice_rows=50)
    before = {row["SliceId"]: row["State"] for row in world.ledger(table)}
    assert sorted(before.values()) == ["Confirmed", "Planned", "Planned"]
    world.tenant.faults.clear()
    world.sync(table, world.last(5))
    assert world.difference(table) == (0, 0)
    assert {row["SliceId"]: row["State"] for row in world.ledger(table)} == dict.fromkeys(before, "Confirmed")


def test_two_writers_on_one_tie_load_it_once(world: World) -> None:
    table = "IdentityInfo"
    tie(world, table, 130)
    first, second = world.migration(), world.migration(slice_rows=40)
    append, held = first.state.append_ledger, []

    def appended(rows: Any) -> None:
        if not held:
            held.append(None)
            held.append(second.extract(asked(table, world, "second")))
        append(rows)

    first.state.append_ledger = appended  # type: ignore[method-assign]
    extraction = first.extract(asked(table, world, "first"))
    assert extraction is not None
    second.load(held[1])
    first.load(extraction)
    world.sync(table)
    assert world.difference(table) == (0, 0)
    assert {row["Buckets"] for row in world.ledger(table) if row["State"] == "Confirmed"} == {4}


def test_rows_of_one_identity_beyond_the_cap_are_an_error(world: World) -> None:
    table = "UrlClickEvents"
    row, *_ = tie(world, table, 1)
    world.tenant.source.insert_rows(table, [row] * 130)
    with pytest.raises(UnsplittableError, match=f"{table} .* bucket .*the next run tries again"):
        world.sync(table, world.last(5), slice_rows=200)
    assert world.statuses(table) == ["Failed"]
    assert not world.loaded(table)


def test_a_tie_beyond_an_answer_of_adx_is_read_back_by_hash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "CloudAppEvents"
    tie(world, table, 80)
    world.sync(table, world.last(5))
    monkeypatch.setattr("defender_adx_pipeline.local.engine.MAX_ROWS", 50)
    tie(world, table, 3, first=80)
    tally = world.sync(table, world.last(5))
    monkeypatch.undo()
    assert tally is not None
    assert tally.loaded_rows == 3
    assert world.difference(table) == (0, 0)


@pytest.mark.skipif("DEFENDER_ADX_TIE" not in os.environ, reason="DEFENDER_ADX_TIE names no number of rows")
@pytest.mark.timeout(1800)
def test_a_tie_of_very_many_rows(open_tenant: OpenTenant) -> None:
    """DEFENDER_ADX_TIE=300000: that many rows at one microsecond, at the limits of the service."""
    table, rows = "DeviceEvents", int(os.environ["DEFENDER_ADX_TIE"])
    with ExitStack() as stack:
        tenant = stack.enter_context(open_tenant(scale=0, quota_clock_scale=2000.0, tables=[table]))
        world = World(tenant, settings_of(tenant, stack.enter_context(pytest.MonkeyPatch.context())), stack)
        world.bootstrap([table])
        tie(world, table, rows)
        tally = world.sync(table, world.last(5), slice_rows=50_000, confirm_timeout=timedelta(minutes=20))
        assert tally is not None
        slices = [(row["Bucket"], row["Buckets"], row["ReceivedRows"]) for row in world.ledger(table)]
        refused = sum(entry.status == 400 for entry in tenant.log.entries(service="hunting"))
        print(  # noqa: T201 - the figures of a run by hand
            f"{tally.calls} calls, {refused} refused, {tally.seconds:.0f} s, slices {sorted(slices)}"
        )
        assert tally.loaded_rows == rows
        keys = RecordKeys(world.catalogue[table])
        column = world.catalogue[table].time_column or ""
        read = readback.records_of_part(world.adx, f"{table}Raw", column, world.last(5))
        truth = (orjson.loads(line) for line in tenant.source.rows(table))
        assert Counter(map(keys.content, read)) == Counter(map(keys.content, truth))
