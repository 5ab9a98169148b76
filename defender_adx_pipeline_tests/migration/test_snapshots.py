"""The arithmetic of snapshots: identities, buckets, and what counts before and after say of what was read."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.migration.ledger import RunIdentity, slice_from_row, slice_row
from defender_adx_pipeline.migration.slices import Bucket
from defender_adx_pipeline.migration.snapshots import (
    Snapshot,
    choose_buckets,
    judge,
    row_bytes,
    snapshot_from_row,
    snapshot_row,
)

TAKEN = datetime(2026, 11, 24, 5, 10, 0, 123456, tzinfo=UTC)
RUN = RunIdentity("run", "2026-11-24")

counts = st.dictionaries(st.integers(0, 9), st.integers(1, 50))


def snapshot(**facts: object) -> Snapshot:
    values = {
        "source_table": "DeviceTvmSoftwareInventory",
        "destination_table": "DeviceTvmSoftwareInventoryRaw",
        "taken_at": TAKEN,
        "key": ("DeviceId", "SoftwareName"),
        "buckets": 3,
        "expected_rows": 60,
    }
    return Snapshot(**{**values, **facts})  # type: ignore[arg-type]


def test_buckets_by_another_key_or_of_another_number_are_another_snapshot() -> None:
    others = [
        snapshot(key=("DeviceId",)),
        snapshot(buckets=4),
        snapshot(taken_at=TAKEN + timedelta(microseconds=1)),
        snapshot(destination_table="ElsewhereRaw"),
    ]
    ids = {item.snapshot_id for item in (snapshot(), *others)}
    assert len(ids) == 5
    assert snapshot(expected_rows=61, attempt=2).snapshot_id == snapshot().snapshot_id
    assert len({piece.slice_id for item in (snapshot(), *others) for piece in item.slices({0: 1, 1: 1, 2: 1})}) == 15


def test_a_bucket_without_rows_has_no_slice_and_a_whole_table_has_no_bucket() -> None:
    slices = snapshot().slices({2: 5, 0: 7, 1: 0})
    assert [(item.bucket, item.expected_rows) for item in slices] == [(Bucket(0, 3), 7), (Bucket(2, 3), 5)]
    assert [item.bucket for item in snapshot(buckets=1).slices({0: 7})] == [None]
    assert snapshot(buckets=1).slices({0: 0}) == ()


def test_a_snapshot_and_its_slices_come_back_from_the_ledger_as_they_went() -> None:
    taken = snapshot()
    row = snapshot_row(taken, RUN, state="Planned", now=TAKEN)
    assert (row["Kind"], row["PartitionKey"], row["WindowStart"]) == (
        "Snapshot",
        "2026-11-24",
        "2026-11-24T05:10:00.1234560Z",
    )
    assert snapshot_from_row(row, taken.key) == taken
    assert snapshot_from_row(row, ("DeviceId",)).snapshot_id != row["SliceId"]
    for item in taken.slices({0: 4, 2: 9}):
        assert slice_from_row(slice_row(item, RUN, state="Planned", now=TAKEN)) == item


@given(
    rows=st.integers(0, 2_000_000),
    most_rows=st.integers(1, 99_999),
    most_bytes=st.integers(1024, 50_000_000),
    size=st.floats(0, 100_000),
)
def test_every_bucket_fits_when_rows_are_spread_evenly_and_there_are_no_more_than_it_takes(
    rows: int, most_rows: int, most_bytes: int, size: float
) -> None:
    buckets = choose_buckets(rows, most_rows=most_rows, most_bytes=most_bytes, bytes_per_row=size)
    share = rows / buckets
    assert share <= most_rows
    assert share * size <= max(most_bytes, size) * 1.000001
    if buckets > 1:
        larger = rows / (buckets - 1)
        assert larger > most_rows or larger * max(size, 1.0) > most_bytes * 0.999999


def test_a_million_rows_below_the_cap_take_eleven_buckets() -> None:
    assert choose_buckets(1_000_000, most_rows=95_000, most_bytes=47_500_000, bytes_per_row=400) == 11
    assert choose_buckets(1_000_000, most_rows=95_000, most_bytes=47_500_000, bytes_per_row=950) == 20


@given(before=counts)
def test_what_did_not_change_is_no_drift(before: Mapping[int, int]) -> None:
    verdict = judge(before, before, before)
    assert (verdict.drifted, verdict.unexplained, verdict.drift()) == ((), (), "")
    assert verdict.received == verdict.after == sum(before.values())


@given(before=counts, received=counts, after=counts)
def test_every_bucket_is_judged_and_a_loss_is_never_called_drift(
    before: Mapping[int, int], received: Mapping[int, int], after: Mapping[int, int]
) -> None:
    verdict = judge(before, received, after)
    assert {item.bucket for item in verdict.counts} == {*before, *received, *after}
    for item in verdict.counts:
        quiet = item.before == item.after
        if quiet and item.received != item.before:
            assert item in verdict.unexplained
        if item not in verdict.unexplained:
            assert min(item.before, item.after) <= item.received <= max(item.before, item.after)
        assert (item in verdict.drifted) == (not item.before == item.received == item.after)


def test_drift_is_told_with_its_counts() -> None:
    verdict = judge({0: 10, 1: 10, 2: 10}, {0: 10, 1: 11, 2: 10}, {0: 10, 1: 11, 2: 9})
    assert verdict.unexplained == ()
    assert verdict.drift() == (
        "the table changed while it was read: 30 rows before, 31 read, 30 after; 2 of 3 buckets differ"
        " (bucket 1: 10 before, 11 read, 11 after; bucket 2: 10 before, 10 read, 9 after)"
    )


@pytest.mark.parametrize(
    ("before", "after", "rewritten"),
    [
        ((100, 100), (100, 100), False),
        ((100, 100), (125, 75), False),
        ((100, 100), (125, 74), True),
        ((100, 100), (0, 0), True),
        ((0, 0), (1, 0), True),
        ((0, 0), (0, 0), False),
    ],
)
def test_more_than_a_quarter_of_a_table_is_no_drift(
    before: tuple[int, int], after: tuple[int, int], rewritten: bool
) -> None:
    numbers = (dict(enumerate(before)), dict(enumerate(before)), dict(enumerate(after)))
    assert judge(*numbers).is_rewritten is rewritten


@pytest.mark.parametrize(("received", "explained"), [(9, False), (10, True), (11, True), (12, True), (13, False)])
def test_what_was_read_lies_between_the_two_counts_or_is_unexplained(received: int, explained: bool) -> None:
    assert (judge({0: 10}, {0: received}, {0: 12}).unexplained == ()) is explained


def test_a_row_is_as_long_as_its_json_with_the_sidecars_of_graph() -> None:
    columns = (Column("Name", "string"), Column("Seen", "bool"))
    text = '{"Name":"abc","Seen@odata.type":"#SByte","Seen":1,"SnapshotTime":"2026-11-24T05:10:00.1234560Z"},'
    assert row_bytes(columns, len("abc|1")) == pytest.approx(len(text), abs=6)
