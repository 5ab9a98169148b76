"""How a table is cut into the parts that a backfill replaces one by one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx.typed_backfill import Ingested, Part
from defender_adx_pipeline.migration.backfill_parts import GRAINS, Bin, bin_part, bucketed, packed, together

FIRST = datetime(2026, 11, 1, tzinfo=UTC)
DAY = GRAINS[0]


def day(number: int, raw: int, typed: int = 0) -> Bin:
    return Bin(bin_part(FIRST + number * DAY, DAY, None, None), raw, typed)


@given(
    days=st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12),
    most=st.integers(1, 40),
)
def test_every_bin_lies_in_one_part_that_is_small_enough_or_in_buckets_of_its_own(days, most):
    bins = [day(number, *rows) for number, rows in sorted(days.items())]
    parts = packed(bins, most)
    assert [part.start for part in parts] == sorted(part.start for part in parts)
    for part in parts:
        inside = [one for one in bins if part.start <= one.part.start and one.part.end <= part.end]
        assert inside
        if part.buckets == 1:
            assert sum(one.rows for one in inside) <= most
        else:
            assert [one.part for one in inside] == [Part(part.start, part.end)]
            assert (part.buckets - 1) * most < inside[0].rows <= part.buckets * most
    for one in bins:
        over = [part for part in parts if part.start < one.part.end and one.part.start < part.end]
        assert [part.bucket for part in over] == list(range(over[0].buckets))


def test_what_is_deleted_counts_as_much_as_what_is_appended():
    assert packed([day(0, 1, 5), day(1, 5, 1)], 6) == [day(0, 0).part, day(1, 0).part]
    assert packed([day(0, 1, 3), day(1, 3, 1)], 6) == [Part(FIRST, FIRST + 2 * DAY)]


def test_bins_stay_within_the_bounds_that_were_asked_for():
    noon, evening = FIRST + timedelta(hours=12), FIRST + timedelta(hours=18)
    assert bin_part(FIRST, DAY, noon, evening) == Part(noon, evening)
    assert bin_part(FIRST, timedelta(hours=1), None, evening) == Part(FIRST, FIRST + timedelta(hours=1))


def test_the_last_bin_of_all_time_has_no_end():
    last = datetime(9999, 12, 31, tzinfo=UTC)
    assert bin_part(last, DAY, None, None) == Part(last, None)
    assert str(bin_part(last, DAY, None, None)) == "[9999-12-31T00:00:00Z, unbounded)"


def came(first: int, last: int) -> Ingested:
    return Ingested(FIRST + first * DAY, FIRST + last * DAY, FIRST + 90 * DAY)


def test_a_part_was_ingested_when_its_bins_were_and_it_is_unknown_where_it_is_of_one():
    bins = [day(0, 2), day(1, 2), day(2, 4)]
    known = [replace(one, part=replace(one.part, ingested=came(5 - n, 6 + n))) for n, one in enumerate(bins)]
    assert [part.ingested for part in packed(known, 4)] == [came(4, 7), came(3, 8)]
    assert [part.ingested for part in packed([bins[0], *known[1:]], 4)] == [None, came(3, 8)]
    assert [part.ingested for part in packed(known[2:], 2)] == [came(3, 8)] * 2
    assert together([]) is None


def test_rows_without_a_time_are_parts_of_their_own():
    timeless = Bin(Part(timeless=True, ingested=came(0, 9)), 5, 0)
    parts = packed([day(0, 1), day(1, 1), timeless], 4)
    assert parts[0] == Part(FIRST, FIRST + 2 * DAY)
    assert parts[1:] == bucketed(timeless, 4)


def test_rows_without_a_time_are_shared_out_by_hash():
    parts = bucketed(Bin(Part(timeless=True), 7, 3), 3)
    assert [(part.timeless, part.bucket, part.buckets) for part in parts] == [(True, n, 3) for n in range(3)]
    assert str(parts[2]) == "the rows without a time, bucket 2 of 3"
